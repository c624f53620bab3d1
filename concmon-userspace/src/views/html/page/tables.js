// Key numbers, findings, loops, threads, GIL pairs, limits.
function highlighted(text) {
  text = String(text);
  if (view.query === "") return text;
  const at = text.toLowerCase().indexOf(view.query);
  if (at < 0) return text;
  return el("span", {}, text.slice(0, at), el("mark", {}, text.slice(at, at + view.query.length)), text.slice(at + view.query.length));
}
function table(heads, rows) {
  return el("div", { class: "scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, heads.map(([name, kind, title]) => el("th", { class: kind, title }, name)))),
    el("tbody", {}, rows.map(({ cells, miss }) => el("tr", { class: miss ? "miss" : null }, cells.map((cell, i) => el("td", { class: heads[i][1] }, cell)))))));
}
const zero = (value, text) => value ? text : el("span", { class: "zero" }, "·");
function ledgerParts(ledger) {
  return [["on_cpu", ledger.on_cpu_ns], ["runnable", ledger.runnable_ns], ...Object.entries(ledger.blocked_ns), ["unseen", ledger.unknown_ns || 0]].filter(([, time]) => time > 0);
}
function stackBar(parts, whole) {
  return el("span", { class: "stack", title: parts.map(([name, time]) => (name === "unseen" ? "unknown" : names[name]) + " " + ns(time) + " (" + percent(time / whole) + ")").join("\n") },
    parts.map(([name, time]) => el("i", { style: `width:${(100 * time / Math.max(whole, 1)).toFixed(2)}%;background:var(--${name})` })));
}
const threadName = (process, tid) => {
  const thread = process.threads.find((one) => one.tid === tid);
  return thread && thread.name ? thread.name : null;
};
const who = (process, tid) => tid === null ? "nobody known" : el("span", {}, highlighted(threadName(process, tid) || "thread"), " ", el("span", { class: "zero" }, tid));

function showKey() {
  const processes = shownProcesses();
  const sum = (get) => processes.reduce((all, process) => all + get(process), 0);
  const loops = processes.flatMap((process) => process.loops);
  const worst = (values) => values.filter((value) => value !== null && value !== undefined).reduce((most, value) => most === null || value > most ? value : most, null);
  const stalls = loops.reduce((all, one) => all + one.stalls_count, 0);
  const gil = worst(processes.map((process) => process.gil && process.gil.utilization));
  const gilWait = sum((process) => process.gil && process.gil.wait_ns || 0);
  const requests = sum((process) => process.http ? process.http.count : 0);
  const errors = sum((process) => process.http ? process.http.errors : 0);
  const critical = sum((process) => process.findings.filter((finding) => finding.severity === "critical").length);
  const found = sum((process) => process.findings.length);
  const kpi = (name, value, small, bad) => el("dl", { class: "kpi" + (bad ? " bad" : ""), style: "margin:0" }, el("dt", {}, name), el("dd", {}, value, small ? el("small", {}, " " + small) : null));
  $("key").replaceChildren(...[
    kpi("Wall", ms(data.duration_ms)),
    kpi("CPU", percent(sum((process) => process.cpu_percent) / 100), "of a core"),
    kpi(processes.length > 1 ? "Processes, threads" : "Threads", processes.length > 1 ? count(processes.length) + ", " + count(sum((process) => process.threads.length)) : count(sum((process) => process.threads.length))),
    gil !== null || gilWait ? kpi("GIL held", percent(gil), "waited for " + ns(gilWait), gil > .9) : null,
    requests ? kpi("Requests", count(requests), errors ? plural(errors, "error") : "", errors > 0) : null,
    loops.length ? kpi("Loop busy", percent(worst(loops.filter((one) => one.wall_ns > 0).map((one) => one.utilization))), loops.length > 1 ? "the busiest" : "") : null,
    loops.length ? kpi("Loop lag p99", ns(worst(loops.map((one) => one.lag_p99_ns))), "max " + ns(worst(loops.map((one) => one.lag_max_ns)))) : null,
    loops.length ? kpi("Stalls", count(stalls), stalls ? ns(loops.reduce((all, one) => all + one.stalls_ns, 0)) : "", stalls > 0) : null,
    kpi("Findings", count(found), critical ? critical + " critical" : "", critical > 0),
    kpi("Lost records", count(data.monitor.events_lost), "of " + count(data.monitor.events + data.monitor.events_lost), data.monitor.events_lost > 0),
  ].filter(Boolean));
}
function evidenceText(name, value) {
  if (value === null) return "–";
  if (name.endsWith("_ns") && typeof value === "number") return ns(value);
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
function showFindings() {
  const several = shownProcesses().length > 1;
  const found = shownProcesses().flatMap((process) => process.findings.map((finding) => [process, finding]));
  found.sort((one, other) => (one[1].severity === "critical" ? 0 : 1) - (other[1].severity === "critical" ? 0 : 1));
  $("findings").replaceChildren(...found.map(([process, finding]) => el("article", { class: "finding " + finding.severity },
    el("div", { class: "line" }, el("span", { class: "tag" }, finding.rule), el("span", {}, highlighted(finding.summary)),
      el("span", { class: "since" }, (several ? "process " + process.pid + " · " : "") + "held " + ns(finding.active_ns) + " from " + clock(finding.since_unix_ns / 1e6 - data.start_unix_ms))),
    el("p", {}, finding.advice),
    el("details", {}, el("summary", {}, "Evidence"), el("dl", {}, Object.entries(finding.evidence).flatMap(([name, value]) => [el("dt", {}, name.replace(/_ns$/, "").replaceAll("_", " ")), el("dd", {}, highlighted(evidenceText(name, value)))]))))));
}
function showThreads() {
  const several = shownProcesses().length > 1;
  const rows = shownProcesses().flatMap((process) => process.threads.map((thread) => {
    const name = thread.name || "";
    const parts = ledgerParts(thread);
    const cell = (time) => zero(time, percent(time / thread.wall_ns));
    const b = thread.blocked_ns;
    const rest = b.child + b.disk + b.stopped + b.other + thread.unknown_ns;
    const wait = thread.wait;
    const hit = view.query === "" || matches(name, thread.tid, thread.waiting_for, wait && wait.what, wait && wait.place);
    return { hit, cells: [
      el("span", {}, highlighted(name || "thread"), thread.alive ? null : el("span", { class: "zero" }, " ended")), highlighted(thread.tid), ...(several ? [process.pid] : []),
      ns(thread.wall_ns), stackBar(parts, thread.wall_ns), cell(thread.on_cpu_ns), cell(thread.runnable_ns), cell(b.gil), cell(b.lock), cell(b.poll), cell(b.sleep), cell(b.io), cell(rest),
      ns(thread.latency_p99_ns), count(thread.switches.voluntary), count(thread.switches.involuntary),
      wait ? el("span", {}, highlighted(wait.what), " ", el("span", { class: "zero" }, (wait.before_watch ? "> " : "") + ns(wait.age_ns)), wait.place ? [" in ", highlighted(wait.place)] : null) : zero(0)] };
  }));
  const any = rows.some((row) => row.hit);
  const heads = [["Thread", "text"], ["Tid", ""], ...(several ? [["Pid", ""]] : []), ["Wall", ""], ["Where it went", "text"], ["on CPU", ""], ["CPU wait", "", "waiting for a CPU"], ["GIL", ""], ["lock", ""], ["poll", ""], ["sleep", ""], ["I/O", ""], ["rest", "", "child, disk, stopped, other, unknown"], ["wakeup p99", "", "how long it waited for a CPU after a wakeup"], ["vol.", "", "switches because it blocked"], ["inv.", "", "switches because it was preempted"], ["At the end", "text", "what it was blocked in when the watch ended, and for how long"]];
  $("threads").replaceChildren(rows.length ? table(heads, rows.map((row) => ({ cells: row.cells, miss: any && !row.hit }))) : el("p", { class: "note" }, "No thread was watched."));
}
function showGil() {
  const box = $("gil");
  const content = [];
  for (const process of shownProcesses()) {
    if (!process.gil || !process.gil.pairs.length) continue;
    if (shownProcesses().length > 1) content.push(el("h3", {}, (process.entry || process.name) + " " + process.pid));
    const most = Math.max(1, ...process.gil.pairs.map((pair) => pair.wait_ns));
    const rows = process.gil.pairs.map((pair) => ({
      miss: view.query !== "" && matches(...process.gil.pairs.flatMap((one) => [threadName(process, one.victim_tid), threadName(process, one.holder_tid)])) && !matches(threadName(process, pair.victim_tid), threadName(process, pair.holder_tid), pair.victim_tid, pair.holder_tid),
      cells: [who(process, pair.victim_tid), who(process, pair.holder_tid), el("span", {}, el("i", { class: "bar", style: `width:${(140 * pair.wait_ns / most).toFixed(1)}px;background:var(--gil)` }), ns(pair.wait_ns)), percent(pair.wait_ns / 1e6 / data.duration_ms), count(pair.count)],
    }));
    content.push(table([["Waited", "text"], ["while it was held by", "text"], ["Time", ""], ["of wall", ""], ["Waits", "", "of which this holder had the largest part"]], rows));
    if (process.gil.pairs_left_out) content.push(el("p", { class: "note" }, plural(process.gil.pairs_left_out, "smaller pair") + " left out."));
  }
  $("gil-card").hidden = content.length === 0;
  box.replaceChildren(...content);
}
function showLoops() {
  const content = [];
  for (const process of shownProcesses()) for (const one of process.loops) {
    const names = one.by_name.filter((row) => row.samples > 0 || row.pending > 0);
    const total = (row) => row.on_cpu_ns + row.runnable_ns + Object.values(row.blocked_ns).reduce((all, time) => all + time, 0);
    const most = Math.max(1, ...names.map(total));
    const anyName = names.some((row) => matches(row.name));
    const stallText = (stall) => [stall.task && stall.task.name, stall.coroutine, stall.culprit.frame && stall.culprit.frame.function].filter(Boolean).join(" ");
    const delays = one.stalls.some((stall) => stall.delayed);
    const anyStall = one.stalls.some((stall) => matches(stallText(stall)));
    content.push(el("div", { class: "loop" },
      el("div", { class: "facts" }, el("b", {}, highlighted(threadName(process, one.tid) || "thread"), " "), el("span", { class: "zero" }, one.tid), ` ${one.kind} · busy `, el("b", {}, percent(one.utilization)), " of " + ns(one.wall_ns) + " · lag p50 " + ns(one.lag_p50_ns) + ", p99 ", el("b", {}, ns(one.lag_p99_ns)), ", max " + ns(one.lag_max_ns) + " · " + plural(one.stalls_count, "stall") + (one.stalls_count ? " over " + ns(one.stall_threshold_ns) + ", " + ns(one.stalls_ns) + " in all" : "") + (one.pending_tasks !== null ? " · " + plural(one.pending_tasks, "pending task") : "")),
      one.hang ? el("h3", {}, "Hangs: ", one.hang.before_watch ? "at least " : "", ns(one.hang.lasting_ns), " at the end, ", one.hang.cause) : null,
      one.hang ? el("div", { class: "facts" }, el("b", {}, highlighted([one.hang.task && one.hang.task.name, one.hang.coroutine].filter(Boolean).join(" ") || "–")), " ", Object.entries(one.hang.context).map(([name, value]) => name + "=" + value).join(" "), el("div", {}, one.hang.stack.map((frame) => el("div", {}, highlighted(frame.function), " ", el("span", { class: "zero" }, frame.file.split("/").pop() + ":" + frame.line))))) : null,
      one.stalls.length ? el("h3", {}, "Stalls, the longest first" + (one.stalls_count > one.stalls.length ? ` (${one.stalls.length} of ${count(one.stalls_count)})` : "")) : null,
      one.stalls.length ? table([["At", "text"], ["Length", ""], ["By", "text"], ["Where", "text wide"], ["Task", "text"], ["Context", "text"], ...(delays ? [["Delayed", "", "HTTP requests that waited meanwhile, in sum"]] : []), ["Where it went", "text"]], one.stalls.map((stall) => ({
        miss: anyStall && !matches(stallText(stall)),
        cells: [el("button", { type: "button", style: "height:20px;padding:0 6px", title: "Show in the timeline", onclick: () => { look(stall.at_ms - stall.duration_ns / 1e6, stall.at_ms + 2 * stall.duration_ns / 1e6); $("timeline").scrollIntoView({ block: "nearest" }); } }, clock(stall.at_ms, true)),
          ns(stall.duration_ns), stall.culprit.kind + (stall.culprit.holder_tid ? " (" + (threadName(process, stall.culprit.holder_tid) || stall.culprit.holder_tid) + ")" : ""),
          stall.culprit.frame ? el("span", { title: stall.stack.map((frame) => frame.function + " (" + frame.file + ":" + frame.line + ")").join("\n") }, highlighted(stall.culprit.frame.function), " ", el("span", { class: "zero" }, stall.culprit.frame.file.split("/").pop() + ":" + stall.culprit.frame.line)) : "–",
          highlighted(stall.task ? stall.task.name : stall.coroutine || "–"), Object.entries(stall.context).map(([name, value]) => name + "=" + value).join(" ") || "–",
          ...(delays ? [stall.delayed ? plural(stall.delayed.requests, "request") + ", " + ns(stall.delayed.delay_ns) : "–"] : []), stackBar(ledgerParts(stall), stall.duration_ns)],
      }))) : null,
      names.length ? el("h3", {}, "Tasks by name") : null,
      names.length ? table([["Name", "text wide"], ["Busy (estimated)", ""], ["of the loop's wall", ""], ["Where it went", "text"], ["Samples", ""], ["Pending", "", "at the last look"]], names.map((row) => ({
        miss: anyName && !matches(row.name),
        cells: [highlighted(row.name), el("span", {}, el("i", { class: "bar", style: `width:${(90 * total(row) / most).toFixed(1)}px;background:var(--accent)` }), ns(total(row))), percent(total(row) / one.wall_ns), stackBar(ledgerParts(row), total(row)), count(row.samples), zero(row.pending, count(row.pending))],
      }))) : null));
  }
  $("loops-card").hidden = content.length === 0;
  $("loops").replaceChildren(...content);
}
function showLimits() {
  const lost = data.monitor.events_lost;
  const stretches = data.timeline.losses.length;
  const merged = new Map();
  for (const { of, field, reason } of data.limits) {
    const known = merged.get(reason);
    if (known) { known.of.add(of); known.fields.add(field); } else merged.set(reason, { of: new Set([of]), fields: new Set([field]) });
  }
  const list = (set) => { const all = [...set]; return all.slice(0, 4).join(", ") + (all.length > 4 ? " and " + (all.length - 4) + " more" : ""); };
  const items = [...merged].map(([reason, { of, fields }]) => el("li", {}, el("b", {}, list(fields)), " of " + list(of) + ": " + reason));
  items.push(...data.remarks.map((remark) => el("li", {}, remark)));
  items.push(el("li", {}, "Stacks, tasks by name, lag and the use of the GIL are sampled: estimates. Time by thread and state is not."));
  items.push(el("li", {}, "The timeline has bins of " + ms(bin) + "; charts have one point for " + (data.series.windows_per_point > 1 ? data.series.windows_per_point + " windows each (lag: the worst of them)." : "each window.")));
  for (const [name, times] of Object.entries(data.monitor.faults)) items.push(el("li", {}, el("b", {}, name), " happened " + plural(times, "time")));
  $("limits").replaceChildren(
    ...(lost || stretches ? [el("p", { class: "lossy" }, count(lost) + " records were lost" + (stretches ? ", in " + plural(stretches, "stretch").replace("stretchs", "stretches") + " that are hatched in the timeline" : "") + ". The time in the tables is whole all the same: it is accounted for in the kernel.")] : []),
    el("ul", {}, items));
}
function showMonitor() {
  const m = data.monitor;
  $("monitor").textContent = "concmon " + m.version + " · its own cost: " + ns(m.cpu_ns) + " of CPU (" + (100 * m.cpu_ns / 1e6 / data.duration_ms).toFixed(1) + " % of a core), " + (m.kernel_run_ns === null ? "" : "kernel programs " + ns(m.kernel_run_ns) + " (estimated), ") + bytes(m.rss_bytes) + " of memory · " + count(m.events) + " records, " + count(m.events_lost) + " lost, " + plural(m.reads_failed, "failed read");
}
rebuilders.push(showKey, showFindings, showLoops, showRequests, showThreads, showGil, showLimits, showMonitor);
