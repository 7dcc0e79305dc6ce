// The text that all views show, with what is known of its tokens.

/**
 * A token: { id, text, bytes, logprob, rank, top }. `logprob` and `rank` are
 * undefined until the model was asked, and null for the first token, which
 * nothing comes before; `top` are the likeliest tokens in its place,
 * themselves tokens.
 */
class Draft extends EventTarget {
  /** The whole text. */
  text = "";
  /** Its tokens, or null when only the text is known. */
  tokens = null;
  /** Length of the text that the last continuation began from, if it is still there. */
  begun = null;
  /** Whether the model is writing. */
  isWriting = false;

  /** The text was typed, pasted or loaded; nothing else is known of it. */
  write(text) {
    Object.assign(this, { text, tokens: null, begun: null });
    this.#changed();
  }

  /** These tokens are the text. */
  know(tokens) {
    this.tokens = tokens;
    this.#changed();
  }

  /** Only the first `count` tokens are left, and then `next`. */
  branch(count, next) {
    const tokens = [...this.tokens.slice(0, count), next];
    Object.assign(this, { text: textOf(tokens), tokens, begun: null });
    this.#changed();
  }

  /** From here on the model writes, and nobody else. */
  begin() {
    this.begun = this.text.length;
    this.isWriting = true;
    this.#changed();
  }

  /** The model wrote: text that has become certain, and its tokens. */
  append(text, tokens) {
    this.text += text;
    this.tokens.push(...tokens);
    this.#changed();
  }

  /** The model is done. */
  finish() {
    this.tokens = tokensThatMake(this.text, this.tokens ?? []);
    this.isWriting = false;
    this.#changed();
  }

  /** Takes the last continuation back. */
  takeBack() {
    const text = this.text.slice(0, this.begun);
    Object.assign(this, { text, tokens: tokensThatMake(text, this.tokens ?? []), begun: null });
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/** The text of tokens; a character may be spread over several. */
export function textOf(tokens) {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  return tokens.map(({ bytes }) => decoder.decode(bytes, { stream: true })).join("") + decoder.decode();
}

/**
 * The first tokens, as many as make up exactly `text`: what ended it, such as
 * a stop string, is among the tokens but not in the text. Null where the text
 * ends within a token.
 */
function tokensThatMake(text, tokens) {
  const length = new TextEncoder().encode(text).length;
  let bytes = 0;
  let count = 0;
  while (count < tokens.length && bytes < length) bytes += tokens[count++].bytes.length;
  const kept = tokens.slice(0, count);
  return textOf(kept) === text ? kept : null;
}

export const draft = new Draft();
