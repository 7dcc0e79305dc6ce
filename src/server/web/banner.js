// One line that says what went wrong, and what can be done about it.

import { byId, element } from "./dom.js";

const banner = byId("banner");

/** Shows an error; `retry`, if given, is offered as a button. */
export function show(error, retry = null) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Error) || error.status === undefined) console.error(error);
  const again = retry && element("button", { type: "button", onclick: () => {
    hide();
    retry();
  } }, "Try again");
  const close = element("button", { type: "button", class: "quiet", onclick: hide, "aria-label": "Close" }, "✕");
  banner.replaceChildren(element("p", {}, wordsFor(error)), ...[again, close].filter(Boolean));
  banner.hidden = false;
}

/** Takes the line away. */
export function hide() {
  banner.hidden = true;
}

function wordsFor(error) {
  if (error.status === 429) {
    const wait = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
    return `The server has too much to do just now.${wait}`;
  }
  if (error.status === 401) return `The server wants an API key: ${error.message}.`;
  return error.message;
}
