// Write: the editor, the buttons beside it, and the request as code.

import { hasKey } from "./api.js";
import { byId, copyFrom, element } from "./dom.js";
import { draft } from "./draft.js";
import { short } from "./format.js";
import * as parameters from "./parameters.js";
import * as snippets from "./snippets.js";
import { again, figures, goOn, stop } from "./writing.js";

const field = byId("text");
const mirror = byId("editor").querySelector(".mirror");
const LANGUAGES = { "as-curl": snippets.curl, "as-python": snippets.python };
let language = "as-curl";

/** Connects the view. */
export function setUp() {
  field.addEventListener("input", () => draft.write(field.value));
  byId("go").addEventListener("click", () => (draft.isWriting ? stop() : goOn()));
  byId("again").addEventListener("click", again);
  byId("editor").addEventListener("keydown", onKey);
  byId("copy").addEventListener("click", (event) => copyFrom(event.target, byId("snippet").textContent));
  for (const id of Object.keys(LANGUAGES)) byId(id).addEventListener("click", () => speak(id));
  draft.addEventListener("change", show);
  show();
}

/** The editor may be in use elsewhere; this view wants it back. */
export function opened() {
  byId("write-editor").append(byId("editor"));
}

function onKey(event) {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) goOn();
  else if (event.key === "Escape") stop();
  else return;
  event.preventDefault();
}

function speak(id) {
  language = id;
  for (const other of Object.keys(LANGUAGES)) byId(other).setAttribute("aria-pressed", other === id);
  showCode();
}

function show() {
  if (field.value !== draft.text) field.value = draft.text;
  field.readOnly = draft.isWriting;
  byId("go").textContent = draft.isWriting ? "Stop" : "Continue";
  byId("again").disabled = draft.isWriting || draft.begun === null;
  showMirror();
  showFigures();
  if (!draft.isWriting) showCode();
}

/** What the model wrote is coloured in a copy that lies behind the field. */
function showMirror() {
  const from = draft.begun ?? draft.text.length;
  // A last line break alone would not make a line.
  const end = draft.isWriting ? element("span", { class: "caret" }) : "\u200b";
  mirror.replaceChildren(draft.text.slice(0, from), element("mark", {}, draft.text.slice(from)), end);
}

const ENDS = {
  stop: "ended by itself", length: "limit reached", stopped: "stopped", failed: "broken off",
};

function showFigures() {
  const { tokens, perSecond, firstAfter, ended } = figures;
  if (draft.begun === null) {
    byId("figures").textContent = "Ctrl + Enter continues, Esc stops";
    return;
  }
  const parts = [`${tokens} ${tokens === 1 ? "token" : "tokens"}`];
  if (perSecond !== null) parts.push(`${short(perSecond)} tokens/s`);
  if (firstAfter !== null) parts.push(`first after ${short(firstAfter * 1000)} ms`);
  if (ended && !draft.isWriting) parts.push(ENDS[ended]);
  byId("figures").textContent = parts.join(" · ");
}

/** The request that "Continue" would send. */
export function showCode() {
  const url = new URL("v1/completions", document.baseURI).href;
  const body = { prompt: draft.text, ...parameters.request() };
  byId("snippet").textContent = LANGUAGES[language](url, body, hasKey());
}
