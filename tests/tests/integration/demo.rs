//! The embedded demo program: silent, bounded, and ends cleanly, on every supported Python.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::case;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::needs::Need;
use concmon_tests::proc;
use concmon_tests::spawn::{Group, code};
use libtest_mimic::Trial;

use crate::workloads::VERSIONS;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for version in VERSIONS {
        trials.push(case(
            format!("demo::program_ends_by_itself::py{version}"),
            &[Need::Python(version)],
            move || ends_by_itself(version),
        ));
        trials.push(case(
            format!("demo::program_ends_on_sigterm::py{version}"),
            &[Need::Python(version)],
            move || ends_on_sigterm(version),
        ));
    }
    trials
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../concmon-userspace/src/demo/misbehave.py")
}

fn start(version: &str, seconds: &str) -> Result<Group> {
    let python = Interpreter::find(version)?;
    let body = std::fs::read_to_string(source()).context("the demo program")?;
    let mut command: Command = python.command();
    Group::start(
        command
            .args(["-c", &body, seconds])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped()),
    )
}

fn silent_and_done(mut child: Group, children: &[u32]) -> Result<()> {
    let status = child.wait_for(Duration::from_secs(10))?;
    let mut out = String::new();
    let mut err = String::new();
    child
        .stdout
        .take()
        .context("no stdout")?
        .read_to_string(&mut out)?;
    child
        .stderr
        .take()
        .context("no stderr")?
        .read_to_string(&mut err)?;
    ensure!(code(status) == 0, "exit code {}: {err}", code(status));
    ensure!(out.is_empty(), "stdout: {out:?}");
    ensure!(err.is_empty(), "stderr: {err:?}");
    ensure!(!children.is_empty(), "it had no child process");
    for pid in children {
        ensure!(
            proc::status(*pid, "Pid").is_err(),
            "its child {pid} is still there"
        );
    }
    Ok(())
}

fn children(pid: u32) -> Result<Vec<u32>> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    Ok(text
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect())
}

fn ends_by_itself(version: &str) -> Result<()> {
    let began = Instant::now();
    let child = start(version, "2")?;
    std::thread::sleep(Duration::from_secs(1));
    let children = children(child.id())?;
    silent_and_done(child, &children)?;
    let took = began.elapsed();
    ensure!(
        (Duration::from_millis(1900)..Duration::from_secs(6)).contains(&took),
        "told to run 2 s, it ran {took:?}"
    );
    Ok(())
}

fn ends_on_sigterm(version: &str) -> Result<()> {
    let child = start(version, "60")?;
    std::thread::sleep(Duration::from_millis(1500));
    let threads = proc::threads(child.id())?;
    ensure!(threads.len() >= 8, "only {} threads", threads.len());
    let children = children(child.id())?;
    child.signal(libc::SIGTERM);
    silent_and_done(child, &children)
}
