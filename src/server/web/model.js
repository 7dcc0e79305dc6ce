// What the page asks of the model, in terms of tokens.

import { getJson, postForEvents, postJson } from "./api.js";

/** Alternatives of each token: while the model writes, and of a text that is there. */
const ALTERNATIVES_WRITING = 5;
const ALTERNATIVES = 10;

/** What the server says of itself: { status, model, n_positions, version }. */
export const health = () => getJson("health");

/** A text cut into tokens. */
export async function tokenize(text, options) {
  if (text === "") return [];
  const { tokens } = await postJson("tokenize", { content: text, with_pieces: true }, options);
  return tokens.map(({ id, piece }) => tokenOf(id, piece));
}

/** The same tokens with probabilities, ranks and alternatives. */
export async function scored(tokens, options) {
  const body = {
    prompt: tokens.map(({ id }) => id), max_tokens: 0, temperature: 0, prompt_logprobs: ALTERNATIVES,
  };
  const { choices } = await postJson("v1/completions", body, options);
  return tokens.map((token, i) => {
    const places = Object.entries(choices[0].prompt_logprobs[i] ?? {});
    const all = places.map(([id, { decoded_token, logprob, rank }]) =>
      ({ ...tokenOf(Number(id), decoded_token), logprob, rank }));
    const own = all.find(({ id }) => id === token.id);
    const top = all.filter(({ rank }) => rank <= ALTERNATIVES).sort((a, b) => a.rank - b.rank);
    return { ...token, logprob: own?.logprob ?? null, rank: own?.rank ?? null, top };
  });
}

/** The same for a text of any length, window by window, without alternatives. */
export async function scoredInWindows(tokens, options) {
  const { results } = await postJson("api/score", { input: tokens.map(({ id }) => id) }, options);
  return tokens.map((token, i) => {
    const { logprob, rank } = results[0].tokens[i];
    return { ...token, logprob, rank, top: [] };
  });
}

/** A continuation, as it comes: { text, tokens, finishReason }. */
export async function* continuation(request, options) {
  const body = { ...request, stream: true, logprobs: ALTERNATIVES_WRITING, return_token_ids: true };
  for await (const { choices } of postForEvents("v1/completions", body, options)) {
    const { text, finish_reason: finishReason, token_ids: ids = [], logprobs } = choices[0];
    const tokens = ids.map((id, i) => ({
      ...tokenOf(id, logprobs.tokens[i]), logprob: logprobs.token_logprobs[i],
    }));
    yield { text, tokens, finishReason };
  }
}

/** The model's insides at a text: the answer of /api/inspect. */
export const inspect = (body, options) => postJson("api/inspect", body, options);

/**
 * A token by what the server calls it: its text; or its bytes where they are
 * no text, as a list or as `bytes:\xe2\x80`.
 */
function tokenOf(id, name) {
  const bytes = bytesOf(name);
  return { id, bytes, text: new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes) };
}

function bytesOf(name) {
  if (typeof name !== "string") return Uint8Array.from(name);
  if (!/^bytes:(\\x[0-9a-f]{2})+$/.test(name)) return new TextEncoder().encode(name);
  return Uint8Array.from(name.slice(8).split("\\x"), (hex) => parseInt(hex, 16));
}
