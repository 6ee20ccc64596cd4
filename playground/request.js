/** A prediction through Replicate's HTTP API, or the reasons why it was refused. */

export const MODEL = "your-name/embeddinggemma-300m";
export const API = new URL("v1", document.baseURI).href;

/** The request was refused; `problems` are {field, item, message}, without a field if no field is at fault. */
export class Refusal extends Error {
  constructor(problems) {
    super(problems.map((problem) => problem.message).join("\n"));
    this.problems = problems;
  }
}

/** Returns the prediction that succeeded. Throws a Refusal. */
export async function predict(input) {
  const body = JSON.stringify({ input });
  const headers = { "Content-Type": "application/json", Prefer: "wait" };
  let prediction = await answer(`${API}/models/${MODEL}/predictions`, { method: "POST", headers, body });
  while (["starting", "processing"].includes(prediction.status)) {
    await new Promise((resume) => setTimeout(resume, 500));
    prediction = await answer(`${API}/predictions/${prediction.id}`);
  }
  if (prediction.status === "succeeded") return prediction;
  throw new Refusal([problemOf(prediction.error ?? `The prediction was ${prediction.status}.`)]);
}

async function answer(url, options) {
  const response = await fetch(url, options).catch(() => {
    throw new Refusal([{ message: "The server does not answer. Is scripts/playground still running?" }]);
  });
  const answered = await response.json().catch(() => ({}));
  if (response.ok) return answered;
  throw new Refusal(
    answered.invalid_fields?.map(problemOfField) ?? [{ message: answered.detail ?? statusOf(response) }],
  );
}

const statusOf = (response) => `The server answered ${response.status} ${response.statusText}.`;

/** Reads an input that Replicate's API refused; its field is like `input.task` or `input.texts.2`. */
function problemOfField({ field: path, description }) {
  const [, field, item] = path.split(".");
  return { field, item: item && Number(item), message: `${path.replace("input.", "")}: ${description}` };
}

/** Reads a message of the container. The server puts a prefix before it; its own first word names the input. */
function problemOf(error) {
  const message = error.replace(/^(?:[\w ]+: )*?\w+Error: /, "");
  const [, field, item] = message.match(/^(\w+)(?:\[(\d+)\])?/) ?? [];
  return { field, item: item && Number(item), message };
}
