// Opens a page in Chromium, runs a script in it, and prints the script's result. tools/browser.py writes both to stdin.
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const { url, script, given, width, scheme, replaced } = JSON.parse(readFileSync(0, "utf8"));
const quiet = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];
const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  args: ["--no-sandbox", ...quiet, "--disable-component-update", "--disable-sync"],
});
try {
  const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme: scheme });
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  const page = await context.newPage();
  page.setDefaultTimeout(600_000); // for a hang
  const [requests, errors] = [[], []];
  page.on("request", (request) => requests.push(request.url()));
  page.on("pageerror", (error) => errors.push(String(error)));
  for (const [path, json] of Object.entries(replaced))
    await page.route(`**${path}`, (route) => route.fulfill({ json }));
  await page.goto(url, { waitUntil: "networkidle" });
  const run = new (async () => {}).constructor("page", "given", script);
  const value = await run(page, given);
  process.stdout.write(JSON.stringify({ value: value ?? null, requests, errors }));
} finally {
  await browser.close();
}
