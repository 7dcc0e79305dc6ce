// What is known of one token at each layer, as tables: the logit lens and the norms.

import { element } from "./dom.js";
import { percent, short, visible } from "./format.js";
import { tintOf } from "./token-view.js";

/** The name of the place after the embedding (0) or after a block. */
const stage = (index) => (index === 0 ? "embedding" : `layer ${index - 1}`);

/**
 * What the model would expect next if it stopped at each layer. `lens` holds
 * for each stage its likeliest tokens; `next` is the id that really comes.
 */
export function lensTable(lens, next) {
  const count = lens[0].length;
  const heads = Array.from({ length: count }, (_, i) => element("th", { scope: "col" }, ordinal(i + 1)));
  const rows = lens.map((top, i) => ({ top, name: stage(i) })).reverse().map(({ top, name }) =>
    element("tr", {}, element("th", { scope: "row" }, name), ...top.map((token) => guess(token, next))));
  return element("table", { class: "lens" },
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "After"), ...heads)),
    element("tbody", {}, ...rows));
}

const ordinal = (n) => ["1st", "2nd", "3rd"][n - 1] ?? `${n}th`;

function guess({ token_id: id, text, logprob }, next) {
  const isNext = id === next;
  return element("td", {},
    element("span", { class: `guess ${tintOf({ logprob })}${isNext ? " next" : ""}` }, visible(text),
      isNext ? element("span", { class: "unseen" }, " (the token that came)") : null),
    element("span", { class: "share" }, percent(logprob)));
}

/** Lengths of the residual stream, and of what each block added, at the token `at`. */
export function normsTable({ residual, attention, mlp }, at) {
  const of = (norms) => norms.map((layer) => layer[at]);
  const columns = [of(residual), [null, ...of(attention)], [null, ...of(mlp)]];
  const most = [Math.max(...columns[0]), Math.max(...columns[1], ...columns[2]), Math.max(...columns[1], ...columns[2])];
  const names = ["After", "Residual stream", "Attention added", "MLP added"];
  const rows = columns[0].map((_, i) => element("tr", {}, element("th", { scope: "row" }, stage(i)),
    ...columns.map((values, column) => meter(values[i], most[column])))).reverse();
  return element("table", { class: "norms" },
    element("thead", {}, element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, name)))),
    element("tbody", {}, ...rows));
}

function meter(value, most) {
  if (value === null) return element("td", {});
  const bar = element("span", { class: "bar" });
  bar.style.width = `${(value / most) * 100}%`;
  return element("td", {}, element("span", { class: "track" }, bar), element("span", { class: "share" }, short(value)));
}
