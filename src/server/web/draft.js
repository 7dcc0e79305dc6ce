// The text that all views show, with what is known of its pieces.

/**
 * A piece: { id, text, bytes, logprob, rank, top }. `logprob` and `rank` are
 * undefined until the model was asked, and null for the first piece, which
 * nothing comes before; `top` are the likeliest pieces in its place,
 * themselves pieces.
 */
class Draft extends EventTarget {
  /** The whole text. */
  text = "";
  /** Its pieces, or null when only the text is known. */
  pieces = null;
  /** Length of the text, and number of pieces, that the last continuation began from. */
  begun = null;
  /** Whether the model is writing. */
  isWriting = false;

  /** The text was typed, pasted or loaded; nothing else is known of it. */
  write(text) {
    Object.assign(this, { text, pieces: null, begun: null });
    this.#changed();
  }

  /** These pieces are the text. */
  know(pieces) {
    this.pieces = pieces;
    this.#changed();
  }

  /** Only the first `count` pieces are left, and then `next`. */
  branch(count, next) {
    const pieces = [...this.pieces.slice(0, count), next];
    Object.assign(this, { text: textOf(pieces), pieces, begun: null });
    this.#changed();
  }

  /** From here on the model writes. */
  begin() {
    this.begun = { length: this.text.length, pieces: this.pieces.length };
    this.isWriting = true;
    this.#changed();
  }

  /** The model wrote: text that has become certain, and its pieces. */
  append(text, pieces) {
    this.text += text;
    this.pieces.push(...pieces);
    this.#changed();
  }

  /** The model is done. */
  finish() {
    this.pieces = piecesThatMake(this.text, this.pieces);
    this.isWriting = false;
    this.#changed();
  }

  /** Takes the last continuation back. */
  takeBack() {
    const { length, pieces } = this.begun;
    const text = this.text.slice(0, length);
    Object.assign(this, { text, pieces: this.pieces?.slice(0, pieces) ?? null, begun: null });
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/** The text of pieces; a character may be spread over several. */
export function textOf(pieces) {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  return pieces.map(({ bytes }) => decoder.decode(bytes, { stream: true })).join("") + decoder.decode();
}

/**
 * The first pieces, as many as make up exactly `text`: what ended it, such as
 * a stop string, is among the pieces but not in the text. Null where the text
 * ends within a piece.
 */
function piecesThatMake(text, pieces) {
  const length = new TextEncoder().encode(text).length;
  let bytes = 0;
  let count = 0;
  while (count < pieces.length && bytes < length) bytes += pieces[count++].bytes.length;
  const kept = pieces.slice(0, count);
  return textOf(kept) === text ? kept : null;
}

export const draft = new Draft();
