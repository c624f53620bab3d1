// HTTP requests by what they were, those that are under way, and who was waited for on the network.
// The framework's route, else the path that was learned, which is a guess.
const pathOf = (row) => row.route !== null ? row.route : row.learned_path !== null ? "~" + row.learned_path : null;
function showRequests() {
  const content = [];
  const times = (row) => [row.p50_ns, row.p99_ns, row.max_ns].map(ns);
  for (const process of shownProcesses()) {
    const http = process.http;
    if (!http) continue;
    const requestText = (row) => row.method + " " + (pathOf(row) || "");
    const anyRow = http.rows.some((row) => matches(requestText(row)));
    const most = Math.max(1, ...http.rows.map((row) => row.count));
    const request = (row) => [el("span", { class: "zero" }, row.method, " "), pathOf(row) === null ? el("span", { class: "zero" }, "any path") : el("span", { title: row.route === null ? "as learned from paths: parts that look like identifiers are folded" : null }, highlighted(pathOf(row)))];
    const waited = Math.max(1, ...http.peers.map((peer) => peer.wait_ns));
    content.push(el("div", { class: "loop" },
      el("div", { class: "facts" }, shownProcesses().length > 1 ? [el("b", {}, shortName(process)), " ", el("span", { class: "zero" }, process.pid), " · "] : null,
        el("b", {}, plural(http.count, "request")), ", " + digits(http.count * 1000 / data.duration_ms) + " a second" + (http.errors ? " · " + plural(http.errors, "error") : "") + http.remarks.map((remark) => " · " + remark).join("")),
      http.rows.length ? table([["Request", "text wide"], ["Status", ""], ["Count", ""], ["p50", "", "from when its head had been read to the head of the response"], ["p99", ""], ["max", ""], ["unread p50", "", "from its first byte to be read until it was"], ["unread p99", ""], ["unread max", ""]], http.rows.map((row) => ({
        miss: anyRow && !matches(requestText(row)),
        cells: [el("span", {}, request(row)), row.status >= 500 ? el("span", { class: "bad" }, row.status) : row.status,
          el("span", {}, el("i", { class: "bar", style: `width:${(90 * row.count / most).toFixed(1)}px;background:var(--accent)` }), count(row.count)),
          ...times(row.duration), ...times(row.queue)],
      }))) : null,
      http.rows_left_out ? el("p", { class: "note" }, plural(http.rows_left_out, "rarer kind") + " left out.") : null,
      http.active.length ? el("h3", {}, "Under way at the end, the oldest first" + (http.active_left_out ? ` (${http.active.length} of ${count(http.active.length + http.active_left_out)})` : "")) : null,
      http.active.length ? table([["Request", "text wide"], ["Age", ""], ["lay unread", ""], ["Served by", "text"], ["Where", "text wide"], ["Waits for", "text"]], http.active.map((active) => ({
        miss: false,
        cells: [el("span", {}, request(active)), ns(active.age_ns), ns(active.queue_ns), active.task ? highlighted(active.task) : who(process, active.tid),
          active.where ? el("span", {}, highlighted(active.where.function), " ", el("span", { class: "zero" }, active.where.file.split("/").pop() + ":" + active.where.line)) : "–", active.waits_for || "–"],
      }))) : null,
      http.peers.length ? el("h3", {}, "Peers that threads waited for") : null,
      http.peers.length ? table([["Peer", "text wide"], ["Time", ""], ["of request time", "", "what of it lies in requests that the waiting thread served, of the time of all requests"], ["Waits", ""], ["p50", ""], ["p99", ""], ["max", ""]], http.peers.map((peer) => ({
        miss: false,
        cells: [highlighted(peer.name), el("span", {}, el("i", { class: "bar", style: `width:${(140 * peer.wait_ns / waited).toFixed(1)}px;background:var(--io)` }), ns(peer.wait_ns)),
          zero(peer.in_requests_ns, percent(peer.in_requests_ns / Math.max(http.duration_ns, 1))), count(peer.count), ...times(peer.waits)],
      }))) : null));
  }
  $("requests-card").hidden = content.length === 0;
  $("requests").replaceChildren(...content);
}
