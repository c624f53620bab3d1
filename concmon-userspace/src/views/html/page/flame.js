// Time by stack, as a flame graph (the outermost frame on top): click to zoom, search to highlight.
const BOX = 18;
const modes = [
  ["on-cpu", "On CPU", ["on_cpu"]],
  ["gil", "GIL", ["gil"]],
  ["lock", "Lock", ["lock"]],
  ["io", "I/O", ["io", "disk", "poll"]],
  ["sleep", "Sleep", ["sleep"]],
  ["wall", "All wall time", null],
];
const flame = { mode: "on-cpu", thread: "", root: null, zoom: null, boxes: [] };

function flameWeights(mode) {
  const wanted = modes.find((one) => one[0] === mode)[2];
  return data.flames.weights.filter(([thread, activity, node]) => {
    const row = threadRows.get(thread);
    return row && (view.pid === null || row.pid === view.pid) && (flame.thread === "" || String(row.thread) === flame.thread) && (wanted === null || wanted.includes(data.activities[activity]))
      // Idle loops give no stack in their selectors: that is no I/O that anybody waits for.
      && !(mode === "io" && activity === poll && node === 0);
  });
}
const threadRows = new Map(data.timeline.rows.map((row) => [row.thread, row]));

function buildFlame() {
  const child = (node, key, name, kind, frame) => {
    let next = node.children.get(key);
    if (!next) {
      next = { name, kind, frame, us: 0, own: 0, children: new Map(), parent: node };
      node.children.set(key, next);
    }
    return next;
  };
  const root = { name: "all", kind: "root", us: 0, own: 0, children: new Map(), parent: null };
  let without = 0;
  const stacks = new Map();
  const stackOf = (node) => {
    let stack = stacks.get(node);
    if (!stack) {
      stack = [];
      for (let at = node; at !== 0; at = data.flames.nodes[at][0]) stack.unshift(data.flames.nodes[at][1]);
      stacks.set(node, stack);
    }
    return stack;
  };
  for (const [thread, activity, node, us] of flameWeights(flame.mode)) {
    const row = threadRows.get(thread);
    let at = child(root, "t" + thread, (row.name || "thread") + " " + row.tid, "thread");
    root.us += us;
    at.us += us;
    for (const frame of stackOf(node)) {
      const [name, file, line] = data.flames.frames[frame];
      at = child(at, name + "\0" + file, name, "frame", { file, lines: new Map() });
      at.us += us;
      at.frame.lines.set(line, (at.frame.lines.get(line) || 0) + us);
    }
    if (node === 0) without += us;
    if (flame.mode === "wall" || node === 0 || modes.find((one) => one[0] === flame.mode)[2].length > 1) {
      at = child(at, "a" + activity, node === 0 ? nameOf(activity) + ", no stack" : nameOf(activity), "activity", { activity });
      at.us += us;
    }
    at.own += us;
  }
  flame.root = root;
  flame.zoom = root;
  const part = root.us > 0 ? without / root.us : 0;
  const note = root.us === 0 ? "No such time." : (flame.mode === "on-cpu"
    ? "Time on a CPU, by samples. " : flame.mode === "wall" ? "All time of threads, by what they did. " : "Blocked time, by the stacks taken when it began. ")
    + ms(root.us / 1000) + " in all; " + count(data.flames.samples) + " stacks were taken in the whole watch. "
    + (part > .005 ? percent(part) + " has no stack (not Python, or none was taken, as in a loop's selector). " : "")
    + (data.flames.cut || data.flames.left_out_us > 0 ? "There were more different stacks than are kept: the lightest are without one." : "");
  $("flame-note").textContent = note;
}
function fillFlameThreads() {
  const rows = data.timeline.rows.filter((row) => view.pid === null || row.pid === view.pid);
  const select = $("flame-thread");
  select.replaceChildren(el("option", { value: "" }, "All threads"), ...rows.map((row) => el("option", { value: row.thread }, (row.name || "thread") + " " + row.tid)));
  flame.thread = rows.some((row) => String(row.thread) === flame.thread) ? flame.thread : "";
  select.value = flame.thread;
  const some = (mode) => { const before = flame.thread; flame.thread = ""; const found = flameWeights(mode).length > 0; flame.thread = before; return found; };
  for (const button of $("modes").children) button.disabled = !some(button.dataset.mode);
  const now = $("modes").querySelector('[data-mode="' + flame.mode + '"]');
  if (now && now.disabled) {
    const other = [...$("modes").children].find((button) => !button.disabled);
    if (other) chooseMode(other.dataset.mode);
  }
}
rebuilders.push(() => { fillFlameThreads(); buildFlame(); });

function chooseMode(mode) {
  flame.mode = mode;
  for (const button of $("modes").children) button.setAttribute("aria-selected", String(button.dataset.mode === mode));
  buildFlame();
  draw();
}
const sorted = (node) => node.sorted || (node.sorted = [...node.children.values()].sort((one, other) => other.us - one.us));

function layFlame(width) {
  flame.boxes = [];
  let deepest = 0;
  const above = [];
  for (let node = flame.zoom.parent; node; node = node.parent) above.unshift(node);
  above.forEach((node, depth) => flame.boxes.push({ node, x: 0, width, depth, above: true }));
  const stack = [[flame.zoom, 0, width, above.length]];
  while (stack.length) {
    const [node, x, w, depth] = stack.pop();
    flame.boxes.push({ node, x, width: w, depth });
    deepest = Math.max(deepest, depth);
    let at = x;
    for (const next of sorted(node)) {
      const part = node.us > 0 ? w * next.us / node.us : 0;
      if (part >= 1.2) stack.push([next, at, part, depth + 1]);
      at += part;
    }
  }
  return (deepest + 1) * BOX;
}
// A color by name, in a warm and narrow range: neighbours differ, nothing shouts.
function frameColor(node) {
  if (node.kind === "activity") return colors[data.activities[node.frame.activity]];
  if (node.kind !== "frame") return colors.line;
  let hash = 2166136261;
  for (const c of node.frame.file + node.name) hash = Math.imul(hash ^ c.charCodeAt(0), 16777619);
  const own = !/(^|\/)(lib\/python|python3|site-packages)|^</.test(node.frame.file);
  const t = ((hash >>> 8) % 1000) / 1000, u = ((hash >>> 18) % 1000) / 1000;
  const dark = document.documentElement.dataset.theme === "dark";
  return own ? `hsl(${22 + t * 22} ${dark ? 48 : 74}% ${dark ? 38 + u * 7 : 72 + u * 8}%)` : `hsl(${200 + t * 22} ${dark ? 18 : 34}% ${dark ? 33 + u * 6 : 80 + u * 6}%)`;
}
const frameText = (node) => node.name;
const hits = (node) => node.kind === "frame" ? matches(node.name, node.frame.file) : node.kind === "thread" && matches(node.name);

function drawFlame() {
  if (!flame.root) return;
  const canvas = $("flame");
  const wide = canvas.clientWidth || canvas.parentElement.clientWidth;
  const tall = Math.max(layFlame(wide), BOX * 3);
  const { context } = prepare(canvas, tall);
  context.textAlign = "left";
  context.font = context.font.replace("12px", "11.5px");
  for (const { node, x, width, depth, above } of flame.boxes) {
    const hit = view.query !== "" && hits(node);
    context.globalAlpha = above ? .5 : view.query !== "" && !hit ? .38 : 1;
    context.fillStyle = frameColor(node);
    context.fillRect(x, depth * BOX, Math.max(width - (width > 3 ? 1 : 0), .5), BOX - 1);
    context.globalAlpha = above ? .7 : 1;
    if (hit) {
      context.fillStyle = colors.mark;
      context.fillRect(x, depth * BOX + BOX - 4, Math.max(width - 1, 1), 3);
    }
    if (width > 26) {
      context.fillStyle = colors.ink;
      const text = fit(context, frameText(node), width - 9);
      if (text.length > 1) context.fillText(text, x + 4, depth * BOX + BOX / 2);
    }
    context.globalAlpha = 1;
  }
}
drawers.push(drawFlame);

// How much of the flame graph's time lies under frames that are searched for, us.
function flameHits() {
  if (!flame.root || view.query === "") return 0;
  let sum = 0;
  const stack = [flame.root];
  while (stack.length) {
    const node = stack.pop();
    if (hits(node)) sum += node.us; else stack.push(...node.children.values());
  }
  return sum;
}

function wireFlame() {
  $("modes").replaceChildren(...modes.map(([mode, name]) => el("button", { type: "button", role: "tab", "data-mode": mode, "aria-selected": String(mode === flame.mode), onclick: () => chooseMode(mode) }, name)));
  $("flame-thread").addEventListener("change", (event) => { flame.thread = event.target.value; buildFlame(); draw(); });
  $("unzoom").addEventListener("click", () => { flame.zoom = flame.root; draw(); });
  const canvas = $("flame");
  const boxAt = (event) => flame.boxes.find((box) => Math.floor(event.offsetY / BOX) === box.depth && event.offsetX >= box.x && event.offsetX < box.x + box.width);
  canvas.addEventListener("click", (event) => { const box = boxAt(event); if (box) { flame.zoom = box.node; untip(); draw(); } });
  canvas.addEventListener("pointerleave", untip);
  canvas.addEventListener("pointermove", (event) => {
    const box = boxAt(event);
    if (!box) { untip(); return; }
    const { node } = box;
    tip(event, el("div", {}, el("b", {}, node.name), node.kind === "frame" ? el("div", { class: "sub" }, node.frame.file) : null,
      el("div", {}, ms(node.us / 1000) + " · " + percent(node.us / flame.root.us) + (node.own > 0 && node.kind === "frame" ? " · itself " + ms(node.own / 1000) : "")), node.kind === "frame" ? lineRows(node) : null));
  });
}

// The lines that the time of a frame is spent in, the most first.
function lineRows(node) {
  const lines = [...node.frame.lines].filter(([line]) => line > 0).sort((one, other) => other[1] - one[1]);
  if (!lines.length) return null;
  const shown = lines.slice(0, 4).map(([line, us]) => "line " + line + " " + percent(us / node.us));
  return el("div", { class: "sub" }, shown.join(", ") + (lines.length > 4 ? ", ..." : ""));
}
