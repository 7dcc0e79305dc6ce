// Links that hold the text and the parameters after the "#", which browsers
// keep to themselves: a server never sees it.

import { draft } from "./draft.js";
import * as parameters from "./parameters.js";

/** A link to this page as it stands. */
export function link() {
  const values = new URLSearchParams([["text", draft.text], ...parameters.chosen()]);
  const url = new URL(location.href);
  url.hash = values;
  return url.href;
}

/** Takes over what the page's own address holds, if anything; true if so. */
export function open() {
  const values = new URLSearchParams(location.hash.slice(1));
  if (!values.has("text")) return false;
  draft.write(values.get("text"));
  parameters.choose(values);
  return true;
}
