// What else the model had in mind in a token's place: a small panel beside it.

import { element } from "./dom.js";
import { percent, visible } from "./format.js";

/** How long the pointer may be on its way from a token to the panel. */
const GRACE_MS = 250;

/** The panel. One is enough: it moves from token to token. */
export class Alternatives {
  #panel = element("div", { class: "alternatives", role: "group", "aria-label": "Alternatives", hidden: true });
  #choose;
  #closing;
  #anchor = null;

  /** In `place`, which is positioned; `choose(index, token)` is called for the one chosen. */
  constructor(place, choose) {
    this.#choose = choose;
    place.append(this.#panel);
    this.#panel.addEventListener("pointerenter", () => clearTimeout(this.#closing));
    this.#panel.addEventListener("pointerleave", () => this.closeSoon());
    this.#panel.addEventListener("focusout", (event) => this.#left(event));
    this.#panel.addEventListener("keydown", (event) => this.#onKey(event));
  }

  /** Shows the alternatives of `token`, the `index`th, below its element. */
  open(anchor, token, index) {
    clearTimeout(this.#closing);
    if (anchor === this.#anchor) return;
    this.close();
    this.#anchor = anchor;
    anchor.classList.add("chosen");
    this.#panel.replaceChildren(...contentsOf(token, index, (next) => {
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

function contentsOf(token, index, choose) {
  const name = element("b", {}, visible(token.text));
  if (index === 0 && token.logprob === null) {
    return [element("p", {}, name, " comes first: nothing before it tells what to expect.")];
  }
  if (token.logprob === undefined) return [element("p", {}, name, " has not been looked at yet.")];
  const place = token.rank ? `, rank ${token.rank.toLocaleString("en")}` : "";
  const head = element("p", {}, name, ` was ${percent(token.logprob)} likely${place}.`);
  if (!token.top) return [head, element("p", { class: "hint" }, "Its alternatives come when the model is done.")];
  if (!token.top.length) return [head];
  const isThere = token.top.some(({ id }) => id === token.id);
  const all = isThere ? token.top : [...token.top, token];
  const most = all[0].logprob;
  const rows = all.map((other) => rowOf(other, most, other.id === token.id, choose));
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
