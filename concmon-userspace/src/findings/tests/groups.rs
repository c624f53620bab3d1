//! What a group tells of its processes' findings.

use super::*;
use crate::schema::Group;

/// A snapshot of a second in which three processes of a group have open so many files.
fn open(snapshot: &mut Snapshot, files: [u64; 3]) {
    let process = snapshot.processes[0].clone();
    snapshot.processes = files
        .iter()
        .zip(0..)
        .map(|(files, number)| Process {
            pid: 100 + number,
            fds_count: Some(*files),
            fds_limit: Some(1_000),
            ..process.clone()
        })
        .collect();
}

fn told(groups: &[Group]) -> Vec<(&str, Severity, u64, u32)> {
    let told = groups.iter().flat_map(|group| &group.findings);
    told.map(|of| (of.rule, of.severity, of.processes_count, of.pid))
        .collect()
}

#[test]
fn the_worst_of_each_rule_with_the_count_of_processes() {
    let mut judge = Judge::default();
    let mut window = quiet();
    open(&mut window, [10, 850, 990]);
    judge.judge(&mut window);
    assert_eq!(
        told(&window.groups),
        [("fd-exhaustion", Severity::Critical, 2, 102)]
    );
    let mut window = quiet();
    open(&mut window, [850, 10, 10]);
    judge.judge(&mut window);
    assert_eq!(
        told(&window.groups),
        [("fd-exhaustion", Severity::Warning, 1, 100)]
    );
    // Those that have ended since, and have no row, count in the summary, too.
    let mut summary = quiet();
    summary.kind = Kind::Summary;
    summary.processes.truncate(1);
    judge.judge(&mut summary);
    assert_eq!(
        told(&summary.groups),
        [("fd-exhaustion", Severity::Critical, 3, 102)]
    );
}
