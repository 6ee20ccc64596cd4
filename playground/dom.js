/** Makes an element; children are elements or strings, and attributes that are undefined or false are left out. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** Makes a button that copies the result of `text()`, and shows whether that worked. */
export function copyButton(label, text) {
  const button = element("button", { type: "button", class: "quiet", "aria-live": "polite" }, label);
  button.addEventListener("click", async () => {
    const result = await navigator.clipboard.writeText(text()).then(
      () => "Copied",
      () => "The browser refused to copy",
    );
    button.textContent = result;
    setTimeout(() => (button.textContent = label), 1500);
  });
  return button;
}
