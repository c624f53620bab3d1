//! What time on locks was good for, against pools that are idle and threads that are in the way.

use anyhow::{Result, ensure};
use concmon_tests::harness::quiet;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::report::LockNs;
use concmon_tests::watch::{PATIENCE, Watch};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;

use crate::watch_python;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for version in ["3.8", "3.11", "3.13", "3.14", "3.15"] {
        trials.push(quiet(
            format!("locks::an_idle_pool_waits_for_work::py{version}"),
            &watch_python(version),
            move || an_idle_pool_waits_for_work(version),
        ));
        for kind in ["Lock", "RLock"] {
            trials.push(quiet(
                format!("locks::a_convoy_is_contended::{kind}::py{version}"),
                &watch_python(version),
                move || a_convoy_is_contended(version, kind),
            ));
        }
    }
    trials
}

/// The lock column of the workload's threads over a watch of 4 s, and their wall time.
fn watched(version: &str, args: &[&str]) -> Result<(LockNs, u64)> {
    let workload = Workload::start(&Interpreter::find(version)?, "locks.py", args)?;
    let tids: Vec<u32> = workload.said("threads")?;
    let outcome = Watch::pid(workload.pid(), "500ms", Some("4s"))?
        .finish(PATIENCE)?
        .ok()?;
    let process = outcome.summary()?.process(workload.pid())?;
    let (mut lock, mut wall) = (LockNs::default(), 0);
    for tid in tids {
        let thread = process.thread(tid)?;
        lock.add(&thread.lock_ns);
        wall += thread.ledger.wall_ns;
    }
    Ok((lock, wall))
}

fn an_idle_pool_waits_for_work(version: &str) -> Result<()> {
    let (lock, wall) = watched(version, &["pool", "40"])?;
    ensure!(lock.total() >= wall / 100 * 95, "{lock:?} of {wall}");
    ensure!(lock.waiting_for_work >= lock.total() / 100 * 95, "{lock:?}");
    ensure!(lock.contended <= lock.total() / 100, "{lock:?}");
    Ok(())
}

fn a_convoy_is_contended(version: &str, kind: &str) -> Result<()> {
    let (lock, wall) = watched(version, &["convoy", "8", kind])?;
    // Seven of eight wait for the one that has it.
    ensure!(lock.total() >= wall / 2, "{lock:?} of {wall}");
    ensure!(lock.contended >= lock.total() / 100 * 90, "{lock:?}");
    ensure!(lock.waiting_for_work <= lock.total() / 100, "{lock:?}");
    Ok(())
}
