//! The embedded demo program: silent, bounded, and ends cleanly, on every supported Python.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::quiet;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::needs::Need;
use concmon_tests::proc;
use concmon_tests::spawn::{Group, code};
use concmon_tests::watch::{PATIENCE, binary};
use libtest_mimic::Trial;

use crate::WATCH;
use crate::workloads::VERSIONS;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for version in VERSIONS {
        trials.push(quiet(
            format!("demo::program_ends_by_itself::py{version}"),
            &[Need::Python(version)],
            move || ends_by_itself(version),
        ));
        trials.push(quiet(
            format!("demo::program_ends_on_sigterm::py{version}"),
            &[Need::Python(version)],
            move || ends_on_sigterm(version),
        ));
    }
    let [root, ebpf] = WATCH;
    trials.push(quiet(
        "demo::nothing_is_left_of_a_killed_demo",
        &[root, ebpf, Need::Python("3.11")],
        nothing_is_left_of_a_killed_demo,
    ));
    trials.push(quiet(
        "demo::a_temporary_folder_that_is_none",
        &[root, Need::Python("3.11")],
        a_temporary_folder_that_is_none,
    ));
    trials
}

/// The demo with `python3` being the one of the tests, and a temporary folder.
fn demo(temporary: &Path) -> Result<Command> {
    let python = Interpreter::find("3.11")?.command();
    let folder = Path::new(python.get_program())
        .parent()
        .context("an interpreter without a folder")?;
    let others = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(binary()?);
    command
        .args(["demo", "-d", "60s", "--json"])
        .env("PATH", format!("{}:{others}", folder.display()))
        .env("TMPDIR", temporary)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Ok(command)
}

/// SIGKILL of the tool ends the program, its child too, and no file stays.
fn nothing_is_left_of_a_killed_demo() -> Result<()> {
    let temporary = tempfile::tempdir()?;
    let tool = Group::start(&mut demo(temporary.path())?)?;
    let deadline = Instant::now() + PATIENCE;
    let family = loop {
        let programs: Vec<u32> = children_of_all_threads(tool.id())?;
        let helpers: Vec<u32> = programs
            .iter()
            .flat_map(|pid| children(*pid).unwrap_or_default())
            .collect();
        if !helpers.is_empty() {
            break [programs, helpers].concat();
        }
        ensure!(Instant::now() < deadline, "the demo does not begin");
        std::thread::sleep(Duration::from_millis(100));
    };
    std::thread::sleep(Duration::from_secs(1));
    let files = std::fs::read_dir(temporary.path())?.count();
    ensure!(files == 0, "{files} files are left while it runs");
    tool.signal(libc::SIGKILL);
    let deadline = Instant::now() + Duration::from_secs(10);
    for pid in family {
        // Whoever adopts them need not wait for them at once.
        while proc::states(pid).is_ok_and(|states| states.iter().any(|state| *state != 'Z')) {
            ensure!(Instant::now() < deadline, "process {pid} is still there");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

fn a_temporary_folder_that_is_none() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let missing = folder.path().join("missing");
    let output = demo(&missing)?.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
    ensure!(
        said.contains("temporary folder") && said.contains(&*missing.to_string_lossy()),
        "{said}"
    );
    ensure!(!said.contains("python3"), "{said}");
    Ok(())
}

/// The child of a program that forks in a thread is that thread's.
fn children_of_all_threads(pid: u32) -> Result<Vec<u32>> {
    let mut all = Vec::new();
    for thread in proc::threads(pid)? {
        let path = format!("/proc/{pid}/task/{thread}/children");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        all.extend(
            text.split_whitespace()
                .filter_map(|word| word.parse::<u32>().ok()),
        );
    }
    Ok(all)
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
