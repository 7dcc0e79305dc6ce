// Inside: what the model did at one token of the text, layer by layer.

import { byId, element, moveStop, roveWithArrows } from "./dom.js";
import { draft } from "./draft.js";
import { percent, visible } from "./format.js";
import { inspect, tokenize } from "./model.js";
import { Arcs, Attention, drawMap, drawStrip, pictureButton } from "./attention.js";
import { TokenView } from "./token-view.js";
import { lensTable, normsTable } from "./layers.js";
import * as banner from "./banner.js";
import * as maps from "./maps.js";
import * as tabs from "./tabs.js";

/** The server looks at no more tokens than this at a time. */
const MOST_TOKENS = 512;
/** Guesses shown of each layer. */
const GUESSES = 5;

const place = byId("looked");
const view = new TokenView(place, ({ text }) => visible(text));
const arcs = new Arcs(place);

/** What is shown: the tokens, which of them was chosen, and what was found there. */
const now = { tokens: null, at: 0, layer: 0, head: 0, seen: null, rows: null };
/** Whole maps by layer, of `now.tokens`. */
let layers = new Map();
let asking = new AbortController();

/** Connects the view. */
export function setUp() {
  maps.setUp();
  place.addEventListener("click", (event) => choose(view.indexOf(event)));
  place.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    choose(view.indexOf(event));
  });
  // What is drawn depends on where the tokens stand and on the theme's colours.
  new ResizeObserver(() => now.rows && showHead()).observe(place);
  window.addEventListener("themechange", () => tabs.isOpen("inside") && now.seen && showFound());
  draft.addEventListener("change", () => tabs.isOpen("inside") && !draft.isWriting && opened());
}

/** Shows the draft as it is now, and looks at its last token unless another was chosen. */
export async function opened() {
  try {
    if (draft.tokens === null) draft.know(await tokenize(draft.text));
  } catch (error) {
    banner.show(error, opened);
    return;
  }
  const tokens = draft.tokens.slice(0, MOST_TOKENS);
  if (sameIds(tokens, now.tokens)) return;
  Object.assign(now, { tokens, seen: null, rows: null });
  layers = new Map();
  byId("inside-note").textContent =
    draft.tokens.length > MOST_TOKENS ? `The first ${MOST_TOKENS} of ${draft.tokens.length} tokens.` : "";
  view.show(tokens);
  byId("insight").replaceChildren();
  if (tokens.length) choose(tokens.length - 1);
}

const sameIds = (some, others) => some.length === others?.length && some.every(({ id }, i) => id === others[i].id);

/** Looks at the token `at`: its row of attention in every head, the lens, the norms. */
async function choose(at) {
  if (at < 0) return;
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  now.at = at;
  view.spans.forEach((span, i) => {
    span.classList.toggle("chosen", i === at);
    span.classList.toggle("later", i > at);
    span.setAttribute("aria-pressed", i === at);
  });
  moveStop(place, view.spans[at]);
  const ids = now.tokens.map(({ id }) => id);
  const body = { ids, positions: [at], attention_format: "f16", lens: GUESSES, lens_positions: [at], norms: true };
  try {
    const seen = await inspect(body, { signal });
    Object.assign(now, { seen, rows: new Attention(seen.attention) });
    now.layer = Math.min(now.layer, seen.layers.length - 1);
    showFound();
  } catch (error) {
    banner.show(error, () => choose(at));
  }
}

// ---- what was found ----

function showFound() {
  const { seen, tokens, at } = now;
  const next = tokens[at + 1]?.id;
  byId("insight").replaceChildren(
    part("heads", "Attention", `Which tokens each head looked at from “${visible(tokens[at].text)}”: one bar for each, in the order of the text. Choose a head to see it over the text above.`,
      headsGrid(seen)),
    part("layer", "", "", element("div", { class: "maps", id: "maps" })),
    part("guesses", "Logit lens", "What the model would expect next if it stopped after each layer. The bottom row knows only the token itself; the top row is its answer.",
      element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Logit lens" }, lensTable(seen.lens.map(([top]) => top), next))),
    part("lengths", "Norms", "How long the residual stream is as it passes this token, and how much each layer's two halves added to it.",
      element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Norms" }, normsTable(seen.norms, at))),
  );
  drawHeads();
  showHead();
  showLayer();
}

const part = (id, title, hint, content) => element("section", { class: "part", id: `inside-${id}` },
  element("h2", {}, title), element("p", { class: "hint" }, hint), content);

/** A row of strips a layer, a strip a head. */
function headsGrid({ layers: all, heads }) {
  const button = (layer, head) => pictureButton(headName(layer, head), "strip", () => chooseHead(layer, head));
  const rows = all.map((layer) => element("div", { class: "layer" },
    element("span", { class: "name" }, `layer ${layer}`), ...heads.map((head) => button(layer, head))));
  const names = heads.map((head) => element("span", { class: "number" }, String(head)));
  const top = element("div", { class: "layer", "aria-hidden": "true" }, element("span", {}, "head"), ...names);
  const grid = element("div", { class: "heads", role: "group", "aria-label": "Heads" }, top, ...rows);
  grid.style.setProperty("--heads", heads.length);
  roveWithArrows(grid, { columns: () => heads.length });
  return element("div", { class: "scroll" }, grid);
}

const rowOf = (layer, head) => now.rows.row(layer, head, 0).subarray(0, now.at + 1);

function headName(layer, head) {
  const weights = rowOf(layer, head);
  const most = weights.indexOf(Math.max(...weights));
  return `layer ${layer}, head ${head}: mostly “${visible(now.tokens[most].text)}”, ${percent(Math.log(weights[most]))}`;
}

const strips = () => [...byId("insight").querySelectorAll(".strip")];
const stripAt = (layer, head) => strips()[layer * now.seen.heads.length + head];

function drawHeads() {
  const heads = now.seen.heads.length;
  strips().forEach((strip, i) => drawStrip(strip.firstChild, rowOf(Math.floor(i / heads), i % heads)));
}

function chooseHead(layer, head) {
  const isOther = layer !== now.layer;
  Object.assign(now, { layer, head });
  showHead();
  if (isOther) showLayer();
}

/** Shows the chosen head over the text. */
function showHead() {
  const { layer, head } = now;
  for (const strip of strips()) strip.setAttribute("aria-pressed", strip === stripAt(layer, head));
  moveStop(byId("insight").querySelector(".heads"), stripAt(layer, head));
  arcs.show(view.spans, now.at, rowOf(layer, head));
  byId("inside-note").textContent = `Over the text: ${headName(layer, head)}.`;
}

// ---- whole maps of one layer ----

/** Shows the maps of all heads of the chosen layer. */
async function showLayer() {
  const { layer } = now;
  const section = byId("inside-layer");
  section.querySelector("h2").textContent = `Maps of layer ${layer}`;
  section.querySelector(".hint").textContent =
    "One row for each token, from the first at the top: what it looked at. Click a map to enlarge it.";
  try {
    const attention = await mapsOf(layer);
    if (layer !== now.layer) return;
    const figures = now.seen.heads.map((head) => figureOf(layer, head, rowsOf(attention, head)));
    byId("maps").replaceChildren(...figures);
  } catch (error) {
    banner.show(error, showLayer);
  }
}

/** All rows of all heads of a layer; asked for once. */
function mapsOf(layer) {
  if (!layers.has(layer)) {
    const known = layers;
    const ids = now.tokens.map(({ id }) => id);
    const answer = inspect({ ids, layers: [layer], attention_format: "f16", norms: false });
    const attention = answer.then((seen) => new Attention(seen.attention));
    attention.catch(() => known.delete(layer));
    layers.set(layer, attention);
  }
  return layers.get(layer);
}

const rowsOf = (attention, head) => now.tokens.map((_, row) => attention.row(0, head, row));

function figureOf(layer, head, rows) {
  const { tokens } = now;
  const name = `Layer ${layer}, head ${head}`;
  const button = pictureButton(`${name}: enlarge`, "small-map", () => maps.open(name, rows, tokens, now.at), 0);
  // The style sheet has to know it before its colour can be asked for.
  requestAnimationFrame(() => drawMap(button.firstChild, rows));
  return element("figure", {}, button, element("figcaption", {}, `head ${head}`));
}
