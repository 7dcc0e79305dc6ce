// Probabilities: the text tinted by how likely each piece was.

import { byId, element } from "./dom.js";
import { draft } from "./draft.js";
import { percent, short, visible } from "./format.js";
import { scored, scoredInWindows, tokenize } from "./model.js";
import { Alternatives } from "./alternatives.js";
import { PiecesView, TINTS } from "./pieces.js";
import * as banner from "./banner.js";
import * as surprise from "./surprise.js";
import * as tabs from "./tabs.js";
import { context, goOn, stop } from "./writing.js";

/** How many of the least likely pieces are listed. */
const LISTED = 8;

const place = byId("tinted");
const figure = byId("surprise");
const view = new PiecesView(place, labelOf);
const alternatives = new Alternatives(byId("probabilities"), branch);
let asking = null;

/** Connects the view. */
export function setUp() {
  byId("legend").append(...TINTS.map(({ label }, i) =>
    element("li", {}, element("span", { class: `swatch tint-${i}` }), label)));
  place.addEventListener("pointerover", (event) => point(view.indexOf(event)));
  place.addEventListener("pointerout", () => alternatives.closeSoon());
  place.addEventListener("focusin", (event) => point(view.indexOf(event)));
  place.addEventListener("focusout", () => alternatives.closeSoon());
  place.addEventListener("keydown", onKey);
  byId("stop-here").addEventListener("click", stop);
  draft.addEventListener("change", () => tabs.isOpen("probabilities") && update());
}

/** Shows the draft as it is now. */
export function opened() {
  update();
}

const isScored = () => draft.pieces?.every((piece) => piece.rank !== undefined);

function update() {
  byId("stop-here").hidden = !draft.isWriting;
  if (draft.pieces) show();
  if (draft.isWriting || isScored()) return;
  ask();
}

/** Asks for what is not known of the draft yet. */
async function ask() {
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  try {
    const pieces = draft.pieces ?? (await tokenize(draft.text, { signal }));
    const score = pieces.length <= context.size ? scored : scoredInWindows;
    const known = pieces.length ? await score(pieces, { signal }) : [];
    if (!signal.aborted) draft.know(known);
  } catch (error) {
    banner.show(error, ask);
  }
}

function show() {
  const { pieces } = draft;
  if (view.show(pieces)) alternatives.close();
  place.classList.toggle("empty", pieces.length === 0);
  if (draft.isWriting || !isScored()) return;
  const summary = surprise.summaryOf(pieces);
  figure.hidden = summary.count === 0;
  byId("facts").replaceChildren(...factsOf(pieces.length, summary));
  byId("unlikely").replaceChildren(...(summary.count ? leastLikely(pieces) : []));
  if (summary.count) surprise.plot(figure, pieces);
}

function factsOf(count, { perplexity, meanBits }) {
  const fact = (name, value, hint) => element("div", { class: "fact" },
    element("span", { class: "value" }, value), element("span", { class: "name" }, name), element("span", { class: "hint" }, hint));
  return [
    fact("perplexity", short(perplexity), "as unsure as if it chose among so many, each time"),
    fact("bits a piece", short(meanBits), "the mean surprise"),
    fact("pieces", String(count), "the first is not scored: nothing comes before it"),
  ];
}

function leastLikely(pieces) {
  const known = [...pieces.keys()].filter((i) => pieces[i].logprob !== null);
  const rarest = known.sort((a, b) => pieces[a].logprob - pieces[b].logprob).slice(0, LISTED);
  view.spans.forEach((span, i) => span.classList.toggle("rare", rarest.includes(i)));
  const rows = rarest.map((i) => element("li", {},
    element("button", { type: "button", class: "quiet", onclick: () => view.spans[i].focus() },
      element("span", { class: "before" }, pieces.slice(Math.max(0, i - 5), i).map(({ text }) => text).join("").trimStart()),
      element("mark", {}, pieces[i].text.replace(/\s*\n\s*/g, "⏎")),
      element("span", { class: "share" }, percent(pieces[i].logprob)))));
  return [element("h2", {}, "Least expected"), element("ol", {}, ...rows)];
}

function labelOf(piece) {
  const likely = piece.logprob == null ? "" : `, ${percent(piece.logprob)}`;
  return visible(piece.text) + likely;
}

function point(index) {
  const piece = draft.pieces?.[index];
  if (!piece) return;
  alternatives.open(view.spans[index], piece, index);
  surprise.mark(figure, index);
}

function onKey(event) {
  if (event.key === "Enter" || event.key === "ArrowDown" || event.key === " ") alternatives.enter();
  else if (event.key === "Escape") alternatives.close();
  else return;
  event.preventDefault();
}

/** Goes on with `piece` in place of the `index`th. */
function branch(index, piece) {
  if (draft.isWriting) return;
  draft.branch(index, piece);
  goOn();
}
