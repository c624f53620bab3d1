// Numbers of each window over the same time axis as the lanes: lag, utilization, GIL.
const CHART = 74;
let charts = [];
const lineColors = ["accent", "on_cpu", "lock", "runnable", "io", "gil"];

function layCharts() {
  charts = [];
  const known = (points) => points.some((point) => point !== null);
  const lag = [], busy = [], gil = [], waiting = [], pending = [];
  for (const process of shownProcesses()) {
    const series = data.series.processes[process.pid];
    if (!series) continue;
    const several = shownProcesses().length > 1 ? " " + process.pid : "";
    for (const [tid, one] of Object.entries(series.loops)) {
      const row = data.timeline.rows.find((lane) => String(lane.tid) === tid);
      const name = (row && row.name) || "loop " + tid;
      if (known(one.lag_p99_ms)) lag.push({ name: name + " p99", points: one.lag_p99_ms, least: one.lag_p50_ms, most: one.lag_max_ms });
      if (known(one.utilization)) busy.push({ name, points: one.utilization });
      if (known(one.pending)) pending.push({ name, points: one.pending });
    }
    if (known(series.gil)) gil.push({ name: "held" + several, points: series.gil });
    if (series.gil_waiting.some((point) => point > 0)) waiting.push({ name: "waiting" + several, points: series.gil_waiting });
  }
  const shown = (lines) => lines.slice(0, 6);
  if (lag.length) charts.push({ title: "Loop lag", note: "p99; shade: to max", lines: shown(lag), format: ms, least: 1 });
  if (busy.length) charts.push({ title: "Loop busy", note: "of wall", lines: shown(busy), format: percent, top: 1 });
  if (gil.length) charts.push({ title: "GIL held", note: "of wall, sampled", lines: shown(gil), format: percent, top: 1 });
  if (waiting.length) charts.push({ title: "GIL waiters", note: "threads, on average", lines: shown(waiting).map((line) => ({ ...line, color: "gil" })), format: (v) => v === 0 ? "0" : v.toFixed(2), least: 1 });
  if (pending.length) charts.push({ title: "Tasks pending", note: "at looks", lines: shown(pending), format: (v) => count(Math.round(v)), least: 1 });
  const box = $("charts");
  box.replaceChildren(...charts.map((chart) => {
    chart.canvas = el("canvas", { "aria-label": chart.title });
    navigate(chart.canvas);
    chart.canvas.addEventListener("pointermove", (event) => chartTip(event, chart));
    return el("div", { class: "chart" }, chart.canvas);
  }));
}
rebuilders.push(layCharts);

const colorOf = (line, i) => colors[line.color || lineColors[i % lineColors.length]];
function windowsShown() {
  const windows = data.series.windows_ms;
  let first = 0;
  while (first < windows.length && windows[first][1] < view.from) first++;
  let last = first;
  while (last < windows.length && windows[last][0] <= view.to) last++;
  return [Math.max(0, first), last];
}
function drawCharts() {
  const windows = data.series.windows_ms;
  const [first, last] = windowsShown();
  for (const chart of charts) {
    const { context, width, height } = prepare(chart.canvas, CHART);
    const a = axis(width);
    const base = height - 8, room = height - 18;
    grid(context, a, height);
    let top = chart.top || 0;
    if (!chart.top) {
      for (const line of chart.lines) for (let i = first; i < last; i++) top = Math.max(top, (line.most || line.points)[i] || 0, line.points[i] || 0);
      top = Math.max(top * 1.12, chart.least || 0);
    }
    const y = (value) => base - Math.min(1, value / top) * room;
    context.fillStyle = colors.line;
    context.fillRect(a.left, base, a.right - a.left, 1);
    context.save();
    context.beginPath();
    context.rect(a.left, 0, a.right - a.left, height);
    context.clip();
    chart.lines.forEach((line, number) => {
      context.fillStyle = context.strokeStyle = colorOf(line, number);
      if (line.most) {
        context.globalAlpha = .16;
        for (let i = first; i < last; i++) {
          const most = line.most[i], least = line.least[i];
          if (most === null || most === undefined) continue;
          const x = a.x(windows[i][0]);
          context.fillRect(x, y(most), Math.max(a.x(windows[i][1]) - x, 1), Math.max(y(least || 0) - y(most), 1));
        }
        context.globalAlpha = 1;
      }
      context.lineWidth = 1.6;
      context.beginPath();
      let pen = false;
      for (let i = first; i < last; i++) {
        const value = line.points[i];
        if (value === null || value === undefined) { pen = false; continue; }
        const x = a.x(windows[i][0]), end = a.x(windows[i][1]);
        if (pen) context.lineTo(x, y(value)); else context.moveTo(x, y(value));
        context.lineTo(end, y(value));
        pen = true;
      }
      context.stroke();
    });
    context.globalAlpha = .8;
    lossy(context, a, height);
    context.restore();
    context.globalAlpha = 1;
    context.textAlign = "left";
    context.fillStyle = colors.ink;
    context.fillText(chart.title, 0, 14);
    context.fillStyle = colors.faint;
    context.font = context.font.replace("12px", "11px");
    context.fillText(fit(context, chart.note, LEFT - 62), 0, 29);
    context.textAlign = "right";
    context.fillText(chart.format(top), LEFT - 8, 11);
    context.fillText(chart.format(0), LEFT - 8, base - 2);
    context.textAlign = "left";
    if (chart.lines.length > 1) chart.lines.slice(0, 2).forEach((line, number) => {
      const more = number === 1 && chart.lines.length > 2 ? " +" + (chart.lines.length - 2) : "";
      context.fillStyle = colorOf(line, number);
      context.fillRect(0, 42 + number * 14, 8, 3);
      context.fillText(fit(context, line.name, LEFT - 60) + more, 12, 43.5 + number * 14);
    });
    crosshair(context, a, height);
  }
}
drawers.push(drawCharts);

function chartTip(event, chart) {
  if (event.buttons || event.offsetX < LEFT) { untip(); return; }
  const at = axis(chart.canvas.clientWidth).at(event.offsetX);
  const windows = data.series.windows_ms;
  const i = windows.findIndex(([from, to]) => at >= from && at < to);
  if (i < 0) { untip(); return; }
  const value = (line, points) => points && points[i] !== null && points[i] !== undefined ? (line.format || chart.format)(points[i]) : "–";
  tip(event, el("div", {}, el("b", {}, chart.title), el("div", { class: "sub" }, clock(windows[i][0], true) + " to " + clock(windows[i][1], true))),
    el("div", { class: "rows" }, chart.lines.flatMap((line, number) => [el("i", { class: "swatch", style: "background:" + colorOf(line, number) }), el("span", {}, line.name), el("span", {}, value(line, line.points)), el("span", {}, line.most ? "max " + value(line, line.most) : "")])));
}
