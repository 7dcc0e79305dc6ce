// Tokens: the text as the tokenizer cuts it, as it is typed.

import { byId, element, whenQuiet } from "./dom.js";
import { draft } from "./draft.js";
import { visible } from "./format.js";
import { tokenize } from "./model.js";
import * as banner from "./banner.js";
import * as tabs from "./tabs.js";

/** More tokens than this are counted but not shown. */
const SHOWN = 1000;
const TYPING_MS = 120;

let asking = null;

/** Connects the view. */
export function setUp() {
  const soon = whenQuiet(TYPING_MS, update);
  draft.addEventListener("change", () => tabs.isOpen("tokens") && soon());
}

/** Takes the editor in, and shows the draft's tokens. */
export function opened() {
  byId("tokens-editor").append(byId("editor"));
  update();
}

async function update() {
  asking?.abort();
  asking = new AbortController();
  try {
    // While the model writes, its own tokens are known.
    show(draft.tokens ?? (await tokenize(draft.text, { signal: asking.signal })));
  } catch (error) {
    banner.show(error, update);
  }
}

function show(tokens) {
  const characters = [...draft.text].length;
  const each = tokens.length ? ` · ${(characters / tokens.length).toFixed(1)} characters per token` : "";
  const more = tokens.length > SHOWN ? ` · the first ${SHOWN} are shown` : "";
  byId("token-count").textContent = `${tokens.length} tokens · ${characters} characters${each}${more}`;
  const shown = tokens.slice(0, SHOWN);
  byId("chips").replaceChildren(...shown.map(chipOf));
  byId("token-table").replaceChildren(...(shown.length ? [tableOf(shown)] : []));
}

const chipOf = ({ id, text }) => element("span", { class: "chip" },
  element("span", { class: "text" }, visible(text)), element("span", { class: "id" }, String(id)));

function tableOf(tokens) {
  const cell = (text, name) => element("td", { class: name }, text);
  const heads = ["Place", "Token", "Id", "Bytes"].map((text) => element("th", { scope: "col" }, text));
  const rows = tokens.map(({ id, text, bytes }, i) => element("tr", {},
    cell(String(i)), cell(visible(text), "text"), cell(String(id)), cell(hex(bytes), "bytes")));
  return element("table", {}, element("caption", {}, "Every token"),
    element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows));
}

const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(" ");
