//! Wakeup latency against the kernel's own count of voluntary switches.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::case;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::proc;
use concmon_tests::spawn::Hogs;
use concmon_tests::watch::{PATIENCE, Watch};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;
use serde_json::json;

use crate::watch_python;

pub(crate) fn trials() -> Vec<Trial> {
    ["3.11", "3.13"]
        .into_iter()
        .map(|version| {
            case(
                format!("wakeup::counts_equal_voluntary_switches_beside_hogs::py{version}"),
                &watch_python(version),
                // Beside hogs, a thread may not be parked yet when its switches are read first.
                move || counts_equal_voluntary_switches(version),
            )
        })
        .collect()
}

fn counts_equal_voluntary_switches(version: &str) -> Result<()> {
    let mut workload = Workload::start(&Interpreter::find(version)?, "burst.py", &[])?;
    let pid = workload.pid();
    let _hogs = Hogs::start(2)?;
    let mut watch = Watch::pid(pid, "1s", None)?;
    watch.next(PATIENCE)?;
    // All threads are parked now, and again after the answer.
    let before = proc::voluntary_switches(pid)?;
    workload.ask(&json!({ "burst": 1000 }), "burst")?;
    let after = proc::voluntary_switches(pid)?;
    std::thread::sleep(Duration::from_millis(200));
    let outcome = watch.interrupt()?;

    let process = outcome.summary()?.process(pid)?;
    ensure!(after.len() >= 5, "only {} threads", after.len());
    for (tid, after) in &after {
        let grown = after - before.get(tid).context("a thread that was not there")?;
        let thread = process.thread(*tid)?;
        let seen = thread.wakeup_latency.count;
        ensure!(
            seen.abs_diff(grown) <= 2,
            "thread {tid}: {seen} wakeups, the kernel counted {grown} voluntary switches"
        );
        let switches = thread.switches.voluntary;
        ensure!(
            switches.abs_diff(grown) <= 2,
            "thread {tid}: {switches} voluntary switches, the kernel counted {grown}"
        );
        ensure!(
            thread.wakeup_latency.sum_ns <= thread.ledger.runnable_ns,
            "thread {tid}: wakeup latencies are more than runnable"
        );
    }
    let busiest = process.threads.iter().map(|t| t.wakeup_latency.count).max();
    ensure!(busiest >= Some(100), "nothing happened: {busiest:?}");
    Ok(())
}
