/** Why there is no vector: what the server, the container or a proxy between them said, and which input it is about. */

/** There is no answer; `problems` are {field, item, message}, without a field if no input is at fault. */
export class Refusal extends Error {
  constructor(...problems) {
    super(problems.map((problem) => problem.message).join("\n"));
    this.problems = problems;
  }
}

const CHARACTERS = 200; // of an answer that no program can read, such as a proxy's page

/** Reads an answer that is no prediction: Replicate's list of invalid inputs, its reason, or anything at all. */
export function refusalOf(response, text, answered) {
  if (Array.isArray(answered?.invalid_fields)) {
    const lines = answered.invalid_fields.map(({ field, description }) => `- ${field}: ${description}`);
    return new Refusal(...lines.map(problemOf));
  }
  if (typeof answered?.detail === "string") return new Refusal(problemOf(answered.detail));
  const status = `The server answered ${response.status} ${response.statusText}`.trim();
  const words = text.trim();
  if (words === "") return new Refusal({ message: `${status}, with nothing in it.` });
  const shown = words.length > CHARACTERS ? `${words.slice(0, CHARACTERS)} …` : words;
  return new Refusal({ message: `${status}, which this page cannot read: ${shown}` });
}

/** Reads the error of a prediction that has failed. */
export function refusalOfPrediction({ error, status }) {
  const messages = (error ?? `The prediction is ${status ?? "without a status"}.`).trim().split(/\n(?=- input\.)/);
  return new Refusal(...messages.map(problemOf));
}

/**
 * Reads a message about an input: the container's own begin with its name, as in `texts[1] is empty`; checks of the
 * schema and of the JSON have it in a path, as in `- input.task: …` and `… JSON: input.texts[1]: …`.
 */
function problemOf(message) {
  const own = message.replace(/^(?:[\w ]+: )*?\w+Error: /, "").replace(/^- input\.(\w+(?:\.\d+)?): /, "$1: ");
  const path = message.match(/\binput\.(\w+)(?:[.[](\d+))?/) ?? own.match(/^(\w+)(?:\[(\d+)\])?/) ?? [];
  const [, field, item] = path;
  return { field, item: item && Number(item), message: own };
}
