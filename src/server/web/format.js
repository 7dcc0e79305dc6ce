// Numbers and tokens of text as people read them.

/** A natural log probability as a percentage. */
export function percent(logprob) {
  const p = Math.exp(logprob) * 100;
  if (p < 0.01) return "< 0.01%";
  return `${p.toFixed(p < 0.1 ? 2 : p < 10 ? 1 : 0)}%`;
}

/** Nats → bits. */
export const bits = (nats) => nats / Math.LN2;

/** Few digits, and thousands set apart. */
export function short(number) {
  if (!Number.isFinite(number)) return "–";
  const digits = Math.abs(number) < 10 ? 2 : Math.abs(number) < 100 ? 1 : 0;
  return number.toLocaleString("en", { maximumFractionDigits: digits });
}

/** A token of text with its white space made visible. */
export function visible(text) {
  if (text === "") return "∅";
  return text.replace(/ /g, "␣").replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/\r/g, "␍");
}
