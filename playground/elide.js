/** An answer as JSON that a person can read: long values are cut, with a note of how much was left out. */

const CHARACTERS = 48;
const ITEMS = 8;

/** Returns indented JSON; lists of plain values stand on one line. */
export function elided(value, indent = "") {
  if (typeof value === "string") return cutString(value);
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const inner = `${indent}  `;
  const nested = Array.isArray(value)
    ? value.slice(0, ITEMS).map((item) => elided(item, inner))
    : Object.entries(value).map(([name, member]) => `${JSON.stringify(name)}: ${elided(member, inner)}`);
  const more = Array.isArray(value) && value.length > ITEMS;
  if (more) nested.push(`… ${(value.length - ITEMS).toLocaleString("en")} more`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  if (Array.isArray(value) && typeof value[0] !== "object") return `${open}${nested.join(", ")}${close}`;
  return `${open}\n${inner}${nested.join(`,\n${inner}`)}\n${indent}${close}`;
}

function cutString(text) {
  if (text.length <= CHARACTERS) return JSON.stringify(text);
  const more = (text.length - CHARACTERS).toLocaleString("en");
  return `${JSON.stringify(text.slice(0, CHARACTERS))} … ${more} more characters`;
}
