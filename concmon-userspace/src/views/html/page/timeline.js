// Lanes: what each thread did, and under loops' threads how busy the loop was, with its stalls.
const LANE = 18, LOOP = 14, GAP = 3, AXIS = 20, TITLE = 20;
const poll = data.activities.indexOf("poll"), unseen = data.activities.indexOf("unseen"), sleep = data.activities.indexOf("sleep");
const bin = data.timeline.bin_ms;

// Runs of equal bins: [first bin, bins, [[activity, share], ...]].
function decode(row) {
  if (row.runs) return row.runs;
  const text = atob(row.cells);
  row.runs = [];
  let bins = row.first;
  for (let i = 0; i < text.length;) {
    const length = text.charCodeAt(i) + 1, n = text.charCodeAt(i + 1);
    const shares = [];
    for (let k = 0; k < n; k++) shares.push([text.charCodeAt(i + 2 + 2 * k), text.charCodeAt(i + 3 + 2 * k) / 255]);
    row.runs.push([bins, length, shares]);
    bins += length;
    i += 2 + 2 * n;
  }
  row.cells = null;
  return row.runs;
}
// The first run that ends after bin `at`.
function runAt(runs, at) {
  let low = 0, high = runs.length;
  while (low < high) { const middle = (low + high) >> 1; if (runs[middle][0] + runs[middle][1] <= at) low = middle + 1; else high = middle; }
  return low;
}
// How much of the time from `from` to `to` a row spent on what, ms by activity.
function spent(row, from, to, sums) {
  const runs = decode(row);
  sums = sums || new Float64Array(data.activities.length);
  for (let i = runAt(runs, Math.floor(from / bin)); i < runs.length; i++) {
    const [first, length, shares] = runs[i];
    if (first * bin >= to) break;
    const time = Math.min(to, (first + length) * bin) - Math.max(from, first * bin);
    if (time > 0) for (const [activity, share] of shares) sums[activity] += time * share;
  }
  return sums;
}
// What stands above what in a lane: what one looks for first is at the bottom, idle time on top.
const order = ["gil", "lock", "io", "disk", "child", "stopped", "other", "runnable", "on_cpu", "unseen", "sleep", "poll"].map((name) => data.activities.indexOf(name));

let lanes = [];
let lanesHeight = 0;
function layLanes() {
  lanes = [];
  let y = AXIS, pid = null;
  const several = shownProcesses().length > 1;
  for (const row of data.timeline.rows) {
    if (view.pid !== null && row.pid !== view.pid) continue;
    if (several && row.pid !== pid) {
      const process = data.processes.find((one) => one.pid === row.pid);
      lanes.push({ kind: "title", y, height: TITLE, text: (process ? process.entry || process.name : "process") + "  " + row.pid });
      y += TITLE;
      pid = row.pid;
    }
    lanes.push({ kind: "thread", y, height: LANE, row });
    y += LANE + GAP;
    const process = data.processes.find((one) => one.pid === row.pid);
    const loops = process ? process.loops.filter((one) => one.tid === row.tid) : [];
    if (row.loop_kind || loops.length) {
      lanes.push({ kind: "loop", y, height: LOOP, row, stalls: loops.flatMap((one) => one.stalls), loopKind: row.loop_kind || loops[0].kind });
      y += LOOP + GAP + 2;
    }
  }
  lanesHeight = Math.max(y + 4, 60);
}
rebuilders.push(layLanes);

function laneName(lane) {
  if (lane.kind === "loop") return lane.loopKind + " loop";
  return (lane.row.name || "thread") + "";
}
// One lane's shares, column by column; a column is a bin, or a pixel where bins are narrower.
function drawLane(context, a, lane) {
  const runs = decode(lane.row);
  const { y, height } = lane;
  const pixel = 1 / a.perMs;
  if (bin >= pixel) {
    for (let i = runAt(runs, Math.floor(view.from / bin)); i < runs.length; i++) {
      const [first, length, shares] = runs[i];
      if (first * bin > view.to) break;
      const x = Math.max(a.left, a.x(first * bin)), end = Math.min(a.right, a.x((first + length) * bin));
      if (end > x) column(context, x, end - x, y, height, shares);
    }
    return;
  }
  const sums = new Float64Array(data.activities.length);
  for (let x = Math.floor(a.left); x < a.right; x++) {
    sums.fill(0);
    const from = a.at(x), to = a.at(x + 1);
    spent(lane.row, from, to, sums);
    const shares = [];
    sums.forEach((time, activity) => { if (time > 0) shares.push([activity, Math.min(1, time / (to - from))]); });
    if (shares.length) column(context, x, 1, y, height, shares);
  }
}
function column(context, x, width, y, height, shares) {
  if (shares.length === 1 && shares[0][1] > .98) {
    paint(context, shares[0][0], x, y, width, height);
    return;
  }
  let bottom = y + height;
  for (const activity of order) {
    for (const [one, share] of shares) {
      if (one !== activity) continue;
      const part = share * height;
      paint(context, one, x, bottom - part, width, part);
      bottom -= part;
    }
  }
}
function paint(context, activity, x, y, width, height) {
  context.fillStyle = activity === unseen ? hatch(context) : colors[data.activities[activity]];
  context.fillRect(x, y, width + .35, height);
}
function drawLoop(context, a, lane) {
  const { y, height } = lane;
  context.fillStyle = colors.hair;
  context.fillRect(a.left, y, a.right - a.left, height);
  context.fillStyle = colors.accent;
  const step = Math.max(1, bin * a.perMs >= 1 ? bin * a.perMs : 1);
  const start = bin >= step / a.perMs ? a.x(Math.floor(view.from / bin) * bin) : a.left;
  for (let x = start; x < a.right; x += step) {
    const from = Math.max(a.at(x), 0), to = a.at(x + step);
    const sums = spent(lane.row, from, to);
    let all = 0;
    sums.forEach((time, activity) => { if (activity !== unseen) all += time; });
    const busy = all - sums[poll];
    const part = Math.min(1, busy / (to - from)) * height;
    const left = Math.max(x, a.left);
    if (part > .2) context.fillRect(left, y + height - part, Math.min(x + step, a.right) - left + .3, part);
  }
  for (const stall of lane.stalls) {
    const x = a.x(stall.at_ms), end = a.x(stall.at_ms + stall.duration_ns / 1e6);
    if (end < a.left || x > a.right) continue;
    const left = Math.max(x, a.left);
    context.fillStyle = colors.mark;
    context.fillRect(left, y, Math.max(2, Math.min(end, a.right) - left), height);
    const width = Math.min(end, a.right) - left;
    if (width > 60) {
      context.fillStyle = colors.card;
      context.fillText(fit(context, stallName(stall), width - 8), left + 4, y + height / 2 + .5);
    }
  }
}
function stallName(stall) {
  const where = stall.culprit.frame ? stall.culprit.frame.function : stall.coroutine || "a step";
  return stall.culprit.kind + " · " + where;
}

function drawTimeline() {
  const canvas = $("timeline");
  const { context, width, height } = prepare(canvas, lanesHeight);
  const a = axis(width);
  grid(context, a, height);
  const { found, step } = ticks(a);
  context.fillStyle = colors.faint;
  context.textAlign = "center";
  for (const at of found) {
    const x = a.x(at);
    if (x < a.right - 20) context.fillText(instant(at, step), x, AXIS / 2);
  }
  const scroller = $("lanes");
  const top = scroller.scrollTop - 60, bottom = scroller.scrollTop + scroller.clientHeight + 60;
  for (const lane of lanes) {
    if (lane.y + lane.height < top || lane.y > bottom) continue;
    const middle = lane.y + lane.height / 2 + .5;
    context.textAlign = "left";
    if (lane.kind === "title") {
      context.fillStyle = colors.soft;
      context.font = "600 " + context.font;
      context.fillText(fit(context, lane.text, width - 10), 0, middle + 2);
      context.font = context.font.replace("600 ", "").replace("bold ", "");
      continue;
    }
    const hit = matches(lane.row.name, String(lane.row.tid));
    const dim = view.query !== "" && !hit && lanes.some((one) => one.row && matches(one.row.name, String(one.row.tid)));
    context.globalAlpha = dim ? .25 : 1;
    if (lane.kind === "loop") drawLoop(context, a, lane); else drawLane(context, a, lane);
    context.fillStyle = hit ? colors.mark : lane.kind === "loop" ? colors.faint : colors.ink;
    const tid = lane.kind === "thread" ? String(lane.row.tid) : "";
    const room = LEFT - 12 - (tid ? context.measureText(tid).width + 8 : 0) - (lane.kind === "loop" ? 10 : 0);
    context.fillText(fit(context, laneName(lane), room), lane.kind === "loop" ? 10 : 0, middle);
    if (tid) {
      context.fillStyle = colors.faint;
      context.textAlign = "right";
      context.fillText(tid, LEFT - 10, middle);
    }
    context.globalAlpha = 1;
  }
  context.globalAlpha = .8;
  lossy(context, a, height);
  context.globalAlpha = 1;
  if (view.choice) {
    context.fillStyle = colors.accent;
    context.globalAlpha = .16;
    context.fillRect(a.x(view.choice[0]), 0, a.x(view.choice[1]) - a.x(view.choice[0]), height);
    context.globalAlpha = 1;
  }
  crosshair(context, a, height);
}
drawers.push(drawTimeline);

// The whole watch in one strip: how many threads did what, and which part of it is shown.
let overviewBins = null;
function overview() {
  if (overviewBins && overviewBins.pid === view.pid) return overviewBins;
  const columns = 600, step = whole.to / columns;
  const sums = [];
  for (let i = 0; i < columns; i++) sums.push(new Float64Array(data.activities.length));
  for (const row of data.timeline.rows) {
    if (view.pid !== null && row.pid !== view.pid) continue;
    for (const [first, length, shares] of decode(row)) {
      const from = first * bin, to = Math.min((first + length) * bin, whole.to);
      for (let i = Math.floor(from / step); i < columns && i * step < to; i++) {
        const time = Math.min(to, (i + 1) * step) - Math.max(from, i * step);
        if (time > 0) for (const [activity, share] of shares) sums[i][activity] += time * share / step;
      }
    }
  }
  let most = 1;
  for (const one of sums) {
    let busy = 0;
    one.forEach((n, activity) => { if (activity !== poll && activity !== sleep && activity !== unseen) busy += n; });
    most = Math.max(most, busy);
  }
  overviewBins = { pid: view.pid, sums, most };
  return overviewBins;
}
function drawOverview() {
  const { context, width, height } = prepare($("overview"), 34);
  const { sums, most } = overview();
  const inner = width - LEFT - 6;
  context.fillStyle = colors.hair;
  context.fillRect(LEFT, 0, inner, height);
  sums.forEach((one, i) => {
    let bottom = height;
    for (const activity of order) {
      if (activity === poll || activity === sleep || activity === unseen || one[activity] === 0) continue;
      const part = one[activity] / most * (height - 2);
      context.fillStyle = colors[data.activities[activity]];
      context.fillRect(LEFT + i * inner / sums.length, bottom - part, inner / sums.length + .4, part);
      bottom -= part;
    }
  });
  const x = LEFT + view.from / whole.to * inner, end = LEFT + view.to / whole.to * inner;
  if (view.to - view.from < whole.to * .9999) {
    context.fillStyle = colors.card;
    context.globalAlpha = .72;
    context.fillRect(LEFT, 0, x - LEFT, height);
    context.fillRect(end, 0, LEFT + inner - end, height);
    context.globalAlpha = 1;
    context.strokeStyle = colors.accent;
    context.strokeRect(x + .5, .5, Math.max(end - x, 3) - 1, height - 1);
  }
  context.fillStyle = colors.faint;
  context.fillText("threads that are not idle", 0, height / 2);
}
drawers.push(drawOverview);
rebuilders.push(() => { overviewBins = null; });

function wireTimeline() {
  const canvas = $("timeline");
  navigate(canvas);
  $("lanes").addEventListener("scroll", draw);
  canvas.addEventListener("pointermove", (event) => {
    if (event.buttons) { untip(); return; }
    const lane = lanes.find((one) => one.kind !== "title" && event.offsetY >= one.y && event.offsetY < one.y + one.height + GAP);
    if (!lane) { untip(); return; }
    const a = axis(canvas.clientWidth);
    if (event.offsetX < LEFT) {
      const sums = spent(lane.row, view.from, view.to);
      tip(event, tipHead(lane, "in the stretch shown, " + ms(view.to - view.from)), activityRows(sums));
      return;
    }
    const at = a.at(event.offsetX);
    if (lane.kind === "loop") {
      const slack = 3 / a.perMs;
      const stall = lane.stalls.find((one) => at >= one.at_ms - slack && at <= one.at_ms + one.duration_ns / 1e6 + slack);
      if (stall) { tip(event, ...stallTip(stall)); return; }
    }
    const size = Math.max(bin, 1 / a.perMs);
    const from = Math.floor(at / size) * size;
    const sums = spent(lane.row, from, from + size);
    tip(event, tipHead(lane, clock(from, true) + " · +" + ms(from) + " · " + ms(size) + " wide"), activityRows(sums, size));
  });
  const strip = $("overview");
  const center = (event) => {
    if (event.offsetX < LEFT || !event.buttons) return;
    const at = (event.offsetX - LEFT) / (strip.clientWidth - LEFT - 6) * whole.to;
    const half = (view.to - view.from) / 2;
    if (half * 2 > whole.to * .999) look(at - whole.to / 20, at + whole.to / 20); else look(at - half, at + half);
  };
  strip.addEventListener("pointerdown", center);
  strip.addEventListener("pointermove", center);
  strip.addEventListener("dblclick", () => look(whole.from, whole.to));
  $("whole").addEventListener("click", () => look(whole.from, whole.to));
  const used = new Set();
  for (const row of data.timeline.rows) for (const [, , shares] of decode(row)) for (const [activity] of shares) used.add(activity);
  if (data.timeline.losses.length) used.add(unseen);
  $("legend").replaceChildren(...data.activities.map((name, activity) => used.has(activity) ? el("span", {}, swatch(name), names[name]) : null).filter(Boolean));
}
function tipHead(lane, sub) {
  return el("div", {}, el("b", {}, (lane.row.name || "thread") + (lane.kind === "loop" ? " · " + lane.loopKind + " loop" : "")), " ", el("span", { class: "sub" }, lane.row.tid), el("div", { class: "sub" }, sub));
}
function activityRows(sums, size) {
  let all = 0;
  sums.forEach((time) => { all += time; });
  const rows = [];
  sums.forEach((time, activity) => { if (time > 0) rows.push([time, [data.activities[activity], nameOf(activity), ms(time), percent(time / (size || all))]]); });
  rows.sort((one, other) => other[0] - one[0]);
  return tipRows(rows.map((row) => row[1]));
}
function stallTip(stall) {
  const frame = stall.culprit.frame;
  const rows = [["on_cpu", stall.on_cpu_ns], ["runnable", stall.runnable_ns], ...Object.entries(stall.blocked_ns)].filter(([, time]) => time > 0);
  rows.sort((one, other) => other[1] - one[1]);
  return [
    el("div", {}, el("b", {}, "stall of " + ns(stall.duration_ns) + ": " + stall.culprit.kind), frame ? el("div", {}, frame.function) : null, frame ? el("div", { class: "sub" }, frame.file + ":" + frame.line) : null,
      el("div", { class: "sub" }, [stall.task ? "task " + stall.task.name : null, stall.coroutine, clock(stall.at_ms, true)].filter(Boolean).join(" · "))),
    tipRows(rows.map(([name, time]) => [name, names[name], ns(time), percent(time / stall.duration_ns)])),
  ];
}
