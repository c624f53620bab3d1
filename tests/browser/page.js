// Opens a page of `report --html` in a headless Chromium, uses it, and prints what it saw as JSON.
"use strict";
const { chromium } = require("playwright-core");

const flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

// How many different colors a canvas shows.
const colors = (page, selector) => page.evaluate((selector) => {
  const canvas = document.querySelector(selector);
  const pixels = new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer);
  return new Set(pixels).size;
}, selector);
const settle = (page) => page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
const shown = (page) => page.evaluate(() => view.to - view.from);

(async () => {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, headless: true, args: flags });
  const said = { errors: [] };
  for (const scheme of ["light", "dark"]) {
    const page = await browser.newPage({ viewport: { width: 1400, height: 900 }, colorScheme: scheme });
    page.on("console", (message) => { if (["error", "warning"].includes(message.type())) said.errors.push(message.text()); });
    page.on("pageerror", (error) => said.errors.push(String(error)));
    page.on("request", (request) => { if (!request.url().startsWith("file:")) said.errors.push("a request: " + request.url()); });
    await page.goto("file://" + process.argv[2]);
    await settle(page);
    const seen = { theme: await page.evaluate(() => document.documentElement.dataset.theme), colors: {} };
    for (const [name, selector] of [["overview", "#overview"], ["timeline", "#timeline"], ["flame", "#flame"], ["chart", "#charts canvas"]]) seen.colors[name] = await colors(page, selector);
    if (scheme === "light") {
      seen.whole_ms = await shown(page);
      const box = await page.locator("#timeline").boundingBox();
      await page.mouse.move(box.x + 700, box.y + 30);
      for (let i = 0; i < 4; i++) await page.mouse.wheel(0, -240);
      await page.mouse.move(box.x + 702, box.y + 54);
      await settle(page);
      seen.zoomed_ms = await shown(page);
      seen.tip = await page.locator("#tip").textContent();
      await page.click("#whole");
      seen.reset_ms = await shown(page);
      await page.fill("#search", "burns");
      await page.waitForSelector("#found:not([hidden])");
      seen.found = await page.locator("#found").textContent();
      await page.fill("#search", "");
      const flame = await page.locator("#flame").boundingBox();
      await page.locator("#flame").click({ position: { x: flame.width / 4, y: 27 } });
      await settle(page);
      seen.flame_zoom = await page.evaluate(() => flame.zoom !== flame.root);
    }
    said[scheme] = seen;
    await page.close();
  }
  console.log(JSON.stringify(said));
  await browser.close();
})().catch((error) => { console.error(error); process.exit(1); });
