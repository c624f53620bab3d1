//! The target is never stopped, and does not switch more because it is watched.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::{case, quiet};
use concmon_tests::interpreter::Interpreter;
use concmon_tests::proc;
use concmon_tests::watch::{PATIENCE, Watch};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::watch_python;

/// Cycles of each thread in one burst.
const CYCLES: u64 = 1000;
/// Bursts alone, and bursts watched.
const ROUNDS: u64 = 3;
/// A thread may switch this much more often while it is watched.
const RATIO: f64 = 1.05;
/// What a thread that hardly switches may switch more: the main thread gives the commands, and
/// what it waits for the GIL meanwhile varies.
const FEW: f64 = 30.0;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for version in ["3.11", "3.13"] {
        trials.push(quiet(
            format!("untouched::never_traced_or_stopped::py{version}"),
            &watch_python(version),
            move || never_traced_or_stopped(version),
        ));
        trials.push(case(
            format!("untouched::switches_no_more_than_alone::py{version}"),
            &watch_python(version),
            // What the main thread waits for the GIL meanwhile varies with what else runs.
            move || switches_no_more_than_alone(version),
        ));
    }
    trials
}

fn never_traced_or_stopped(version: &str) -> Result<()> {
    // A program with much to read in it, so that reading takes its time.
    let workload = Workload::start(&Interpreter::find(version)?, "names.py", &[])?;
    let pid = workload.pid();
    let mut watch = Watch::pid(pid, "200ms", Some("3s"))?;
    let mut looks = 0;
    while watch.running()? {
        let tracer = proc::status(pid, "TracerPid")?;
        ensure!(tracer == 0, "process {tracer} traces the target");
        let states = proc::states(pid)?;
        ensure!(
            !states.iter().any(|state| matches!(state, 't' | 'T')),
            "a thread of the target is stopped: {states:?}"
        );
        looks += 1;
        std::thread::sleep(Duration::from_micros(500));
    }
    watch.finish(PATIENCE)?.ok()?;
    ensure!(looks > 100, "only {looks} looks: no test");
    Ok(())
}

/// Switches are compared for equal work, not for equal time: how often a thread sleeps in a
/// second depends on how deep the machine's CPUs sleep, and any second program changes that.
/// The work is sleeping, because each sleep is one switch; whether a read from a pipe blocks
/// depends on who was faster.
fn switches_no_more_than_alone(version: &str) -> Result<()> {
    let mut workload = Workload::start(&Interpreter::find(version)?, "burst.py", &["sleepers"])?;
    let mut alone = BTreeMap::new();
    let mut watched = BTreeMap::new();
    for _ in 0..ROUNDS {
        burst(&mut workload, &mut alone)?;
        let mut watch = Watch::pid(workload.pid(), "200ms", None)?;
        watch.next(PATIENCE)?;
        burst(&mut workload, &mut watched)?;
        watch.interrupt()?;
    }
    ensure!(
        alone.values().any(|count| *count >= CYCLES * ROUNDS),
        "nothing happened: {alone:?}"
    );
    let threads: Vec<Value> = workload.said("threads")?;
    let idle = threads
        .iter()
        .find(|thread| thread["name"] == "idle")
        .and_then(|thread| thread["tid"].as_u64())
        .context("no idle thread")? as u32;
    ensure!(
        watched.get(&idle) == Some(&0),
        "the thread that never runs switched: {:?}",
        watched.get(&idle)
    );
    for (tid, alone) in &alone {
        let watched = watched.get(tid).copied().unwrap_or(0);
        ensure!(
            watched as f64 <= *alone as f64 * RATIO + FEW,
            "thread {tid}: {watched} voluntary switches when watched, {alone} for the same work alone"
        );
    }
    Ok(())
}

/// Adds the voluntary switches of every thread during one burst.
fn burst(workload: &mut Workload, switches: &mut BTreeMap<u32, u64>) -> Result<()> {
    let before = proc::voluntary_switches(workload.pid())?;
    workload.ask(&json!({ "burst": CYCLES }), "burst")?;
    for (tid, count) in proc::voluntary_switches(workload.pid())? {
        let grown = count - before.get(&tid).copied().unwrap_or(0);
        *switches.entry(tid).or_insert(0) += grown;
    }
    Ok(())
}
