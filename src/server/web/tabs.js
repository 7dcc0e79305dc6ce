// The four views as tabs.

import { byId, moveStop, roveWithArrows } from "./dom.js";

const tabs = [...document.querySelectorAll('[role="tab"]')];
const views = {};

/** Tells the views apart: name → what to do whenever one is opened. */
export function setUp(opened) {
  Object.assign(views, opened);
  const list = document.querySelector('[role="tablist"]');
  roveWithArrows(list);
  for (const tab of tabs) {
    tab.addEventListener("click", () => open(nameOf(tab)));
    tab.addEventListener("focus", () => open(nameOf(tab)));
  }
  for (const button of document.querySelectorAll("[data-view]")) {
    button.addEventListener("click", () => {
      open(button.dataset.view);
      byId("text").focus();
    });
  }
}

/** Opens a view. */
export function open(name) {
  if (isOpen(name)) return;
  for (const tab of tabs) {
    const chosen = nameOf(tab) === name;
    tab.setAttribute("aria-selected", chosen);
    if (chosen) moveStop(tab.parentElement, tab);
    byId(nameOf(tab)).hidden = !chosen;
  }
  views[name]?.();
}

/** Whether a view is the one that is seen. */
export const isOpen = (name) => !byId(name).hidden;

const nameOf = (tab) => tab.getAttribute("aria-controls");
