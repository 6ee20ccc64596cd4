import { element } from "./dom.js";

const HINT = "or Ctrl + Enter";

/** The row below the form: Run, and while a request runs Cancel and the seconds that have passed. */
export function runBar() {
  const run = element("button", { type: "submit" }, "Run");
  const cancel = element("button", { type: "button", class: "quiet", hidden: true }, "Cancel");
  const note = element("span", { class: "help" }, HINT);
  return { element: element("p", { class: "run" }, run, cancel, note), begin };

  /** Shows a running request, which Cancel aborts, and returns a function that shows that it has ended. */
  function begin(controller) {
    const started = performance.now();
    const tick = () => (note.textContent = `${Math.floor((performance.now() - started) / 1000)} s`);
    const timer = setInterval(tick, 1000);
    tick();
    run.setAttribute("aria-disabled", "true"); // with `disabled` it would lose the focus
    cancel.hidden = false;
    cancel.onclick = () => controller.abort();
    return (said = HINT) => {
      clearInterval(timer);
      note.textContent = said;
      run.removeAttribute("aria-disabled");
      if (document.activeElement === cancel) run.focus();
      cancel.hidden = true;
    };
  }
}
