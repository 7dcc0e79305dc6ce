// Lets the model go on with the draft: one continuation at a time, for all views.

import { draft } from "./draft.js";
import { continuation, tokenize } from "./model.js";
import * as banner from "./banner.js";
import * as parameters from "./parameters.js";

let running = null;

/** Figures of the continuation that runs or ran last. */
export const figures = { tokens: 0, firstAfter: null, perSecond: null, ended: null };

/** Tokens that fit into the model's context; the server tells. */
export const context = { size: Infinity };

/** Goes on with the draft until the model is done or is stopped. */
export async function goOn() {
  if (running || !parameters.check()) return;
  banner.hide();
  running = new AbortController();
  try {
    await ask(running.signal);
  } catch (error) {
    banner.show(error, goOn);
  } finally {
    running = null;
    if (draft.isWriting) draft.finish();
  }
}

/** Stops the model; what it wrote so far stays. */
export function stop() {
  running?.abort();
}

/** Takes the last continuation back and asks for another. */
export function again() {
  if (running || !draft.begun) return;
  draft.takeBack();
  goOn();
}

async function ask(signal) {
  if (draft.pieces === null) draft.know(await tokenize(draft.text, { signal }));
  const request = parameters.request();
  const room = context.size - Math.max(draft.pieces.length, 1);
  if (room < 1) throw new Full();
  const prompt = draft.pieces.length ? draft.pieces.map(({ id }) => id) : "";
  Object.assign(figures, { tokens: 0, firstAfter: null, perSecond: null, ended: null });
  draft.begin();
  const started = performance.now();
  const body = { ...request, prompt, max_tokens: Math.min(request.max_tokens, room) };
  try {
    for await (const part of continuation(body, { signal })) {
      measure(part, started);
      draft.append(part.text, part.pieces);
    }
  } catch (error) {
    figures.ended = error.name === "AbortError" ? "stopped" : "failed";
    throw error;
  }
}

function measure({ pieces, finishReason }, started) {
  const seconds = (performance.now() - started) / 1000;
  if (pieces.length && figures.firstAfter === null) figures.firstAfter = seconds;
  figures.tokens += pieces.length;
  // The first token's time is that of reading the prompt.
  const writing = seconds - figures.firstAfter;
  if (figures.tokens > 1 && writing > 0) figures.perSecond = (figures.tokens - 1) / writing;
  figures.ended ??= finishReason;
}

/** There is no room for another piece. */
class Full extends Error {
  status = 0;
  constructor() {
    super(`The text fills the model's context of ${context.size} tokens. Shorten it to go on.`);
  }
}
