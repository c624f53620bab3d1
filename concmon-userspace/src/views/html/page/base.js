"use strict";
// Shared ground: the data, elements, numbers, colors, the tooltip.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

// An element with text and children; text of the target becomes text, never markup.
function el(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "style") element.style.cssText = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) {
    if (child === null || child === undefined) continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

function digits(value) {
  return value >= 99.95 ? value.toFixed(0) : value >= 9.995 ? value.toFixed(1) : value.toFixed(2);
}
// A duration of ms, in three digits.
function ms(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const sign = value < 0 ? "-" : "";
  const v = Math.abs(value);
  if (v < 0.001) return sign + (v * 1e6).toFixed(0) + " ns";
  if (v < 0.9995) return sign + digits(v * 1000) + " µs";
  if (v < 999.5) return sign + digits(v) + " ms";
  if (v < 100000) return sign + digits(v / 1000) + " s";
  const s = Math.round(v / 1000);
  if (s < 3600) return sign + Math.floor(s / 60) + " min " + String(s % 60).padStart(2, "0") + " s";
  return sign + Math.floor(s / 3600) + " h " + String(Math.floor(s / 60) % 60).padStart(2, "0") + " min";
}
const ns = (value) => ms(value === null || value === undefined ? null : value / 1e6);
// A part of 1 in percent.
function percent(part) {
  if (part === null || part === undefined || !isFinite(part)) return "–";
  const p = part * 100;
  return p === 0 ? "0 %" : p < 0.95 ? "<1 %" : p.toFixed(0) + " %";
}
function count(n) {
  if (n === null || n === undefined) return "–";
  if (n < 10000) return String(n);
  for (const [unit, size] of [["k", 1e3], ["M", 1e6], ["G", 1e9]]) if (n < size * 999.5) return digits(n / size) + unit;
  return digits(n / 1e12) + "T";
}
function bytes(n) {
  if (n === null || n === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (n >= 1023.5 && at < units.length - 1) { n /= 1024; at++; }
  return (at ? digits(n) : n) + " " + units[at];
}
// An instant, ms after the start of the watch.
function clock(at, fine) {
  return new Date(data.start_unix_ms + at).toISOString().slice(11, fine ? 23 : 19) + "Z";
}
const plural = (n, one) => count(n) + " " + one + (n === 1 ? "" : "s");

// ---- colors -------------------------------------------------------------------------------------
let colors = {};
function readColors() {
  const style = getComputedStyle(document.documentElement);
  colors = {};
  for (const name of [...data.activities, "ink", "soft", "faint", "line", "hair", "accent", "mark", "card", "page", "bad", "hover", "warn"])
    colors[name] = style.getPropertyValue("--" + name).trim();
}
const names = { on_cpu: "on CPU", runnable: "waiting for a CPU", gil: "GIL", lock: "lock", poll: "poll", sleep: "sleep", io: "I/O", child: "child", disk: "disk", stopped: "stopped", other: "other", unseen: "not seen" };
const nameOf = (activity) => names[data.activities[activity]];
const swatch = (name) => el("i", { class: "swatch" + (name === "unseen" ? " hatched" : ""), style: "background:var(--" + name + ")" });

// ---- canvases -----------------------------------------------------------------------------------
// A drawing context for `height` CSS pixels, as sharp as the screen.
function prepare(canvas, height) {
  const ratio = Math.min(window.devicePixelRatio || 1, 3);
  const width = canvas.clientWidth || canvas.parentElement.clientWidth;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.height = height + "px";
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = '12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';
  context.textBaseline = "middle";
  return { context, width, height };
}
let hatchFor = "";
let hatching = null;
function hatch(context) {
  if (hatchFor !== colors.unseen || !hatching) {
    const tile = document.createElement("canvas");
    tile.width = tile.height = 6;
    const c = tile.getContext("2d");
    c.strokeStyle = colors.unseen;
    c.lineWidth = 1.2;
    c.beginPath();
    for (const at of [-6, 0, 6]) { c.moveTo(at, 6); c.lineTo(at + 6, 0); }
    c.stroke();
    hatching = tile;
    hatchFor = colors.unseen;
  }
  return context.createPattern(hatching, "repeat");
}
// As much of a text as fits into `width`.
function fit(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  let low = 0, high = text.length;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (context.measureText(text.slice(0, middle) + "…").width <= width) low = middle; else high = middle - 1;
  }
  return low > 0 ? text.slice(0, low) + "…" : "";
}

// ---- tooltip ------------------------------------------------------------------------------------
function tip(event, ...content) {
  const box = $("tip");
  box.replaceChildren(...content.flat().filter((one) => one !== null && one !== undefined));
  box.hidden = false;
  const { offsetWidth: w, offsetHeight: h } = box;
  const x = event.clientX + 16 + w > innerWidth ? event.clientX - w - 12 : event.clientX + 16;
  const y = event.clientY + 14 + h > innerHeight ? event.clientY - h - 10 : event.clientY + 14;
  box.style.left = Math.max(4, x) + "px";
  box.style.top = Math.max(4, y) + "px";
}
function untip() { $("tip").hidden = true; }
// Rows of color, name, value and share.
function tipRows(rows) {
  return el("div", { class: "rows" }, rows.flatMap(([color, name, value, share]) => [color ? swatch(color) : el("i"), el("span", {}, name), el("span", {}, value), el("span", {}, share || "")]));
}
