// One map of attention, enlarged, with a pointer that tells its weights.

import { drawOn } from "./attention.js";
import { byId } from "./dom.js";
import { percent, visible } from "./format.js";

const canvas = byId("map");
let shown = null;

/** Connects the dialog. */
export function setUp() {
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const cell = (from, to) => Math.floor((from / to) * shown.rows.length);
    point(cell(event.clientY - box.top, box.height), cell(event.clientX - box.left, box.width));
  });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    point(shown.y + step[0], shown.x + step[1]);
  });
  window.addEventListener("themechange", () => byId("map-dialog").open && draw());
}

/** Opens the map of one head: rows of weights, and the tokens they are about. */
export function open(name, rows, tokens, at) {
  shown = { rows, tokens, y: at, x: 0 };
  byId("map-title").textContent = name;
  byId("map-dialog").showModal();
  point(at, strongest(rows[at]));
  canvas.focus();
}

/** Points at what the token `y` gave the token `x`; tokens don't look ahead. */
function point(y, x) {
  const last = shown.rows.length - 1;
  shown.y = Math.min(Math.max(y, 0), last);
  shown.x = Math.min(Math.max(x, 0), shown.y);
  const name = (i) => `“${visible(shown.tokens[i].text)}”`;
  const weight = shown.rows[shown.y][shown.x];
  byId("map-hint").textContent =
    `${name(shown.y)} (${shown.y}) gives ${name(shown.x)} (${shown.x}) ${percent(Math.log(weight))} of its attention.`;
  draw();
}

function draw() {
  const { rows, x: atX, y: atY } = shown;
  const side = canvas.clientWidth;
  const cell = side / rows.length;
  drawOn(canvas, side, side, (context) => {
    rows.forEach((weights, y) => {
      for (let x = 0; x <= y; x++) {
        context.globalAlpha = Math.sqrt(weights[x]);
        context.fillRect(x * cell, y * cell, cell, cell);
      }
    });
    context.globalAlpha = 0.12;
    context.fillRect(0, atY * cell, (atY + 1) * cell, cell);
    context.fillRect(atX * cell, atX * cell, cell, side - atX * cell);
    context.globalAlpha = 1;
    context.strokeStyle = getComputedStyle(canvas).outlineColor;
    context.lineWidth = 2;
    context.strokeRect(atX * cell, atY * cell, Math.max(cell, 4), Math.max(cell, 4));
  });
}

const strongest = (weights) => weights.indexOf(Math.max(...weights));
