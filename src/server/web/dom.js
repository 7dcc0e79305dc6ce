// Elements from data. Whatever is shown becomes a text node or an attribute,
// never markup: text of the model, the user or the server can't do anything.

const SVG = "http://www.w3.org/2000/svg";

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/**
 * An element. Properties that begin with "on" are listeners; true and false
 * set and leave out an attribute; all others are attributes. Children are
 * elements or strings.
 */
export function element(tag, properties = {}, ...children) {
  return build(document.createElement(tag), properties, children);
}

/** The same in SVG. */
export function svg(tag, properties = {}, ...children) {
  return build(document.createElementNS(SVG, tag), properties, children);
}

function build(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

/** Calls `action` once things have been quiet for `ms`. */
export function whenQuiet(ms, action) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...values), ms);
  };
}

/** Copies a text and says so on the button for a moment. */
export async function copyFrom(button, text) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    // Without HTTPS, other machines' pages may not use the clipboard.
    button.textContent = "Copying is not allowed here";
  }
  setTimeout(() => (button.textContent = label), 1500);
}

/**
 * Makes the children of `group` one stop for the Tab key; arrow keys move
 * among them. `columns` tells how far up and down go, where that means
 * something.
 */
export function roveWithArrows(group, { columns = () => 0 } = {}) {
  group.addEventListener("keydown", (event) => {
    const items = [...group.querySelectorAll("[tabindex], button")].filter((item) => !item.disabled);
    const at = items.indexOf(event.target);
    const across = columns();
    const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -at, End: items.length - 1 - at };
    if (across) Object.assign(steps, { ArrowUp: -across, ArrowDown: across });
    const next = items[at + steps[event.key]];
    if (at < 0 || !next || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    moveStop(group, next);
    next.focus();
  });
}

/** From now on Tab enters the group at `item`. */
export function moveStop(group, item) {
  for (const other of group.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
  item.tabIndex = 0;
}
