//! Processes that come and go: of those that have ended, only what the summary tells is kept.

use super::*;

/// The process `pid` in the window number `second`.
fn window(pid: u32, second: u64, files: u64) -> Snapshot {
    let mut snapshot = quiet();
    snapshot.window.start_unix_ns += second * SECOND;
    let process = &mut snapshot.processes[0];
    process.pid = pid;
    (process.fds_count, process.fds_limit) = (Some(files), Some(1_000));
    snapshot
}

#[test]
fn what_has_ended_without_a_finding_is_forgotten() {
    let mut judge = Judge::default();
    for second in 0..20 {
        judge.judge(&mut window(1, second, 990));
    }
    for second in 20..300 {
        judge.judge(&mut window(second as u32, second, 10));
    }
    assert_eq!(judge.processes.len(), 2);
    let mut summary = window(1, 0, 10);
    summary.kind = Kind::Summary;
    judge.judge(&mut summary);
    let findings = &summary.processes[0].findings;
    assert!(findings.iter().any(|found| found.rule == "fd-exhaustion"));
}
