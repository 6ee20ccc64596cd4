/** The vectors of an answer. `decode` and `halfToNumber` are those of docs/api.md, word for word. */

// Returns one typed array for `text`, an array of typed arrays for `texts`. Node.js and browsers.
function decode(output, outputDtype = "float32") {
  const bytes = Uint8Array.from(atob(output.embedding), (character) => character.charCodeAt(0));
  const values = {
    float32: () => new Float32Array(bytes.buffer),
    float16: () => Float32Array.from(new Uint16Array(bytes.buffer), halfToNumber),
    int8: () => new Int8Array(bytes.buffer),
    ubinary: () => bytes,
  }[outputDtype]();
  if (output.shape.length === 1) return values;
  const [rows, width] = output.shape;
  return Array.from({ length: rows }, (_, row) => values.subarray(row * width, (row + 1) * width));
}

function halfToNumber(half) {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >> 10) & 0x1f;
  const fraction = half & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1024 + fraction) * 2 ** (exponent - 25);
}

/** Returns an answer's vectors, a row of numbers each; the bits of ubinary become 1 and -1. */
export function vectorsOf(output, outputDtype) {
  const decoded = output.output_format === "array" ? output.embedding : decode(output, outputDtype);
  const rows = output.shape.length === 1 ? [decoded] : decoded;
  return rows.map((row) => (outputDtype === "ubinary" ? signs(row) : Array.from(row)));
}

function signs(bytes) {
  return Array.from({ length: 8 * bytes.length }, (_, bit) => ((bytes[bit >> 3] >> (7 - (bit & 7))) & 1 ? 1 : -1));
}
