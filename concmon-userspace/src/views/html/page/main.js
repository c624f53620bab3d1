// Puts it together: title, processes, theme, search, keys.
const shortName = (process) => (process.entry || process.name || "process").split("/").pop();
function title() {
  const first = data.processes[0];
  const one = view.pid === null ? first : data.processes.find((process) => process.pid === view.pid);
  const name = one ? shortName(one) : "nothing was watched";
  const others = view.pid === null && data.processes.length > 1 ? " and " + plural(data.processes.length - 1, "other process").replace("processs", "processes") : "";
  $("title").textContent = name + (one ? "  " + one.pid : "") + others;
  $("title").title = one ? one.cmdline.join(" ") : "";
  const start = new Date(data.start_unix_ms).toISOString();
  $("when").textContent = [one && one.python, one && one.exited, start.slice(0, 10) + " " + start.slice(11, 19) + "Z, " + ms(data.duration_ms)].filter(Boolean).join(" · ");
  document.title = name + " · concmon";
}
rebuilders.unshift(title);

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  readColors();
  draw();
}
const dark = matchMedia("(prefers-color-scheme: dark)");
let chosen = null;
const systemTheme = () => dark.matches ? "dark" : "light";
dark.addEventListener("change", () => { if (!chosen) setTheme(systemTheme()); });
$("theme").addEventListener("click", () => {
  chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  setTheme(chosen);
});

function search(text) {
  view.query = text.trim().toLowerCase();
  showFindings(); showLoops(); showRequests(); showThreads(); showGil();
  draw();
  const box = $("found");
  box.hidden = view.query === "";
  if (view.query === "") return;
  const threads = shownProcesses().flatMap((process) => process.threads).filter((thread) => matches(thread.name, thread.tid)).length;
  const names = shownProcesses().flatMap((process) => process.loops).flatMap((one) => one.by_name).filter((row) => matches(row.name)).length;
  const us = flameHits();
  const part = flame.root && flame.root.us ? us / flame.root.us : 0;
  box.replaceChildren(el("b", {}, text.trim()), ": " + plural(threads, "thread") + ", " + plural(names, "task name") + ", " + percent(part) + " of the flame graph (" + ms(us / 1000) + ")");
  const lane = lanes.find((one) => one.kind === "thread" && matches(one.row.name, one.row.tid));
  if (lane) $("lanes").scrollTop = Math.max(0, lane.y - 60);
}
let typing = 0;
$("search").addEventListener("input", (event) => { clearTimeout(typing); typing = setTimeout(() => search(event.target.value), 90); });
addEventListener("keydown", (event) => {
  const editing = document.activeElement && /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
  if (event.key === "/" && !editing) { event.preventDefault(); $("search").focus(); }
  else if (event.key === "Escape") { $("search").value = ""; search(""); $("search").blur(); }
  else if (!editing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    const span = view.to - view.from, middle = view.cursor === null ? (view.from + view.to) / 2 : view.cursor;
    if (event.key === "w" || event.key === "+") zoom(middle, .7);
    else if (event.key === "s" || event.key === "-") zoom(middle, 1 / .7);
    else if (event.key === "a") look(view.from - span * .2, view.to - span * .2);
    else if (event.key === "d") look(view.from + span * .2, view.to + span * .2);
    else if (event.key === "0") look(whole.from, whole.to);
  }
});
if (data.processes.length > 1) {
  const select = $("process");
  select.hidden = false;
  select.append(el("option", { value: "" }, "All processes"), ...data.processes.map((process) => el("option", { value: process.pid }, shortName(process) + " " + process.pid)));
  select.addEventListener("change", () => { view.pid = select.value === "" ? null : Number(select.value); rebuild(); search($("search").value); });
}
new ResizeObserver(draw).observe(document.body);
wireTimeline();
wireFlame();
setTheme(systemTheme());
rebuild();
