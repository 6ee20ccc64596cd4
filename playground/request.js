/** A prediction through Replicate's HTTP API, which can be cancelled. */
import { Refusal, refusalOf, refusalOfPrediction } from "./refusal.js";

export const MODEL = "your-name/embeddinggemma-300m";
export const API = new URL("v1", document.baseURI).href;

const POLL_MS = 500;
const MAX_FAILURES = 6; // in a row: the prediction goes on while a connection is lost or a proxy has trouble
const CANCEL_MS = 15_000; // the gateway itself waits 10 s for the container
const UNCONFIRMED = "The server did not confirm the cancel, so the container may still be working on the request.";

/**
 * Returns the prediction that has succeeded, or that was canceled after `cancelled`, an AbortSignal. Throws a Refusal.
 * Until then `report` is called with the states that the prediction is seen in: starting, processing.
 */
export function predict(input, cancelled, report) {
  const unconfirmed = new Promise((_, reject) =>
    cancelled.addEventListener("abort", () => setTimeout(reject, CANCEL_MS, new Refusal({ message: UNCONFIRMED }))),
  );
  return Promise.race([ended(input, cancelled, report), unconfirmed]);
}

async function ended(input, cancelled, report) {
  const sent = await uploaded(input, cancelled);
  if (cancelled.aborted) return { status: "canceled" };
  let prediction = await created(sent);
  const url = `${API}/predictions/${prediction.id}`;
  const cancel = () => navigator.sendBeacon(`${url}/cancel`);
  addEventListener("pagehide", cancel); // nobody is left to read the answer
  let failures = 0;
  try {
    while (isRunning(prediction)) {
      const cancelling = cancelled.aborted;
      try {
        prediction = await (cancelling ? ask(`${url}/cancel`, { method: "POST" }) : ask(url, { signal: cancelled }));
        failures = 0;
      } catch (error) {
        failures += 1;
        if (failures === MAX_FAILURES) throw cancelling ? new Refusal({ message: UNCONFIRMED }) : error;
      }
      if (!isRunning(prediction)) break;
      if (!cancelled.aborted) report(prediction.status);
      await pause(cancelling ? undefined : cancelled);
    }
  } finally {
    removeEventListener("pagehide", cancel);
  }
  if (["succeeded", "canceled"].includes(prediction.status)) return prediction;
  throw refusalOfPrediction(prediction);
}

const isRunning = ({ status }) => status === "starting" || status === "processing";

/** Returns the input with the URL of its upload instead of each file. */
async function uploaded(input, cancelled) {
  const sent = { ...input };
  for (const [name, value] of Object.entries(input)) {
    if (!(value instanceof File)) continue;
    const body = new FormData();
    body.append("content", value);
    const upload = ask(`${API}/files`, { method: "POST", body, signal: cancelled });
    const file = await upload.catch((error) => {
      if (!cancelled.aborted) throw error;
    });
    sent[name] = file?.urls.get;
  }
  return sent;
}

/** Creates the prediction. It is returned after a second at the latest: without its id it cannot be cancelled. */
function created(input) {
  const headers = { "Content-Type": "application/json", Prefer: "wait=1" };
  return ask(`${API}/models/${MODEL}/predictions`, { method: "POST", headers, body: JSON.stringify({ input }) });
}

/** Returns after POLL_MS, or at once when the signal says so. */
function pause(signal) {
  return new Promise((resume) => {
    setTimeout(resume, POLL_MS);
    signal?.addEventListener("abort", resume);
    if (signal?.aborted) resume();
  });
}

/** Returns the JSON object that the server answers with. Throws a Refusal. */
export async function ask(url, options) {
  const [response, text] = await read(url, options).catch(() => {
    throw new Refusal({ message: "The server does not answer. Is scripts/playground still running?" });
  });
  const answered = parsed(text);
  if (response.ok && answered !== null && typeof answered === "object") return answered;
  throw refusalOf(response, text, answered);
}

async function read(url, options) {
  const response = await fetch(url, options);
  return [response, await response.text()];
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
