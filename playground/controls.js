/**
 * One control for each kind of input that a schema can describe. A control has
 *   element  the element that stands in the form
 *   labelled the element that the label names
 *   read()   the value, or undefined when the input is not set
 *   target(item) the element that holds the value, or a list's item
 */
import { element } from "./dom.js";
import { TextList } from "./list.js";

/** Makes the control for a property of the schema. `attributes` go to the element that is labelled. */
export function controlFor(name, property, attributes) {
  if (property.enum) return choice(property, attributes);
  if (property.type === "boolean") return checkBox(property, attributes);
  if (property.type === "array") return new TextList(name, property, attributes);
  if (property.type === "integer" || property.type === "number") return number(property, attributes);
  if (property.format === "uri") return file(attributes);
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

/** A file of the reader's; its value is a File. */
function file(attributes) {
  const input = element("input", { type: "file", ...attributes });
  const remove = () => {
    input.value = "";
    input.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const remover = element("button", { type: "button", class: "quiet", click: remove }, "Remove");
  const read = () => input.files[0];
  return { element: element("span", {}, input, remover), labelled: input, read, target: () => input };
}

function textArea(property, attributes) {
  const area = element("textarea", { rows: 2, ...attributes }, property.default ?? "");
  return single(area, () => (area.value === "" && property.nullable ? undefined : area.value));
}
