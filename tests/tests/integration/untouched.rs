//! The target is never stopped, and does not switch more because it is watched.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use concmon_tests::harness::case;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::proc;
use concmon_tests::watch::{PATIENCE, Watch};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;

use crate::watch_python;

/// A thread may switch this much more often while it is watched.
const RATIO: f64 = 1.05;
/// What a thread that hardly switches may switch more, per second.
const PER_SECOND: f64 = 5.0;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for version in ["3.11", "3.13"] {
        trials.push(case(
            format!("untouched::never_traced_or_stopped::py{version}"),
            &watch_python(version),
            move || never_traced_or_stopped(version),
        ));
        trials.push(case(
            format!("untouched::switches_no_more_than_alone::py{version}"),
            &watch_python(version),
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

fn switches_no_more_than_alone(version: &str) -> Result<()> {
    let workload = Workload::start(
        &Interpreter::find(version)?,
        "clocks.py",
        &["sleeper", "half-busy"],
    )?;
    let pid = workload.pid();
    let mut alone = BTreeMap::new();
    let mut watched = BTreeMap::new();
    for _ in 0..3 {
        rate(pid, &mut alone)?;
        let mut watch = Watch::pid(pid, "200ms", None)?;
        watch.next(PATIENCE)?;
        rate(pid, &mut watched)?;
        watch.interrupt()?;
    }
    for (tid, alone) in &alone {
        let (alone, watched) = (alone / 3.0, watched.get(tid).copied().unwrap_or(0.0) / 3.0);
        ensure!(
            watched <= alone * RATIO + PER_SECOND,
            "thread {tid}: {watched:.1} voluntary switches a second when watched, {alone:.1} alone"
        );
    }
    Ok(())
}

/// Adds the voluntary switches a second of every thread, measured over two seconds.
fn rate(pid: u32, rates: &mut BTreeMap<u32, f64>) -> Result<()> {
    let before = proc::voluntary_switches(pid)?;
    let began = Instant::now();
    std::thread::sleep(Duration::from_secs(2));
    let after = proc::voluntary_switches(pid)?;
    let seconds = began.elapsed().as_secs_f64();
    for (tid, count) in after {
        let grown = count - before.get(&tid).copied().unwrap_or(0);
        *rates.entry(tid).or_insert(0.0) += grown as f64 / seconds;
    }
    Ok(())
}
