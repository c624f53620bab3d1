//! Servers as people run them under load: a healthy one raises nothing, a sick handler the right finding.
//!
//! `CONCMON_HEALTHY=SECONDS` watches each server for so long (`cargo xtask healthy`); else there is one, for a moment. It watches
//! the table of sick and healthy programs, too, for their exit codes.

mod exit_codes;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::case;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::load::{Load, Plan};
use concmon_tests::packages;
use concmon_tests::report::{Finding, Report};
use concmon_tests::told::{THRESHOLD_NS, made_up};
use concmon_tests::watch::{Outcome, PATIENCE, Watch};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;

use crate::watch_python;

/// Servers of `healthy.py`, what they need, and what makes them sick.
const SERVERS: [(&str, &[&str], &[&str]); 6] = [
    (
        "gunicorn",
        &["gunicorn", "uvicorn", "uvloop", "httptools"],
        LOOP,
    ),
    ("asyncio", &["uvicorn"], LOOP),
    ("uvloop", &["uvicorn", "uvloop", "httptools"], LOOP),
    ("aiohttp", &["aiohttp"], LOOP),
    (
        "trio",
        &["hypercorn", "trio"],
        &["/sick/sleep", "/sick/lock"],
    ),
    ("django", &["django", "gunicorn"], &["/sick/pool"]),
];
const LOOP: &[&str] = &["/sick/sleep", "/sick/lock", "/sick/pool"];
/// The one that every run of the tests watches.
const ALWAYS: &str = "gunicorn";
const VERSION: &str = "3.13";
const PATHS: &[&str] = &["/", "/rows", "/work"];
/// What is true of servers that have much to do, or too few CPUs.
const TRUE: [&str; 2] = ["loop-saturated", "cpu-starved"];
/// A sick handler is named by then: a window, what it takes to be sick, and what a busy machine adds.
const SOON: Duration = Duration::from_secs(6);

pub(crate) fn trials() -> Vec<Trial> {
    let asked = std::env::var("CONCMON_HEALTHY").ok();
    let seconds = asked.as_ref().and_then(|seconds| seconds.parse().ok());
    let mut trials = Vec::new();
    for (server, needed, sick) in SERVERS {
        if asked.is_some() || server == ALWAYS {
            let name = format!("healthy::{server}::py{VERSION}");
            let needs = watch_python(VERSION);
            trials.push(case(name, &needs, move || {
                watched(server, needed, sick, seconds.unwrap_or(5))
            }));
        }
    }
    trials.extend(seconds.map(exit_codes::trials).into_iter().flatten());
    trials
}

fn watched(
    server: &str,
    needed: &[&str],
    sick: &'static [&'static str],
    seconds: u64,
) -> Result<()> {
    let python = Interpreter::find(VERSION)?;
    let packages = packages::folder(&python, VERSION, needed)?;
    let workload = Workload::start_with(&python, Some(&packages), "healthy.py", &[server])?;
    let plan = Plan {
        port: workload.said("port")?,
        paths: PATHS,
        connections: 4,
        pause: Duration::from_millis(10),
        duration: Duration::from_secs(1),
    };
    // What is imported and built at the first requests makes a loop stand still, too.
    Load::start(plan)?.finish()?;
    let pid = workload.said("server")?;
    let mut watch = Watch::pid(pid, "1s", None)?;
    watch.next(PATIENCE)?;
    let duration = Duration::from_secs(seconds);
    let answers = Load::start(Plan { duration, ..plan })?.finish()?;
    ensure!(answers > 20 * seconds, "only {answers} answers");
    is_healthy(&watch.interrupt()?)?;
    sick.iter().try_for_each(|path| is_named(pid, plan, path))
}

fn is_healthy(outcome: &Outcome) -> Result<()> {
    // What other programs take of the CPUs is not the server's.
    let stalls = made_up(&[], &outcome.stalls, THRESHOLD_NS);
    ensure!(stalls.is_empty(), "stalls: {stalls:?}");
    for report in &outcome.reports {
        let all = report
            .processes
            .iter()
            .flat_map(|process| &process.findings);
        let findings: Vec<_> = all.filter(|found| !is_true(found, outcome)).collect();
        ensure!(findings.is_empty(), "{}: {findings:?}", report.kind);
    }
    Ok(())
}

/// A loop that stood still for want of a CPU did: whose stalls these are is judged apart.
fn is_true(found: &Finding, outcome: &Outcome) -> bool {
    let by_host = found.rule == "loop-blocked" && !outcome.stalls.is_empty();
    by_host || TRUE.contains(&found.rule.as_str())
}

/// One handler is sick, beside the load: the watch says so soon.
fn is_named(pid: u32, plan: Plan, path: &'static &'static str) -> Result<()> {
    let paths = std::slice::from_ref(path);
    let (rule, connections) = match *path {
        "/sick/pool" => ("executor-saturated", 40),
        _ => ("loop-blocked", 1),
    };
    let mut watch = Watch::pid(pid, "1s", None)?;
    watch.next(PATIENCE)?;
    let _healthy = Load::start(Plan {
        duration: SOON,
        ..plan
    })?;
    let begin = Instant::now();
    let _sick = Load::start(Plan {
        paths,
        connections,
        pause: Duration::from_millis(500),
        duration: SOON,
        ..plan
    })?;
    let has = |report: &Report| {
        let mut all = report
            .processes
            .iter()
            .flat_map(|process| &process.findings);
        all.any(|found| found.rule == rule)
    };
    while begin.elapsed() < SOON {
        if has(&watch.next(PATIENCE)?) {
            eprintln!(
                "    {path}: {rule} after {:.1} s",
                begin.elapsed().as_secs_f64()
            );
            return Ok(());
        }
    }
    let summary = watch.interrupt()?;
    let said = summary
        .summary()?
        .processes
        .iter()
        .map(|process| &process.findings);
    let said: Vec<_> = said.collect();
    Err(anyhow::anyhow!("{path}: no {rule}, but {said:?}")).context("a sick handler")
}
