// Drives a Chromium for tools/screenshots.py: a command a line on stdin, its result a line on stdout, both JSON.
import { createInterface } from "node:readline";
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const require = createRequire(import.meta.url);
const { chromium } = require("playwright-core");
const [, , executablePath, sandbox] = process.argv;
const browser = await chromium.launch({ executablePath, args: sandbox === "none" ? ["--no-sandbox"] : [] });
const LIMIT_MS = 60_000;
let context;
let page;
let problems = [];

// How old each change was when the page first showed it: for benchmarks/live_page.py.
function watch() {
  window.shown = [];
  const known = new Set();
  const look = (node) => node.querySelectorAll?.("#devices time[data-at], #rollout time[data-at]").forEach((time) => {
    const key = `${time.closest("[id]").id} ${time.dataset.at}`;
    if (known.has(key)) return;
    known.add(key);
    window.shown.push([key, Date.now() / 1000 - Number(time.dataset.at)]);
  });
  document.addEventListener("DOMContentLoaded", () => {
    look(document);
    window.shown = [];
    new MutationObserver(() => look(document)).observe(document.body, { subtree: true, childList: true, attributes: true, attributeFilter: ["data-at"] });
  });
}

const commands = {
  async open({ url, width = 1280, height = 900, scheme = "light", script = true }) {
    await context?.close();
    problems = [];
    context = await browser.newContext({ viewport: { width, height }, colorScheme: scheme, javaScriptEnabled: script, locale: "en-GB" });
    context.setDefaultTimeout(LIMIT_MS);
    page = await context.newPage();
    page.on("console", (message) => ["error", "warning"].includes(message.type()) && problems.push(message.text()));
    page.on("pageerror", (error) => problems.push(String(error)));
    page.on("requestfailed", (request) => !request.url().endsWith("/events") && problems.push(`${request.url()}: ${request.failure().errorText}`));
    page.on("response", (response) => response.status() >= 400 && problems.push(`${response.url()}: ${response.status()}`));
    if (script) await context.addInitScript(watch);
    await page.goto(url);
  },
  evaluate: ({ code }) => page.evaluate(code),
  async wait({ code, limit_s: limitS = LIMIT_MS / 1000 }) {
    // page.waitForFunction would need eval, which the page's policy forbids.
    const end = Date.now() + limitS * 1000;
    while (!(await page.evaluate(code).catch((error) => /navigat|context/i.test(String(error)) ? false : Promise.reject(error)))) {
      if (Date.now() > end) throw new Error(`not within ${limitS} s; the page says: ${(await page.locator("body").innerText()).slice(0, 1500)}`);
      await new Promise((done) => setTimeout(done, 100));
    }
  },
  click: ({ on }) => page.click(on),
  choose: ({ on, value }) => page.selectOption(on, value).then(() => true),
  fill: ({ on, value }) => page.fill(on, value),
  press: ({ key }) => page.keyboard.press(key),
  async draw({ on, strokes }) {
    await page.locator(on).scrollIntoViewIfNeeded();
    const box = await page.locator(on).boundingBox();
    for (const stroke of strokes) {
      const places = stroke.map(([x, y]) => [box.x + x * box.width, box.y + y * box.height]);
      await page.mouse.move(...places[0]);
      await page.mouse.down();
      for (const place of places.slice(1)) await page.mouse.move(...place, { steps: 4 });
      await page.mouse.up();
    }
  },
  async axe() {
    await page.evaluate(readFileSync(require.resolve("axe-core/axe.min.js"), "utf8"));
    const found = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
    return found.violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html.slice(0, 200)).join(" ; ")}`);
  },
  async screenshot({ path, full = false, on = "" }) {
    await (on ? page.locator(on) : page).screenshot({ path, animations: "disabled", ...(on ? {} : { fullPage: full }) });
  },
  text: ({ on }) => page.locator(on).innerText(),
  problems: () => problems,
  trace: () => browser.startTracing(page, { categories: ["toplevel", "devtools.timeline"] }),
  // Milliseconds of processor time of the page's longest tasks: what other programs do to the machine does not count.
  async tasks() {
    const { traceEvents } = JSON.parse(String(await browser.stopTracing()));
    const name = (event) => event.args?.name;
    const mains = traceEvents.filter((event) => event.name === "thread_name" && name(event) === "CrRendererMain");
    const ofPage = new Set(mains.map((event) => `${event.pid} ${event.tid}`));
    const tasks = traceEvents.filter((event) => event.name.endsWith("RunTask") && ofPage.has(`${event.pid} ${event.tid}`) && event.tdur !== undefined);
    tasks.sort((one, other) => other.tdur - one.tdur);
    const inside = (task) => traceEvents.filter((event) => event.pid === task.pid && event.tid === task.tid && event !== task
      && event.ts >= task.ts && event.ts < task.ts + task.dur && event.tdur > 3000).map((event) => `${event.name} ${event.args?.data?.functionName ?? event.args?.data?.type ?? ""} ${Math.round(event.tdur / 1000)} ms`);
    return tasks.slice(0, 5).map((task) => ({ ms: task.tdur / 1000, inside: inside(task) }));
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...arguments_ } = JSON.parse(line);
  let told;
  try {
    told = { value: (await commands[command](arguments_)) ?? null };
  } catch (error) {
    told = { error: String(error).slice(0, 2000) };
  }
  process.stdout.write(`${JSON.stringify(told)}\n`);
}
await browser.close();
