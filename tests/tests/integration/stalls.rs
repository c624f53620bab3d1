//! Event loops in time: stalls with their culprits, saturation, whose the time was.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::{case, quiet};
use concmon_tests::interpreter::Interpreter;
use concmon_tests::packages;
use concmon_tests::report::{Stall, Timing};
use concmon_tests::told::{THRESHOLD_NS, Told, made_up, told};
use concmon_tests::watch::{Outcome, PATIENCE, Watch};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;
use serde::Deserialize;
use serde_json::json;

use crate::watch_python;

/// What the program does, and what the tool has to call it.
const KINDS: [(&str, &str); 9] = [
    ("sleep", "sleep"),
    ("cpu", "cpu"),
    ("socket", "io"),
    ("timeout", "poll"),
    ("lock", "lock"),
    ("json", "cpu"),
    ("gc", "gc"),
    ("del", "cpu"),
    ("gil", "gil"),
];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for version in ["3.8", "3.9", "3.11", "3.12", "3.13", "3.14", "3.15"] {
        trials.push(quiet(
            format!("stalls::every_culprit_is_named::py{version}"),
            &watch_python(version),
            move || every_culprit_is_named(version, "asyncio"),
        ));
    }
    for version in ["3.8", "3.9", "3.11", "3.12", "3.13", "3.14", "3.15"] {
        for kind in ["uvloop", "trio"] {
            trials.push(quiet(
                format!("stalls::every_culprit_is_named::{kind}::py{version}"),
                &watch_python(version),
                move || every_culprit_is_named(version, kind),
            ));
        }
    }
    for version in ["3.9", "3.11", "3.13"] {
        trials.push(case(
            format!("stalls::beside_threads_that_want_the_gil::py{version}"),
            &watch_python(version),
            move || beside_the_gil(version),
        ));
    }
    // Those of Debian sid run in a root folder of their own, where nothing can be mounted over.
    for version in ["3.9", "3.11", "3.13"] {
        trials.push(case(
            format!("stalls::a_name_server_that_does_not_answer::py{version}"),
            &watch_python(version),
            move || a_silent_name_server(version),
        ));
    }
    for version in ["3.9", "3.12"] {
        trials.push(case(
            format!("stalls::all_of_random_ones_are_found::py{version}"),
            &watch_python(version),
            move || all_of_random_ones(version),
        ));
    }
    for version in ["3.11", "3.13"] {
        trials.push(case(
            format!("stalls::many_short_steps_are_saturation::py{version}"),
            &watch_python(version),
            move || many_short_steps(version),
        ));
        trials.push(case(
            format!("stalls::shares_of_tasks_are_their_own::py{version}"),
            &watch_python(version),
            move || shares_of_tasks(version),
        ));
    }
    trials
}

/// Lets the program go through its stalls while it is watched.
fn watch_stalls(
    version: &str,
    on: &str,
    options: &[&str],
    kinds: &[&str],
) -> Result<(Vec<Told>, Outcome, u32)> {
    let python = Interpreter::find(version)?;
    let packages = match on {
        "asyncio" => None,
        package => Some(packages::folder(&python, version, &[package])?),
    };
    let mut args = vec!["--loop", on];
    args.extend(options);
    args.extend(kinds);
    let packages = packages.as_deref();
    let mut workload = Workload::start_with(&python, packages, "culprits.py", &args)?;
    let pid = workload.pid();
    let mut watch = Watch::pid(pid, "500ms", None)?;
    watch.next(PATIENCE)?;
    workload.tell(&json!({}))?;
    let mut told = Vec::new();
    for _ in kinds {
        told.push(serde_json::from_value(workload.line("stall")?)?);
    }
    workload.line("done")?;
    std::thread::sleep(Duration::from_secs(1));
    let outcome = watch.interrupt()?;
    Ok((told, outcome, pid))
}

fn every_culprit_is_named(version: &str, on: &str) -> Result<()> {
    let kinds: Vec<&str> = KINDS.iter().map(|(kind, _)| *kind).collect();
    let (told, outcome, pid) = watch_stalls(version, on, &[], &kinds)?;
    let summary = outcome.summary()?.process(pid)?;
    let kind = summary.loops.first().map(|found| found.kind.as_str());
    ensure!(kind == Some(on), "the loop is {kind:?}, not {on}");
    for one in &told {
        check(one, &outcome.stalls).with_context(|| format!("the stall by {}", one.kind))?;
    }
    none_made_up(&told, &outcome.stalls, THRESHOLD_NS)
}

fn none_made_up(told: &[Told], stalls: &[Stall], threshold_ns: u64) -> Result<()> {
    let others = made_up(told, stalls, threshold_ns);
    ensure!(others.is_empty(), "nobody made them: {others:?}");
    Ok(())
}

/// The loop's thread blocks for the GIL all the time: the block that makes a step long has a stack all the
/// same, and no other one is blamed.
fn beside_the_gil(version: &str) -> Result<()> {
    let kinds = ["sleep", "lock", "socket", "timeout"];
    let options = ["--spinners", "3", "--pause", "0.7"];
    let both: Vec<&str> = kinds.iter().chain(&kinds).copied().collect();
    let (told, outcome, _) = watch_stalls(version, "asyncio", &options, &both)?;
    for one in &told {
        let stall = one.found(&outcome.stalls);
        let stall = stall.with_context(|| format!("the stall by {} was not found", one.kind))?;
        names_it(one, stall).with_context(|| format!("the stall by {}", one.kind))?;
        let frame = stall.culprit.frame.as_ref();
        let frame = frame.map(|frame| frame.function.rsplit('.').next().unwrap_or(&frame.function));
        ensure!(frame == Some(&*one.function), "it blames {frame:?}");
    }
    Ok(())
}

/// What it was, whose, and for whom.
fn names_it(told: &Told, stall: &Stall) -> Result<()> {
    let (kind, culprit) = (told.kind.as_str(), &stall.culprit);
    let wanted = KINDS.iter().find(|(known, _)| *known == kind);
    let wanted = wanted.map_or("poll", |(_, wanted)| *wanted);
    ensure!(stall.is_called(wanted), "it is called {}", culprit.kind);
    ensure!(
        stall.coroutine.as_deref() == Some("handle"),
        "its coroutine is {:?}",
        stall.coroutine
    );
    let task = stall.task.as_ref().and_then(|task| task["name"].as_str());
    ensure!(task == told.task.as_deref(), "its task is {task:?}");
    let request = stall.context.get("request_id");
    ensure!(
        request == told.request_id.as_ref(),
        "its request is {request:?}"
    );
    Ok(())
}

fn check(told: &Told, stalls: &[Stall]) -> Result<()> {
    let stall = told.found(stalls).context("it was not found")?;
    let culprit = &stall.culprit;
    if let Some(hog) = told.hog {
        ensure!(stall.is_called("gil"), "it is called {}", culprit.kind);
        ensure!(
            culprit.holder_tid == Some(hog),
            "held by {:?}",
            culprit.holder_tid
        );
    } else {
        // Of the time before it, the program's clock does not tell.
        let slack = 1_000_000 + told.length_ns() / 100;
        let off = told.off_ns(stall);
        ensure!(off <= slack, "it took {} ns longer or shorter", off);
        names_it(told, stall)?;
    }
    let is_named = |name: &str| name.rsplit('.').next() == Some(told.function.as_str());
    let innermost = culprit.frame.as_ref().map(|frame| frame.function.as_str());
    let on_stack = stall.stack.iter().any(|frame| is_named(&frame.function));
    ensure!(
        innermost.is_some_and(is_named) || on_stack,
        "it names {innermost:?}, not {}",
        told.function
    );
    Ok(())
}

/// The threshold for stalls at random moments, ns.
const SHORT_NS: u64 = 20_000_000;

/// Stalls at random moments, of lengths from 10 ms above the threshold on.
fn all_of_random_ones(version: &str) -> Result<()> {
    let mut workload = Workload::start(&Interpreter::find(version)?, "moments.py", &[])?;
    let pid = workload.pid().to_string();
    let args = ["--json", "--stall-threshold", "20ms", "-p", &pid];
    let mut watch = Watch::start(&args)?;
    watch.next(PATIENCE)?;
    let begin = told(&workload.ask(&json!({}), "stalls")?["stalls"])?.len();
    std::thread::sleep(Duration::from_secs(7));
    let all = told(&workload.ask(&json!({}), "stalls")?["stalls"])?;
    std::thread::sleep(Duration::from_secs(1));
    let outcome = watch.interrupt()?;
    // The first of them may have begun before the watch.
    let told = all.get(begin + 1..).context("too few stalls")?;
    ensure!(told.len() >= 15, "only {} stalls", told.len());
    let (mut off, mut found) = (Vec::new(), Vec::new());
    for one in told {
        let stall = one.found(&outcome.stalls);
        let stall = stall.with_context(|| format!("{one:?} was not found"))?;
        ensure!(
            stall.coroutine.as_deref() == Some("stall"),
            "its coroutine is {:?}",
            stall.coroutine
        );
        found.push(stall.at_unix_ns);
        let ns = one.off_ns(stall);
        if ns > 1_000_000 + one.length_ns() / 100 {
            off.push((one.kind.as_str(), one.length_ns(), ns));
        }
    }
    // What a busy machine does between the program's clock and the end of its step is in it, too.
    ensure!(off.len() * 10 <= told.len(), "not so long: {off:?}");
    let (first, last) = (found[0], found[found.len() - 1]);
    let mut others = made_up(told, &outcome.stalls, SHORT_NS);
    others.retain(|stall| (first..=last).contains(&stall.at_unix_ns));
    ensure!(others.is_empty(), "nobody made them: {others:?}");
    Ok(())
}

/// Looking up a name polls a socket: that is no idle loop.
fn a_silent_name_server(version: &str) -> Result<()> {
    let (told, outcome, pid) =
        watch_stalls(version, "asyncio", &["--around", "0.7"], &["getaddrinfo"])?;
    let told = told.first().context("the program told nothing")?;
    check(told, &outcome.stalls)?;
    let summary = outcome.summary()?.process(pid)?;
    let one = summary.loops.first().context("no loop")?;
    let (busy_ns, least_ns) = (one.busy_ns, told.length_ns());
    ensure!(
        (least_ns..least_ns * 6 / 5).contains(&busy_ns),
        "busy {busy_ns} ns, the lookup took {least_ns}"
    );
    Ok(())
}

/// What a program of a known load told at the begin and at the end.
#[derive(Deserialize)]
struct Loads {
    at_ns: u64,
    tasks: BTreeMap<String, Account>,
}

#[derive(Clone, Copy, Deserialize)]
struct Account {
    on_cpu_ns: u64,
    blocked_ns: u64,
}

fn watch_load(version: &str, args: &[&str], seconds: u64) -> Result<(Loads, Loads, Outcome, u32)> {
    let mut workload = Workload::start(&Interpreter::find(version)?, "loads.py", args)?;
    let pid = workload.pid();
    let mut watch = Watch::pid(pid, "1s", None)?;
    watch.next(PATIENCE)?;
    let before = serde_json::from_value(workload.ask(&json!({}), "loads")?)?;
    std::thread::sleep(Duration::from_secs(seconds));
    let after = serde_json::from_value(workload.ask(&json!({}), "loads")?)?;
    let outcome = watch.interrupt()?;
    Ok((before, after, outcome, pid))
}

fn timing(outcome: &Outcome, pid: u32) -> Result<Timing> {
    let process = outcome.summary()?.process(pid)?;
    let one = process.loops.first().context("no loop")?;
    one.timing.clone().context("the loop has no timing")
}

fn many_short_steps(version: &str) -> Result<()> {
    for mode in ["callbacks", "spin"] {
        let (_, _, outcome, pid) = watch_load(version, &[mode], 3)?;
        none_made_up(&[], &outcome.stalls, THRESHOLD_NS).context(mode)?;
        let timing = timing(&outcome, pid)?;
        ensure!(
            timing.saturation.count > 0 && timing.saturation.busy_ns > 500_000_000,
            "{mode}: saturation {:?}",
            timing.saturation
        );
    }
    Ok(())
}

fn shares_of_tasks(version: &str) -> Result<()> {
    let (before, after, outcome, pid) = watch_load(version, &["shares"], 12)?;
    let wall_ns = (after.at_ns - before.at_ns) as f64;
    let timing = timing(&outcome, pid)?;
    let summary = outcome.summary()?.process(pid)?;
    let watched_ns = summary.loops[0].wall_ns as f64;
    ensure!(after.tasks.len() == 12, "{} tasks", after.tasks.len());
    for (name, account) in &after.tasks {
        let begin = before
            .tasks
            .get(name)
            .context("a task that was not there")?;
        let row = timing.by_name.iter().find(|row| row.name == *name);
        let row = row.with_context(|| format!("{name} has no row"))?;
        ensure!(row.started.is_none(), "{name}: a count that is not exact");
        let share = |ns: u64, of: f64| ns as f64 / of * 100.0;
        for (what, told, found) in [
            ("CPU", account.on_cpu_ns - begin.on_cpu_ns, row.on_cpu_ns),
            (
                "blocked",
                account.blocked_ns - begin.blocked_ns,
                row.blocked_ns.total(),
            ),
        ] {
            let (told, found) = (share(told, wall_ns), share(found, watched_ns));
            ensure!(
                (told - found).abs() <= 2.0,
                "{name}: {what} {found:.2} %, its own account {told:.2} %"
            );
        }
    }
    Ok(())
}
