//! The flight recorder: what happened before the end, without anyone having watched.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use concmon_tests::harness::quiet;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::memory_group::MemoryGroup;
use concmon_tests::proc;
use concmon_tests::report::Report;
use concmon_tests::spawn::Group;
use concmon_tests::watch::{PATIENCE, binary};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;

use crate::captures::{reports, run, text};
use crate::watch_python;

pub(crate) fn trials() -> Vec<Trial> {
    let needs = watch_python("3.11");
    vec![
        quiet("flight::a_killed_program", &needs, a_killed_program),
        quiet("flight::a_segfault", &needs, a_segfault),
        quiet("flight::a_deadlock", &needs, a_deadlock),
        quiet("flight::a_killed_recorder", &needs, a_killed_recorder),
        quiet("flight::out_of_memory", &needs, out_of_memory),
        quiet("flight::triggers", &needs, triggers),
    ]
}

/// A flight recorder of these targets that writes to this folder.
fn recorder(folder: &Path, more: &[&str]) -> Result<Group> {
    let mut command = Command::new(binary()?);
    command
        .args(["record", "-q", "-i", "250ms", "-o", text(folder)?])
        .args(more)
        .stdout(Stdio::null());
    Group::start(&mut command)
}

/// Waits for the only file of this reason to be whole; gives its report.
fn written(folder: &Path, reason: &str) -> Result<(PathBuf, Report)> {
    let end = format!("-{reason}.concmon");
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if !text(&path)?.ends_with(&end) {
                continue;
            }
            let found = reports(&run(&["report", "--json", "-i", text(&path)?])?)?;
            let report = found.into_iter().next_back().context("no report")?;
            if report.limits.iter().all(|limit| limit.field != "capture") {
                return Ok((path, report));
            }
        }
    }
    let there: Vec<_> = std::fs::read_dir(folder)?.filter_map(Result::ok).collect();
    bail!("no file of {reason}; there are {there:?}")
}

fn a_killed_program() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut workload = Workload::start(&Interpreter::find("3.11")?, "gil.py", &["2"])?;
    let pid = workload.pid();
    let mut recorder = recorder(folder.path(), &["--ring", "2s", "-p", &pid.to_string()])?;
    proc::catches(recorder.id(), libc::SIGUSR2)?;
    // More than the ring holds.
    std::thread::sleep(Duration::from_secs(5));
    workload.signal(libc::SIGKILL);
    let _ = workload.end();
    recorder.wait_for(PATIENCE)?;
    let (path, report) = written(folder.path(), "signal-9")?;
    ensure!(
        text(&path)?.contains(&format!("/gil.py-{pid}-")),
        "{path:?} does not name the program"
    );
    let exited = report.process(pid)?.exited.context("it has not exited")?;
    ensure!(exited.signal == Some(9), "{exited:?}");
    let seconds = report.window.duration_ns as f64 / 1e9;
    ensure!(
        (1.5..4.0).contains(&seconds),
        "{seconds} s of a ring of 2 s"
    );
    let busy = report.process(pid)?.threads.iter();
    let on_cpu: u64 = busy.map(|thread| thread.ledger.on_cpu_ns).sum();
    ensure!(on_cpu > 0 && on_cpu < 2 * report.window.duration_ns);
    Ok(())
}

fn a_segfault() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let program =
        "import ctypes, time\ndef crash():\n  ctypes.string_at(0)\ntime.sleep(1)\ncrash()";
    let python = Interpreter::find("3.11")?;
    let python = python.command();
    let python = text(Path::new(python.get_program()))?;
    let more = ["--ring", "30s", "--", python, "-c", program];
    let status = recorder(folder.path(), &more)?.wait_for(PATIENCE)?;
    ensure!(status.code() == Some(139), "{status}");
    let (_, report) = written(folder.path(), "signal-11")?;
    let [process] = &report.processes[..] else {
        bail!("{} processes", report.processes.len());
    };
    let exited = process.exited.context("it has not exited")?;
    ensure!(exited.signal == Some(11), "{exited:?}");
    Ok(())
}

fn a_deadlock() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let workload = Workload::start(&Interpreter::find("3.11")?, "deadlock.py", &[])?;
    let pid = workload.pid();
    let mut recorder = recorder(folder.path(), &["--ring", "30s", "-p", &pid.to_string()])?;
    proc::catches(recorder.id(), libc::SIGUSR2)?;
    std::thread::sleep(Duration::from_secs(2));
    recorder.signal(libc::SIGUSR2);
    let (_, report) = written(folder.path(), "sigusr2")?;
    let tids: Vec<u32> = workload.said("tids")?;
    let mut locks = Vec::new();
    for (tid, function) in tids.into_iter().zip(["transfer", "refund"]) {
        let thread = report.process(pid)?.thread(tid)?;
        let waits = thread
            .waiting_for
            .as_ref()
            .context("it waits for nothing")?;
        ensure!(waits["kind"] == "Lock", "{waits}");
        locks.push(waits["object"].clone());
        ensure!(
            thread
                .stack
                .iter()
                .any(|frame| frame.function.ends_with(function)),
            "{:?}",
            thread.stack
        );
        ensure!(thread.ledger.blocked_ns.lock > report.window.duration_ns / 2);
    }
    ensure!(locks[0] != locks[1], "one lock: {locks:?}");
    recorder.signal(libc::SIGINT);
    ensure!(recorder.wait_for(PATIENCE)?.success());
    written(folder.path(), "interrupt")?;
    Ok(())
}

/// With `--on-disk` the ring outlives the tool.
fn a_killed_recorder() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let workload = Workload::start(&Interpreter::find("3.11")?, "gil.py", &["2"])?;
    let pid = workload.pid();
    let target = pid.to_string();
    // So small that it is written round more than once.
    let more = [
        "--ring",
        "60s",
        "--ring-size",
        "1MB",
        "--on-disk",
        "-p",
        &target,
    ];
    let mut recorder = recorder(folder.path(), &more)?;
    let begin = Instant::now();
    while std::fs::read_dir(folder.path())?.next().is_none() {
        ensure!(begin.elapsed() < PATIENCE, "the recorder does not begin");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_secs(3));
    recorder.signal(libc::SIGKILL);
    recorder.wait_for(PATIENCE)?;
    let mut files = std::fs::read_dir(folder.path())?;
    let ring = files.next().context("no file")??.path();
    ensure!(text(&ring)?.contains("/ring-"), "{ring:?}");
    let found = reports(&run(&["report", "--json", "-i", text(&ring)?])?)?;
    let report = found.last().context("no report")?;
    ensure!(
        report.window.duration_ns > 1_000_000_000,
        "{:?}",
        report.window
    );
    ensure!(report.process(pid)?.threads.len() >= 3);
    Ok(())
}

/// A program that the kernel kills for want of memory, in a cgroup of its own.
fn out_of_memory() -> Result<()> {
    let Some(group) = MemoryGroup::create("flight") else {
        eprintln!("no memory cgroup can be made here: the kill is not tried");
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let python = Interpreter::find("3.11")?;
    // By then it is recorded.
    let program =
        "import time\nkept = []\ntime.sleep(5)\nwhile True: kept.append(bytearray(1 << 20))";
    let mut target = Group::start(python.command().args(["-c", program]))?;
    let pid = target.id();
    group.take(pid)?;
    let mut recorder = recorder(folder.path(), &["--ring", "30s", "-p", &pid.to_string()])?;
    target.wait_for(PATIENCE)?;
    recorder.wait_for(PATIENCE)?;
    let (_, report) = written(folder.path(), "oom-kill")?;
    let exited = report.process(pid)?.exited.context("it has not exited")?;
    ensure!(exited.signal == Some(9), "{exited:?}");
    Ok(())
}

/// A finding and a stall make it write; only so many files are kept.
fn triggers() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let workload = Workload::start(
        &Interpreter::find("3.11")?,
        "findings.py",
        &["loop_blocked"],
    )?;
    let target = workload.pid().to_string();
    for (trigger, reason) in [("stall", "stall"), ("loop-blocked", "loop-blocked")] {
        let more = [
            "--ring",
            "10s",
            "--keep",
            "1",
            "--trigger",
            trigger,
            "-p",
            &target,
        ];
        let mut recorder = recorder(folder.path(), &more)?;
        let (_, report) = written(folder.path(), reason)?;
        let process = report.process(workload.pid())?;
        let stalls = process.loops.iter().filter_map(|one| one.timing.as_ref());
        ensure!(stalls.map(|timing| timing.stalls_count).sum::<u64>() > 0);
        recorder.signal(libc::SIGTERM);
        recorder.wait_for(PATIENCE)?;
        let files = std::fs::read_dir(folder.path())?.count();
        ensure!(files == 1, "{files} files were kept");
    }
    Ok(())
}
