//! Many short threads and processes inside one window: all are counted.

use std::collections::HashMap;

use anyhow::{Result, ensure};
use concmon_tests::clocks::unix_minus_monotonic;
use concmon_tests::harness::quiet;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::laws;
use concmon_tests::report::Report;
use concmon_tests::watch::{PATIENCE, Watch};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;
use serde::Deserialize;
use serde_json::json;

use crate::watch_python;

const THREADS: u64 = 1000;
const PROCESSES: u64 = 200;

pub(crate) fn trials() -> Vec<Trial> {
    ["3.11", "3.13"]
        .into_iter()
        .map(|version| {
            quiet(
                format!("churn::all_threads_and_processes_are_counted::py{version}"),
                &watch_python(version),
                move || all_are_counted(version),
            )
        })
        .collect()
}

#[derive(Deserialize)]
struct Account {
    began_ns: i64,
    ended_ns: i64,
    /// Thread id, its CPU clock at its end in ns.
    threads: Vec<(u32, u64)>,
    processes: Vec<u32>,
}

fn all_are_counted(version: &str) -> Result<()> {
    let mut workload = Workload::start(&Interpreter::find(version)?, "churn.py", &[])?;
    let pid = workload.pid();
    let mut watch = Watch::pid(pid, "8s", None)?;
    watch.next(PATIENCE)?;
    let account = workload.ask(
        &json!({ "threads": THREADS, "processes": PROCESSES }),
        "churn",
    )?;
    let account: Account = serde_json::from_value(account)?;
    let window = watch.next(PATIENCE)?;
    let outcome = watch.interrupt()?;

    let offset = unix_minus_monotonic();
    let (began, ended) = (account.began_ns + offset, account.ended_ns + offset);
    ensure!(
        window.window.start_unix_ns as i64 <= began && ended <= window.window.end_unix_ns() as i64,
        "the churn took {} ms and was not inside one window: no test",
        (ended - began) / 1_000_000
    );
    ensure!(
        account.threads.len() as u64 == THREADS && account.processes.len() as u64 == PROCESSES,
        "the workload did less than it was told"
    );
    for report in [&window, outcome.summary()?] {
        all_in(report, pid, &account)?;
    }
    laws::sum_up(&outcome.snapshots(), outcome.summary()?)
}

fn all_in(report: &Report, pid: u32, account: &Account) -> Result<()> {
    let target = report.process(pid)?;
    let threads = target.threads.len() as u64 + target.ended.threads;
    ensure!(
        threads == THREADS + 1,
        "{}: {} thread rows and {} folded, there were {THREADS} and the main thread",
        report.kind,
        target.threads.len(),
        target.ended.threads
    );
    let rows = report.processes.len() as u64 - 1;
    let folded: u64 = report.processes.iter().map(|p| p.ended.processes).sum();
    ensure!(
        rows + folded == PROCESSES,
        "{}: {rows} process rows and {folded} folded, there were {PROCESSES}",
        report.kind
    );
    for child in report.processes.iter().filter(|p| p.pid != pid) {
        ensure!(
            account.processes.contains(&child.pid),
            "{}: process {} was never started",
            report.kind,
            child.pid
        );
        ensure!(
            child.exited.is_some_and(|e| e.code == Some(0)),
            "{}: process {} ended with 0, reported is {:?}",
            report.kind,
            child.pid,
            child.exited
        );
        ensure!(
            child.threads.len() as u64 + child.ended.threads == 1,
            "{}: process {} had one thread",
            report.kind,
            child.pid
        );
    }
    let own: HashMap<u32, u64> = account.threads.iter().copied().collect();
    for thread in target.threads.iter().filter(|t| t.tid != pid) {
        let Some(cpu) = own.get(&thread.tid).copied() else {
            anyhow::bail!("{}: thread {} was never started", report.kind, thread.tid);
        };
        ensure!(
            !thread.alive,
            "{}: thread {} has ended",
            report.kind,
            thread.tid
        );
        let on_cpu = thread.ledger.on_cpu_ns;
        // After its last look at its clock a thread only ends.
        ensure!(
            (cpu..cpu + 2_000_000).contains(&on_cpu),
            "{}: thread {} was on a CPU for {on_cpu} ns, its own clock said {cpu} at its end",
            report.kind,
            thread.tid
        );
    }
    Ok(())
}
