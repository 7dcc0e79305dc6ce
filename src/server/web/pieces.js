// A text shown piece by piece, each of which can be pointed at or focused.

import { element, roveWithArrows } from "./dom.js";

/** Shows the draft's pieces in `place`, and adds to them as the model writes. */
export class PiecesView {
  #place;
  #label;
  #pieces = null;

  /** `label` gives a piece's name for those who can't see it. */
  constructor(place, label) {
    this.#place = place;
    this.#label = label;
    roveWithArrows(place);
  }

  /** Shows these pieces; true if they are others than before, or have changed. */
  show(pieces) {
    if (pieces !== this.#pieces) this.#place.replaceChildren();
    const fresh = pieces !== this.#pieces;
    this.#pieces = pieces;
    const spans = pieces.slice(this.spans.length).map((piece, i) => this.#spanOf(piece, this.spans.length + i));
    this.#place.append(...spans);
    return fresh;
  }

  /** One element a piece, in their order. */
  get spans() {
    return [...this.#place.querySelectorAll(".piece")];
  }

  /** Which piece an event is about; -1 for none. */
  indexOf(event) {
    return Number(event.target.closest?.(".piece")?.dataset.index ?? -1);
  }

  #spanOf(piece, index) {
    return element("span", {
      class: `piece ${tintOf(piece)}`, role: "button", tabindex: index === 0 ? 0 : -1,
      "data-index": index, "aria-label": this.#label(piece, index),
    }, piece.text);
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

/** The class in which a piece's probability is. */
export function tintOf({ logprob }) {
  if (logprob == null) return "unknown";
  return `tint-${TINTS.findIndex(({ from }) => Math.exp(logprob) >= from)}`;
}
