//! Waiting for the GIL, against threads that time their own way back to it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::{Inconclusive, case};
use concmon_tests::interpreter::Interpreter;
use concmon_tests::laws;
use concmon_tests::report::{Gil, Report};
use concmon_tests::watch::{Outcome, PATIENCE, Watch};
use concmon_tests::workload::{Workload, programs};
use libtest_mimic::Trial;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::watch_python;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for version in ["3.8", "3.11", "3.12", "3.13"] {
        trials.push(case(
            format!("gil::victims_and_report_agree_and_the_hog_is_named::py{version}"),
            &watch_python(version),
            move || the_hog_is_named(version),
        ));
    }
    for version in ["3.11", "3.13"] {
        trials.push(case(
            format!("gil::a_holder_that_sleeps_in_c_is_named::py{version}"),
            &watch_python(version),
            move || a_sleeping_holder_is_named(version),
        ));
    }
    trials
}

#[derive(Deserialize)]
struct Victim {
    tid: u32,
    wait_ns: u64,
    count: u64,
}

/// What the workload says, and what the tool said.
struct Told {
    hog: u32,
    victims: Vec<Victim>,
    /// What a call takes when nobody else wants the GIL.
    call_ns: u64,
    outcome: Outcome,
    pid: u32,
}

impl Told {
    fn gil<'a>(&self, report: &'a Report) -> Result<&'a Gil> {
        let process = report.process(self.pid)?;
        process.gil.as_ref().context("the process has a GIL")
    }

    fn is_victim(&self, tid: u32) -> bool {
        self.victims.iter().any(|victim| victim.tid == tid)
    }
}

/// Compiles the function that reads the clock where it has no GIL.
fn library() -> Result<(TempDir, PathBuf)> {
    let folder = tempfile::Builder::new().prefix("concmon-gil-").tempdir()?;
    let library = folder.path().join("gil_wait.so");
    let status = Command::new("cc")
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(programs().join("gil_wait.c"))
        .status()
        .context("running cc")?;
    ensure!(status.success(), "cc: {status}");
    Ok((folder, library))
}

fn watch(version: &str, command: &Value) -> Result<Told> {
    let (_folder, library) = library()?;
    let library = library.to_string_lossy();
    let python = Interpreter::find(version)?;
    let mut workload = Workload::start(&python, "gil_wait.py", &[&library, "5"])?;
    let pid = workload.pid();
    let mut watch = Watch::pid(pid, "1s", None)?;
    watch.next(PATIENCE)?;
    let waited = workload.ask(command, "waited")?;
    std::thread::sleep(Duration::from_millis(200));
    let outcome = watch.interrupt()?;
    laws::sum_up(&outcome.snapshots(), outcome.summary()?)?;
    Ok(Told {
        hog: workload.said("hog")?,
        victims: serde_json::from_value(waited["victims"].clone())?,
        call_ns: serde_json::from_value(waited["call_ns"].clone())?,
        outcome,
        pid,
    })
}

/// Each victim's own account, within 3 % or 2 ms.
fn agrees(told: &Told, gil: &Gil) -> Result<()> {
    let lost = told.outcome.summary()?.monitor.events_lost;
    if lost > 0 {
        return Err(Inconclusive(format!("{lost} records were lost")).into());
    }
    let process = told.outcome.summary()?.process(told.pid)?;
    let (mut all_own, mut all_told) = (0, 0);
    for victim in &told.victims {
        let own = victim.wait_ns.saturating_sub(victim.count * told.call_ns);
        let ours = gil.waited_ns(|pair| pair.victim_tid == victim.tid);
        // Its own account goes on until it has a CPU.
        let mut threads = process.threads.iter();
        let thread = threads.find(|thread| thread.tid == victim.tid);
        let runnable = thread.context("the victim")?.ledger.runnable_ns;
        let slack = (own / 100 * 3).max(2_000_000);
        ensure!(
            ours <= own + slack && own <= ours + runnable + slack,
            "victim {}: waited {own} ns by its own account, {ours} ns by the report, {runnable} ns runnable",
            victim.tid
        );
        (all_own, all_told) = (all_own + own, all_told + ours);
    }
    ensure!(all_own > 1_000_000_000, "they waited only {all_own} ns");
    eprintln!("  victims waited {all_own} ns by their account, {all_told} ns by the report");
    Ok(())
}

/// The hog has the largest part of what the victims waited; the share of `null` is printed.
fn names_the_hog(told: &Told, gil: &Gil) -> Result<(u64, u64)> {
    let largest = gil
        .pairs
        .iter()
        .filter(|pair| told.is_victim(pair.victim_tid));
    let largest = largest.max_by_key(|pair| pair.wait_ns).context("no pair")?;
    ensure!(
        largest.holder_tid == Some(told.hog),
        "the largest pair is {largest:?}, the hog is {}",
        told.hog
    );
    let of =
        |holder| gil.waited_ns(|pair| pair.holder_tid == holder && told.is_victim(pair.victim_tid));
    let all = gil.waited_ns(|pair| told.is_victim(pair.victim_tid));
    let (hog, nobody) = (of(Some(told.hog)), of(None));
    eprintln!(
        "  {:.1} % for the hog, {:.1} % for nobody known",
        hog as f64 * 100.0 / all as f64,
        nobody as f64 * 100.0 / all as f64
    );
    Ok((hog, all))
}

/// All that threads' accounts have as blocked on the GIL, within 1 % or 1 ms: threads that lived for a moment have no row.
pub(crate) fn counts_in_its_window(report: &Report, pid: u32) -> Result<()> {
    let process = report.process(pid)?;
    let blocked = process.threads.iter().map(|t| t.ledger.blocked_ns.gil);
    let blocked: u64 = blocked.sum();
    let gil = process.gil.as_ref().context("the process has a GIL")?;
    let wait_ns = gil.wait_ns.context("wait_ns")?;
    ensure!(
        wait_ns.abs_diff(blocked) <= (blocked / 100).max(1_000_000),
        "waited {wait_ns} ns; {blocked} ns blocked"
    );
    Ok(())
}

fn the_hog_is_named(version: &str) -> Result<()> {
    let told = watch(version, &json!({ "hog": 4 }))?;
    let summary = told.outcome.summary()?;
    let gil = told.gil(summary)?;
    agrees(&told, gil)?;
    let (hog, all) = names_the_hog(&told, gil)?;
    ensure!(hog >= all / 100 * 70, "{hog} of {all} ns are the hog's");
    let most = gil.waiters_max.context("waiters_max")?;
    ensure!((3..=7).contains(&most), "{most} waited at once");

    for report in told.outcome.snapshots().iter().chain([summary]) {
        counts_in_its_window(report, told.pid)?;
    }
    // While the hog computes, the GIL is hardly ever free.
    let snapshots = told.outcome.snapshots();
    let used = snapshots
        .iter()
        .filter_map(|s| told.gil(s).ok()?.utilization);
    let used = used.fold(0.0, f64::max);
    ensure!(used >= 0.6, "held for {used} of a window at most");
    let switches = gil.switches.context("switches")?;
    ensure!(
        switches >= told.victims.len() as u64 * 10,
        "{switches} switches"
    );
    Ok(())
}

fn a_sleeping_holder_is_named(version: &str) -> Result<()> {
    let told = watch(version, &json!({ "hog": 0.2, "hold": 4 }))?;
    let gil = told.gil(told.outcome.summary()?)?;
    agrees(&told, gil)?;
    let (hog, all) = names_the_hog(&told, gil)?;
    ensure!(hog >= all / 100 * 60, "{hog} of {all} ns are the hog's");
    for report in told.outcome.snapshots() {
        counts_in_its_window(&report, told.pid)?;
    }
    // It was told while it went on, not only when it ended.
    let snapshots = told.outcome.snapshots();
    let told_in = snapshots.iter().filter_map(|s| told.gil(s).ok()?.wait_ns);
    let windows = told_in.filter(|ns| *ns > 500_000_000).count();
    ensure!(windows >= 2, "told in {windows} windows only");
    Ok(())
}
