//! On-CPU time against each thread's own CPU clock, and the process's.

use anyhow::{Context, Result, ensure};
use concmon_tests::clocks;
use concmon_tests::harness::Inconclusive;
use concmon_tests::harness::{case, goal};
use concmon_tests::interpreter::Interpreter;
use concmon_tests::report::Report;
use concmon_tests::watch::{Outcome, PATIENCE, Watch};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;

use crate::watch_python;

/// What must hold: 1 % or 2 ms.
const MUST: (i64, i64) = (100, 2_000_000);
/// What is wanted: 0.1 % or 100 µs.
const GOAL: (i64, i64) = (1_000, 100_000);

/// One thread that has a CPU for itself, two that switch as often as they can, and everything together.
const KINDS: [&[&str]; 3] = [
    &["busy"],
    &["pipe-pair"],
    &[
        "busy",
        "sleeper",
        "half-busy",
        "pipe-pair",
        "condition-pair",
    ],
];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for version in ["3.11", "3.13"] {
        for kinds in KINDS {
            let name = kinds.join("+");
            trials.push(case(
                format!("on_cpu::equals_the_threads_own_clock::{name}::py{version}"),
                &watch_python(version),
                move || equals_the_threads_own_clock(version, kinds),
            ));
        }
        trials.push(case(
            format!("on_cpu::two_monitors_are_both_right::py{version}"),
            &watch_python(version),
            move || two_monitors_are_both_right(version),
        ));
    }
    trials
}

fn equals_the_threads_own_clock(version: &str, kinds: &[&str]) -> Result<()> {
    let mut workload = Workload::start(&Interpreter::find(version)?, "clocks.py", kinds)?;
    let outcome = Watch::pid(workload.pid(), "1s", Some("4s"))?
        .finish(PATIENCE)?
        .ok()?;
    compare(&mut workload, &outcome)
}

fn two_monitors_are_both_right(version: &str) -> Result<()> {
    let mut workload = Workload::start(
        &Interpreter::find(version)?,
        "clocks.py",
        &["busy", "sleeper"],
    )?;
    let first = Watch::pid(workload.pid(), "1s", Some("4s"))?;
    let second = Watch::pid(workload.pid(), "1s", Some("4s"))?;
    let (first, second) = (
        first.finish(PATIENCE)?.ok()?,
        second.finish(PATIENCE)?.ok()?,
    );
    compare(&mut workload, &first).context("first monitor")?;
    compare(&mut workload, &second).context("second monitor")
}

/// The stretch of one report's row: instant numbers of its beginning and its end.
struct Stretch<'a> {
    report: &'a Report,
    tid: Option<u32>,
    on_cpu_ns: i64,
    from: usize,
    to: usize,
}

fn compare(workload: &mut Workload, outcome: &Outcome) -> Result<()> {
    let (stretches, instants) = stretches(workload.pid(), outcome)?;
    let answer = clocks::ask(workload, &instants)?;
    let (mut worst, mut reached, mut compared) = (0, true, 0);
    for stretch in &stretches {
        let (bounds, name) = match stretch.tid {
            None => (
                answer.process(stretch.from, stretch.to)?,
                "all threads".to_owned(),
            ),
            Some(tid) => {
                // The main thread only waits for commands: it hardly ever reads its own clock.
                let thread = answer.threads.iter().find(|t| t.tid == tid);
                let Some(thread) = thread.filter(|thread| thread.name != "MainThread") else {
                    continue;
                };
                (
                    answer.thread(thread, stretch.from, stretch.to)?,
                    thread.name.clone(),
                )
            }
        };
        compared += 1;
        let what = format!("{} {name}", stretch.report.kind);
        let allowed = |(part, at_least): (i64, i64)| (bounds.middle() / part).max(at_least);
        if bounds.width() > allowed(MUST) {
            let width = bounds.width();
            return Err(Inconclusive(format!(
                "{what}: the workload knows its clock to {width} ns"
            ))
            .into());
        }
        let miss = bounds.miss(stretch.on_cpu_ns);
        ensure!(
            miss <= allowed(MUST),
            "{what}: on-CPU {} ns, its own clock says {}..{} ns: off by {miss} ns",
            stretch.on_cpu_ns,
            bounds.low,
            bounds.high
        );
        reached &= miss <= allowed(GOAL);
        worst = worst.max(miss);
    }
    ensure!(
        compared > outcome.reports.len(),
        "only {compared} stretches could be compared"
    );
    goal(
        "on-CPU within 0.1 % or 100 us of the thread's own clock",
        reached,
        &format!("worst of {compared}: {worst} ns"),
    );
    Ok(())
}

/// Every thread's row of every report, and the sum of each report's rows. A row's stretch ends
/// with the window and is as long as the row's wall time.
fn stretches(pid: u32, outcome: &Outcome) -> Result<(Vec<Stretch<'_>>, Vec<u64>)> {
    let mut stretches = Vec::new();
    let mut instants = Vec::new();
    let mut stretch = |report, tid, on_cpu_ns: u64, from_unix_ns, to_unix_ns| {
        instants.extend([from_unix_ns, to_unix_ns]);
        stretches.push(Stretch {
            report,
            tid,
            on_cpu_ns: on_cpu_ns as i64,
            from: instants.len() - 2,
            to: instants.len() - 1,
        });
    };
    for report in &outcome.reports {
        let end = report.window.end_unix_ns();
        let process = report.process(pid)?;
        for thread in &process.threads {
            let ledger = &thread.ledger;
            stretch(
                report,
                Some(thread.tid),
                ledger.on_cpu_ns,
                end - ledger.wall_ns,
                end,
            );
        }
        let longest = process.threads.iter().map(|t| t.ledger.wall_ns).max();
        let sum: u64 = process.threads.iter().map(|t| t.ledger.on_cpu_ns).sum();
        let begin = end - longest.context("no threads")?;
        stretch(
            report,
            None,
            sum + process.ended.ledger.on_cpu_ns,
            begin,
            end,
        );
    }
    Ok((stretches, instants))
}
