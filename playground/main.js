/** The page: schema to form, form to request, answer to pictures and JSON. */
import { vectorsOf } from "./decode.js";
import { copyButton, element } from "./dom.js";
import { elided } from "./elide.js";
import { formFor } from "./form.js";
import { picturesOf } from "./picture.js";
import { Refusal } from "./refusal.js";
import { ask, predict } from "./request.js";
import { LANGUAGES } from "./snippets.js";

const status = document.querySelector("#status");
const answer = document.querySelector("#answer");

const MAX_CODE = 20_000; // characters
const STATES = {
  starting: "Waiting for the container: it is starting, or all its slots are taken …",
  processing: "Running …",
};

async function start() {
  const openapi = await ask("openapi.json");
  if (!openapi.components?.schemas?.Input) throw new Refusal({ message: "The container's schema has no inputs." });
  const form = formFor(openapi);
  document.querySelector("#input").append(form.element);
  document.querySelector("#code").append(...code(form));
  let running = false;
  form.element.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (running) return;
    running = true;
    await run(form).finally(() => (running = false));
  });
}

async function run(form) {
  form.show([]);
  answer.replaceChildren();
  say(STATES.processing);
  const controller = new AbortController();
  const cancelled = controller.signal;
  cancelled.addEventListener("abort", () => say("Cancelling …"));
  const end = form.begin(controller);
  const [input, outputDtype] = [form.read(), form.valueOf("output_dtype")];
  const started = performance.now();
  try {
    const prediction = await predict(input, cancelled, (state) => say(STATES[state]));
    const took = duration(performance.now() - started);
    if (prediction.status === "succeeded") show(prediction, input, outputDtype, took);
    else say(`Cancelled after ${took}.`);
    end(prediction.status === "succeeded" ? undefined : "Cancelled");
  } catch (error) {
    end();
    say("No answer: the form says why.");
    const unknown = { message: `The page cannot show this answer: ${error.message}` };
    form.show(error instanceof Refusal ? error.problems : [unknown]);
    if (!(error instanceof Refusal)) console.error(error);
  }
}

/** Announces a state, once. */
function say(state) {
  if (status.textContent !== state) status.textContent = state;
}

const duration = (milliseconds) =>
  milliseconds < 1000 ? `${milliseconds.toFixed(0)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;

function show({ output, metrics = {}, logs }, input, outputDtype, took) {
  if (output.file) {
    showFile(output, metrics, logs, outputDtype, took);
    return;
  }
  const texts = input.texts ?? [input.text];
  const vectors = vectorsOf(output, outputDtype);
  const bits = outputDtype === "ubinary";
  const count = vectors.length === 1 ? "1 vector" : `${vectors.length.toLocaleString("en")} vectors`;
  const unit = bits ? "bits" : "numbers";
  const cut = output.truncated?.filter(Boolean).length ?? 0;
  const cuts = cut > 0 ? ` Texts cut because they were too long: ${cut.toLocaleString("en")} (see the log).` : "";
  say(`${count} of ${vectors[0].length} ${unit} in ${took}.${cuts}`);
  const pictures = element("div", { class: "pictures" });
  fill(pictures, output, metrics, logs);
  drawAtEveryWidth(pictures, (width) => picturesOf(vectors, texts, bits, width));
}

/** Shows an answer whose vectors are a file. */
function showFile(output, metrics, logs, outputDtype, took) {
  const [rows, width] = output.shape;
  const unit = outputDtype === "ubinary" ? "bits" : "numbers";
  const size = outputDtype === "ubinary" ? 8 * width : width;
  const cuts = output.truncated > 0 ? ` Texts cut because they were too long: ${output.truncated}.` : "";
  say(`A file of ${rows.toLocaleString("en")} vectors of ${size} ${unit} in ${took}.${cuts}`);
  const name = `vectors.${output.output_format}`;
  fill(element("p", {}, element("a", { href: output.file, download: name }, `Download ${name}`)), output, metrics, logs);
}

/** Fills the answer, with a part of its own between its figures and its JSON. */
function fill(part, output, metrics, logs) {
  const json = scrollable("The output as JSON", elided(output));
  const jsonHead = element("div", { class: "head" }, element("h3", {}, "JSON"));
  jsonHead.append(copyButton("Copy JSON", () => JSON.stringify(output, null, 2)));
  answer.replaceChildren(facts(metrics), part, jsonHead, json);
  if (logs) answer.append(element("h3", {}, "Log"), scrollable("The log", logs));
  const section = document.querySelector("#output");
  const isBelowForm = section.getBoundingClientRect().top > innerHeight / 2; // on a phone
  if (isBelowForm) section.scrollIntoView();
}

/** Lines that the keyboard can scroll. */
function scrollable(name, ...lines) {
  return element("pre", { tabindex: 0, role: "region", "aria-label": name }, ...lines);
}

/** The prediction's metrics, each with its name and its value. */
function facts(values) {
  const pairs = Object.entries(values).map(([name, value]) => {
    const shown = typeof value === "number" ? value.toLocaleString("en", { maximumFractionDigits: 3 }) : String(value);
    return element("div", {}, element("dt", {}, name), element("dd", {}, shown));
  });
  return element("dl", {}, ...pairs);
}

function drawAtEveryWidth(place, draw) {
  let drawn = 0;
  new ResizeObserver(() => {
    const width = Math.floor(place.clientWidth);
    if (width === drawn || width === 0) return;
    drawn = width;
    place.replaceChildren(...draw(width));
  }).observe(place);
}

/** As much of a long text as a browser lays out at once while somebody is typing. */
function beginning(text) {
  const more = text.length - MAX_CODE;
  if (more <= 0) return text;
  return `${text.slice(0, MAX_CODE)} … ${more.toLocaleString("en")} more characters, which Copy copies`;
}

/** The code of the request that the form holds, in the language that is chosen. */
function code(form) {
  const block = scrollable("The request as code");
  const buttons = element("span");
  const chosen = () => document.querySelector("[name=language]:checked").value;
  const text = () => LANGUAGES[chosen()](form.read());
  const choices = Object.keys(LANGUAGES).map((language, position) => {
    const radio = { type: "radio", name: "language", value: language, checked: position === 0, change: refresh };
    return element("label", {}, element("input", radio), language);
  });
  const choice = element("div", { class: "choice", role: "radiogroup", "aria-label": "Language" }, ...choices);
  form.element.addEventListener("input", refresh);
  queueMicrotask(refresh);
  return [element("div", { class: "head" }, choice, buttons), block];

  function refresh(event) {
    block.textContent = beginning(text());
    if (event?.type !== "input") buttons.replaceChildren(copyButton(`Copy ${chosen()}`, text));
  }
}

start().catch((error) => {
  say(error.message);
  if (!(error instanceof Refusal)) console.error(error);
});
