//! Why threads were blocked, against threads that do one thing only.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::{case, quiet};
use concmon_tests::interpreter::Interpreter;
use concmon_tests::watch::{PATIENCE, Watch};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;
use serde::Deserialize;

use crate::watch_python;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for version in ["3.11", "3.13"] {
        trials.push(quiet(
            format!("causes::each_thread_has_its_own::py{version}"),
            &watch_python(version),
            move || each_thread_has_its_own(version),
        ));
        trials.push(quiet(
            format!("causes::a_stop_changes_none::py{version}"),
            &watch_python(version),
            move || a_stop_changes_none(version),
        ));
        trials.push(case(
            format!("causes::cpu_bound_threads_wait_for_the_gil::py{version}"),
            &watch_python(version),
            move || cpu_bound_threads_wait_for_the_gil(version),
        ));
    }
    trials
}

#[derive(Deserialize)]
struct Expected {
    tid: u32,
    name: String,
    cause: String,
}

fn each_thread_has_its_own(version: &str) -> Result<()> {
    let workload = Workload::start(&Interpreter::find(version)?, "causes.py", &[])?;
    let expected: Vec<Expected> = workload.said("expected")?;
    let outcome = Watch::pid(workload.pid(), "1s", Some("6s"))?
        .finish(PATIENCE)?
        .ok()?;
    let process = outcome.summary()?.process(workload.pid())?;
    let mut wrong = Vec::new();
    for Expected { tid, name, cause } in &expected {
        let blocked = process.thread(*tid)?.ledger.blocked_ns;
        let right = blocked.by_name(cause).context("no such cause")?;
        let all = blocked.total() - blocked.gil;
        ensure!(all > 1_000_000_000, "{name} blocked only {all} ns in 6 s");
        // 95 % of what is not waiting for the GIL.
        if right < all / 100 * 95 {
            wrong.push(format!(
                "{name}: {right} of {all} ns are {cause}: {blocked:?}"
            ));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// A call with a time goes on under another number after a stop: before the watch, and during it.
fn a_stop_changes_none(version: &str) -> Result<()> {
    let workload = Workload::start(&Interpreter::find(version)?, "restarts.py", &[])?;
    let expected: Vec<Expected> = workload.said("expected")?;
    let stop = || {
        workload.signal(libc::SIGSTOP);
        std::thread::sleep(Duration::from_millis(300));
        workload.signal(libc::SIGCONT);
        std::thread::sleep(Duration::from_millis(100));
    };
    let restarted = || {
        let call = |thread: &&Expected| {
            let (pid, tid) = (workload.pid(), thread.tid);
            let call = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall"));
            call.is_ok_and(|call| call.starts_with(&format!("{} ", libc::SYS_restart_syscall)))
        };
        expected.iter().filter(call).count()
    };
    stop();
    ensure!(restarted() >= 5, "only {} calls go on", restarted());
    let watch = Watch::pid(workload.pid(), "1s", Some("5s"))?;
    std::thread::sleep(Duration::from_secs(3));
    stop();
    let outcome = watch.finish(PATIENCE)?.ok()?;
    let process = outcome.summary()?.process(workload.pid())?;
    for Expected { tid, name, cause } in &expected {
        let blocked = process.thread(*tid)?.ledger.blocked_ns;
        let right = blocked.by_name(cause).context("no such cause")?;
        let stopped = blocked.by_name("stopped").context("no such cause")?;
        let all = blocked.total() - stopped;
        ensure!(all > 3_000_000_000, "{name} blocked only {all} ns in 5 s");
        ensure!(
            right >= all / 100 * 99,
            "{name}: {right} of {all} ns are {cause}: {blocked:?}"
        );
    }
    Ok(())
}

fn cpu_bound_threads_wait_for_the_gil(version: &str) -> Result<()> {
    let workload = Workload::start(&Interpreter::find(version)?, "gil.py", &["4"])?;
    let fighters: Vec<u32> = workload.said("fighters")?;
    let outcome = Watch::pid(workload.pid(), "1s", Some("5s"))?
        .finish(PATIENCE)?
        .ok()?;
    let process = outcome.summary()?.process(workload.pid())?;
    let (mut gil, mut off_cpu, mut runnable) = (0, 0, 0);
    for tid in fighters {
        let ledger = &process.thread(tid)?.ledger;
        gil += ledger.blocked_ns.gil;
        off_cpu += ledger.wall_ns - ledger.on_cpu_ns;
        runnable += ledger.runnable_ns;
    }
    // Whoever has waited for the GIL long enough then waits for a CPU, which others may use.
    let waited = off_cpu - runnable;
    ensure!(
        gil >= waited / 100 * 98 && gil >= off_cpu / 2,
        "{gil} of {off_cpu} ns off-CPU are GIL waits, {runnable} ns runnable"
    );
    Ok(())
}
