//! Who is watched: by name, service, container; those that come later; a wrapper's descendants.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::{Skip, quiet};
use concmon_tests::interpreter::Interpreter;
use concmon_tests::report::{Process, Report};
use concmon_tests::spawn::{Group, code};
use concmon_tests::watch::{PATIENCE, Watch, binary};
use concmon_tests::workload::programs;
use libtest_mimic::Trial;
use serde_json::Value;

use crate::watch_python;

const VERSION: &str = "3.11";

pub(crate) fn trials() -> Vec<Trial> {
    let needs = watch_python(VERSION);
    vec![
        quiet("selectors::name_now_and_later", &needs, name_now_and_later),
        quiet("selectors::all_but_some", &needs, all_but_some),
        quiet("selectors::nobody_and_wait", &needs, nobody_and_wait),
        quiet("selectors::what_a_shell_runs", &needs, what_a_shell_runs),
        quiet("selectors::looks", &needs, looks),
        quiet("selectors::places", &needs, places),
    ]
}

/// A word that no other process of this host has in its command line.
pub(crate) fn word() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("selected-{}-{next}x", std::process::id())
}

/// A program with these words in its command line.
pub(crate) fn program(words: &[&str]) -> Result<Group> {
    let python = Interpreter::find(VERSION)?;
    let mut command = python.command();
    let script = programs().join("selected.py");
    Group::start(command.arg(script).args(words).stdin(Stdio::null()))
}

/// How the program is called by a shell.
pub(crate) fn line(words: &[&str]) -> Result<String> {
    let python = Interpreter::find(VERSION)?.words().join(" ");
    let script = programs().join("selected.py");
    Ok(format!("{python} {} {}", script.display(), words.join(" ")))
}

/// Whether a process is there, its interpreter was found, and it is the one with this word.
fn is_whole(process: &Process, word: &str) -> bool {
    let threads = || {
        process
            .threads
            .iter()
            .filter_map(|thread| thread.name.as_deref())
    };
    process.python.is_some()
        && process.cmdline.iter().any(|part| part == word)
        && threads().any(|name| name == word)
}

/// Reads reports until one holds.
fn until(watch: &mut Watch, what: &str, holds: impl Fn(&Report) -> bool) -> Result<Report> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let report = watch.next(PATIENCE)?;
        if holds(&report) {
            return Ok(report);
        }
        ensure!(
            Instant::now() < deadline,
            "{what}: not in {PATIENCE:?}; last: {:?}",
            pids(&report)
        );
    }
}

fn pids(report: &Report) -> Vec<(u32, &[String])> {
    let row = |process: &'_ Process| process.pid;
    report
        .processes
        .iter()
        .map(|process| (row(process), process.cmdline.as_slice()))
        .collect()
}

fn has(report: &Report, word: &str) -> bool {
    report
        .processes
        .iter()
        .any(|process| is_whole(process, word))
}

fn mentions(report: &Report, word: &str) -> bool {
    let mut words = report.processes.iter().flat_map(|process| &process.cmdline);
    words.any(|part| part == word)
}

/// The tool's exit code and what it says on standard error and output.
pub(crate) fn run(args: &[&str]) -> Result<(i32, String, String)> {
    let output = Command::new(binary()?)
        .args(args)
        .stdin(Stdio::null())
        .output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((
        code(output.status),
        text(&output.stderr),
        text(&output.stdout),
    ))
}

/// One is there, two come, one of them is left out, and so is a child. The watch outlives all of them.
fn name_now_and_later() -> Result<()> {
    let (first, later, left_out) = (word(), word(), word());
    let (pattern, child) = (format!("{first}|{later}"), format!("{first}-child"));
    let here = program(&[&first, "--child"])?;
    let mut watch = Watch::start(&[
        "--name",
        &pattern,
        "--exclude",
        &left_out,
        "--exclude",
        &child,
        "-i",
        "500ms",
        "--json",
    ])?;
    until(&mut watch, "who was there", |report| has(report, &first))?;
    let other = program(&[&later])?;
    let _unwanted = program(&[&later, &left_out])?;
    until(&mut watch, "who came", |report| {
        let one = report.processes.iter().find(|one| one.pid == other.id());
        one.is_some_and(|process| is_whole(process, &later))
    })?;
    // The child of the first one has begun by now, and is let go of when its command line is known.
    std::thread::sleep(Duration::from_secs(2));
    until(&mut watch, "without the child", |report| {
        !mentions(report, &left_out) && !mentions(report, &child)
    })?;
    let (first_pid, other_pid) = (here.id(), other.id());
    drop((here, other));
    until(&mut watch, "after their ends", |report| {
        report.processes.is_empty()
    })?;
    let again = program(&[&first])?;
    until(&mut watch, "who came back", |report| has(report, &first))?;
    let outcome = watch.interrupt()?;
    let summary = outcome.summary()?;
    for unwanted in [&left_out, &child] {
        ensure!(!mentions(summary, unwanted), "{:?}", pids(summary));
    }
    for pid in [first_pid, other_pid, again.id()] {
        summary.process(pid)?;
    }
    Ok(())
}

/// Of everybody that is Python by what it has mapped, whatever it is called, and nobody else.
fn all_but_some() -> Result<()> {
    let (here, left_out) = (word(), word());
    let one = program(&[&here])?;
    let _other = program(&[&left_out])?;
    // Its name says nothing of Python.
    let renamed = format!("exec -a {} {}", word(), line(&[&here])?);
    let renamed = Group::start(
        Command::new("bash")
            .args(["-c", &renamed])
            .stdin(Stdio::null()),
    )?;
    let no_python = Group::start(Command::new("sleep").arg("60").stdin(Stdio::null()))?;
    let mut watch = Watch::start(&["--all", "--exclude", &left_out, "-i", "500ms", "--json"])?;
    until(&mut watch, "both", |report| {
        let whole = |pid: u32| {
            let mut all = report.processes.iter();
            all.any(|process| process.pid == pid && is_whole(process, &here))
        };
        whole(one.id()) && whole(renamed.id())
    })?;
    let tool = watch.tool();
    let outcome = watch.interrupt()?;
    for report in &outcome.reports {
        ensure!(!mentions(report, &left_out), "{:?}", pids(report));
        for pid in [tool, no_python.id()] {
            ensure!(report.process(pid).is_err(), "process {pid} is watched");
        }
    }
    Ok(())
}

fn nobody_and_wait() -> Result<()> {
    let nobody = word();
    for (option, value) in [
        ("--name", nobody.as_str()),
        ("--unit", &nobody),
        ("--container", &nobody),
        ("--cgroup", &nobody),
    ] {
        for command in [
            &["-d", "1s"][..],
            &["dump"],
            &["tasks"],
            &["record", "-d", "1s"],
        ] {
            let (code, stderr, _) = run(&[command, &[option, value]].concat())?;
            ensure!(
                code == 3 && stderr.contains(&nobody) && stderr.contains("--wait"),
                "{command:?} {option}: {code}, {stderr}"
            );
        }
    }
    let (code, stderr, _) = run(&["--name", "a(", "-d", "1s"])?;
    ensure!(
        code == 2 && stderr.contains("unclosed group"),
        "{code}, {stderr}"
    );

    let mut watch = Watch::start(&["--name", &nobody, "--wait", "-i", "500ms", "--json"])?;
    std::thread::sleep(Duration::from_secs(1));
    ensure!(watch.running()?, "it has not waited");
    let late = program(&[&nobody])?;
    until(&mut watch, "who was waited for", |report| {
        has(report, &nobody)
    })?;
    let outcome = watch.interrupt()?;
    ensure!(outcome.stderr.contains("waiting for"), "{}", outcome.stderr);
    outcome.summary()?.process(late.id())?;

    let watch = Watch::start(&["--name", &word(), "--wait", "--json"])?;
    std::thread::sleep(Duration::from_secs(1));
    watch.signal(libc::SIGINT);
    let outcome = watch.finish(PATIENCE)?;
    ensure!(
        outcome.code == 0 && outcome.reports.is_empty(),
        "{}, {}",
        outcome.code,
        outcome.stderr
    );
    Ok(())
}

/// A shell starts one program after the other, and is named itself.
fn what_a_shell_runs() -> Result<()> {
    let (first, second) = (word(), word());
    let script = format!("{} & wait; {} & wait", line(&[&first])?, line(&[&second])?);
    let shell = Group::start(
        Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::null()),
    )?;
    let pid = shell.id().to_string();
    std::thread::sleep(Duration::from_secs(1));
    let mut watch = Watch::start(&["--pid", &pid, "-i", "500ms", "--json"])?;
    let report = until(&mut watch, "the first", |report| has(report, &first))?;
    ensure!(report.process(shell.id()).is_err(), "the shell is watched");
    let inside = report
        .processes
        .iter()
        .find(|process| is_whole(process, &first))
        .context("no first one")?;
    // SAFETY: kill takes no pointers; the process is a child of the shell's.
    unsafe { libc::kill(inside.pid as i32, libc::SIGKILL) };
    until(&mut watch, "the second", |report| has(report, &second))?;
    let outcome = watch.interrupt()?;
    let said = format!("process {pid} (sh) is not Python: watching its Python descendants");
    ensure!(outcome.stderr.contains(&said), "{}", outcome.stderr);
    let (code, stderr, stdout) = run(&["dump", "--pid", &pid])?;
    ensure!(
        code == 0 && stderr.contains("is not Python") && stdout.contains(&second),
        "{code}, {stderr}, {stdout}"
    );

    let shell = Group::start(
        Command::new("sh")
            .args(["-c", "sleep 60; true"])
            .stdin(Stdio::null()),
    )?;
    let (code, stderr, _) = run(&["--pid", &shell.id().to_string(), "-d", "1s"])?;
    ensure!(
        code == 3 && stderr.contains("is not Python"),
        "{code}, {stderr}"
    );
    Ok(())
}

fn looks() -> Result<()> {
    let (one, other) = (word(), word());
    let programs = [program(&[&one, &other])?, program(&[&other])?];
    std::thread::sleep(Duration::from_secs(1));
    for command in ["dump", "tasks"] {
        for (args, expected) in [
            (&["--name", &other][..], &programs[..]),
            (&["--name", &other, "--exclude", &one], &programs[1..]),
        ] {
            let (code, stderr, stdout) = run(&[&[command, "--json"], args].concat())?;
            ensure!(code == 0, "{code}, {stderr}");
            let look: Value = serde_json::from_str(&stdout)?;
            let rows = look["processes"].as_array().context("no processes")?;
            let mut found: Vec<u64> = rows.iter().filter_map(|row| row["pid"].as_u64()).collect();
            found.sort_unstable();
            let mut pids: Vec<u64> = expected.iter().map(|one| u64::from(one.id())).collect();
            pids.sort_unstable();
            ensure!(
                found == pids,
                "{command} {args:?}: {found:?}, expected {pids:?}"
            );
        }
    }
    Ok(())
}

/// A cgroup of one's own, called as those of services and containers are.
struct Cgroup {
    made: Vec<PathBuf>,
    path: String,
}

impl Cgroup {
    fn make(parts: &[&str]) -> Result<Self> {
        let places = [
            "/sys/fs/cgroup/unified",
            "/sys/fs/cgroup/pids",
            "/sys/fs/cgroup",
        ];
        let root = places
            .iter()
            .map(Path::new)
            .find(|place| place.join("cgroup.procs").exists())
            .ok_or_else(|| Skip("no cgroups are mounted".to_owned()))?;
        let mut made = Self {
            made: Vec::new(),
            path: String::new(),
        };
        let mut folder = root.to_owned();
        for part in parts {
            folder.push(part);
            std::fs::create_dir(&folder)
                .map_err(|error| Skip(format!("cgroups cannot be made: {error}")))?;
            made.made.push(folder.clone());
            made.path = format!("{}/{part}", made.path);
        }
        Ok(made)
    }

    fn take(&self, pid: u32) -> Result<()> {
        let innermost = self.made.last().context("no cgroup")?;
        std::fs::write(innermost.join("cgroup.procs"), pid.to_string())?;
        Ok(())
    }

    /// The folder of it.
    fn folder(&self) -> Result<&str> {
        self.made
            .last()
            .and_then(|path| path.to_str())
            .context("no cgroup")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for folder in self.made.iter().rev() {
            // Whoever was killed may take a moment to leave.
            for _ in 0..200 {
                if std::fs::remove_dir(folder).is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// One service with one container in it; by each of their names.
fn places() -> Result<()> {
    let (one, late, elsewhere) = (word(), word(), word());
    let id = format!("{:0>64}", format!("{:x}c0ffee", std::process::id()));
    let id: String = id.chars().rev().collect();
    let unit = format!("{one}.service");
    let cgroup = Cgroup::make(&[&unit, &format!("docker-{id}.scope")])?;
    let first = program(&[&one])?;
    cgroup.take(first.id())?;
    let _other = program(&[&elsewhere])?;
    for (option, value) in [
        ("--unit", one.as_str()),
        ("--unit", &unit),
        ("--container", &id[..20]),
        ("--container", &id),
        ("--cgroup", &cgroup.path),
        ("--cgroup", cgroup.folder()?),
    ] {
        let mut watch = Watch::start(&[option, value, "-i", "500ms", "--json"])?;
        until(&mut watch, option, |report| has(report, &one))?;
        let mut second = None;
        if value == one {
            // Who comes into the cgroup after its exec is found as well.
            let program = program(&[&late])?;
            std::thread::sleep(Duration::from_millis(700));
            cgroup.take(program.id())?;
            until(&mut watch, "who moved in", |report| has(report, &late))?;
            second = Some(program);
        }
        let outcome = watch.interrupt()?;
        let summary = outcome.summary()?;
        let process = summary.process(first.id())?;
        ensure!(
            process.unit.as_deref() == Some(&unit) && process.container_id.as_deref() == Some(&id),
            "{:?}, {:?}",
            process.unit,
            process.container_id
        );
        ensure!(!mentions(summary, &elsewhere), "{:?}", pids(summary));
        drop(second);
    }
    let (code, stderr, stdout) = run(&["dump", "--container", &id[..20]])?;
    let said = format!("container {}, unit {unit}", &id[..12]);
    ensure!(
        code == 0 && stdout.contains(&said),
        "{code}, {stderr}, {stdout}"
    );
    // Its id inside is the one here: it is in no PID namespace of its own.
    let pid = first.id().to_string();
    for (pid, expected) in [(pid.as_str(), 0), ("4194304", 3)] {
        let (code, stderr, _) = run(&["dump", "--container", &id, "--pid", pid])?;
        ensure!(code == expected, "{pid}: {code}, {stderr}");
    }
    Ok(())
}
