//! How late timers are, by the tool's samples and by the timers themselves: asyncio, uvloop and trio.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use concmon_tests::harness::{case, goal};
use concmon_tests::interpreter::Interpreter;
use concmon_tests::packages;
use concmon_tests::report::{Histogram, Timing};
use concmon_tests::told::{Told, clock_offset, told};
use concmon_tests::watch::{Outcome, PATIENCE, Watch};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::watch_python;

/// How much of the loop's time short steps take, in percent, and whether other ones block meanwhile.
const LOADS: [(&str, bool); 4] = [("10", false), ("60", true), ("100", false), ("100", true)];

/// What a busy host takes at once, for other programs.
const AT_ONCE_NS: u64 = 100_000_000;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (kind, version) in [
        ("asyncio", "3.11"),
        ("asyncio", "3.13"),
        ("uvloop", "3.13"),
        ("trio", "3.9"),
        ("trio", "3.13"),
    ] {
        trials.push(case(
            format!("lags::timers_are_as_late_as_they_say::{kind}::py{version}"),
            &watch_python(version),
            move || timers_are_as_late(version, kind),
        ));
    }
    for version in ["3.12", "3.13"] {
        trials.push(case(
            format!("lags::eager_tasks_are_steps_of_their_own::py{version}"),
            &watch_python(version),
            move || steps_within_steps(version, "eager"),
        ));
    }
    for version in ["3.9", "3.13"] {
        trials.push(case(
            format!("lags::a_loop_in_a_step_of_a_loop::py{version}"),
            &watch_python(version),
            move || steps_within_steps(version, "nested"),
        ));
    }
    trials
}

#[derive(Debug, Deserialize)]
struct Lags {
    /// When timers ran, and how late that was.
    late: Vec<(u64, u64)>,
}

fn timers_are_as_late(version: &str, kind: &str) -> Result<()> {
    let python = Interpreter::find(version)?;
    let packages = match kind {
        "asyncio" => None,
        package => Some(packages::folder(&python, version, &[package])?),
    };
    for (load, blocking) in LOADS {
        let mut args = vec!["--loop", kind, load];
        args.extend(blocking.then_some("--blocking"));
        let mut workload = Workload::start_with(&python, packages.as_deref(), "lags.py", &args)?;
        let pid = workload.pid();
        // The first timers are due a second from now.
        std::thread::sleep(Duration::from_secs(1));
        let mut watch = Watch::pid(pid, "1s", None)?;
        watch.next(PATIENCE)?;
        std::thread::sleep(Duration::from_secs(3));
        let lags: Lags = serde_json::from_value(workload.ask(&json!({}), "lags")?)?;
        let outcome = watch.interrupt()?;
        let what = format!("{kind} {load} {}", if blocking { "blocking" } else { "" });
        compare(&outcome, pid, &lags).context(what)?;
    }
    Ok(())
}

fn compare(outcome: &Outcome, pid: u32, lags: &Lags) -> Result<()> {
    let began_ns = i128::from(outcome.summary()?.window.start_unix_ns) - clock_offset();
    let mut late: Vec<u64> = (lags.late.iter())
        .filter(|(at_ns, _)| i128::from(*at_ns) > began_ns)
        .map(|(_, ns)| *ns)
        .collect();
    late.sort_unstable();
    ensure!(late.len() > 500, "only {} timers", late.len());
    let timing = timing(outcome, pid)?;
    let lag = timing.lag.as_ref().context("no lag")?;
    let process = outcome.summary()?.process(pid)?;
    let by_host = process.thread(process.loops[0].tid)?.ledger.host_share();
    let truth = |part: f64| late[((late.len() as f64 * part) as usize).min(late.len() - 1)];
    // Which of the few late ones is just the one that is asked for is a matter of chance, and the timers are a
    // grid, which may miss the instant of the very last.
    for (what, found, parts, slack_ns) in [
        ("p50", lag.p50_ns, [0.495, 0.5, 0.505], 1_000_000),
        ("p99", lag.p99_ns, [0.985, 0.99, 0.995], 1_000_000),
        ("max", lag.max_ns, [1.0; 3], 10_000_000),
    ] {
        let found = found.context("no percentile")?;
        let [low, own, high] = parts.map(truth);
        let off = found.abs_diff(own);
        goal(
            "lag within 1 ms + 10 % of the timers' own",
            off <= 1_000_000 + own / 10,
            &format!("{what} {found} ns, the timers' {own} ns, the host took {by_host:.3}"),
        );
        // What the host takes makes steps longer, now this one and now that one, and the tail most of all.
        let of_host = if what == "p50" { own } else { own + AT_ONCE_NS };
        let slack = slack_ns + own / 10 + (of_host as f64 * by_host) as u64;
        ensure!(
            (low.saturating_sub(slack)..=high + slack).contains(&found),
            "{what} is {found} ns, the timers' {own} ns; the host took {by_host:.3}"
        );
    }
    nothing_contradicts(&timing)
}

/// A stall is a step, and delays what is due when it begins.
fn nothing_contradicts(timing: &Timing) -> Result<()> {
    let Some(longest) = timing.stalls.first().map(|stall| stall.duration_ns) else {
        return Ok(());
    };
    for (what, of) in [("step", &timing.step), ("lag", &timing.lag)] {
        let most = of.as_ref().and_then(|of: &Histogram| of.max_ns);
        ensure!(
            most >= Some(longest),
            "the longest stall took {longest} ns, the longest {what} {most:?}"
        );
    }
    Ok(())
}

fn timing(outcome: &Outcome, pid: u32) -> Result<Timing> {
    let process = outcome.summary()?.process(pid)?;
    let one = process.loops.first().context("no loop")?;
    one.timing.clone().context("the loop has no timing")
}

fn steps_within_steps(version: &str, mode: &str) -> Result<()> {
    let python = Interpreter::find(version)?;
    let packages = match mode {
        "nested" => Some(packages::folder(&python, version, &["nest_asyncio"])?),
        _ => None,
    };
    let mut workload = Workload::start_with(&python, packages.as_deref(), "steps.py", &[mode])?;
    let mut watch = Watch::pid(workload.pid(), "500ms", None)?;
    watch.next(PATIENCE)?;
    let begin = told(&workload.ask(&json!({}), "stalls")?["stalls"])?.len();
    std::thread::sleep(Duration::from_secs(4));
    let all = told(&workload.ask(&json!({}), "stalls")?["stalls"])?;
    std::thread::sleep(Duration::from_secs(1));
    let pid = workload.pid();
    let outcome = watch.interrupt()?;
    // The first ones may have begun before the watch.
    let told = all.get(begin + 2..).context("too few stalls")?;
    ensure!(told.len() >= 5, "only {} stalls", told.len());
    for one in told {
        inner_step(one, &outcome, mode).with_context(|| format!("{one:?}"))?;
    }
    let timing = timing(&outcome, pid)?;
    nothing_contradicts(&timing)?;
    // Two eager ones in a row delay what is due as one step would; a loop in a step delays nothing.
    let (least, most) = match mode {
        "eager" => (290_000_000, 400_000_000),
        _ => (145_000_000, 250_000_000),
    };
    match timing.lag.and_then(|lag| lag.max_ns) {
        Some(longest) if (least..most).contains(&longest) => Ok(()),
        longest => bail!("the longest lag is {longest:?}"),
    }
}

fn inner_step(one: &Told, outcome: &Outcome, mode: &str) -> Result<()> {
    let stall = one.found(&outcome.stalls).context("it was not found")?;
    let off = one.off_ns(stall);
    ensure!(off <= 30_000_000, "it took {off} ns longer or shorter");
    let name = |task: &Option<Value>| {
        let name = task.as_ref().and_then(|task| task["name"].as_str());
        name.map(str::to_owned)
    };
    ensure!(
        name(&stall.task) == one.task,
        "its task is {:?}",
        stall.task
    );
    let (coroutine, creator) = match mode {
        "eager" => ("inner", Some("outer")),
        _ => ("again", None),
    };
    ensure!(
        stall.coroutine.as_deref() == Some(coroutine),
        "its coroutine is {:?}",
        stall.coroutine
    );
    ensure!(
        name(&stall.creator).as_deref() == creator,
        "its creator is {:?}",
        stall.creator
    );
    Ok(())
}
