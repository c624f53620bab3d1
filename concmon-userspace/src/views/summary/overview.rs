//! The summary's first table: a line for each process, and the totals.

use std::fmt::Write as _;

use super::super::columns::{self, Column};
use super::super::digest::{self, Bottleneck};
use super::super::table::{Align, Table};
use super::super::{Form, fold, format, names};
use super::MAX_ROWS;
use crate::schema::{Process, Severity};

/// The deepest indentation that shows who is whose child.
const MAX_DEPTH: usize = 6;

/// A process, or several that do the same, where there are more than have room.
struct Row<'a> {
    depth: usize,
    set: Vec<&'a Process>,
}

pub(super) fn push(text: &mut String, tree: &[(usize, &Process)], form: Form) {
    let mut table = Table::default();
    table.column("PID", Align::Right);
    table.column("ROLE", Align::Left);
    table.names("PROCESS", 20);
    for head in ["CPU", "RSS", "THREADS"] {
        table.column(head, Align::Right);
    }
    table.names("WAITS FOR", 12);
    table.names("WORST", 12);
    let rows = rows(tree, form);
    let most = form.most(MAX_ROWS);
    for row in rows.iter().take(most) {
        table.row(cells(row));
    }
    if tree.len() > 1 {
        let all: Vec<&Process> = tree.iter().map(|(_, process)| *process).collect();
        let [_, _, _, cpu, rss, threads, ..] = sums(&all);
        let name = digest::processes(all.len() as u64);
        let none = String::new();
        table.row(vec![none.clone(), none, name, cpu, rss, threads]);
    }
    text.push('\n');
    text.push_str(&table.render("  ", form));
    if rows.len() > most {
        let hidden = rows[most..].iter().map(|row| row.set.len()).sum::<usize>();
        let _ = writeln!(
            text,
            "  ... and {} more, which are in the totals",
            digest::processes(hidden as u64)
        );
    }
}

/// Those that do the same are together where each has no line of its own.
fn rows<'a>(tree: &[(usize, &'a Process)], form: Form) -> Vec<Row<'a>> {
    let single = |(depth, process): &(usize, &'a Process)| Row {
        depth: *depth,
        set: vec![process],
    };
    if tree.len() <= form.most(MAX_ROWS) {
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

/// What is summed up: pid, role, name, CPU, RSS, threads.
fn sums(set: &[&Process]) -> [String; 6] {
    let percent: f64 = set.iter().map(|process| process.cpu_percent).sum();
    let sum = |of: fn(&Process) -> Option<u64>| {
        let known = set.iter().filter_map(|process| of(process));
        known.reduce(u64::saturating_add)
    };
    let labels: Vec<String> = set
        .iter()
        .map(|process| digest::process_label(process))
        .collect();
    let mut label = names::common(labels.iter().map(String::as_str));
    let mut pid = String::new();
    match set {
        [one] => pid = one.pid.to_string(),
        _ => {
            let _ = write!(label, " ×{}", set.len());
        }
    }
    let role = set.first().and_then(|process| process.role);
    [
        pid,
        role.map_or_else(|| "-".to_owned(), |role| role.to_string()),
        label,
        format::percent(percent),
        format::maybe_bytes(sum(|process| process.rss_bytes)),
        format::maybe_count(sum(|process| process.threads_count)),
    ]
}

fn cells(row: &Row<'_>) -> Vec<String> {
    let [pid, role, label, cpu, rss, threads] = sums(&row.set);
    let label = format!("{:1$}{label}", "", row.depth.min(MAX_DEPTH) * 2);
    let waits = match row.set[..] {
        [process] => held_back(process),
        _ => waits(&row.set),
    };
    let ended = row.set.iter().find_map(|process| process.exited);
    let waits = ended.map_or(waits, digest::exited_label);
    vec![pid, role, label, cpu, rss, threads, waits, worst(&row.set)]
}

/// What holds it back most, else where most of its time went.
fn held_back(process: &Process) -> String {
    match Bottleneck::of(process).filter(|bottleneck| bottleneck.alarm) {
        Some(bottleneck) => bottleneck.what,
        None => waits(&[process]),
    }
}

/// `poll 98%`, `work 46%`: where most of the time of all threads went that was spent on no CPU.
fn waits(set: &[&Process]) -> String {
    let threads = || set.iter().flat_map(|process| &process.threads);
    let sum = columns::sum(threads().map(|thread| &thread.ledger));
    let waits = Column::ALL.into_iter();
    let waits = waits.filter(|column| *column != Column::OnCpu && column.of(&sum) > 0);
    let Some(most) = waits.max_by_key(|column| column.of(&sum)) else {
        return "-".to_owned();
    };
    let work: u64 = threads()
        .map(|thread| thread.lock_ns.waiting_for_work)
        .sum();
    let name = match most {
        Column::Lock if work > sum.blocked_ns.lock / 2 => "work",
        column => column.name(),
    };
    format!(
        "{name} {}",
        format::share_percent(most.of(&sum), sum.wall_ns)
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
