// What the page looks like: to assistive technology, on a phone, and in pictures.

import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import { done, fragment, launch, open, startServer, view } from "./harness.mjs";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const PICTURES = new URL("../../../target/page/", import.meta.url).pathname;
const TEXT = "Once upon a time";
const HASH = fragment({ text: TEXT, strategy: "top-k", seed: "3", max_tokens: "70" });

/** What is seen first of each view once it is there. */
const VIEWS = { Write: "#go", Probabilities: "#facts .value", Inside: ".small-map", Tokens: ".chip" };
const SCREENS = {
  light: { colorScheme: "light" },
  dark: { colorScheme: "dark" },
  phone: { colorScheme: "light", viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, hasTouch: true },
  narrow: { colorScheme: "dark", viewport: { width: 320, height: 640 } },
};

let server;
let browser;

before(async () => {
  mkdirSync(PICTURES, { recursive: true });
  [server, browser] = await Promise.all([startServer(), launch()]);
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

for (const [screen, options] of Object.entries(SCREENS)) {
  test(`every view on the screen "${screen}"`, async () => {
    const { page, context, faults } = await open(browser, server.url, { hash: HASH, reducedMotion: "reduce", ...options });
    await page.getByRole("button", { name: "Continue" }).click();
    await done(page);
    for (const [name, first] of Object.entries(VIEWS)) {
      await view(page, name);
      await page.locator(first).first().waitFor();
      if (name === "Probabilities") await page.locator("#tinted .rare").nth(3).focus();
      if (name === "Inside") await lookAround(page);
      await page.waitForTimeout(300);
      await page.screenshot({ path: `${PICTURES}${name.toLowerCase()}-${screen}.png`, fullPage: true });
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(wide <= 0, `${name} is ${wide} pixels wider than the screen`);
      assert.deepEqual(await violations(page), [], name);
    }
    assert.deepEqual(faults, []);
    await context.close();
  });
}

test("the theme can be chosen and is remembered", async () => {
  const { page, context } = await open(browser, server.url, { colorScheme: "light" });
  const paper = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
  const light = await paper();
  const button = page.getByRole("button", { name: /^Theme/ });
  await button.click();
  assert.equal(await paper(), light);
  await button.click();
  const dark = await paper();
  assert.notEqual(dark, light);
  await page.reload();
  assert.equal(await paper(), dark);
  await context.close();
});

test("the check for accessibility can fail", async () => {
  const { page, context } = await open(browser, server.url);
  await page.locator("#theme").evaluate((button) => {
    button.textContent = "";
    button.removeAttribute("aria-label");
  });
  assert.deepEqual(await violations(page), ["critical button-name: #theme"]);
  await context.close();
});

/** Chooses a token, and a head that looks far back from it. */
async function lookAround(page) {
  const token = page.locator("#looked .token").nth(30);
  await token.click();
  await page.locator("#inside-heads .hint", { hasText: (await token.textContent()).trim() }).waitFor();
  await page.locator(".strip").nth(10).click();
  await page.getByRole("heading", { name: "Maps of layer 1" }).waitFor();
}

/** What axe finds serious or critical, as lines. */
async function violations(page) {
  const found = await page.evaluate(async (source) => {
    // Evaluated by the debugger, which the page's own policy doesn't bind.
    if (!window.axe) (0, eval)(source);
    const { violations } = await window.axe.run();
    return violations.map(({ id, impact, nodes }) => ({ id, impact, targets: nodes.map(({ target }) => target.join(" ")) }));
  }, AXE);
  const bad = found.filter(({ impact }) => impact === "serious" || impact === "critical");
  return bad.map(({ id, impact, targets }) => `${impact} ${id}: ${targets.join(", ")}`);
}
