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
  if (value instanceof File) return `open(${JSON.stringify(value.name)}, "rb")`;
  if (typeof value === "boolean") return value ? "True" : "False";
  return JSON.stringify(value, null, 4).replaceAll("\n", "\n        "); // JSON's other literals are the same in Python
}

function javascript(input) {
  const hasFile = Object.values(input).some((value) => value instanceof File);
  const imports = hasFile ? 'import { readFile } from "node:fs/promises";\n' : "";
  const lines = Object.entries(input).map(([name, value]) => `    "${name}": ${javascriptLiteral(value)},\n`);
  return `// npm install replicate
${imports}import Replicate from "replicate";

// This container. On Replicate itself: new Replicate()
const replicate = new Replicate({ baseUrl: "${API}", auth: "none" });
const output = await replicate.run("${MODEL}", {
  input: ${lines.length > 0 ? `{\n${lines.join("")}  }` : "{}"},
});
console.log(output);
`;
}

function javascriptLiteral(value) {
  if (value instanceof File) return `new Blob([await readFile(${JSON.stringify(value.name)})])`;
  return JSON.stringify(value, null, 2).replaceAll("\n", "\n    ");
}

function curl(input) {
  if (Object.values(input).some((value) => value instanceof File)) return curlWithFile(input);
  const quoted = JSON.stringify({ input }).replaceAll("'", `'\\''`);
  return `curl --silent ${API}/models/${MODEL}/predictions \\
  --header 'Content-Type: application/json' \\
  --header 'Prefer: wait' \\
  --data '${quoted}'
`;
}

/** The shell itself puts the file into the text that it hands to curl, which can be longer than an argument. */
function curlWithFile(input) {
  const inputs = Object.entries(input).map(([name, value]) => `"${name}":${shellText(value)}`);
  return `curl --silent ${API}/models/${MODEL}/predictions \\
  --header 'Content-Type: application/json' \\
  --header 'Prefer: wait' \\
  --data @- <<END
{"input":{${inputs.join(",")}}}
END
`;
}

function shellText(value) {
  if (!(value instanceof File)) return JSON.stringify(value).replace(/[\\$`]/g, "\\$&");
  const name = `'${value.name.replaceAll("'", `'\\''`)}'`;
  return `"data:application/octet-stream;base64,$(base64 --wrap 0 -- ${name})"`;
}
