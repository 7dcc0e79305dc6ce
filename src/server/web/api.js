// The server's HTTP API. Paths are relative, so the page also works behind a
// proxy that serves it below some folder.

/** What went wrong with a request, in words for people. */
export class ApiError extends Error {
  constructor(message, { status = 0, param = null, retryAfter = null } = {}) {
    super(message);
    this.status = status;
    this.param = param;
    this.retryAfter = retryAfter;
  }
}

const KEY = "gpt2-api-key";
let key = remembered();
let askForKey = async () => null;

/** Who is asked when the server wants a key: message → key, or null. */
export function onKeyWanted(ask) {
  askForKey = ask;
}

/** Whether requests carry a key. */
export const hasKey = () => key !== null;

function remembered() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null; // Storage may be forbidden; then the key lasts as long as the page.
  }
}

function remember(value) {
  key = value;
  try {
    sessionStorage.setItem(KEY, value);
  } catch {
    // As above.
  }
}

/** GET, parsed. A refusal with a JSON body, such as "loading", is an answer too. */
export async function getJson(path) {
  const response = await reach(path, {});
  return response.json();
}

/** POST, parsed. */
export async function postJson(path, body, { signal } = {}) {
  const response = await post(path, body, signal);
  return response.json();
}

/** POST; the events of the answer, parsed, until the stream says it is done. */
export async function* postForEvents(path, body, { signal } = {}) {
  const response = await post(path, body, signal);
  try {
    for await (const data of eventsOf(response.body)) {
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ApiError(event.error.message, event.error);
      yield event;
    }
  } catch (error) {
    throw error instanceof TypeError ? gone() : error;
  }
  throw new ApiError("The connection ended before the answer did.");
}

async function post(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  if (key !== null) headers.Authorization = `Bearer ${key}`;
  const response = await reach(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  if (response.ok) return response;
  const refusal = await refusalOf(response);
  if (refusal.status !== 401) throw refusal;
  const given = await askForKey(refusal.message);
  if (given === null) throw refusal;
  remember(given);
  return post(path, body, signal);
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    throw error.name === "AbortError" ? error : gone();
  }
}

const gone = () => new ApiError("The server does not answer. Is it still running?");

async function refusalOf(response) {
  const { status } = response;
  const seconds = Number(response.headers.get("Retry-After")) || null;
  const { error } = await response.json().catch(() => ({}));
  const message = error?.message ?? `The server answered ${status}.`;
  return new ApiError(message, { status, param: error?.param, retryAfter: seconds });
}

/** The data of server-sent events. */
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (rest + value.replaceAll("\r\n", "\n")).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const lines = event.split("\n").filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
      }
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}
