// Asks for the server's API key.

import { onKeyWanted } from "./api.js";
import { byId } from "./dom.js";

/** From now on a request that lacks a key asks for it. */
export function setUp() {
  let asked = null;
  // Several requests may find out at the same time; one question is enough.
  onKeyWanted((reason) => (asked ??= ask(reason).finally(() => (asked = null))));
}

function ask(reason) {
  const dialog = byId("key-dialog");
  const field = byId("key");
  byId("key-reason").textContent = `It said: ${reason}.`;
  field.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const given = field.value.trim();
      field.value = "";
      resolve(dialog.returnValue === "use" && given ? given : null);
    }, { once: true });
  });
}
