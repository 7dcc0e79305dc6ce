// How surprised and how unsure the model was along a text: figures and a plot.

import { element, svg } from "./dom.js";
import { bits, short } from "./format.js";

const HEIGHT = 100;

/** Of tokens with log probabilities: { count, meanBits, perplexity }. */
export function summaryOf(tokens) {
  const logprobs = tokens.map(({ logprob }) => logprob).filter((logprob) => logprob != null);
  const mean = -logprobs.reduce((sum, logprob) => sum + logprob, 0) / logprobs.length;
  return { count: logprobs.length, meanBits: bits(mean), perplexity: Math.exp(mean) };
}

/**
 * The entropy, in nats, of what the model expected at a token, taking all but
 * the likeliest tokens as one: the true entropy is at least this.
 */
export function entropyOf({ top }) {
  if (!top?.length) return null;
  const likely = top.map(({ logprob }) => Math.exp(logprob));
  const rest = Math.max(0, 1 - likely.reduce((sum, p) => sum + p, 0));
  return [...likely, rest].reduce((sum, p) => (p > 0 ? sum - p * Math.log(p) : sum), 0);
}

/** Draws the plot into `figure`: a bar of surprise a token, and a line of entropy. */
export function plot(figure, tokens) {
  const surprises = tokens.map(({ logprob }) => (logprob == null ? 0 : bits(-logprob)));
  const entropies = tokens.map((token) => bits(entropyOf(token) ?? 0));
  const most = Math.max(1, ...surprises, ...entropies);
  const height = (value) => (value / most) * HEIGHT;
  const bars = surprises.map((value, i) =>
    svg("rect", { x: i + 0.1, width: 0.8, y: HEIGHT - height(value), height: height(value) }));
  const points = entropies.map((value, i) => `${i + 0.5},${HEIGHT - height(value)}`);
  const line = svg("polyline", { points: points.slice(1).join(" "), "vector-effect": "non-scaling-stroke" });
  const drawing = svg("svg", {
    viewBox: `0 0 ${tokens.length} ${HEIGHT}`, preserveAspectRatio: "none", role: "img",
    "aria-label": `Surprise and uncertainty of ${tokens.length} tokens, up to ${short(most)} bits`,
  }, ...bars, line);
  figure.replaceChildren(
    element("figcaption", {},
      element("span", { class: "key bars" }), "surprise", element("span", { class: "key line" }), "uncertainty",
      element("span", { class: "push" }, `0 to ${short(most)} bits`)),
    drawing,
    element("p", { class: "hint" },
      "Surprise is how unlikely the token was that came. Uncertainty is how undecided the model was before it came: the entropy of its expectation, with all but the ten likeliest tokens taken as one."),
  );
  figure.hidden = false;
}

/** Marks the bar of one token; of none with -1. */
export function mark(figure, index) {
  figure.querySelectorAll("rect").forEach((bar, i) => bar.classList.toggle("chosen", i === index));
}
