// Sets the page up: its views, and what is known of the server.

import { byId, copyFrom } from "./dom.js";
import { draft } from "./draft.js";
import { health } from "./model.js";
import * as banner from "./banner.js";
import * as inside from "./inside.js";
import * as key from "./key.js";
import * as parameters from "./parameters.js";
import * as probabilities from "./probabilities.js";
import * as share from "./share.js";
import * as tabs from "./tabs.js";
import * as tokens from "./tokens.js";
import * as write from "./write.js";
import { context } from "./writing.js";

const STATUS = { loading: "loading", stopping: "shutting down", error: "not working" };

key.setUp();
parameters.setUp(write.showCode);
write.setUp();
probabilities.setUp();
inside.setUp();
tokens.setUp();
tabs.setUp({ write: write.opened, probabilities: probabilities.opened, inside: inside.opened, tokens: tokens.opened });

byId("share").addEventListener("click", (event) => {
  history.replaceState(null, "", share.link());
  copyFrom(event.target, location.href);
});
window.addEventListener("hashchange", share.open);
if (!share.open()) draft.write("Once upon a time");
greet();

/** Says which model answers; asks again while it is loading. */
async function greet() {
  try {
    const { status, model, n_positions: size, version } = await health();
    context.size = size ?? Infinity;
    byId("status").textContent = [model, STATUS[status]].filter(Boolean).join(", ");
    byId("about").textContent = `gpt2-engine ${version ?? ""} serving ${model}` +
      (size ? `, which reads up to ${size} tokens at a time.` : ".");
    if (status === "loading") setTimeout(greet, 500);
  } catch (error) {
    byId("status").textContent = "not reached";
    banner.show(error, greet);
  }
}
