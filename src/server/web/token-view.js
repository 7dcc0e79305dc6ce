// A text shown token by token, each of which can be pointed at or focused.

import { element, roveWithArrows } from "./dom.js";

/** Shows the draft's tokens in `place`, and adds to them as the model writes. */
export class TokenView {
  #place;
  #label;
  #tokens = null;

  /** `label` gives a token's name for those who can't see it. */
  constructor(place, label) {
    this.#place = place;
    this.#label = label;
    roveWithArrows(place);
  }

  /** Shows these tokens; true if they are others than before, not only more. */
  show(tokens) {
    const areOthers = tokens !== this.#tokens;
    if (areOthers) this.#place.replaceChildren();
    this.#tokens = tokens;
    const shown = this.spans.length;
    this.#place.append(...tokens.slice(shown).map((token, i) => this.#spanOf(token, shown + i)));
    return areOthers;
  }

  /** One element for each token, in their order. */
  get spans() {
    return [...this.#place.querySelectorAll(".token")];
  }

  /** Which token an event is about; -1 for none. */
  indexOf(event) {
    return Number(event.target.closest?.(".token")?.dataset.index ?? -1);
  }

  #spanOf(token, index) {
    return element("span", {
      class: `token ${tintOf(token)}`, role: "button", tabindex: index === 0 ? 0 : -1,
      "data-index": index, "aria-label": this.#label(token, index),
    }, token.text);
  }
}

/** The classes of probability: from a half upwards, and so on. */
export const TINTS = [
  { from: 0.5, label: "over 50%" },
  { from: 0.1, label: "over 10%" },
  { from: 0.01, label: "over 1%" },
  { from: 0.001, label: "over 0.1%" },
  { from: 0, label: "less" },
];

/** The class in which a token's probability is. */
export function tintOf({ logprob }) {
  if (logprob == null) return "unknown";
  return `tint-${TINTS.findIndex(({ from }) => Math.exp(logprob) >= from)}`;
}
