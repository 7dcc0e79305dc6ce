// The form of sampling parameters: what it holds, and what it asks of the API.

import { byId, element } from "./dom.js";

/** Fields with a slider or a number; `name` is the API's. */
const FIELDS = [
  { name: "temperature", label: "Temperature", range: [0.1, 2, 0.05], value: 0.8, only: ["top-k", "top-p"],
    hint: "Below 1 the likely becomes likelier, above 1 the unlikely gets its chance." },
  { name: "top_k", label: "k", number: [1, 1000, 1], value: 40, only: ["top-k"],
    hint: "Draws among this many of the likeliest tokens." },
  { name: "top_p", label: "p", range: [0.05, 1, 0.05], value: 0.9, only: ["top-p"],
    hint: "Draws among the likeliest tokens that together have this probability." },
  { name: "max_tokens", label: "Most tokens", number: [1, 4096, 1], value: 100,
    hint: "Ends after this many tokens, if the story doesn't end before." },
  { name: "seed", label: "Seed", number: [0, 2 ** 32 - 1, 1], value: "",
    hint: "The same seed draws the same text again. Empty: another each time." },
  { name: "min_p", label: "Min-p", range: [0, 0.5, 0.01], value: 0, only: ["top-k", "top-p"], more: true,
    hint: "Leaves out tokens less likely than this share of the likeliest one's probability." },
  { name: "repetition_penalty", label: "Repetition penalty", range: [1, 2, 0.05], value: 1, more: true,
    hint: "Makes tokens that occurred, also in your text, less likely." },
  { name: "presence_penalty", label: "Presence penalty", range: [-2, 2, 0.1], value: 0, more: true,
    hint: "Taken off, once, from tokens that were written already." },
  { name: "frequency_penalty", label: "Frequency penalty", range: [-2, 2, 0.1], value: 0, more: true,
    hint: "Taken off for each time that a token was written already." },
];

const STOP = { name: "stop", label: "Stop at", value: "", hint: "Up to four strings, one a line; the text ends before them." };

const STRATEGIES = {
  greedy: "Always the likeliest token: no chance, and often loops.",
  "top-k": "Draws among the k likeliest tokens.",
  "top-p": "Draws among as many tokens as it takes to be sure enough.",
};

const form = byId("parameters");

/** Builds the form; `changed` is called whenever it is edited. */
export function setUp(changed) {
  for (const field of FIELDS) byId(field.more ? "more-fields" : "fields").append(rowOf(field));
  byId("more-fields").append(stopRow());
  const update = () => {
    showStrategy();
    showValues();
    changed();
  };
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  // The fields have their old values until the event is over.
  form.addEventListener("reset", () => setTimeout(update));
  update();
}

function rowOf(field) {
  const { name, label, hint, value } = field;
  const [min, max, step] = field.range ?? field.number;
  const input = element("input", {
    id: name, name, min, max, step, value, type: field.range ? "range" : "number", "aria-describedby": `${name}-hint`,
  });
  const shown = field.range && element("output", { for: name });
  return element("div", { class: "field", id: `${name}-field` },
    element("label", { for: name }, label), shown, input, element("p", { class: "hint", id: `${name}-hint` }, hint));
}

function stopRow() {
  const { name, label, hint } = STOP;
  const input = element("textarea", { id: name, name, rows: 2, spellcheck: "false", "aria-describedby": "stop-hint" });
  return element("div", { class: "field" },
    element("label", { for: name }, label), input, element("p", { class: "hint", id: "stop-hint" }, hint));
}

const strategy = () => form.elements.strategy.value;
const applies = (field) => !field.only || field.only.includes(strategy());

function showStrategy() {
  byId("strategy-hint").textContent = STRATEGIES[strategy()];
  for (const field of FIELDS) byId(`${field.name}-field`).hidden = !applies(field);
}

function showValues() {
  for (const output of form.querySelectorAll("output")) {
    output.value = String(Number(form.elements[output.htmlFor.value].value));
  }
}

/** Whether every field is within its range; tells of the first that isn't. */
export function check() {
  const wrong = FIELDS.find((field) => applies(field) && !form.elements[field.name].validity.valid);
  if (wrong?.more) byId("more").open = true;
  return form.reportValidity();
}

/** What the completions API is asked for, but for the prompt. */
export function request() {
  const body = { temperature: 0, max_tokens: Number(form.elements.max_tokens.value) };
  for (const field of FIELDS) {
    const text = form.elements[field.name].value;
    const standard = field.more || field.name === "seed";
    if (!applies(field) || (standard && text === String(field.value))) continue;
    body[field.name] = Number(text);
  }
  if (stops().length) body.stop = stops();
  return body;
}

const stops = () => form.elements.stop.value.split("\n").filter((line) => line !== "");

/** What differs from the defaults, as [[name, text]], for a link. */
export function chosen() {
  const all = FIELDS.filter(applies).map(({ name, value }) => [name, form.elements[name].value, String(value)]);
  const changed = all.filter(([, text, standard]) => text !== standard).map(([name, text]) => [name, text]);
  return [["strategy", strategy()], ...changed, ...stops().map((stop) => ["stop", stop])];
}

/** Takes over the values of a link; ignores what it doesn't know. */
export function choose(entries) {
  form.reset();
  const values = new URLSearchParams(entries);
  if (values.get("strategy") in STRATEGIES) form.elements.strategy.value = values.get("strategy");
  for (const { name } of FIELDS) if (values.has(name)) form.elements[name].value = values.get(name);
  form.elements.stop.value = values.getAll("stop").join("\n");
}
