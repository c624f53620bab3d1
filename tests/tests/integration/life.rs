//! How watches begin and end: signals, targets that exit or become another program, programs
//! that the tool starts, interpreters it does not know.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::quiet;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::laws;
use concmon_tests::spawn::Group;
use concmon_tests::watch::{Outcome, PATIENCE, Watch};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{WATCH, watch_python};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        quiet(
            "life::sigint_gives_the_summary",
            &watch_python("3.11"),
            || signal_gives_the_summary(libc::SIGINT),
        ),
        quiet(
            "life::sigterm_gives_the_summary",
            &watch_python("3.11"),
            || signal_gives_the_summary(libc::SIGTERM),
        ),
        quiet(
            "life::target_that_exits::code",
            &watch_python("3.11"),
            || target_that_exits("time.sleep(3); os._exit(9)", Some(9), None),
        ),
        quiet(
            "life::target_that_exits::signal",
            &watch_python("3.11"),
            || {
                target_that_exits(
                    "time.sleep(3); os.kill(os.getpid(), 9)",
                    None,
                    Some(libc::SIGKILL as u8),
                )
            },
        ),
        quiet(
            "life::target_that_exits::at_once",
            &watch_python("3.11"),
            target_that_exits_at_once,
        ),
        quiet(
            "life::target_that_becomes_another_program",
            &watch_python("3.11"),
            target_that_becomes_another_program,
        ),
        quiet(
            "life::started_program::from_its_first_instruction",
            &watch_python("3.11"),
            started_from_its_first_instruction,
        ),
    ];
    for (name, words, code) in [
        ("code", &["sh", "-c", "exit 7"][..], 7),
        ("zero", &["true"], 0),
        (
            "signal",
            &["sh", "-c", "kill -TERM $$"],
            128 + libc::SIGTERM,
        ),
    ] {
        trials.push(quiet(
            format!("life::started_program::passes_on::{name}"),
            &WATCH,
            move || passes_on(words, code),
        ));
    }
    for version in ["2.7", "3.6", "3.7"] {
        trials.push(quiet(
            format!("life::unknown_python_keeps_its_kernel_columns::py{version}"),
            &watch_python(version),
            move || unknown_python(version),
        ));
    }
    trials
}

fn signal_gives_the_summary(signal: i32) -> Result<()> {
    let workload = Workload::start(&Interpreter::find("3.11")?, "clocks.py", &["sleeper"])?;
    let mut watch = Watch::pid(workload.pid(), "1s", None)?;
    watch.next(PATIENCE)?;
    // Not at the end of a window.
    std::thread::sleep(Duration::from_millis(1500));
    watch.signal(signal);
    let outcome = watch.finish(PATIENCE)?.ok()?;
    let summary = outcome.summary()?;
    ensure!(
        summary.window.duration_ns > 2_000_000_000,
        "the summary covers only {} ns",
        summary.window.duration_ns
    );
    laws::sum_up(&outcome.snapshots(), summary)
}

/// Runs `body` in a Python that first says its pid; `os`, `sys` and `time` are imported.
fn python(body: &str) -> Result<(Group, String)> {
    let mut command = Interpreter::find("3.11")?.command();
    let body = format!("import os, sys, time\n{body}");
    let child = Group::start(
        command
            .args(["-c", &body])
            .stdin(std::process::Stdio::null()),
    )?;
    Ok((child, body))
}

fn target_that_exits(body: &str, code: Option<u8>, signal: Option<u8>) -> Result<()> {
    let (child, _) = python(body)?;
    let pid = child.id();
    // It must not stay a zombie for ever: some tools wait for the pid to vanish.
    let reaper = std::thread::spawn(move || {
        let mut child = child;
        child.wait_for(PATIENCE)
    });
    std::thread::sleep(Duration::from_millis(300));
    let outcome = Watch::pid(pid, "500ms", Some("20s"))?
        .finish(Duration::from_secs(15))
        .context("the watch must end with its target")?
        .ok()?;
    reaper
        .join()
        .map_err(|_| anyhow::anyhow!("the reaper panicked"))??;
    let exited = outcome
        .summary()?
        .process(pid)?
        .exited
        .context("exited is null")?;
    ensure!(
        exited.code == code && exited.signal == signal,
        "exited is {exited:?}"
    );
    laws::sum_up(&outcome.snapshots(), outcome.summary()?)
}

/// The target may end anywhere between the tool's first look at it and its first window.
fn target_that_exits_at_once() -> Result<()> {
    let mut watched = 0;
    for delay_ms in [60, 100, 150, 200, 300, 400] {
        let (child, _) = python(&format!("time.sleep({delay_ms} / 1000)"))?;
        let pid = child.id();
        std::thread::sleep(Duration::from_millis(40));
        let reaper = std::thread::spawn(move || {
            let mut child = child;
            child.wait_for(PATIENCE)
        });
        let outcome = Watch::pid(pid, "1s", Some("5s"))?.finish(PATIENCE)?;
        reaper
            .join()
            .map_err(|_| anyhow::anyhow!("the reaper panicked"))??;
        match outcome.code {
            0 => {
                outcome.summary()?.process(pid)?;
                watched += 1;
            }
            // Gone before the tool could look.
            3 => ensure!(
                outcome.stderr.trim_end().lines().count() == 1 && outcome.reports.is_empty(),
                "stderr: {:?}",
                outcome.stderr
            ),
            code => anyhow::bail!("exit code {code}, stderr: {:?}", outcome.stderr),
        }
    }
    ensure!(watched > 0, "never in time: no test");
    Ok(())
}

fn target_that_becomes_another_program() -> Result<()> {
    let (child, _) = python("time.sleep(2); os.execvp('sleep', ['sleep', '30'])")?;
    std::thread::sleep(Duration::from_millis(300));
    let outcome = Watch::pid(child.id(), "1s", Some("4s"))?
        .finish(PATIENCE)?
        .ok()?;
    let summary = outcome.summary()?;
    laws::sum_up(&outcome.snapshots(), summary)?;
    let process = summary.process(child.id())?;
    ensure!(process.name == "sleep", "its name is {:?}", process.name);
    ensure!(
        process.exited.is_none(),
        "it lives, exited is {:?}",
        process.exited
    );
    let sleeping = process.thread(child.id())?.ledger.blocked_ns.sleep;
    ensure!(
        sleeping > 3_500_000_000,
        "it slept before and after, seen are {sleeping} ns"
    );
    Ok(())
}

fn passes_on(words: &[&str], code: i32) -> Result<()> {
    let mut args = vec!["--json", "--"];
    args.extend(words);
    let outcome = Watch::start(&args)?.finish(PATIENCE)?;
    ensure!(
        outcome.code == code,
        "exit code {}, not {code}; stderr: {:?}",
        outcome.code,
        outcome.stderr
    );
    let summary = outcome.summary()?;
    ensure!(!summary.processes.is_empty(), "the program has no row");
    Ok(())
}

fn started_from_its_first_instruction() -> Result<()> {
    let body = "import json, os, time\n\
                end = time.monotonic() + 0.5\n\
                while time.monotonic() < end: pass\n\
                print(json.dumps({'pid': os.getpid(), 'cpu_ns': time.thread_time_ns()}))";
    let words = Interpreter::find("3.11")?.words();
    let mut args = vec!["--json", "--"];
    args.extend(words.iter().map(String::as_str));
    args.extend(["-c", body]);
    let outcome: Outcome = Watch::start(&args)?.finish(PATIENCE)?;
    ensure!(
        outcome.code == 0,
        "exit code {}, stderr: {:?}",
        outcome.code,
        outcome.stderr
    );
    ensure!(
        outcome.other.len() == 1,
        "the program says one line, on stdout: {:?}",
        outcome.other
    );
    let own: Value = serde_json::from_str(&outcome.other[0])?;
    let pid = own["pid"].as_u64().context("no pid")? as u32;
    let cpu_ns = own["cpu_ns"].as_u64().context("no cpu_ns")?;
    let process = outcome.summary()?.process(pid)?;
    let on_cpu = process.thread(pid)?.ledger.on_cpu_ns;
    // Not counted by the program: its start up to exec (a fork of the tool) and its end.
    ensure!(
        (cpu_ns - cpu_ns / 100..cpu_ns + 60_000_000).contains(&on_cpu),
        "on-CPU {on_cpu} ns, its own clock said {cpu_ns} ns at its end"
    );
    ensure!(
        process.exited.is_some_and(|exited| exited.code == Some(0)),
        "exited is {:?}",
        process.exited
    );
    Ok(())
}

fn unknown_python(version: &str) -> Result<()> {
    let mut command: Command = Interpreter::find(version)?.command();
    let target = Group::start(
        command
            .args(["-c", "import time\nwhile True: time.sleep(0.01)"])
            .stdin(std::process::Stdio::null()),
    )?;
    std::thread::sleep(Duration::from_millis(500));
    let outcome = Watch::pid(target.id(), "1s", Some("2s"))?
        .finish(PATIENCE)?
        .ok()?;
    ensure!(
        outcome.stderr.trim_end().lines().count() == 1,
        "one warning line on stderr, there is {:?}",
        outcome.stderr
    );
    let summary = outcome.summary()?;
    laws::nothing_unknown(summary)?;
    let process = summary.process(target.id())?;
    let python = process.python.as_ref().context("python is null")?;
    ensure!(
        !python.supported && python.reason.as_ref().is_some_and(|why| !why.is_empty()),
        "python is {python:?}"
    );
    if let Some(seen) = &python.version {
        ensure!(seen.starts_with(version), "version {seen}, is {version}");
    }
    let thread = process.thread(target.id())?;
    let blocked = thread.ledger.blocked_ns;
    // Python 2.7 and 3.6 sleep in select() without descriptors.
    ensure!(
        blocked.sleep > thread.ledger.wall_ns / 100 * 90,
        "it only sleeps: {blocked:?}"
    );
    let reason = thread.limits.iter().any(|limit| limit.field == "name");
    ensure!(
        thread.name.is_some() || reason,
        "the name is null without a reason"
    );
    Ok(())
}
