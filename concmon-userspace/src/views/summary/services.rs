//! What the services of a watch come to, those of their processes included that have ended.

use std::fmt::Write as _;

use super::super::escape::brief;
use super::super::overview;
use super::super::table::{Align, Table};
use super::super::{Form, format};
use super::MAX_ROWS;
use crate::schema::{Exits, Group, Severity, Snapshot};

/// A line for each service, where that tells more than the lines of the processes: there are several, or
/// processes of one have ended.
pub(super) fn push(text: &mut String, snapshot: &Snapshot, form: Form) {
    let groups = &snapshot.groups;
    let comes_and_goes = |group: &Group| group.processes_ended > 0 && group.processes_started > 0;
    if groups.len() < 2 && !groups.iter().any(comes_and_goes) {
        return;
    }
    let mut table = Table::default();
    table.names("SERVICE", 16);
    table.optional("FROM", Align::Left);
    table.column("RUN", Align::Right);
    table.column("BEGAN", Align::Right);
    table.names("ENDED", 8);
    for head in ["CPU", "CPU TIME", "RSS"] {
        table.column(head, Align::Right);
    }
    table.names("WAITS FOR", 10);
    table.names("WORST", 12);
    let mut order: Vec<&Group> = groups.iter().collect();
    order.sort_by(|one, other| (other.cpu_ns, &one.name).cmp(&(one.cpu_ns, &other.name)));
    let most = form.most(MAX_ROWS);
    for group in order.iter().take(most) {
        table.row(vec![
            brief(&group.name, 60),
            group.source.to_string(),
            format::count(group.processes_count),
            format::count(group.processes_started),
            ended(group),
            format::percent(group.cpu_percent),
            format::duration(group.cpu_ns),
            format::maybe_bytes(group.rss_bytes),
            overview::most_waited(&group.ledger, group.lock_ns.waiting_for_work),
            worst(group),
        ]);
    }
    form.heading(text, 0, "services");
    text.push_str(&table.render("  ", form));
    if order.len() > most {
        let _ = writeln!(text, "  ... and {} more", order.len() - most);
    }
}

/// `12: 3 failed, 1 killed`.
fn ended(group: &Group) -> String {
    let Exits { error, signal, .. } = group.exits;
    let told = [(error, "failed"), (signal, "killed")];
    let told = told.into_iter().filter(|(count, _)| *count > 0);
    let told: Vec<String> = told
        .map(|(count, how)| format!("{} {how}", format::count(count)))
        .collect();
    let all = format::count(group.processes_ended);
    match told.is_empty() {
        true => all,
        false => format!("{all}: {}", told.join(", ")),
    }
}

/// The finding that matters most, in how many processes, and how many other rules there are.
fn worst(group: &Group) -> String {
    let findings = &group.findings;
    let critical = findings.iter().find(|of| of.severity == Severity::Critical);
    let Some(worst) = critical.or(findings.first()) else {
        return "-".to_owned();
    };
    let mut text = worst.rule.to_owned();
    if worst.processes_count > 1 {
        let _ = write!(text, " ×{}", worst.processes_count);
    }
    if findings.len() > 1 {
        let _ = write!(text, " +{}", findings.len() - 1);
    }
    text
}
