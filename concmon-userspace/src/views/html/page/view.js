// What is shown: the process, the stretch of time, the search; and who draws it.
const view = { pid: null, from: 0, to: Math.max(data.duration_ms, 0.001), query: "", cursor: null };
const whole = { from: 0, to: view.to };
const drawers = [];
const rebuilders = [];
let scheduled = false;
function draw() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => { scheduled = false; for (const drawer of drawers) drawer(); });
}
function rebuild() { for (const rebuilder of rebuilders) rebuilder(); draw(); }

const shownProcesses = () => data.processes.filter((process) => view.pid === null || process.pid === view.pid);
const matches = (...texts) => view.query !== "" && texts.some((text) => text && String(text).toLowerCase().includes(view.query));

// The stretch of time is kept within the watch, and not shorter than a thousandth of a bin.
function look(from, to) {
  const least = Math.min(whole.to, Math.max(data.timeline.bin_ms / 50, 0.01));
  let span = Math.min(Math.max(to - from, least), whole.to);
  let start = from + (to - from - span) / 2;
  start = Math.max(0, Math.min(start, whole.to - span));
  view.from = start;
  view.to = start + span;
  draw();
}
function zoom(at, factor) { look(at - (at - view.from) * factor, at + (view.to - at) * factor); }

// The time axis of a canvas with `left` pixels of labels.
const LEFT = 190;
function axis(width) {
  const span = view.to - view.from;
  const inner = Math.max(width - LEFT - 6, 10);
  return {
    x: (at) => LEFT + (at - view.from) / span * inner,
    at: (x) => view.from + (x - LEFT) / inner * span,
    left: LEFT, right: LEFT + inner, perMs: inner / span,
  };
}
// Round instants within the view, about 110 pixels apart.
function ticks(a) {
  const raw = 110 / a.perMs;
  const size = Math.pow(10, Math.floor(Math.log10(raw)));
  const step = [1, 2, 5, 10].map((n) => n * size).find((n) => n >= raw);
  const found = [];
  for (let at = Math.ceil(view.from / step) * step; at <= view.to; at += step) found.push(at);
  return { found, step };
}
function instant(at, step) {
  if (at === 0) return "0";
  const decimals = (unit) => Math.max(0, Math.min(6, Math.ceil(-Math.log10(step / unit) - 1e-9)));
  if (step >= 1000 || at >= 1000) return (at / 1000).toFixed(decimals(1000)) + " s";
  return at.toFixed(decimals(1)) + " ms";
}
function grid(context, a, height) {
  context.fillStyle = colors.hair;
  for (const at of ticks(a).found) context.fillRect(Math.round(a.x(at)), 0, 1, height);
}
function crosshair(context, a, height) {
  if (view.cursor === null || view.cursor < view.from || view.cursor > view.to) return;
  context.fillStyle = colors.soft;
  context.globalAlpha = .6;
  context.fillRect(Math.round(a.x(view.cursor)), 0, 1, height);
  context.globalAlpha = 1;
}
// Stretches in which records were lost.
function lossy(context, a, height) {
  context.fillStyle = hatch(context);
  for (const [from, to] of data.timeline.losses) {
    const x = Math.max(a.left, a.x(from)), end = Math.min(a.right, a.x(to));
    if (end > a.left && x < a.right) context.fillRect(x, 0, Math.max(end - x, 2), height);
  }
}

// Wheel, drag and choice of a stretch, the same on every canvas with a time axis.
function navigate(canvas) {
  let drag = null;
  const at = (event) => axis(canvas.clientWidth).at(event.offsetX);
  canvas.addEventListener("wheel", (event) => {
    if (event.shiftKey) return;
    if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      const by = event.deltaX / axis(canvas.clientWidth).perMs;
      look(view.from + by, view.to + by);
    } else {
      // A list of lanes that is longer than its window scrolls over the names.
      if (event.offsetX < LEFT) return;
      zoom(at(event), Math.exp(Math.max(-240, Math.min(240, event.deltaY)) * 0.0022));
    }
    event.preventDefault();
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || event.offsetX < LEFT) return;
    canvas.setPointerCapture(event.pointerId);
    drag = { x: event.offsetX, from: view.from, to: view.to, start: at(event), choosing: event.shiftKey, moved: false };
    canvas.classList.add(drag.choosing ? "choosing" : "dragging");
  });
  canvas.addEventListener("pointermove", (event) => {
    view.cursor = event.offsetX < LEFT ? null : at(event);
    if (drag) {
      drag.moved = drag.moved || Math.abs(event.offsetX - drag.x) > 3;
      if (drag.choosing) view.choice = [Math.min(drag.start, at(event)), Math.max(drag.start, at(event))];
      else {
        const by = (drag.x - event.offsetX) / axis(canvas.clientWidth).perMs;
        look(drag.from + by, drag.to + by);
      }
    }
    draw();
  });
  const end = () => {
    if (!drag) return;
    canvas.classList.remove("choosing", "dragging");
    if (drag.choosing && drag.moved && view.choice) look(...view.choice);
    view.choice = null;
    drag = null;
    draw();
  };
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  canvas.addEventListener("pointerleave", () => { view.cursor = null; untip(); draw(); });
  canvas.addEventListener("dblclick", () => look(whole.from, whole.to));
}
