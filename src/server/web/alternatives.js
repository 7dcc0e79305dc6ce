// What else the model had in mind in a piece's place: a small panel beside it.

import { element } from "./dom.js";
import { percent, visible } from "./format.js";

/** How long the pointer may be on its way from a piece to the panel. */
const GRACE_MS = 250;

/** The panel. One is enough: it moves from piece to piece. */
export class Alternatives {
  #panel = element("div", { class: "alternatives", role: "group", "aria-label": "Alternatives", hidden: true });
  #choose;
  #closing;
  #anchor = null;

  /** In `place`, which is positioned; `choose(index, piece)` is called for the one chosen. */
  constructor(place, choose) {
    this.#choose = choose;
    place.append(this.#panel);
    this.#panel.addEventListener("pointerenter", () => clearTimeout(this.#closing));
    this.#panel.addEventListener("pointerleave", () => this.closeSoon());
    this.#panel.addEventListener("focusout", (event) => this.#left(event));
    this.#panel.addEventListener("keydown", (event) => this.#onKey(event));
  }

  /** Shows the alternatives of `piece`, the `index`th, below its element. */
  open(anchor, piece, index) {
    clearTimeout(this.#closing);
    if (anchor === this.#anchor) return;
    this.close();
    this.#anchor = anchor;
    anchor.classList.add("chosen");
    this.#panel.replaceChildren(...contentsOf(piece, index, (next) => {
      this.close();
      this.#choose(index, next);
    }));
    this.#panel.hidden = false;
    this.#moveTo(anchor);
  }

  /** Moves the focus into the panel. */
  enter() {
    this.#panel.querySelector("button:not(:disabled)")?.focus();
  }

  /** Closes unless the pointer or the focus comes back. */
  closeSoon() {
    clearTimeout(this.#closing);
    const isUsed = () => this.#panel.contains(document.activeElement) || document.activeElement === this.#anchor;
    this.#closing = setTimeout(() => isUsed() || this.close(), GRACE_MS);
  }

  close() {
    clearTimeout(this.#closing);
    this.#anchor?.classList.remove("chosen");
    this.#anchor = null;
    this.#panel.hidden = true;
  }

  #moveTo(anchor) {
    const box = [...anchor.getClientRects()].at(-1);
    const around = this.#panel.offsetParent.getBoundingClientRect();
    const most = around.width - this.#panel.offsetWidth;
    this.#panel.style.left = `${Math.max(0, Math.min(box.left - around.left - 12, most))}px`;
    this.#panel.style.top = `${box.bottom - around.top}px`;
  }

  #left({ relatedTarget: to }) {
    if (to !== this.#anchor && !this.#panel.contains(to)) this.closeSoon();
  }

  #onKey(event) {
    const buttons = [...this.#panel.querySelectorAll("button:not(:disabled)")];
    const at = buttons.indexOf(document.activeElement);
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) (buttons[at + step] ?? this.#anchor).focus();
    else if (event.key === "Escape") this.#anchor.focus();
    else return;
    event.preventDefault();
  }
}

function contentsOf(piece, index, choose) {
  const name = element("b", {}, visible(piece.text));
  if (index === 0 && piece.logprob === null) {
    return [element("p", {}, name, " comes first: nothing before it tells what to expect.")];
  }
  if (piece.logprob === undefined) return [element("p", {}, name, " has not been looked at yet.")];
  const place = piece.rank ? `, number ${piece.rank.toLocaleString("en")}` : "";
  const head = element("p", {}, name, ` was ${percent(piece.logprob)} likely${place}.`);
  if (!piece.top) return [head, element("p", { class: "hint" }, "Its alternatives come when the model is done.")];
  if (!piece.top.length) return [head];
  const isThere = piece.top.some(({ id }) => id === piece.id);
  const all = isThere ? piece.top : [...piece.top, piece];
  const most = all[0].logprob;
  const rows = all.map((other) => rowOf(other, most, other.id === piece.id, choose));
  return [head, element("div", { class: "rows" }, ...rows), element("p", { class: "hint" }, "Choose another, and the text goes on from there.")];
}

/** The bars are beside that of the likeliest, so that their shape is seen where all are unlikely. */
function rowOf(other, most, isOwn, choose) {
  const bar = element("span", { class: "bar" });
  bar.style.width = `${Math.exp(other.logprob - most) * 100}%`;
  // Half a character can't be shown, nor gone on from.
  const isPart = other.text.includes("\ufffd");
  return element("button", {
    type: "button", disabled: isPart, "aria-current": isOwn ? "true" : null, onclick: () => choose(other),
  },
  element("span", { class: "name" }, isPart ? "part of a character" : visible(other.text)),
  element("span", { class: "track" }, bar),
  element("span", { class: "share" }, percent(other.logprob)));
}
