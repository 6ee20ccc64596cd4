/** The page: schema to form, form to request, answer to pictures and JSON. */
import { vectorsOf } from "./decode.js";
import { copyButton, element } from "./dom.js";
import { elided } from "./elide.js";
import { formFor } from "./form.js";
import { picturesOf } from "./picture.js";
import { predict, Refusal } from "./request.js";
import { LANGUAGES } from "./snippets.js";

const status = document.querySelector("#status");
const answer = document.querySelector("#answer");

async function start() {
  const response = await fetch("openapi.json");
  if (!response.ok) throw new Error(`The container's schema could not be read: ${response.status}`);
  const form = formFor(await response.json());
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
  status.textContent = "Running …";
  const [input, outputDtype] = [form.read(), form.valueOf("output_dtype")];
  const started = performance.now();
  try {
    const prediction = await predict(input);
    const milliseconds = performance.now() - started;
    show(prediction, input, outputDtype, milliseconds);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    status.textContent = "No answer: the form says why.";
    form.show(error.problems);
  }
}

function show(prediction, input, outputDtype, milliseconds) {
  const { output, metrics = {}, logs } = prediction;
  const texts = input.texts ?? [input.text];
  const vectors = vectorsOf(output, outputDtype);
  const bits = outputDtype === "ubinary";
  const count = vectors.length === 1 ? "1 vector" : `${vectors.length.toLocaleString("en")} vectors`;
  const unit = bits ? "bits" : "numbers";
  status.textContent = `${count} of ${vectors[0].length} ${unit} in ${milliseconds.toFixed(0)} ms.`;
  const pictures = element("div", { class: "pictures" });
  const json = element("pre", { tabindex: 0, "aria-label": "The output as JSON" }, elided(output));
  const jsonHead = element("div", { class: "head" }, element("h3", {}, "JSON"));
  jsonHead.append(copyButton("Copy JSON", () => JSON.stringify(output, null, 2)));
  answer.replaceChildren(facts(metrics), pictures, jsonHead, json);
  if (logs) answer.append(element("h3", {}, "Log"), element("pre", { tabindex: 0 }, logs));
  drawAtEveryWidth(pictures, (width) => picturesOf(vectors, texts, bits, width));
  const section = document.querySelector("#output");
  const isBelowForm = section.getBoundingClientRect().top > innerHeight / 2; // on a phone
  if (isBelowForm) section.scrollIntoView();
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

/** The code of the request that the form holds, in the language that is chosen. */
function code(form) {
  const block = element("pre", { tabindex: 0, "aria-label": "The request as code" });
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
    block.textContent = text();
    if (event?.type !== "input") buttons.replaceChildren(copyButton(`Copy ${chosen()}`, text));
  }
}

start().catch((error) => {
  status.textContent = error.message;
  throw error;
});
