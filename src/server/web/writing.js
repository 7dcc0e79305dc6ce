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
  Object.assign(figures, { tokens: 0, firstAfter: null, perSecond: null, ended: null });
  draft.begin();
  try {
    await ask(running.signal);
  } catch (error) {
    figures.ended = error.name === "AbortError" ? "stopped" : "failed";
    banner.show(error, goOn);
  } finally {
    running = null;
    draft.finish();
  }
}

/** Stops the model; what it wrote so far stays. */
export function stop() {
  running?.abort();
}

/** Takes the last continuation back and asks for another. */
export function again() {
  if (running || draft.begun === null) return;
  draft.takeBack();
  goOn();
}

async function ask(signal) {
  if (draft.tokens === null) draft.know(await tokenize(draft.text, { signal }));
  const request = parameters.request();
  const room = context.size - Math.max(draft.tokens.length, 1);
  if (room < 1) throw new Full();
  const prompt = draft.tokens.length ? draft.tokens.map(({ id }) => id) : "";
  const started = performance.now();
  const body = { ...request, prompt, max_tokens: Math.min(request.max_tokens, room) };
  for await (const part of continuation(body, { signal })) {
    measure(part, started);
    draft.append(part.text, part.tokens);
  }
}

function measure({ tokens, finishReason }, started) {
  const seconds = (performance.now() - started) / 1000;
  if (tokens.length && figures.firstAfter === null) figures.firstAfter = seconds;
  figures.tokens += tokens.length;
  // The first token's time is that of reading the prompt.
  const writing = seconds - figures.firstAfter;
  if (figures.tokens > 1 && writing > 0) figures.perSecond = (figures.tokens - 1) / writing;
  figures.ended ??= finishReason;
}

/** There is no room for another token. */
class Full extends Error {
  status = 0;
  constructor() {
    super(`The text fills the model's context of ${context.size} tokens. Shorten it to go on.`);
  }
}
