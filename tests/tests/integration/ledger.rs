//! The closed ledger: every nanosecond in one column, snapshots that sum to the summary.

use anyhow::{Result, ensure};
use concmon_tests::harness::quiet;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::laws;
use concmon_tests::proc;
use concmon_tests::watch::{PATIENCE, Watch};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;

use crate::watch_python;

const PROGRAMS: [(&str, &[&str]); 3] = [
    (
        "clocks.py",
        &[
            "busy",
            "sleeper",
            "half-busy",
            "pipe-pair",
            "condition-pair",
        ],
    ),
    ("causes.py", &[]),
    ("gil.py", &["4"]),
];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for version in ["3.11", "3.13"] {
        for (program, args) in PROGRAMS {
            trials.push(quiet(
                format!("ledger::is_closed_and_sums_up::{program}::py{version}"),
                &watch_python(version),
                move || is_closed_and_sums_up(version, program, args),
            ));
        }
    }
    trials
}

fn is_closed_and_sums_up(version: &str, program: &str, args: &[&str]) -> Result<()> {
    let workload = Workload::start(&Interpreter::find(version)?, program, args)?;
    let tids = proc::threads(workload.pid())?;
    let outcome = Watch::pid(workload.pid(), "1s", Some("5s"))?
        .finish(PATIENCE)?
        .ok()?;
    let summary = outcome.summary()?;
    let snapshots = outcome.snapshots();
    ensure!(
        (5..=6).contains(&snapshots.len()),
        "{} snapshots in 5 s of 1 s each",
        snapshots.len()
    );
    laws::sum_up(&snapshots, summary)?;
    ensure!(
        summary.monitor.events_lost == 0,
        "{} events lost, so nothing can be said about unknown time",
        summary.monitor.events_lost
    );
    for report in &outcome.reports {
        laws::nothing_unknown(report)?;
        let process = report.process(workload.pid())?;
        for tid in &tids {
            let wall = process.thread(*tid)?.ledger.wall_ns;
            let window = report.window.duration_ns;
            // The first window also holds the attaching.
            ensure!(
                wall.abs_diff(window) <= 100_000_000,
                "{}: thread {tid} has {wall} ns in a window of {window} ns",
                report.kind
            );
        }
    }
    Ok(())
}
