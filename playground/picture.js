/** Vectors as pictures: a strip of a single vector's values; for several, how similar they are and where they lie. */
import * as Plot from "@observablehq/plot";
import { plane, similarities } from "./compare.js";
import { element } from "./dom.js";

const MAX_TEXTS = 100; // of a larger answer only the first texts are drawn: a browser draws 10,000 cells with ease
const MAX_LABELS = 30; // more points than these are drawn without words
const MAX_CHARACTERS = 200; // of a text where its cell or point is hovered: 10,000 cells have two texts each
const STRIP_WIDTH = 64;
const INK_CHANGES = 0.6; // at this share of style.css's colours both inks have a contrast of 4.5
const FONT = { fontFamily: "inherit", fontSize: "12px", overflow: "visible" };

/** Returns figures for an answer's vectors, `width` pixels wide. `bits` says that each value is a sign. */
export function picturesOf(vectors, texts, bits, width) {
  if (vectors.length === 1) return [strip(vectors[0], bits, width)];
  const drawn = vectors.slice(0, MAX_TEXTS);
  const labels = drawn.map((_, position) => labelOf(texts[position]));
  const cosines = similarities(drawn);
  const figures = [heatMap(cosines, labels, bits, width), map(drawn, labels, width), table(cosines, labels)];
  if (drawn.length === vectors.length) return figures;
  const note = `The pictures show the first ${MAX_TEXTS} of ${vectors.length.toLocaleString("en")} texts.`;
  return [element("p", { class: "help" }, note), ...figures];
}

function labelOf(text) {
  const line = text.replace(/\s+/g, " ").trim();
  return line.length > MAX_CHARACTERS ? `${line.slice(0, MAX_CHARACTERS).trimEnd()}…` : line;
}

function figure(title, explanation, ...parts) {
  return element("figure", {}, element("figcaption", {}, element("h3", {}, title), explanation), ...parts);
}

function drawing(label, options) {
  const svg = Plot.plot({ style: FONT, ...options });
  svg.setAttribute("aria-hidden", "true"); // Plot labels its parts, for nobody
  return element("div", { role: "img", "aria-label": label }, svg);
}

/** A bar from the colour of `low` to that of `high`, with the values at its ends. */
function legend(low, high, colour) {
  const stops = [0, 0.25, 0.5, 0.75, 1].map(colour).join(", ");
  const bar = element("span", { class: "bar", style: `background: linear-gradient(to right, ${stops})` });
  const [from, to] = [low, high].map((value) => value.toFixed(2).replace(/^-(0\.00)$/, "$1"));
  return element("p", { class: "legend" }, from, bar, to);
}

const sequential = (share) => `color-mix(in oklab, var(--high) ${(100 * share).toFixed(1)}%, var(--low))`;

function diverging(share) {
  const end = share < 0.5 ? "var(--negative)" : "var(--positive)";
  return `color-mix(in oklab, ${end} ${(200 * Math.abs(share - 0.5)).toFixed(1)}%, var(--zero))`;
}

function heatMap(cosines, labels, bits, width) {
  const cells = cosines.flatMap((row, y) => row.map((value, x) => ({ x, y, value })));
  const others = cells.filter(({ x, y }) => x !== y).map(({ value }) => value);
  const [low, high] = [Math.min(...others), Math.max(...others)];
  const share = ({ value }) => (high > low ? (value - low) / (high - low) : 1);
  const ground = (cell) => (cell.x === cell.y ? "var(--line)" : sequential(share(cell)));
  const ink = (cell) => {
    if (cell.x === cell.y) return "var(--ink)";
    return share(cell) > INK_CHANGES ? "var(--on-high)" : "var(--on-low)";
  };
  const measure = bits
    ? "1 − 2 × differing bits / bits, from the Hamming distance of each pair of texts: the cosine of their signs."
    : "The cosine of each pair of vectors.";
  const explanation = `${measure} A text's similarity to itself is 1 and has no colour.`;
  return figure("Similarity", explanation, legend(low, high, sequential), grid(cells, labels, ground, ink, width));
}

/** Cells, with the texts before the rows and the values in the cells if there is room. */
function grid(cells, labels, ground, ink, width) {
  const count = labels.length;
  const words = Math.round(Math.min(width * 0.38, 260));
  const marginLeft = (width - words) / count >= 11 ? words : 0; // lower rows leave no room for words
  const side = Math.min(58, (width - marginLeft) / count);
  const marginTop = side >= 16 ? 24 : 0;
  const place = { x: "x", y: "y" };
  const written = { text: ({ value }) => value.toFixed(2), fill: ink, pointerEvents: "none" };
  const named = (position) => shortened(`${position}  ${labels[position]}`, marginLeft - 8);
  const rows = { tickFormat: named, textAnchor: "start", tickSize: 0, tickPadding: 0, dx: -marginLeft, label: null };
  return drawing("Heat map of the similarities, which stand in the table below", {
    width: marginLeft + side * count,
    height: Math.min(side, marginLeft > 0 ? 40 : 7) * count + marginTop,
    marginLeft,
    marginTop,
    marginRight: 0,
    marginBottom: 0,
    padding: count > 40 ? 0 : 0.04,
    x: { type: "band", axis: null },
    y: { type: "band", axis: null },
    marks: [
      Plot.cell(cells, { ...place, fill: ground, title: (cell) => titleOf(cell, labels) }),
      side >= 34 ? Plot.text(cells, { ...place, ...written }) : null,
      marginTop > 0 ? Plot.axisX({ anchor: "top", tickSize: 0, label: null }) : null,
      marginLeft > 0 ? Plot.axisY(rows) : null,
    ],
  });
}

const titleOf = ({ x, y, value }, labels) => `${value.toFixed(7)}\n[${y}] ${labels[y]}\n[${x}] ${labels[x]}`;

function map(vectors, labels, width) {
  const { places, share } = plane(vectors);
  const height = Math.round(Math.min(width * 0.75, 380));
  const margin = 24;
  const points = placed(places, width - 2 * margin, height - 2 * margin).map(([x, y], position) => ({
    x: x + margin,
    y: y + margin,
    position,
    label: `${position}  ${labels[position]}`,
  }));
  const few = points.length <= MAX_LABELS;
  const place = { x: "x", y: "y" };
  const svg = drawing("Map of the texts by their vectors' first two principal components", {
    width,
    height,
    margin: 0,
    x: { domain: [0, width], range: [0, width], axis: null },
    y: { domain: [0, height], range: [0, height], axis: null },
    marks: [
      Plot.frame({ stroke: "var(--line)", rx: 6 }),
      Plot.dot(points, { ...place, r: few ? 9 : 4, fill: "var(--accent)", stroke: "var(--surface)" }),
      few
        ? Plot.text(points, { ...place, text: "position", fill: "var(--surface)", fontSize: 10, fontWeight: 600 })
        : null,
      few ? labelMarks(points, labels, width, height) : null,
      Plot.tip(points, Plot.pointer({ ...place, title: "label", lineWidth: 18 })),
    ],
  });
  const explanation = Number.isNaN(share)
    ? "All vectors are the same."
    : `The first two principal components (PCA), which hold ${Math.round(100 * share)} % of the vectors' variance.`;
  return figure("Map", explanation, svg);
}

/** Returns places scaled equally in both directions to fit into a frame. */
function placed(places, width, height) {
  const [xs, ys] = [0, 1].map((axis) => places.map((place) => place[axis]));
  const [left, right, bottom, top] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const scale = Math.min(width / (right - left || 1e-9), height / (top - bottom || 1e-9));
  return places.map(([x, y]) => [
    width / 2 + scale * (x - (left + right) / 2),
    height / 2 - scale * (y - (bottom + top) / 2),
  ]);
}

/** Labels next to the points, where they cover nothing else; a point without room for a label has only its number. */
function labelMarks(points, labels, width, height) {
  const taken = points.map(({ x, y }) => ({ left: x - 10, right: x + 10, top: y - 10, bottom: y + 10 }));
  const free = ({ left, right, top, bottom }) =>
    left >= 4 &&
    right <= width - 4 &&
    top >= 4 &&
    bottom <= height - 4 &&
    taken.every((box) => box.right < left || box.left > right || box.bottom < top || box.top > bottom);
  return points.map(({ x, y, position }) => {
    const text = shortened(labels[position], width * 0.36);
    const wide = widthOf(text);
    const lefts = [
      [x + 13, y],
      [x - 13 - wide, y],
      [x - wide / 2, y + 19],
      [x - wide / 2, y - 19],
      [x + 4, y + 19],
      [x + 4, y - 19],
    ];
    const box = lefts
      .map(([left, middle]) => ({ left, right: left + wide, top: middle - 7, bottom: middle + 7, middle }))
      .find(free);
    if (!box) return null;
    taken.push(box);
    return Plot.text([text], { x: [box.left], y: [box.middle], textAnchor: "start", fill: "var(--ink)" });
  });
}

const pen = document.createElement("canvas").getContext("2d");

function widthOf(text) {
  pen.font = `${FONT.fontSize} ${getComputedStyle(document.body).fontFamily}`;
  return pen.measureText(text).width;
}

/** Returns as much of a text as fits into so many pixels. */
function shortened(text, width) {
  if (widthOf(text) <= width) return text;
  let end = Math.min(text.length, Math.ceil(width / 2));
  while (end > 1 && widthOf(`${text.slice(0, end).trimEnd()}…`) > width) end -= 1;
  return `${text.slice(0, end).trimEnd()}…`;
}

/** A vector's values in their order, STRIP_WIDTH to a line. */
function strip(vector, bits, width) {
  const largest = Math.max(...vector.map(Math.abs)) || 1;
  const cells = vector.map((value, i) => ({ x: i % STRIP_WIDTH, y: Math.floor(i / STRIP_WIDTH), value, i }));
  const lines = Math.ceil(vector.length / STRIP_WIDTH);
  const svg = drawing(`The ${vector.length} values of the vector, as colours`, {
    width,
    height: lines * Math.max(12, Math.min(20, width / STRIP_WIDTH)) + 4,
    marginLeft: 32,
    marginRight: 0,
    marginTop: 2,
    marginBottom: 2,
    padding: 0,
    x: { type: "band", axis: null },
    y: { type: "band", axis: null },
    marks: [
      Plot.axisY({ tickSize: 0, label: null, tickFormat: (line) => String(line * STRIP_WIDTH) }),
      Plot.cell(cells, {
        x: "x",
        y: "y",
        inset: 0.25,
        fill: ({ value }) => diverging(0.5 + value / largest / 2),
        title: ({ value, i }) => `[${i}] ${value}`,
      }),
    ],
  });
  const explanation = bits
    ? `The vector's ${vector.length} bits in their order, ${STRIP_WIDTH} to a line: 1 as 1.00, 0 as −1.00.`
    : `The vector's ${vector.length} values in their order, ${STRIP_WIDTH} to a line.`;
  return figure("Values", explanation, legend(-largest, largest, diverging), svg);
}

function table(cosines, labels) {
  const head = labels.map((_, position) => element("th", { scope: "col" }, String(position)));
  const rows = cosines.map((row, position) => {
    const name = element("th", { scope: "row" }, `${position}  ${shortened(labels[position], 240)}`);
    return element("tr", {}, name, ...row.map((value) => element("td", {}, value.toFixed(4))));
  });
  const header = element("tr", {}, element("td"), ...head);
  const content = element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Similarities" });
  content.append(element("table", {}, header, ...rows));
  return element("details", {}, element("summary", {}, "Similarities as a table"), content);
}
