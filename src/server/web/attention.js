// Weights of attention: from the wire, and as pictures.

import { element, svg } from "./dom.js";

/** Arcs are drawn to this many tokens, and only for weights that can be seen. */
const ARCS = 16;
const FAINT = 0.02;

/** Attention as the API packs it: weights by layer, head and position. */
export class Attention {
  #values;
  #shape;

  constructor({ shape, data }) {
    const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
    const packed = new DataView(bytes.buffer);
    this.#shape = shape;
    this.#values = Float32Array.from({ length: bytes.length / 2 }, (_, i) => fromHalf(packed.getUint16(2 * i, true)));
  }

  /** What the position at place `row` gave each token; each counted from 0 as asked for. */
  row(layer, head, row) {
    const [, heads, rows, tokens] = this.#shape;
    const at = ((layer * heads + head) * rows + row) * tokens;
    return this.#values.subarray(at, at + tokens);
  }
}

/** IEEE 754 half precision. */
function fromHalf(half) {
  const exponent = (half >> 10) & 31;
  const fraction = half & 1023;
  // Weights are neither negative nor infinite.
  return exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024);
}

/** A canvas whose ink has the colour that the style sheet gives it. */
export function drawOn(canvas, width, height, paint) {
  const sharp = window.devicePixelRatio || 1;
  Object.assign(canvas, { width: Math.round(width * sharp), height: Math.round(height * sharp) });
  const context = canvas.getContext("2d");
  context.scale(sharp, sharp);
  context.fillStyle = getComputedStyle(canvas).color;
  paint(context);
}

/** One row of weights as bars, left to right; square roots, so that a few percent can be seen. */
export function drawStrip(canvas, weights) {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  drawOn(canvas, width, height, (context) => {
    const step = width / weights.length;
    weights.forEach((weight, i) => {
      const tall = Math.sqrt(weight) * height;
      if (tall > 0.3) context.fillRect(i * step, height - tall, Math.max(step * 0.85, 0.75), tall);
    });
  });
}

/** A whole map: a row for each token that looks, a column for each it looks at; square roots again. */
export function drawMap(canvas, rows) {
  const context = Object.assign(canvas, { width: rows.length, height: rows.length }).getContext("2d");
  context.fillStyle = getComputedStyle(canvas).color;
  rows.forEach((weights, y) => {
    for (let x = 0; x <= y; x++) {
      context.globalAlpha = Math.sqrt(weights[x]);
      if (weights[x] > 0) context.fillRect(x, y, 1, 1);
    }
  });
}

/** Arcs over a text, from the token at `from` to those it looks at. */
export class Arcs {
  #place;
  #drawing = svg("svg", { class: "overlay", "aria-hidden": "true" });

  constructor(place) {
    this.#place = place;
  }

  show(spans, from, weights) {
    this.#place.append(this.#drawing);
    const around = this.#place.getBoundingClientRect();
    const topOf = (span) => {
      const box = span.getClientRects()[0] ?? around;
      return { x: (box.left + box.right) / 2 - around.left, y: box.top - around.top + 4 };
    };
    const strongest = [...weights.keys()].filter((i) => i !== from && weights[i] > FAINT)
      .sort((a, b) => weights[b] - weights[a]).slice(0, ARCS);
    const start = topOf(spans[from]);
    this.#drawing.replaceChildren(...strongest.map((i) => arc(start, topOf(spans[i]), weights[i])));
    spans.forEach((span, i) => span.style.setProperty("--weight", Math.sqrt(weights[i] ?? 0)));
  }
}

function arc(start, end, weight) {
  const rise = Math.min(14 + Math.abs(start.x - end.x) / 12, 34);
  const middle = `${(start.x + end.x) / 2},${Math.min(start.y, end.y) - rise}`;
  return svg("path", {
    d: `M${start.x},${start.y} Q${middle} ${end.x},${end.y}`,
    "stroke-width": 0.8 + 3 * weight, "stroke-opacity": 0.35 + 0.65 * weight,
  });
}

/** A picture with a name that opens on a click. */
export const pictureButton = (name, className, onclick, tabindex = -1) =>
  element("button", { type: "button", class: className, "aria-label": name, title: name, onclick, tabindex },
    element("canvas"));
