//! The quantities of one watch, window by window.

use std::collections::BTreeMap;

use super::noise::Mean;
use super::{Side, Unit};
use crate::schema::{Cost, LedgerSum, Process, Snapshot};

/// Quantities that are told apart.
const MAX_KEYS: usize = 100_000;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) tier: &'static str,
    pub(super) name: String,
    pub(super) what: &'static str,
    pub(super) unit: Unit,
}

/// What a watch was like.
#[derive(Clone, Debug)]
pub struct Rates {
    pub(super) side: Side,
    pub(super) values: BTreeMap<Key, Mean>,
    /// By process and rule.
    pub(super) findings: BTreeMap<(String, &'static str), String>,
    /// Seconds of all windows.
    seconds: f64,
}

/// Sums of one window, by quantity; of gauges, the largest.
type Window = BTreeMap<Key, f64>;

impl Rates {
    /// Of a capture that nothing was read of yet.
    pub fn new(file: &str) -> Self {
        Rates {
            side: Side {
                file: file.to_owned(),
                start_unix_ns: 0,
                duration_ns: 0,
                windows: 0,
                events_lost: 0,
                gaps: Vec::new(),
            },
            values: BTreeMap::new(),
            findings: BTreeMap::new(),
            seconds: 0.0,
        }
    }

    /// Takes the next window.
    pub fn add(&mut self, snapshot: &Snapshot) {
        let seconds = snapshot.window.duration_ns as f64 / 1e9;
        if seconds <= 0.0 {
            return;
        }
        self.side.windows += 1;
        self.seconds += seconds;
        let mut window = Window::new();
        for process in &snapshot.processes {
            add_process(&mut window, process, seconds);
        }
        for (key, value) in window {
            if self.values.len() < MAX_KEYS || self.values.contains_key(&key) {
                self.values.entry(key).or_default().add(value, seconds);
            }
        }
    }

    /// Takes the summary, which comes last.
    pub fn finish(&mut self, summary: &Snapshot) {
        self.side.start_unix_ns = summary.window.start_unix_ns;
        self.side.duration_ns = summary.window.duration_ns;
        self.side.events_lost = summary.monitor.events_lost;
        let gaps = summary
            .limits
            .iter()
            .filter(|limit| limit.field == "capture");
        self.side.gaps = gaps.map(|limit| limit.reason.to_string()).collect();
        for process in &summary.processes {
            for finding in &process.findings {
                let key = (service(process), finding.rule);
                self.findings
                    .entry(key)
                    .or_insert_with(|| finding.summary.clone());
            }
        }
    }

    pub(super) fn mean(&self, key: &Key) -> Option<Mean> {
        let known = self.values.get(key);
        if !key.unit.is_rate() {
            return known.copied();
        }
        let known = known.copied().unwrap_or_default();
        (self.side.windows > 0).then(|| known.filled(self.side.windows, self.seconds))
    }
}

/// What a process is, whatever its id.
fn service(process: &Process) -> String {
    let entry = process.entry.as_ref().unwrap_or(&process.name);
    entry.rsplit('/').next().unwrap_or(entry).to_owned()
}

/// Digits as `#`, so that workers with numbers are one.
fn folded(name: &str) -> String {
    let mut folded = String::new();
    for c in name.chars() {
        let c = if c.is_ascii_digit() { '#' } else { c };
        if c != '#' || !folded.ends_with('#') {
            folded.push(c);
        }
    }
    folded
}

fn add_process(window: &mut Window, process: &Process, seconds: f64) {
    let name = service(process);
    let ms = |ns: u64| ns as f64 / 1e6 / seconds;
    let mut rate = |tier, name: &str, what, unit, value: f64| {
        let key = Key {
            tier,
            name: name.to_owned(),
            what,
            unit,
        };
        *window.entry(key).or_default() += value;
    };
    let per_s = |count: u64| count as f64 / seconds;
    rate("process", &name, "cpu", Unit::MsPerS, ms(process.cpu_ns));
    let switches = process.context_switches;
    rate(
        "process",
        &name,
        "voluntary switches",
        Unit::PerS,
        per_s(switches.voluntary),
    );
    rate(
        "process",
        &name,
        "involuntary switches",
        Unit::PerS,
        per_s(switches.involuntary),
    );
    for (what, unit, value) in [
        ("rss", Unit::Bytes, process.rss_bytes),
        ("threads", Unit::Count, process.threads_count),
        ("open files", Unit::Count, process.fds_count),
        ("processes", Unit::Count, Some(1)),
    ] {
        if let Some(value) = value {
            rate("process", &name, what, unit, value as f64);
        }
    }
    let mut ledger = |tier, name: &str, sum: &LedgerSum| {
        for (what, ns) in columns(sum) {
            if ns > 0 {
                rate(tier, name, what, Unit::MsPerS, ms(ns));
            }
        }
    };
    for thread in &process.threads {
        ledger("thread", &name, &thread.ledger);
        if let Some(thread_name) = &thread.name {
            let full = format!("{name}: {}", folded(thread_name));
            ledger("threads by name", &full, &thread.ledger);
        }
    }
    ledger("thread", &name, &process.ended.ledger);
    if let Some(gil) = &process.gil {
        let waits = gil.waits.as_ref().map(|waits| waits.count);
        for (what, unit, value) in [
            ("wait", Unit::MsPerS, gil.wait_ns.map(ms)),
            ("held", Unit::MsPerS, gil.utilization.map(|part| part * 1e3)),
            ("waits", Unit::PerS, waits.map(per_s)),
            ("switches", Unit::PerS, gil.switches.map(per_s)),
        ] {
            if let Some(value) = value {
                rate("gil", &name, what, unit, value);
            }
        }
    }
    for one in process.loops.iter().filter(|one| one.wall_ns > 0) {
        rate("loop", &name, "busy", Unit::MsPerS, ms(one.busy_ns));
        if let Some(pending) = one.pending_tasks {
            rate("loop", &name, "pending tasks", Unit::Count, pending as f64);
        }
        let Some(timing) = &one.timing else {
            continue;
        };
        rate(
            "loop",
            &name,
            "stalls",
            Unit::PerS,
            per_s(timing.stalls_count),
        );
        rate("loop", &name, "stalled", Unit::MsPerS, ms(timing.stalls_ns));
        if let Some(iterations) = timing.iterations {
            rate("loop", &name, "iterations", Unit::PerS, per_s(iterations));
        }
        for row in &timing.by_name {
            let full = format!("{name}: {}", row.name);
            for (what, ns) in cost_columns(&row.cost) {
                if ns > 0 {
                    rate("tasks by name", &full, what, Unit::MsPerS, ms(ns));
                }
            }
        }
    }
    // Of several loops, the one with the longest lag.
    let lags = process
        .loops
        .iter()
        .filter_map(|one| one.timing.as_ref()?.lag.as_ref());
    if let Some(lag) = lags.filter_map(|lag| lag.p99_ns).max() {
        rate("loop", &name, "lag p99", Unit::Ms, lag as f64 / 1e6);
    }
}

fn columns(sum: &LedgerSum) -> impl Iterator<Item = (&'static str, u64)> {
    let all = [
        ("on_cpu", sum.on_cpu_ns),
        ("runnable", sum.runnable_ns),
        ("unknown", sum.unknown_ns),
        ("unobserved", sum.unobserved_ns),
    ];
    all.into_iter().chain(sum.blocked_ns.causes())
}

fn cost_columns(cost: &Cost) -> impl Iterator<Item = (&'static str, u64)> {
    let all = [("on_cpu", cost.on_cpu_ns), ("runnable", cost.runnable_ns)];
    all.into_iter().chain(cost.blocked_ns.causes())
}
