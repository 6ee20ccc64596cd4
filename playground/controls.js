/**
 * One control for each kind of input that a schema can describe. A control has
 *   element  what stands in the form
 *   labelled the element that the label names
 *   read()   the value, or undefined when the input is not set
 *   target(item) the element that has the value, or the item of a list
 */
import { element } from "./dom.js";

/** Makes the control for a property of the schema. `attributes` go to the element that is labelled. */
export function controlFor(name, property, attributes) {
  if (property.enum) return choice(property, attributes);
  if (property.type === "boolean") return checkBox(property, attributes);
  if (property.type === "array") return list(name, property, attributes);
  if (property.type === "integer" || property.type === "number") return number(property, attributes);
  return textArea(property, attributes);
}

function single(control, read) {
  return { element: control, labelled: control, read, target: () => control };
}

function choice(property, attributes) {
  const values = property.nullable ? [undefined, ...property.enum] : property.enum;
  const options = values.map((value) =>
    element("option", { selected: value === (property.default ?? undefined) }, String(value ?? "(not set)")),
  );
  const select = element("select", attributes, ...options);
  return single(select, () => values[select.selectedIndex]);
}

function checkBox(property, attributes) {
  const box = element("input", { type: "checkbox", checked: property.default === true, ...attributes });
  return single(box, () => box.checked);
}

function number(property, attributes) {
  const { minimum: min, maximum: max, default: value } = property;
  const step = property.type === "integer" ? 1 : "any";
  const input = element("input", { type: "number", step, min, max, value: value ?? undefined, ...attributes });
  return single(input, () => (input.value === "" ? undefined : Number(input.value)));
}

function textArea(property, attributes) {
  const area = element("textarea", { rows: 2, ...attributes }, property.default ?? "");
  return single(area, () => (area.value === "" && property.nullable ? undefined : area.value));
}

/** A list of texts: Enter adds one, and each line that is pasted becomes one. */
function list(name, property, attributes) {
  const rows = element("ol");
  const areas = () => [...rows.querySelectorAll("textarea")];

  function add(value = "", after = rows.lastElementChild) {
    const area = element("textarea", { rows: 1, keydown: onKey, paste: onPaste });
    area.value = value;
    const row = element("li", {}, area, element("button", { type: "button", class: "quiet", click: remove }, "×"));
    after ? after.after(row) : rows.append(row);
    return area;
  }

  function remove(event) {
    const row = event.target.closest("li");
    const neighbour = row.nextElementSibling ?? row.previousElementSibling;
    row.remove();
    changed(neighbour?.querySelector("textarea") ?? add());
  }

  function onKey(event) {
    if (event.key !== "Enter" || event.shiftKey || event.ctrlKey || event.metaKey || event.isComposing) return;
    event.preventDefault();
    changed(add("", event.target.closest("li")));
  }

  function onPaste(event) {
    const lines = event.clipboardData
      .getData("text")
      .split(/\r?\n/)
      .filter((line) => line.trim() !== "");
    if (lines.length < 2) return;
    event.preventDefault();
    let last = event.target;
    if (last.value === "") last.value = lines.shift();
    for (const line of lines) last = add(line, last.closest("li"));
    changed(last);
  }

  function changed(focused) {
    number();
    focused.focus();
    group.dispatchEvent(new Event("input", { bubbles: true }));
  }

  function number() {
    rows.querySelectorAll("li").forEach((row, position) => {
      row.querySelector("textarea").setAttribute("aria-label", `${name}[${position}]`);
      row.querySelector("button").setAttribute("aria-label", `Remove ${name}[${position}]`);
    });
  }

  const adder = element("button", { type: "button", class: "quiet", click: () => changed(add()) }, "Add another");
  const hint = element("span", { class: "help" }, "Enter adds one; pasted lines become one each.");
  const group = element("div", { role: "group", ...attributes }, rows, element("p", { class: "adder" }, adder, hint));
  for (const value of property.default ?? [""]) add(value);
  number();
  return {
    element: group,
    labelled: group,
    read() {
      const values = areas().map((area) => area.value);
      return property.nullable && values.every((value) => value === "") ? undefined : values;
    },
    target: (item) => areas()[item ?? 0],
  };
}
