//! Steps that have not ended: told while they last, also when they began before the watch, and one stall when they have.

use std::io::{Read as _, Seek as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::quiet;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::packages;
use concmon_tests::report::{Hang, Report};
use concmon_tests::spawn::Group;
use concmon_tests::told::THRESHOLD_NS;
use concmon_tests::watch::{PATIENCE, Watch, binary};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;
use serde::Deserialize;
use serde_json::json;

use crate::watch_python;

const S: u64 = 1_000_000_000;
/// Clocks, the way to the kernel, a busy machine.
const SLACK_NS: u64 = 300_000_000;

/// A hang is told so long after it has passed the threshold at the latest.
const TOLD_BY_NS: u64 = S + THRESHOLD_NS;

/// What the program says of a step that is stuck.
#[derive(Debug, Deserialize)]
struct Stuck {
    kind: String,
    function: String,
    line: u32,
    request_id: String,
    began_unix_ns: u64,
}

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (version, on, kinds) in [
        ("3.9", "asyncio", &["sleep", "lock", "spin", "contexts"][..]),
        (
            "3.11",
            "asyncio",
            &["--quiet", "queue", "join", "socket", "spin"],
        ),
        ("3.13", "asyncio", &["child", "timeout", "lock", "spin"]),
        ("3.13", "uvloop", &["--quiet", "sleep", "contexts", "spin"]),
        ("3.13", "trio", &["--quiet", "timeout", "contexts", "spin"]),
    ] {
        trials.push(quiet(
            // What they do differs: none stands for the other.
            format!("hangs::told_while_they_last::py{version}_{on}"),
            &watch_python(version),
            move || told_while_they_last(version, on, kinds),
        ));
    }
    for (version, kind) in [("3.9", "spin"), ("3.11", "sleep"), ("3.13", "lock")] {
        trials.push(quiet(
            format!("hangs::begun_before_the_watch::{kind}::py{version}"),
            &watch_python(version),
            move || begun_before(version, kind),
        ));
    }
    trials.push(quiet(
        "hangs::short_ones_have_the_line_of_their_stall",
        &watch_python("3.13"),
        short_ones_have_the_line_of_their_stall,
    ));
    trials
}

/// As text, only what lasts has a line before it ends.
fn short_ones_have_the_line_of_their_stall() -> Result<()> {
    let python = Interpreter::find("3.13")?;
    let kinds = ["lock", "queue", "lock", "join"];
    let mut workload = Workload::start(&python, "frozen.py", &kinds)?;
    let mut output = tempfile::tempfile()?;
    let mut command = Command::new(binary()?);
    command
        .args(["--pid", &workload.pid().to_string()])
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(Stdio::null());
    let mut tool = Group::start(&mut command)?;
    std::thread::sleep(Duration::from_secs(2));
    let mut lasting = Vec::new();
    for (kind, ms) in kinds.into_iter().zip([250, 250, 250, 1_400]) {
        workload.tell(&json!({}))?;
        let stuck: Stuck = serde_json::from_value(workload.line("stuck")?)?;
        std::thread::sleep(Duration::from_millis(ms));
        workload.tell(&json!({}))?;
        let ended: u64 = serde_json::from_value(workload.line("over")?["ended_unix_ns"].clone())?;
        // A busy host may keep it from ending.
        if ended - stuck.began_unix_ns > S / 2 {
            lasting.push(kind);
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    std::thread::sleep(Duration::from_secs(1));
    tool.signal(libc::SIGINT);
    tool.wait_for(PATIENCE)?;
    output.rewind()?;
    let mut text = String::new();
    output.read_to_string(&mut text)?;
    let lines = |what: &str| text.lines().filter(|line| line.starts_with(what)).count();
    ensure!(lines("stall ") == kinds.len(), "{text}");
    let hangs = lines("HANG ");
    ensure!(
        (1..=lasting.len()).contains(&hangs),
        "{hangs} hangs, {lasting:?} last: {text}"
    );
    Ok(())
}

fn told_while_they_last(version: &str, on: &str, kinds: &[&str]) -> Result<()> {
    let python = Interpreter::find(version)?;
    let packages = match on {
        "asyncio" => None,
        package => Some(packages::folder(&python, version, &[package])?),
    };
    let mut args = vec!["--loop", on];
    args.extend(kinds);
    let kinds: Vec<&str> = kinds
        .iter()
        .copied()
        .filter(|kind| !kind.starts_with('-'))
        .collect();
    let mut workload = Workload::start_with(&python, packages.as_deref(), "frozen.py", &args)?;
    let pid = workload.pid();
    let mut watch = Watch::start(&[
        "--pid",
        &pid.to_string(),
        "--json",
        "--context-var",
        "request_id",
        "--fail-on",
        "loop-blocked",
    ])?;
    watch.next(PATIENCE)?;
    let mut all = Vec::new();
    for kind in &kinds {
        workload.tell(&json!({}))?;
        let stuck: Stuck = serde_json::from_value(workload.line("stuck")?)?;
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(1_300) {
            let report = watch.next(PATIENCE)?;
            check_window(&report, pid, &stuck).with_context(|| format!("stuck by {kind}"))?;
        }
        workload.tell(&json!({}))?;
        let ended: u64 = serde_json::from_value(workload.line("over")?["ended_unix_ns"].clone())?;
        all.push((*kind, stuck, ended));
        watch.next(PATIENCE)?;
    }
    std::thread::sleep(Duration::from_secs(1));
    watch.signal(libc::SIGINT);
    let outcome = watch.finish(PATIENCE)?;
    ensure!(outcome.code == 6, "it exits {}", outcome.code);
    ensure!(
        outcome.hangs.len() == all.len(),
        "{} hangs are told, {} there were",
        outcome.hangs.len(),
        all.len()
    );
    for ((kind, stuck, ended), hang) in all.iter().zip(&outcome.hangs) {
        let at = || format!("stuck by {kind}");
        check(hang, stuck).with_context(at)?;
        ensure!(!hang.before_watch, "{kind} began before the watch");
        ensure!(
            hang.lasting_ns < TOLD_BY_NS,
            "{kind} is told after {} ns",
            hang.lasting_ns
        );
        let length_ns = ended - stuck.began_unix_ns;
        let stalls = outcome.stalls.iter();
        let of_it: Vec<u64> = stalls
            .filter(|stall| stall.at_unix_ns < *ended)
            .filter(|stall| stall.at_unix_ns + stall.duration_ns > stuck.began_unix_ns)
            .map(|stall| stall.duration_ns)
            .collect();
        let [one] = of_it[..] else {
            anyhow::bail!("{kind} became the stalls {of_it:?}, not one of {length_ns} ns");
        };
        ensure!(
            one.abs_diff(length_ns) < SLACK_NS,
            "{kind} became a stall of {one} ns, it took {length_ns}"
        );
    }
    Ok(())
}

/// A window that ends while the step is stuck.
fn check_window(report: &Report, pid: u32, stuck: &Stuck) -> Result<()> {
    let ends_ns = report.window.start_unix_ns + report.window.duration_ns;
    let age_ns = ends_ns.saturating_sub(stuck.began_unix_ns);
    if ends_ns < stuck.began_unix_ns || age_ns < SLACK_NS {
        return Ok(());
    }
    let process = report.process(pid)?;
    let one = process.loops.first().context("it has no loop")?;
    let Some(hang) = &one.hang else {
        ensure!(age_ns < TOLD_BY_NS, "it does not hang, after {age_ns} ns");
        return Ok(());
    };
    check(hang, stuck)?;
    ensure!(
        hang.lasting_ns.abs_diff(age_ns) < SLACK_NS,
        "it hangs for {} ns, it is stuck for {age_ns}",
        hang.lasting_ns
    );
    let timing = one
        .timing
        .as_ref()
        .context("nothing of its time is known")?;
    let late_ns = timing.lag.as_ref().and_then(|lag| lag.max_ns);
    ensure!(
        late_ns >= Some(hang.lasting_ns),
        "its lag is {late_ns:?} at most"
    );
    let rules: Vec<&str> = process.findings.iter().map(|one| &*one.rule).collect();
    ensure!(
        rules.contains(&"loop-blocked"),
        "the findings are {rules:?}"
    );
    ensure!(
        !rules.contains(&"loop-saturated"),
        "the findings are {rules:?}"
    );
    Ok(())
}

fn check(hang: &Hang, stuck: &Stuck) -> Result<()> {
    // While it is past the threshold only by what the host took, it is called after that.
    let young = hang.lasting_ns < S && hang.cause == "runnable";
    ensure!(
        hang.cause == stuck.kind || young,
        "it is called {}",
        hang.cause
    );
    ensure!(
        hang.coroutine
            .as_deref()
            .is_some_and(|name| name.ends_with("handle")),
        "its coroutine is {:?}",
        hang.coroutine
    );
    ensure!(hang.task.is_some(), "it has no task");
    ensure!(
        hang.context.get("request_id") == Some(&stuck.request_id),
        "its context is {:?}",
        hang.context
    );
    let frame = hang.frame.as_ref().context("it has no frame")?;
    let name = frame.function.rsplit('.').next().unwrap_or(&frame.function);
    ensure!(
        (name, frame.line) == (&*stuck.function, stuck.line),
        "it is stuck in {name}:{}, not in {}:{}",
        frame.line,
        stuck.function,
        stuck.line
    );
    Ok(())
}

fn begun_before(version: &str, kind: &str) -> Result<()> {
    let python = Interpreter::find(version)?;
    let mut workload = Workload::start(&python, "frozen.py", &["--at-once", kind])?;
    let stuck: Stuck = serde_json::from_value(workload.line("stuck")?)?;
    std::thread::sleep(Duration::from_millis(300));
    let pid = workload.pid();
    let pid_text = pid.to_string();
    let mut watch = Watch::start(&[
        "--pid",
        &pid_text,
        "--json",
        "--context-var",
        "request_id",
        "--fail-on",
        "loop-blocked",
    ])?;
    let first = watch.next(PATIENCE)?;
    let one = first
        .process(pid)?
        .loops
        .first()
        .context("it has no loop")?;
    let hang = one.hang.as_ref().context("it does not hang")?;
    ensure!(
        hang.before_watch,
        "it is not said to have begun before the watch"
    );
    check(hang, &stuck)?;
    ensure!(
        hang.lasting_ns >= first.window.duration_ns * 8 / 10,
        "it has lasted {} ns in a window of {}",
        hang.lasting_ns,
        first.window.duration_ns
    );
    workload.tell(&json!({}))?;
    workload.line("over")?;
    std::thread::sleep(Duration::from_millis(1_500));
    watch.signal(libc::SIGINT);
    let outcome = watch.finish(PATIENCE)?;
    ensure!(outcome.code == 6, "it exits {}", outcome.code);
    ensure!(
        outcome.hangs.len() == 1,
        "{} hangs are told",
        outcome.hangs.len()
    );
    ensure!(
        outcome.stalls.len() == 1,
        "it became {} stalls",
        outcome.stalls.len()
    );
    // What was watched of it.
    let stall = &outcome.stalls[0];
    ensure!(
        stall.duration_ns + SLACK_NS >= first.window.duration_ns,
        "it became a stall of {} ns",
        stall.duration_ns
    );
    Ok(())
}
