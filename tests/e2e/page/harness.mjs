// The real server, the real browser, and a line between them that can be slow
// or cut.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import http from "node:http";
import { chromium } from "playwright-core";

const GPT2 = process.env.GPT2 ?? new URL("../../../target/release/gpt2", import.meta.url).pathname;
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const START_MS = 30_000;
export const WAIT_MS = 15_000;

/** `gpt2 serve` with the demo model on a port that the system picks. */
export async function startServer(...options) {
  const server = spawn(GPT2, ["serve", "--port", "0", ...options], { stdio: ["ignore", "pipe", "pipe"] });
  let log = "";
  const address = new Promise((resolve, reject) => {
    const read = (data) => {
      log += data;
      const found = log.match(/http:\/\/127\.0\.0\.1:\d+/);
      if (found) resolve(found[0]);
    };
    server.stdout.on("data", read);
    server.stderr.on("data", read);
    server.once("exit", () => reject(new Error(`the server ended:\n${log}`)));
    server.once("error", reject);
  });
  const url = await address;
  const stop = async () => {
    if (server.exitCode !== null || server.signalCode !== null) return;
    server.kill("SIGTERM");
    await once(server, "exit");
  };
  await ready(url);
  return { url, stop };
}

async function ready(url) {
  const end = Date.now() + START_MS;
  while (Date.now() < end) {
    if ((await fetch(`${url}/health`)).ok) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error("the server did not become ready");
}

/** The server's answer to a POST. */
export async function post(url, path, body) {
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch(url + path, { method: "POST", headers, body: JSON.stringify(body) });
  assert.ok(answer.ok, `${path}: ${answer.status} ${answer.ok ? "" : await answer.text()}`);
  return answer.json();
}

/**
 * A line to the server on which each event of a stream takes `delay` ms, so
 * that there is time to do something meanwhile. `asked` holds the requests
 * that came, `left` counts answers that their reader didn't wait for.
 */
export async function slowLine(target, delay) {
  const seen = { asked: [], left: 0 };
  const line = http.createServer((request, response) => {
    seen.asked.push(request.url);
    const { hostname, port } = new URL(target);
    const { method, url: path } = request;
    const headers = { ...request.headers, host: `${hostname}:${port}` };
    const onward = http.request({ hostname, port, method, path, headers }, async (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      const isStream = answer.headers["content-type"] === "text/event-stream";
      for await (const events of answer) {
        for (const event of isStream ? events.toString().split(/(?<=\n\n)/) : [events]) {
          if (isStream) await new Promise((resolve) => setTimeout(resolve, delay));
          if (response.destroyed) return;
          response.write(event);
        }
      }
      response.end();
    });
    onward.on("error", () => response.destroy());
    response.on("close", () => {
      if (!response.writableFinished) seen.left += 1;
      onward.destroy();
    });
    request.pipe(onward);
  });
  line.listen(0, "127.0.0.1");
  await once(line, "listening");
  const stop = () => {
    line.closeAllConnections();
    line.close();
  };
  return { url: `http://127.0.0.1:${line.address().port}`, seen, stop };
}

export const launch = () => chromium.launch({
  executablePath: CHROMIUM,
  // Chromium's own sandbox doesn't start for root, which CI is.
  args: process.getuid() === 0 ? ["--no-sandbox"] : [],
});

/**
 * The page in a context of its own. Whatever goes wrong in it, and whatever it
 * asks of anyone but its server, is in `faults`.
 */
export async function open(browser, url, { hash = "", ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  context.setDefaultTimeout(WAIT_MS);
  const page = await context.newPage();
  const faults = [];
  page.on("pageerror", (error) => faults.push(`error: ${error.message}`));
  page.on("console", (message) => {
    // The browser itself reports answers that are no 200; the tests look at them.
    const isStatus = message.text().startsWith("Failed to load resource");
    if (message.type() === "error" && !isStatus) faults.push(`console: ${message.text()}`);
  });
  page.on("request", (request) => {
    if (new URL(request.url()).origin !== new URL(url).origin) faults.push(`asked ${request.url()}`);
  });
  await page.goto(`${url}/${hash}`);
  await page.waitForFunction(() => document.getElementById("status").textContent !== "connecting…");
  return { page, context, faults };
}

/** A link's fragment. */
export const fragment = (values) => `#${new URLSearchParams(values)}`;

/** Waits until the model is done. */
export const done = (page) => page.waitForFunction(() => document.getElementById("go").textContent === "Continue");

/** Opens one of the four views. */
export const view = (page, name) => page.getByRole("tab", { name }).click();

/** The text in the editor. */
export const text = (page) => page.locator("#text").inputValue();
