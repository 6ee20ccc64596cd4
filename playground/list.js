import { element } from "./dom.js";

/** The control for a list of texts: Enter adds a text, and each pasted line becomes a text. */
export class TextList {
  constructor(name, property, attributes) {
    this.name = name;
    this.nullable = property.nullable;
    this.rows = element("ol");
    const adder = element("button", { type: "button", class: "quiet", click: () => this.changed(this.add()) });
    adder.append("Add another");
    const hint = element("span", { class: "help" }, "Enter adds a text; each pasted line becomes a text.");
    const below = element("p", { class: "adder" }, adder, hint);
    this.element = element("div", { role: "group", ...attributes }, this.rows, below);
    this.labelled = this.element;
    for (const value of property.default ?? [""]) this.add(value);
    this.number();
  }

  read() {
    const values = this.areas().map((area) => area.value);
    while (values.at(-1) === "") values.pop(); // Enter after the last text has left it
    return this.nullable && values.length === 0 ? undefined : values;
  }

  target(item = 0) {
    return this.areas()[item];
  }

  areas() {
    return [...this.rows.querySelectorAll("textarea")];
  }

  /** Adds a text after a row, or at the end. */
  add(value = "", previous = this.rows.lastElementChild) {
    const area = element("textarea", { rows: 1, keydown: (event) => this.onKey(event) });
    area.addEventListener("paste", (event) => this.onPaste(event));
    area.value = value;
    const remover = element("button", { type: "button", class: "quiet", click: () => this.remove(row) }, "×");
    const row = element("li", {}, area, remover);
    if (previous) previous.after(row);
    else this.rows.append(row);
    return area;
  }

  remove(row) {
    const neighbour = row.nextElementSibling ?? row.previousElementSibling;
    row.remove();
    this.changed(neighbour?.querySelector("textarea") ?? this.add());
  }

  onKey(event) {
    if (event.key !== "Enter" || event.shiftKey || event.ctrlKey || event.metaKey || event.isComposing) return;
    event.preventDefault();
    this.changed(this.add("", event.target.closest("li")));
  }

  onPaste(event) {
    const pasted = event.clipboardData.getData("text").split(/\r?\n/);
    const lines = pasted.filter((line) => line.trim() !== "");
    if (lines.length < 2) return;
    event.preventDefault();
    let last = event.target;
    if (last.value === "") last.value = lines.shift();
    for (const line of lines) last = this.add(line, last.closest("li"));
    this.changed(last);
  }

  changed(focused) {
    this.number();
    focused.focus();
    this.element.dispatchEvent(new Event("input", { bubbles: true }));
  }

  /** Names the texts as the container's messages do. */
  number() {
    [...this.rows.children].forEach((row, position) => {
      const name = `${this.name}[${position}]`;
      row.querySelector("textarea").setAttribute("aria-label", name);
      row.querySelector("button").setAttribute("aria-label", `Remove ${name}`);
    });
  }
}
