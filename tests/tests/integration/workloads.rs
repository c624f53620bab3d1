//! The workloads themselves: they run on every supported Python and give their account.

use anyhow::{Context, Result, ensure};
use concmon_tests::clocks;
use concmon_tests::harness::Inconclusive;
use concmon_tests::harness::quiet;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::needs::Need;
use concmon_tests::spawn::code;
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Every Python version that is supported.
pub(crate) const VERSIONS: [&str; 8] =
    ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15"];

pub(crate) fn trials() -> Vec<Trial> {
    VERSIONS
        .into_iter()
        .map(|version| {
            quiet(
                format!("workloads::give_their_account::py{version}"),
                &[Need::Python(version)],
                move || give_their_account(version),
            )
        })
        .collect()
}

fn give_their_account(version: &str) -> Result<()> {
    let python = Interpreter::find(version)?;
    for (program, args) in [
        ("names.py", &[][..]),
        ("process.py", &[]),
        ("causes.py", &[]),
        ("gil.py", &["4"]),
    ] {
        let mut workload = Workload::start(&python, program, args)?;
        let status = workload.end()?;
        ensure!(code(status) == 0, "{program}: exit code {}", code(status));
    }
    bursts(&python)?;
    churns(&python)?;
    knows_its_clocks(&python)
}

fn bursts(python: &Interpreter) -> Result<()> {
    let mut workload = Workload::start(python, "burst.py", &[])?;
    let answer = workload.ask(&json!({ "burst": 10 }), "burst")?;
    ensure!(answer["cycles"] == 10, "{answer}");
    Ok(())
}

fn churns(python: &Interpreter) -> Result<()> {
    let mut workload = Workload::start(python, "churn.py", &[])?;
    let answer = workload.ask(&json!({ "threads": 40, "processes": 4 }), "churn")?;
    let len = |field: &str| answer[field].as_array().map(Vec::len);
    ensure!(
        len("threads") == Some(40) && len("processes") == Some(4),
        "{answer}"
    );
    Ok(())
}

/// The clocks are known to 1 % or 2 ms, and a busy thread's is as fast as its share of time.
fn knows_its_clocks(python: &Interpreter) -> Result<()> {
    let kinds = [
        "busy",
        "sleeper",
        "half-busy",
        "pipe-pair",
        "condition-pair",
    ];
    let mut workload = Workload::start(python, "clocks.py", &kinds)?;
    let threads: Vec<Value> = workload.said("threads")?;
    let from = now()?;
    std::thread::sleep(Duration::from_millis(500));
    let to = now()?;
    std::thread::sleep(Duration::from_millis(100));
    let answer = clocks::ask(&mut workload, &[from, to])?;
    ensure!(answer.threads.len() == threads.len(), "a clock is missing");
    for thread in &answer.threads {
        let bounds = answer.thread(thread, 0, 1)?;
        if bounds.width() > 2_000_000 {
            return Err(Inconclusive(format!("{}: {bounds:?}", thread.name)).into());
        }
        ensure!(
            bounds.low <= (to - from) as i64,
            "{}: {bounds:?} in {} ns",
            thread.name,
            to - from
        );
        if thread.name == "busy" {
            ensure!(bounds.high > 10_000_000, "busy: {bounds:?}");
        }
    }
    let process = answer.process(0, 1)?;
    ensure!(process.low > 0, "process: {process:?}");
    Ok(())
}

fn now() -> Result<u64> {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?;
    Ok(since.as_nanos() as u64)
}
