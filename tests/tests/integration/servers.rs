//! A FastAPI application under load: each stall names its request, and a healthy one has none.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::case;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::load::{Load, Plan};
use concmon_tests::packages;
use concmon_tests::report::{Finding, Stall};
use concmon_tests::told::{THRESHOLD_NS, Told, made_up, told};
use concmon_tests::watch::{Outcome, PATIENCE, Watch};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;
use serde_json::json;

use crate::watch_python;

const PATHS: &[&str] = &["/items/1", "/reports", "/items/2"];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (version, on) in [("3.11", "asyncio"), ("3.13", "uvloop")] {
        trials.push(case(
            format!("servers::stalls_name_their_requests::{on}::py{version}"),
            &watch_python(version),
            move || stalls_name_their_requests(version, on),
        ));
    }
    trials.push(case(
        "servers::a_healthy_one_raises_nothing::py3.13",
        &watch_python("3.13"),
        || a_healthy_one("3.13"),
    ));
    trials
}

fn start(version: &str, on: &str, args: &[&str]) -> Result<(Workload, Plan)> {
    let python = Interpreter::find(version)?;
    let mut needed = vec!["fastapi", "uvicorn"];
    if on != "asyncio" {
        needed.push(on);
    }
    let packages = packages::folder(&python, version, &needed)?;
    let args = [&["--loop", on][..], args].concat();
    let server = Workload::start_with(&python, Some(&packages), "web.py", &args)?;
    let plan = Plan {
        port: server.said("port")?,
        paths: PATHS,
        connections: 8,
        pause: Duration::from_millis(15),
        duration: Duration::from_secs(1),
    };
    // What is imported and built at the first requests makes a loop stand still, too.
    Load::start(plan)?.finish()?;
    Ok((server, plan))
}

/// Watches the server under load for so long; the stalls that it tells, how many answers there were.
fn watch(version: &str, on: &str, args: &[&str], seconds: u64) -> Result<(Vec<Told>, Outcome)> {
    let (mut server, plan) = start(version, on, args)?;
    let before = told(&server.ask(&json!({}), "served")?["blocks"])?;
    let mut watch = Watch::pid(server.pid(), "1s", None)?;
    watch.next(PATIENCE)?;
    let duration = Duration::from_secs(seconds);
    let answers = Load::start(Plan { duration, ..plan })?.finish()?;
    ensure!(answers > 50 * seconds, "only {answers} answers");
    // The last request may go on after its client has left.
    std::thread::sleep(Duration::from_secs(1));
    let told = told(&server.ask(&json!({}), "served")?["blocks"])?;
    let outcome = watch.interrupt()?;
    Ok((told[before.len()..].to_vec(), outcome))
}

fn stalls_name_their_requests(version: &str, on: &str) -> Result<()> {
    let (told, outcome) = watch(version, on, &["--every", "0.6"], 5)?;
    ensure!(told.len() >= 5, "the server blocked {} times", told.len());
    for one in &told {
        let stall = one.found(&outcome.stalls);
        let stall = stall.with_context(|| format!("{:?} was not found", one.request_id))?;
        named(one, stall).with_context(|| format!("{:?}", one.request_id))?;
    }
    let others = made_up(&told, &outcome.stalls, THRESHOLD_NS);
    ensure!(others.is_empty(), "the server did not make {others:?}");
    Ok(())
}

fn named(told: &Told, stall: &Stall) -> Result<()> {
    let request = stall.context.get("request_id");
    ensure!(
        request == told.request_id.as_ref(),
        "its request is {request:?}"
    );
    let task = stall.task.as_ref().and_then(|task| task["name"].as_str());
    ensure!(task == told.task.as_deref(), "its task is {task:?}");
    ensure!(
        stall.coroutine == told.coroutine,
        "its coroutine is {:?}, not {:?}",
        stall.coroutine,
        told.coroutine
    );
    let kind = &stall.culprit.kind;
    ensure!(stall.is_called(&told.kind), "it is called {kind}");
    let place = stall.culprit.frame.as_ref();
    let place = place.map(|frame| (frame.function.as_str(), frame.line));
    let wanted = (told.function.as_str(), told.line.unwrap_or_default());
    ensure!(place == Some(wanted), "its place is {place:?}");
    let has_endpoint = stall
        .stack
        .iter()
        .any(|frame| frame.function.ends_with("read_report"));
    ensure!(has_endpoint, "its stack is {:?}", stall.stack);
    ensure!(
        stall.duration_ns >= told.length_ns() * 97 / 100,
        "it took {} ns, the program's {}",
        stall.duration_ns,
        told.length_ns()
    );
    Ok(())
}

fn a_healthy_one(version: &str) -> Result<()> {
    let (_, outcome) = watch(version, "asyncio", &[], 8)?;
    // What other programs take of the CPUs is not the server's.
    let others = made_up(&[], &outcome.stalls, THRESHOLD_NS);
    ensure!(others.is_empty(), "stalls: {others:?}");
    for report in &outcome.reports {
        for process in &report.processes {
            let own = |finding: &&Finding| finding.rule != "cpu-starved";
            let findings: Vec<_> = process.findings.iter().filter(own).collect();
            ensure!(findings.is_empty(), "{}: {findings:?}", report.kind);
        }
    }
    Ok(())
}
