//! `--exact` in programs as people run them: they do what they do without it, while probes are met in
//! each of their processes all the time.
//!
//! With `CONCMON_PROGRAMS=all`, each program runs on every Python.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::{Skip, quiet};
use concmon_tests::interpreter::Interpreter;
use concmon_tests::packages;
use concmon_tests::report::CountedTasks;
use concmon_tests::spawn::code;
use concmon_tests::watch::{Outcome, Watch};
use concmon_tests::workload::{Programs, Workload};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::watch_python;

const VERSIONS: [&str; 8] = ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15"];
const LIMIT: Duration = Duration::from_secs(180);

/// A program of `programs.py`, what it needs, and the Pythons that it always runs on.
const PROGRAMS: [(&str, &[&str], &[&str]); 16] = [
    ("seccomp", &[], &[]),
    ("seccomp-strict", &[], &["3.11"]),
    ("execs", &[], &["3.9"]),
    ("forks", &[], &["3.13"]),
    ("ends", &[], &["3.11"]),
    ("greenlets", &["greenlet"], &["3.9", "3.13"]),
    ("sqlalchemy", &["sqlalchemy", "greenlet", "aiosqlite"], &[]),
    ("pip", &[], &["3.11"]),
    ("gunicorn-sync", &["gunicorn"], &[]),
    ("gunicorn-gthread", &["gunicorn"], &[]),
    ("gunicorn-uvicorn", &["gunicorn", "uvicorn"], &["3.13"]),
    ("uvicorn", &["uvicorn"], &[]),
    ("uvicorn-reload", &["uvicorn"], &[]),
    ("uvicorn-workers", &["uvicorn"], &[]),
    ("celery", &["celery"], &["3.11"]),
    ("celery-threads", &["celery"], &[]),
];
/// Programs that are also watched by their id, with all that comes from them.
const BY_ID: [(&str, &str); 2] = [("ends", "3.13"), ("forks", "3.11")];

pub(crate) fn trials() -> Vec<Trial> {
    let all = std::env::var_os("CONCMON_PROGRAMS").is_some_and(|which| which == "all");
    let mut trials = Vec::new();
    for (program, needed, always) in PROGRAMS {
        for version in if all { &VERSIONS[..] } else { always } {
            trials.push(quiet(
                format!("programs::{program}::py{version}"),
                &watch_python(version),
                move || started(program, version, needed),
            ));
        }
    }
    trials.extend(BY_ID.map(|(program, version)| {
        quiet(
            format!("programs::by_id::{program}::py{version}"),
            &watch_python(version),
            move || by_id(program, version),
        )
    }));
    trials.push(quiet(
        "programs::code_is_as_before",
        &watch_python("3.11"),
        code_is_as_before,
    ));
    trials
}

/// A program under `concmon-bpf -- CMD` ends as it does alone, and says the same.
fn started(program: &str, version: &str, needed: &[&str]) -> Result<()> {
    let python = Interpreter::find(version)?;
    let programs = Programs::copy(&python)?;
    let packages = match needed {
        [] => None,
        needed => Some(packages::folder(&python, version, needed)?),
    };
    let prepare = |command: &mut Command| {
        command.stdin(Stdio::null());
        if let Some(packages) = &packages {
            command.env("PYTHONPATH", packages);
        }
    };
    let path = programs.path("programs.py");
    let mut alone = python.command();
    alone.args([&path, program, "now"]);
    prepare(&mut alone);
    let alone = alone.stderr(Stdio::inherit()).output()?;
    let said = String::from_utf8_lossy(&alone.stdout).into_owned();
    let account: Value =
        serde_json::from_str(said.trim()).with_context(|| format!("alone, it said {said:?}"))?;
    if let Some(reason) = account["skip"].as_str() {
        return Err(Skip(reason.to_owned()).into());
    }

    let mut command = Command::new(concmon_tests::watch::binary()?);
    command.args(["--exact", "tasks,futures", "--json", "--"]);
    command.args(python.words()).args([&path, program, "now"]);
    prepare(&mut command);
    let outcome = Watch::with(&mut command)?.finish(LIMIT)?;
    let own = code(alone.status);
    ensure!(
        (outcome.code, &outcome.other[..]) == (own, &[said.trim_end().to_owned()][..]),
        "alone it ended with {own} and {said}; watched with {} and {:?}, {}",
        outcome.code,
        outcome.other,
        outcome.stderr
    );
    counted(&outcome)
}

/// Probes were met.
fn counted(outcome: &Outcome) -> Result<()> {
    let processes = &outcome.summary()?.processes;
    let exact = processes
        .iter()
        .filter_map(|process| process.exact.as_ref());
    let rows = exact.filter_map(|exact| exact.tasks.as_ref()).flatten();
    let ended: u64 = rows.map(|row: &CountedTasks| row.finished).sum();
    ensure!(
        ended > 100,
        "only {ended} tasks were counted: {}",
        outcome.stderr
    );
    Ok(())
}

fn by_id(program: &str, version: &str) -> Result<()> {
    let python = Interpreter::find(version)?;
    let mut alone = Workload::start(&python, "programs.py", &[program])?;
    let wanted = alone.ask(&json!({"do": "run"}), "ran")?;
    ensure!(alone.end()?.success(), "it fails alone");

    let mut watched = Workload::start(&python, "programs.py", &[program])?;
    let id = watched.pid().to_string();
    let args = ["-p", &id, "-i", "200ms", "--json", "--exact", "tasks"];
    let mut watch = Watch::start(&args)?;
    watch.next(LIMIT)?;
    let found = watched.ask(&json!({"do": "run"}), "ran")?;
    watch.next(LIMIT)?;
    let outcome = watch.interrupt()?;
    let status = watched.end()?;
    ensure!(
        wanted == found && status.success(),
        "alone {wanted}, watched {found}, {status}"
    );
    counted(&outcome)
}

/// After a watch, no breakpoint is left in the code of a process that runs its tasks meanwhile; nor is
/// one after the tool was killed.
fn code_is_as_before() -> Result<()> {
    let python = Interpreter::find("3.11")?;
    let mut program = Workload::start(&python, "exact.py", &["asyncio"])?;
    program.tell(&json!({"do": "spin"}))?;
    let id = program.pid().to_string();
    let before = code_of(program.pid())?;
    for kills in [false, true] {
        let args = [
            "-p",
            &id,
            "-i",
            "200ms",
            "--json",
            "--exact",
            "tasks,futures",
        ];
        let mut watch = Watch::start(&args)?;
        watch.next(LIMIT)?;
        let probed = code_of(program.pid())?;
        let places = probed
            .iter()
            .zip(&before)
            .filter(|(one, other)| one != other);
        ensure!(places.count() > 3, "no breakpoints while it is watched");
        if kills {
            watch.signal(libc::SIGKILL);
            // The kernel takes them away one after the other.
            let deadline = Instant::now() + LIMIT;
            while code_of(program.pid())? != before && Instant::now() < deadline {
                sleep(Duration::from_millis(100));
            }
        } else {
            watch.interrupt()?;
        }
        ensure!(code_of(program.pid())? == before, "its code has changed");
    }
    program.ask(&json!({"do": "stop"}), "spun")?;
    ensure!(program.end()?.success());
    Ok(())
}

/// The code of asyncio's C module in the memory of a process.
fn code_of(pid: u32) -> Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let line = maps
        .lines()
        .find(|line| line.contains(" r-xp ") && line.contains("/_asyncio."))
        .context("asyncio's C module is not in a file of its own")?;
    let range = line
        .split(' ')
        .next()
        .and_then(|range| range.split_once('-'));
    let (start, end) = range.context("no range")?;
    let (start, end) = (
        u64::from_str_radix(start, 16)?,
        u64::from_str_radix(end, 16)?,
    );
    let mut code = vec![0; usize::try_from(end - start)?];
    let memory = std::fs::File::open(Path::new("/proc").join(pid.to_string()).join("mem"))?;
    memory.read_exact_at(&mut code, start)?;
    Ok(code)
}
