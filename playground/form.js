/** The form, made from the schema of the inputs alone, and the errors that belong to its fields. */
import { controlFor } from "./controls.js";
import { element } from "./dom.js";
import { runBar } from "./run.js";

/**
 * Returns the form's element, `read()` for the inputs that differ from their defaults, `show(problems)`, and `begin()`
 * of its Run and Cancel.
 */
export function formFor(openapi) {
  const schemas = openapi.components.schemas;
  const fields = Object.entries(schemas.Input.properties)
    .map(([name, property]) => [name, resolved(property, schemas)])
    .sort(([, first], [, second]) => first["x-order"] - second["x-order"])
    .map(([name, property]) => fieldFor(name, property, schemas.Input.required?.includes(name)));
  const top = element("p", { class: "error", role: "alert", tabindex: -1, hidden: true });
  const bar = runBar();
  const form = element("form", { novalidate: true }, top, ...fields.map((field) => field.element), bar.element);
  let problems = [];
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  form.addEventListener("input", (event) => {
    const changed = event.target.closest("[data-field]").dataset.field;
    const left = problems.filter((problem) => !names(problem, changed));
    if (left.length < problems.length) mark(left);
  });
  return {
    element: form,
    read: () => Object.fromEntries(fields.filter((field) => field.isSet()).map((field) => [field.name, field.read()])),
    valueOf: (name) => fields.find((field) => field.name === name)?.read(),
    begin: bar.begin,
    show: (found) => mark(found)?.focus(),
  };

  /** Puts each problem at the field that it names, or at the top of the form; returns the first element at fault. */
  function mark(found) {
    problems = found;
    const elsewhere = found.filter((problem) => !fields.some((field) => field.name === problem.field));
    top.textContent = elsewhere.map((problem) => problem.message).join("\n");
    top.hidden = elsewhere.length === 0;
    const targets = fields.map((field) => field.mark(found.filter((problem) => problem.field === field.name)));
    return elsewhere.length > 0 ? top : targets.find((target) => target !== undefined);
  }
}

/** Whether a problem may be solved by a change of this field: `title goes with task …` names two. */
function names({ field, message }, name) {
  return field === name || message.split(/\W+/).includes(name);
}

/** Follows the reference to a list of choices, which Cog keeps next to the inputs. */
function resolved(property, schemas) {
  const [reference] = property.allOf ?? [];
  return reference ? { ...schemas[reference.$ref.split("/").pop()], ...property } : property;
}

function fieldFor(name, property, required) {
  const [id, helpId, errorId] = ["input", "help", "error"].map((part) => `${part}-${name}`);
  const control = controlFor(name, property, { id, "aria-describedby": `${helpId} ${errorId}` });
  const labelId = `label-${name}`;
  if (property.type === "array") control.labelled.setAttribute("aria-labelledby", labelId);
  const label = element(
    property.type === "array" ? "span" : "label",
    { id: labelId, for: property.type !== "array" && id, class: "label" },
    element("code", {}, name),
    element("span", { class: "type" }, `${kindOf(property)}${required ? ", required" : ""}`),
  );
  const help = element("p", { class: "help", id: helpId }, property.description ?? "");
  if ((property.default ?? null) !== null) help.append(" ", element("span", {}, `Default: ${property.default}.`));
  const error = element("p", { class: "error", id: errorId, hidden: true });
  const kind = property.type === "boolean" ? "field check" : "field";
  const field = element("div", { class: kind, "data-field": name }, label, control.element, error, help);

  /** Shows problems at the input, or at the text that the first one names; returns the element at fault. */
  function mark(problems) {
    error.textContent = problems.map((problem) => problem.message).join("\n");
    error.hidden = problems.length === 0;
    for (const marked of field.querySelectorAll("[aria-invalid]")) unmark(marked, errorId);
    if (problems.length === 0) return undefined;
    const { item } = problems[0];
    const target = control.target(item) ?? control.target(0);
    if (item === undefined) control.element.after(error);
    else target.parentElement.append(error);
    target.setAttribute("aria-invalid", "true");
    if (target !== control.labelled) target.setAttribute("aria-describedby", errorId);
    return target;
  }

  const read = () => control.read();
  const isSet = () => read() !== undefined && (required || JSON.stringify(read()) !== JSON.stringify(property.default));
  return { name, element: field, read, isSet, mark };
}

function unmark(marked, errorId) {
  marked.removeAttribute("aria-invalid");
  if (marked.getAttribute("aria-describedby") === errorId) marked.removeAttribute("aria-describedby");
}

function kindOf(property) {
  if (property.enum) return "one of a list";
  return property.type === "array" ? `list of ${property.items.type}s` : property.type;
}
