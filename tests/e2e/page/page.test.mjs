// The page of `gpt2 serve`, used as people use it.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { after, before, test } from "node:test";
import { WAIT_MS, done, fragment, launch, open, post, slowLine, startServer, text, view } from "./harness.mjs";

const PROMPT = "Once upon a time";
const SEEDED = { text: PROMPT, strategy: "top-k", top_k: "40", temperature: "0.9", seed: "7", max_tokens: "30" };
/** What the page asks of the API for it. */
const REQUEST = { prompt: PROMPT, temperature: 0.9, top_k: 40, seed: 7, max_tokens: 30 };
const HOSTILE = `<img src=x onerror="window.harmed=1"><script>window.harmed=1</script>`;

let server;
let browser;

before(async () => {
  [server, browser] = await Promise.all([startServer(), launch()]);
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

/** A test in a page that must stay without faults. */
function inPage(name, options, check) {
  test(name, async () => {
    const { page, context, faults } = await open(browser, server.url, options);
    try {
      await check(page, context);
      assert.deepEqual(faults, []);
    } finally {
      await context.close();
    }
  });
}

const ask = (path, body) => post(server.url, path, body);
const piecesOf = async (content) => (await ask("/tokenize", { content, with_pieces: true })).tokens;

// ---- how it is served ----

test("files come with their types, tags and a strict policy", async () => {
  for (const [path, type] of [["/", "text/html"], ["/web/main.js", "text/javascript"], ["/web/base.css", "text/css"], ["/web/icon.svg", "image/svg+xml"]]) {
    const answer = await fetch(server.url + path);
    assert.equal(answer.status, 200, path);
    assert.ok(answer.headers.get("content-type").startsWith(type), path);
    const policy = answer.headers.get("content-security-policy");
    assert.match(policy, /default-src 'none'/);
    assert.doesNotMatch(policy, /unsafe|\*|data:|https?:/);
    assert.equal(answer.headers.get("x-content-type-options"), "nosniff");
    const again = await fetch(server.url + path, { headers: { "If-None-Match": answer.headers.get("etag") } });
    assert.equal(again.status, 304, path);
    assert.equal(await again.text(), "");
  }
  const missing = await fetch(`${server.url}/web/..%2fmain.js`);
  assert.equal(missing.status, 404);
  assert.equal((await missing.json()).error.type, "invalid_request_error");
});

// ---- Write ----

inPage("goes on with a text as the API does", { hash: fragment(SEEDED) }, async (page) => {
  await page.locator("#text").press("Control+Enter");
  await page.waitForFunction(() => document.getElementById("figures").textContent.includes("tokens/s"));
  await done(page);
  const { choices } = await ask("/v1/completions", REQUEST);
  assert.equal(await text(page), PROMPT + choices[0].text);
  assert.equal(await page.locator("#editor mark").textContent(), choices[0].text);
  assert.match(await page.locator("#figures").textContent(), /^30 tokens · [\d.,]+ tokens\/s · first after [\d.,]+ ms/);

  await page.getByRole("button", { name: "Regenerate" }).click();
  await done(page);
  assert.equal(await text(page), PROMPT + choices[0].text, "the same seed");
  await page.getByLabel("Seed").fill("8");
  await page.getByRole("button", { name: "Regenerate" }).click();
  await done(page);
  assert.notEqual(await text(page), PROMPT + choices[0].text, "another seed");
  assert.ok((await text(page)).startsWith(PROMPT));
});

inPage("the request as code does the same", { hash: fragment({ ...SEEDED, text: `It's "so" $HOME \\ \n${PROMPT}` }) }, async (page) => {
  await page.locator(".code summary").click();
  const { choices } = await ask("/v1/completions", { ...REQUEST, prompt: await text(page) });
  const curl = await page.locator("#snippet").textContent();
  const answer = JSON.parse(execFileSync("bash", ["-c", curl], { stdio: ["ignore", "pipe", "ignore"] }));
  assert.equal(answer.choices[0].text, choices[0].text);
  await page.getByRole("button", { name: "Python" }).click();
  const python = await page.locator("#snippet").textContent();
  assert.equal(execFileSync("python3", ["-c", python]).toString(), `${choices[0].text}\n`);
});

inPage("fields out of range are named and nothing is asked", {}, async (page) => {
  await page.getByLabel("Most tokens").fill("0");
  await page.getByRole("button", { name: "Continue" }).click();
  assert.equal(await page.locator("#max_tokens:invalid").count(), 1);
  assert.equal(await text(page), PROMPT);
});

inPage("a text that fills the context is told so", { hash: fragment({ text: "cat ".repeat(300) }) }, async (page) => {
  await page.getByRole("button", { name: "Continue" }).click();
  await page.getByRole("alert").getByText("fills the model's context of 256 tokens").waitFor();
});

test("stops, keeps what came, and lets the server know", async () => {
  const line = await slowLine(server.url, 40);
  const { page, context, faults } = await open(browser, line.url, { hash: fragment({ ...SEEDED, max_tokens: "200" }) });
  await page.getByRole("button", { name: "Continue" }).click();
  await page.waitForFunction(() => parseInt(document.getElementById("figures").textContent, 10) >= 5);
  assert.equal(await page.locator("#text").getAttribute("readonly"), "");
  await page.getByRole("button", { name: "Stop" }).click();
  await done(page);
  const kept = await text(page);
  assert.ok(kept.length > PROMPT.length);
  assert.match(await page.locator("#figures").textContent(), /stopped$/);
  await page.waitForTimeout(200);
  for (let waited = 0; line.seen.left === 0 && waited < WAIT_MS; waited += 20) await page.waitForTimeout(20);
  assert.equal(line.seen.left, 1, "the answer was given up");
  assert.equal(await text(page), kept);
  assert.equal(await page.getByRole("alert").count(), 0);

  await page.getByRole("button", { name: "Continue" }).click();
  await page.waitForFunction((length) => document.getElementById("text").value.length > length, kept.length);
  await page.locator("#text").press("Escape");
  await done(page);
  assert.deepEqual(faults, []);
  await context.close();
  line.stop();
});

// ---- Probabilities ----

inPage("tints a text, and tells its perplexity and its least likely pieces", { hash: fragment({ text: "The cat sat on the moon, and Lily laughed." }) }, async (page) => {
  await view(page, "Probabilities");
  await page.locator("#facts .value").first().waitFor();
  const { results } = await ask("/api/score", { input: await text(page) });
  const [{ tokens, perplexity }] = results;
  const shown = (await page.locator("#facts .value").first().textContent()).replaceAll(",", "");
  assert.ok(Math.abs(Number(shown) - perplexity) < 0.01 * perplexity, `${shown} for ${perplexity}`);
  const classes = await page.locator("#tinted .token").evaluateAll((all) => all.map((piece) => piece.className));
  const limits = [0.5, 0.1, 0.01, 0.001, 0];
  tokens.forEach(({ logprob }, i) => {
    const tint = logprob === null ? "unknown" : `tint-${limits.findIndex((limit) => Math.exp(logprob) >= limit)}`;
    assert.ok(classes[i].split(" ").includes(tint), `${classes[i]} for ${logprob}`);
  });
  const rarest = tokens.slice(1).reduce((a, b) => (a.logprob <= b.logprob ? a : b));
  assert.equal(await page.locator("#unlikely mark").first().textContent(), rarest.text);
  assert.equal(await page.locator("#surprise rect").count(), tokens.length);
});

inPage("goes on from an alternative", { hash: fragment({ ...SEEDED, strategy: "greedy" }) }, async (page) => {
  await page.getByRole("button", { name: "Continue" }).click();
  await done(page);
  await view(page, "Probabilities");
  await page.locator("#facts .value").first().waitFor();
  const before = await text(page);
  const at = (await piecesOf(PROMPT)).length + 3;
  await page.locator("#tinted .token").nth(at).hover();
  const panel = page.getByRole("group", { name: "Alternatives" });
  const { choices } = await ask("/v1/completions", { prompt: before, max_tokens: 0, prompt_logprobs: 10, temperature: 0 });
  const expected = Object.values(choices[0].prompt_logprobs[at]).sort((a, b) => a.rank - b.rank);
  const rows = panel.getByRole("button");
  assert.equal(await rows.count(), expected.length);
  assert.equal(await rows.nth(1).locator(".name").textContent(), expected[1].decoded_token.replaceAll(" ", "␣"));

  await rows.nth(1).click();
  await page.waitForFunction(() => document.getElementById("stop-here").hidden);
  await page.waitForFunction((old) => document.getElementById("text").value !== old, before);
  await page.locator("#facts .value").first().waitFor();
  const kept = (await piecesOf(before)).slice(0, at).map(({ piece }) => piece).join("");
  const now = await text(page);
  assert.ok(now.startsWith(kept + expected[1].decoded_token), now);
  assert.ok(now.length > kept.length + expected[1].decoded_token.length, "and went on");
  await page.waitForFunction(() => !document.querySelector("#tinted .unknown ~ .unknown"));
});

inPage("the keyboard is enough for that", { hash: fragment({ ...SEEDED, max_tokens: "5" }) }, async (page) => {
  await page.getByRole("tab", { name: "Write" }).focus();
  await page.keyboard.press("ArrowRight");
  await page.locator("#facts .value").first().waitFor();
  await page.locator("#tinted .token").first().focus();
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Enter");
  await page.keyboard.press("ArrowDown");
  const name = await page.evaluate(() => document.activeElement.querySelector(".name").textContent);
  await page.keyboard.press("Enter");
  await page.waitForFunction((old) => document.getElementById("text").value.length > old, PROMPT.length);
  const [first, second] = await piecesOf(PROMPT);
  assert.ok((await text(page)).startsWith(first.piece + second.piece + name.replaceAll("␣", " ")));
});

inPage("a text longer than the context is scored in windows", { hash: fragment({ text: "Lily saw the cat. ".repeat(80) }) }, async (page) => {
  await view(page, "Probabilities");
  await page.locator("#facts .value").first().waitFor();
  const { results } = await ask("/api/score", { input: await text(page) });
  assert.equal(await page.locator("#tinted .token").count(), results[0].token_count);
});

// ---- Inside ----

inPage("shows attention, the lens and the norms of a piece", { hash: fragment({ text: "Lily saw a cat. The cat saw Lily." }) }, async (page) => {
  await view(page, "Inside");
  await page.locator(".small-map").first().waitFor();
  const at = 4;
  await page.locator("#looked .token").nth(at).click();
  await page.locator("#inside-heads .hint", { hasText: "cat" }).waitFor();
  const ids = (await piecesOf(await text(page))).map(({ id }) => id);
  const seen = await ask("/api/inspect", { ids, positions: [at], lens: 5, lens_positions: [at] });
  assert.equal(await page.locator(".strip").count(), seen.layers.length * seen.heads.length);

  const [layer, head] = [2, 3];
  await page.locator(".strip").nth(layer * seen.heads.length + head).click();
  const weights = seen.attention[layer][head][0];
  const most = Math.round(Math.max(...weights) * 100);
  await page.getByText(new RegExp(`Over the text: layer ${layer}, head ${head}: mostly .*, ${most}(\\.\\d)?%`)).waitFor();
  await page.getByRole("heading", { name: `Maps of layer ${layer}` }).waitFor();
  assert.equal(await page.locator(".small-map").count(), seen.heads.length);

  const answer = await page.locator(".lens tbody tr").first().locator(".guess").allTextContents();
  const expected = seen.lens.at(-1)[0].map((guess) => guess.text.replaceAll(" ", "␣"));
  assert.deepEqual(answer.map((guess) => guess.replace(" (the token that came)", "")), expected);
  const length = await page.locator(".norms tbody tr").first().locator(".share").first().textContent();
  assert.ok(Math.abs(Number(length.replaceAll(",", "")) - seen.norms.residual.at(-1)[at]) < 1);

  await page.locator(".small-map").nth(head).click();
  await page.getByRole("dialog").getByText("% of its attention").waitFor();
  const painted = await page.locator("#map").evaluate((canvas) =>
    canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some((byte) => byte > 0));
  assert.ok(painted, "the map is drawn");
  await page.keyboard.press("ArrowUp");
  await page.getByRole("dialog").getByText(`(${at - 1}) gives`).waitFor();
  await page.keyboard.press("Escape");
  assert.equal(await page.getByRole("dialog").count(), 0);
});

// ---- Tokens ----

inPage("cuts a text into pieces as it is typed", {}, async (page) => {
  await view(page, "Tokens");
  const words = "Lily's café, 漢字 🙂\n";
  await page.locator("#text").fill(words);
  const pieces = await piecesOf(words);
  await page.getByText(`${pieces.length} tokens · ${[...words].length} characters`).waitFor();
  const ids = await page.locator(".chip .id").allTextContents();
  assert.deepEqual(ids.map(Number), pieces.map(({ id }) => id));
  const bytes = (await page.locator("td.bytes").allTextContents()).join(" ").split(" ");
  assert.equal(Buffer.from(bytes.map((byte) => parseInt(byte, 16))).toString(), words);
});

// ---- links, trouble, harm ----

test("a link holds text and parameters, and the server never sees it", async () => {
  const line = await slowLine(server.url, 0);
  const { page, context } = await open(browser, line.url);
  await page.locator("#text").fill(`${HOSTILE} & 100% + "more"\n`);
  await page.getByLabel("Top-p").check();
  await page.getByLabel("Temperature").fill("1.25");
  await page.getByLabel("Seed").fill("42");
  await page.locator("#more summary").click();
  await page.getByLabel("Stop at").fill("END\n.");
  await page.getByRole("button", { name: "Share" }).click();
  const link = page.url();
  const written = await text(page);
  await context.close();

  const other = await open(browser, line.url, { hash: new URL(link).hash });
  assert.equal(await text(other.page), written);
  assert.equal(await other.page.getByLabel("Temperature").inputValue(), "1.25");
  assert.equal(await other.page.getByLabel("Seed").inputValue(), "42");
  assert.equal(await other.page.locator("#stop").inputValue(), "END\n.");
  assert.ok(await other.page.getByLabel("Top-p").isChecked());
  assert.ok(line.seen.asked.every((path) => !path.includes("42")), line.seen.asked.join());
  assert.deepEqual(other.faults, []);
  await other.context.close();
  line.stop();
});

inPage("text stays text", { hash: fragment({ ...SEEDED, text: HOSTILE, max_tokens: "5" }) }, async (page) => {
  await page.getByRole("button", { name: "Continue" }).click();
  await done(page);
  for (const [name, shown] of [["Write", ".mirror"], ["Probabilities", "#tinted"], ["Inside", "#looked"], ["Tokens", ".chip"]]) {
    await view(page, name);
    await page.locator(shown).first().waitFor();
    await page.waitForTimeout(300);
  }
  assert.ok((await page.locator("#tinted").textContent()).startsWith(HOSTILE));
  assert.ok((await page.locator("#looked").textContent()).startsWith(HOSTILE));
  assert.equal(await page.locator("img").count(), 0);
  assert.equal(await page.evaluate(() => window.harmed), undefined);
});

inPage("an overloaded server is told of, with a way to try again", {}, async (page) => {
  let refusals = 1;
  await page.route("**/v1/completions", (route) => {
    if (refusals-- <= 0) return route.continue();
    const error = { message: "too many requests", type: "rate_limit_error", param: null, code: "overloaded" };
    return route.fulfill({ status: 429, headers: { "Retry-After": "3" }, json: { error } });
  });
  await page.getByRole("button", { name: "Continue" }).click();
  await page.getByRole("alert").getByText("too much to do just now. Try again in 3 s.").waitFor();
  await page.getByRole("button", { name: "Try again" }).click();
  await page.waitForFunction((length) => document.getElementById("text").value.length > length, PROMPT.length);
  await done(page);
  assert.equal(await page.getByRole("alert").count(), 0);
});

test("a server that is gone is told of, before and amid an answer", async () => {
  const short = await startServer();
  const line = await slowLine(short.url, 40);
  const { page, context, faults } = await open(browser, line.url, { hash: fragment({ ...SEEDED, max_tokens: "200" }) });
  await page.getByRole("button", { name: "Continue" }).click();
  await page.waitForFunction((length) => document.getElementById("text").value.length > length, PROMPT.length);
  line.stop();
  await page.getByRole("alert").getByText("The server does not answer").waitFor();
  assert.ok((await text(page)).length > PROMPT.length, "what came is kept");
  await page.getByRole("button", { name: "Try again" }).click();
  await page.getByRole("alert").getByText("The server does not answer").waitFor();
  assert.deepEqual(faults, []);
  await context.close();
  await short.stop();
});

test("where a key is needed the page asks for it and keeps it for itself", async () => {
  const locked = await startServer("--api-key", "let-me-in");
  const { page, context, faults } = await open(browser, locked.url);
  await page.getByRole("button", { name: "Continue" }).click();
  const field = page.getByLabel("API key");
  await field.fill("not-this-one");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").getByText("not one of this server's").waitFor();
  await field.fill("let-me-in");
  await page.getByRole("button", { name: "Use the key" }).click();
  await page.waitForFunction((length) => document.getElementById("text").value.length > length, PROMPT.length);
  await done(page);
  const kept = await page.evaluate(() => [Object.values({ ...sessionStorage }), Object.values({ ...localStorage }), document.cookie]);
  assert.deepEqual(kept[0], ["let-me-in"]);
  assert.ok(!JSON.stringify(kept.slice(1)).includes("let-me-in"));
  assert.ok(!(await page.content()).includes("let-me-in"));
  assert.match(await page.locator("#snippet").textContent(), /Bearer \$GPT2_API_KEY/);
  assert.deepEqual(faults, []);
  await context.close();

  const refused = await open(browser, locked.url);
  await refused.page.getByRole("button", { name: "Continue" }).click();
  await refused.page.getByRole("button", { name: "Cancel" }).click();
  await refused.page.getByRole("alert").getByText("wants an API key").waitFor();
  await refused.context.close();
  await locked.stop();
});
