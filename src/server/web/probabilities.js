// Probabilities: the text tinted by how likely each token was.

import { byId, element } from "./dom.js";
import { draft } from "./draft.js";
import { percent, short, visible } from "./format.js";
import { scored, scoredInWindows, tokenize } from "./model.js";
import { Alternatives } from "./alternatives.js";
import { TokenView, TINTS } from "./token-view.js";
import * as banner from "./banner.js";
import * as surprise from "./surprise.js";
import * as tabs from "./tabs.js";
import { context, goOn, stop } from "./writing.js";

/** How many of the least likely tokens are listed. */
const LISTED = 8;

const place = byId("tinted");
const figure = byId("surprise");
const view = new TokenView(place, labelOf);
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

const isScored = () => draft.tokens?.every((token) => token.rank !== undefined);

function update() {
  byId("stop-here").hidden = !draft.isWriting;
  if (draft.tokens) show();
  if (draft.isWriting || isScored()) return;
  ask();
}

/** Asks for what is not known of the draft yet. */
async function ask() {
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  try {
    const { text } = draft;
    const tokens = draft.tokens ?? (await tokenize(text, { signal }));
    const score = tokens.length <= context.size ? scored : scoredInWindows;
    const known = tokens.length ? await score(tokens, { signal }) : [];
    if (draft.text === text && !draft.isWriting) draft.know(known);
  } catch (error) {
    banner.show(error, ask);
  }
}

function show() {
  const { tokens } = draft;
  if (view.show(tokens)) alternatives.close();
  if (draft.isWriting || !isScored()) return;
  const summary = surprise.summaryOf(tokens);
  figure.hidden = summary.count === 0;
  byId("facts").replaceChildren(...factsOf(tokens.length, summary));
  byId("unlikely").replaceChildren(...(summary.count ? leastLikely(tokens) : []));
  if (summary.count) surprise.plot(figure, tokens);
}

function factsOf(count, { perplexity, meanBits }) {
  const fact = (name, value, hint) => element("div", { class: "fact" },
    element("span", { class: "value" }, value), element("span", { class: "name" }, name), element("span", { class: "hint" }, hint));
  return [
    fact("perplexity", short(perplexity), "as unsure as if it chose among so many, each time"),
    fact("bits per token", short(meanBits), "the mean surprise"),
    fact("tokens", String(count), "the first is not scored: nothing comes before it"),
  ];
}

function leastLikely(tokens) {
  const known = [...tokens.keys()].filter((i) => tokens[i].logprob !== null);
  const rarest = known.sort((a, b) => tokens[a].logprob - tokens[b].logprob).slice(0, LISTED);
  view.spans.forEach((span, i) => span.classList.toggle("rare", rarest.includes(i)));
  const rows = rarest.map((i) => element("li", {},
    element("button", { type: "button", class: "quiet", onclick: () => view.spans[i].focus() },
      element("span", { class: "before" }, tokens.slice(Math.max(0, i - 5), i).map(({ text }) => text).join("").trimStart()),
      element("mark", {}, tokens[i].text.replace(/\s*\n\s*/g, "⏎")),
      element("span", { class: "share" }, percent(tokens[i].logprob)))));
  return [element("h2", {}, "Least expected"), element("ol", {}, ...rows)];
}

function labelOf(token) {
  const likely = token.logprob == null ? "" : `, ${percent(token.logprob)}`;
  return visible(token.text) + likely;
}

function point(index) {
  const token = draft.tokens?.[index];
  if (!token) return;
  alternatives.open(view.spans[index], token, index);
  surprise.mark(figure, index);
}

function onKey(event) {
  if (event.key === "Enter" || event.key === "ArrowDown" || event.key === " ") alternatives.enter();
  else if (event.key === "Escape") alternatives.close();
  else return;
  event.preventDefault();
}

/** Goes on with `token` in place of the `index`th. */
function branch(index, token) {
  if (draft.isWriting) return;
  draft.branch(index, token);
  goOn();
}
