//! A line for each process, or for several that do the same: what the summary begins with, and the live view.

use super::columns::{self, Column};
use super::digest::{self, Bottleneck};
use super::{fold, format, names};
use crate::schema::{LedgerSum, Process, Severity, Thread};

/// The deepest indentation that shows who is whose child.
const MAX_DEPTH: usize = 6;

/// A process, or several that do the same, where there are more than have room.
pub(super) struct Row<'a> {
    pub(super) depth: usize,
    pub(super) set: Vec<&'a Process>,
}

/// What a row says; all of it is escaped.
pub(super) struct Cells {
    pub(super) pid: String,
    pub(super) role: String,
    pub(super) label: String,
    pub(super) cpu: String,
    pub(super) rss: String,
    pub(super) threads: String,
    pub(super) waits: String,
    /// The thread that `waits` is about, where it holds the whole process back.
    pub(super) place: Option<String>,
    /// `waits` deserves attention.
    pub(super) alarm: bool,
    pub(super) worst: String,
}

/// The rows of a tree of processes. Where there are more than `most`, those that do the same are together.
pub(super) fn rows<'a>(tree: &[(usize, &'a Process)], most: usize) -> Vec<Row<'a>> {
    let single = |(depth, process): &(usize, &'a Process)| Row {
        depth: *depth,
        set: vec![process],
    };
    if tree.len() <= most {
        return tree.iter().map(single).collect();
    }
    let processes: Vec<&Process> = tree.iter().map(|(_, process)| *process).collect();
    let depth = |process: &Process| {
        let at = tree.iter().find(|(_, one)| std::ptr::eq(*one, process));
        at.map_or(0, |(depth, _)| *depth)
    };
    let sets = fold::alike(&processes, false);
    let rows = sets.into_iter().map(|set| Row {
        depth: depth(set[0]),
        set,
    });
    rows.collect()
}

/// What all of them sum up to in a window of so many ns; of waits and findings there is no sum.
pub(super) fn totals(processes: &[&Process], window_ns: u64) -> Cells {
    Cells {
        pid: String::new(),
        role: String::new(),
        label: digest::processes(processes.len() as u64),
        waits: String::new(),
        worst: String::new(),
        ..sums(processes, window_ns)
    }
}

fn sums(set: &[&Process], window_ns: u64) -> Cells {
    let percent = match set {
        [one] => one.cpu_percent,
        // Each by itself is a part of the time that it lived.
        _ => {
            let cpu_ns = set.iter().map(|process| process.cpu_ns);
            let cpu_ns = cpu_ns.fold(0, u64::saturating_add);
            cpu_ns as f64 * 100.0 / window_ns.max(1) as f64
        }
    };
    let sum = |of: fn(&Process) -> Option<u64>| {
        let known = set.iter().filter_map(|process| of(process));
        known.reduce(u64::saturating_add)
    };
    let labels: Vec<String> = set
        .iter()
        .map(|process| digest::process_label(process))
        .collect();
    let label = names::common(labels.iter().map(String::as_str));
    let (pid, label) = match set {
        [one] => (one.pid.to_string(), label),
        _ => (String::new(), format!("{label} ×{}", set.len())),
    };
    let role = set.first().and_then(|process| process.role);
    Cells {
        pid,
        role: role.map_or_else(|| "-".to_owned(), |role| role.to_string()),
        label,
        cpu: format::percent(percent),
        rss: format::maybe_bytes(sum(|process| process.rss_bytes)),
        threads: format::maybe_count(sum(|process| process.threads_count)),
        waits: waits(set),
        place: None,
        alarm: false,
        worst: worst(set),
    }
}

impl Row<'_> {
    /// What it says of a window of so many ns.
    pub(super) fn cells(&self, window_ns: u64) -> Cells {
        let mut cells = sums(&self.set, window_ns);
        cells.label = format!("{:1$}{2}", "", self.depth.min(MAX_DEPTH) * 2, cells.label);
        if let [process] = self.set[..]
            && let Some(bottleneck) = Bottleneck::of(process).filter(|one| one.alarm)
        {
            cells.waits = bottleneck.what;
            cells.place = Some(bottleneck.place);
            cells.alarm = true;
        }
        if let Some(exited) = self.set.iter().find_map(|process| process.exited) {
            cells.waits = digest::exited_label(exited);
            (cells.place, cells.alarm) = (None, false);
        }
        cells
    }
}

/// `poll 98%`, `work 46%`: where most of the time of all threads went that was spent on no CPU. Threads of libraries that
/// did nothing at all are no part of it: a pool in C that idles says nothing about the program.
fn waits(set: &[&Process]) -> String {
    let all = || set.iter().flat_map(|process| &process.threads);
    let idles = |thread: &&Thread| thread.ident.is_none() && thread.ledger.on_cpu_ns == 0;
    let only_those = all().all(|thread| idles(&thread));
    let threads = || all().filter(|thread| only_those || !idles(thread));
    let sum = columns::sum(threads().map(|thread| &thread.ledger));
    let work_ns = threads()
        .map(|thread| thread.lock_ns.waiting_for_work)
        .sum();
    most_waited(&sum, work_ns)
}

/// The same of a sum of threads, which waited for work for so many ns.
pub(super) fn most_waited(sum: &LedgerSum, work_ns: u64) -> String {
    let waits = Column::ALL.into_iter();
    let waits = waits.filter(|column| *column != Column::OnCpu && column.of(sum) > 0);
    let Some(most) = waits.max_by_key(|column| column.of(sum)) else {
        return "-".to_owned();
    };
    let name = match most {
        Column::Lock if work_ns > sum.blocked_ns.lock / 2 => "work",
        column => column.name(),
    };
    format!(
        "{name} {}",
        format::share_percent(most.of(sum), sum.wall_ns)
    )
}

/// The finding that matters most, and how many others there are.
fn worst(set: &[&Process]) -> String {
    let findings = || set.iter().flat_map(|process| &process.findings);
    let critical = findings().find(|finding| finding.severity == Severity::Critical);
    let Some(worst) = critical.or_else(|| findings().next()) else {
        return "-".to_owned();
    };
    let mut rules: Vec<&str> = findings().map(|finding| finding.rule).collect();
    rules.sort_unstable();
    rules.dedup();
    match rules.len() {
        1 => worst.rule.to_owned(),
        count => format!("{} +{}", worst.rule, count - 1),
    }
}

/// How bad the worst finding of a process is: of more weight, the larger.
pub(super) fn weight(process: &Process) -> u64 {
    let critical = |critical: bool| {
        let findings = process.findings.iter();
        findings
            .filter(|finding| (finding.severity == Severity::Critical) == critical)
            .count() as u64
    };
    critical(true) * 1000 + critical(false)
}
