// Tokens: the text as the tokenizer cuts it, as it is typed.

import { byId, element, whenQuiet } from "./dom.js";
import { draft } from "./draft.js";
import { visible } from "./format.js";
import { tokenize } from "./model.js";
import * as banner from "./banner.js";
import * as tabs from "./tabs.js";

/** More pieces than this are counted but not shown. */
const SHOWN = 1000;
const TYPING_MS = 120;

let asking = null;

/** Connects the view. */
export function setUp() {
  const soon = whenQuiet(TYPING_MS, update);
  draft.addEventListener("change", () => tabs.isOpen("tokens") && soon());
}

/** Takes the editor in, and shows the draft's pieces. */
export function opened() {
  byId("tokens-editor").append(byId("editor"));
  update();
}

async function update() {
  asking?.abort();
  asking = new AbortController();
  try {
    // While the model writes, its own pieces are known.
    show(draft.pieces ?? (await tokenize(draft.text, { signal: asking.signal })));
  } catch (error) {
    banner.show(error, update);
  }
}

function show(pieces) {
  const characters = [...draft.text].length;
  const each = pieces.length ? ` · ${(characters / pieces.length).toFixed(1)} characters a piece` : "";
  const more = pieces.length > SHOWN ? ` · the first ${SHOWN} are shown` : "";
  byId("token-count").textContent = `${pieces.length} pieces · ${characters} characters${each}${more}`;
  const shown = pieces.slice(0, SHOWN);
  byId("chips").replaceChildren(...shown.map(chipOf));
  byId("token-table").replaceChildren(...(shown.length ? [tableOf(shown)] : []));
}

const chipOf = ({ id, text }) => element("span", { class: "chip" },
  element("span", { class: "text" }, visible(text)), element("span", { class: "id" }, String(id)));

function tableOf(pieces) {
  const cell = (text, name) => element("td", { class: name }, text);
  const heads = ["Place", "Piece", "Id", "Bytes"].map((text) => element("th", { scope: "col" }, text));
  const rows = pieces.map(({ id, text, bytes }, i) => element("tr", {},
    cell(String(i)), cell(visible(text), "text"), cell(String(id)), cell(hex(bytes), "bytes")));
  return element("table", {}, element("caption", {}, "Every piece"),
    element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows));
}

const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(" ");
