/** The same request, as code that can be pasted: for Replicate's clients and for curl. */
import { API, MODEL } from "./request.js";

export const LANGUAGES = { Python: python, JavaScript: javascript, curl };

function python(input) {
  const lines = Object.entries(input).map(([name, value]) => `        "${name}": ${pythonLiteral(value)},\n`);
  const inputs = lines.length > 0 ? `{\n${lines.join("")}    }` : "{}";
  return `# pip install replicate
import replicate

# This container. On Replicate itself: replicate.Client()
client = replicate.Client(base_url="${new URL(API).origin}", api_token="none")
output = client.run(
    "${MODEL}",
    input=${inputs},
)
print(output)
`;
}

function pythonLiteral(value) {
  if (typeof value === "boolean") return value ? "True" : "False";
  return JSON.stringify(value, null, 4).replaceAll("\n", "\n        "); // JSON's other literals are the same in Python
}

function javascript(input) {
  return `// npm install replicate
import Replicate from "replicate";

// This container. On Replicate itself: new Replicate()
const replicate = new Replicate({ baseUrl: "${API}", auth: "none" });
const output = await replicate.run("${MODEL}", {
  input: ${JSON.stringify(input, null, 2).replaceAll("\n", "\n  ")},
});
console.log(output);
`;
}

function curl(input) {
  const quoted = JSON.stringify({ input }).replaceAll("'", `'\\''`);
  return `curl --silent ${API}/models/${MODEL}/predictions \\
  --header 'Content-Type: application/json' \\
  --header 'Prefer: wait' \\
  --data '${quoted}'
`;
}
