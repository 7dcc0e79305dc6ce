// Light or dark: what the system says, unless the reader chose. A plain script
// in the head, so that the page is never seen in the wrong colours.
"use strict";

(() => {
  const NAMES = ["auto", "light", "dark"];
  const PLACE = "gpt2-theme";

  function remembered() {
    try {
      const name = localStorage.getItem(PLACE);
      return NAMES.includes(name) ? name : "auto";
    } catch {
      return "auto"; // Storage may be forbidden; the system's choice is fine.
    }
  }

  function apply(name) {
    document.documentElement.dataset.theme = name;
    try {
      localStorage.setItem(PLACE, name);
    } catch {
      // Then it lasts until the page is left.
    }
    // Canvases have to be drawn again.
    window.dispatchEvent(new Event("themechange"));
  }

  apply(remembered());

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const label = () => {
      const { theme } = document.documentElement.dataset;
      button.textContent = `${theme[0].toUpperCase()}${theme.slice(1)}`;
      button.setAttribute("aria-label", `Theme: ${theme}`);
    };
    button.addEventListener("click", () => {
      const now = NAMES.indexOf(document.documentElement.dataset.theme);
      apply(NAMES[(now + 1) % NAMES.length]);
      label();
    });
    label();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    window.dispatchEvent(new Event("themechange"));
  });
})();
