//! Nothing is missed and nothing is cut in silence: steps of generators that run, awaiters, names, chains.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::quiet;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::needs::Need;
use concmon_tests::watch::binary;
use concmon_tests::workload::{Programs, Workload, programs};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::dump::{array, run, tool};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for version in crate::workloads::VERSIONS {
        let needs = [Need::Root, Need::Python(version)];
        trials.push(quiet(
            format!("whole::a_step_of_a_generator_that_runs_is_told::py{version}"),
            &needs,
            move || steps(version),
        ));
        trials.push(quiet(
            format!("whole::what_is_too_long_says_what_is_left_out::py{version}"),
            &needs,
            move || many(version),
        ));
    }
    for version in ["3.11", "3.13"] {
        let needs = [Need::Root, Need::Ebpf, Need::Cc, Need::Python(version)];
        trials.push(quiet(
            format!("whole::an_interpreter_without_memory_has_kernel_columns::py{version}"),
            &needs,
            move || hidden(version),
        ));
    }
    for version in ["3.8", "3.10", "3.12", "3.13"] {
        let looked_at = [Need::Root, Need::Python(version)];
        let watched = [Need::Root, Need::Ebpf, Need::Python(version)];
        trials.extend([
            quiet(
                format!("whole::another_thread_becomes_a_program::py{version}"),
                &watched,
                move || becomes(version),
            ),
            quiet(
                format!("whole::a_stopped_process_says_so::py{version}"),
                &looked_at,
                move || stopped(version),
            ),
            quiet(
                format!("whole::a_short_program_is_known::py{version}"),
                &watched,
                move || short(version),
            ),
            quiet(
                format!("whole::others_live_on_when_the_first_thread_ends::py{version}"),
                &watched,
                move || leader(version),
            ),
        ]);
    }
    trials
}

/// Whatever its threads do, or wait for, a process that was stopped says that of each.
fn stopped(version: &str) -> Result<()> {
    let python = Interpreter::find(version)?;
    let workload = Workload::start(&python, "whole.py", &["chain"])?;
    // SAFETY: a signal to a child that is not waited for before.
    let send = |signal| unsafe { libc::kill(workload.pid().cast_signed(), signal) };
    let states = || -> Result<Vec<Value>> {
        let line = tool(&["dump", "--json"], workload.pid())?.json()?;
        let threads = array(&line, "/processes/0/threads")?.iter();
        Ok(threads.map(|thread| thread["state"].clone()).collect())
    };
    ensure!(send(libc::SIGSTOP) == 0, "no signal");
    let while_stopped = states();
    ensure!(send(libc::SIGCONT) == 0, "no signal");
    let (while_stopped, after) = (while_stopped?, states()?);
    ensure!(
        while_stopped.len() == 2 && while_stopped.iter().all(|state| state == "stopped"),
        "stopped: {while_stopped:?}"
    );
    ensure!(
        after.iter().all(|state| state == "idle"),
        "after: {after:?}"
    );
    Ok(())
}

/// A process whose first thread has ended is attached to, and its other threads are told by both.
fn leader(version: &str) -> Result<()> {
    let python = Interpreter::find(version)?;
    let workload = Workload::start(&python, "leader_gone.py", &[])?;
    let stat = format!("/proc/{}/stat", workload.pid());
    let has_ended = || std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z "));
    for _ in 0..100 {
        if has_ended() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    ensure!(has_ended(), "the first thread lives on");
    let workers = |process: &Value| -> Result<usize> {
        let threads = array(process, "/threads")?.iter();
        let names = threads.filter_map(|thread| thread["name"].as_str());
        Ok(names.filter(|name| name.starts_with("worker-")).count())
    };
    let line = tool(&["dump", "--json"], workload.pid())?.json()?;
    let told = workers(&line["processes"][0])?;
    ensure!(told == 3, "dump: {told} workers");
    let watched = run(Command::new(binary()?).args([
        "--json",
        "-d",
        "1s",
        "-p",
        &workload.pid().to_string(),
    ]))?;
    let text = watched.ok()?;
    let summary: Value = serde_json::from_str(text.lines().last().context("no summary")?)?;
    let process = &summary["processes"][0];
    let told = workers(process)?;
    ensure!(
        told == 3 && process["alive"] != false,
        "watch: {told} workers, {process}"
    );
    Ok(())
}

/// Another thread than the first one execs, twice: the first one's id is its own from then on.
fn becomes(version: &str) -> Result<()> {
    const PROGRAM: &str = "
import os, sys, threading, time
program, left = sys.argv[1], int(sys.argv[2])
def execs():
    time.sleep(0.5)
    os.execv(sys.executable, [sys.executable, '-c', program, program, str(left - 1)])
if left:
    threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
    threading.Thread(target=execs).start()
    time.sleep(100)
time.sleep(1)
";
    let python = Interpreter::find(version)?;
    let mut command = Command::new(binary()?);
    command.args(["--json", "-i", "500ms", "--"]);
    command
        .args(python.words())
        .args(["-c", PROGRAM, PROGRAM, "2"]);
    let text = String::from_utf8(command.output()?.stdout)?;
    let summary: Value = serde_json::from_str(text.lines().last().context("no summary")?)?;
    let processes = array(&summary, "/processes")?;
    ensure!(processes.len() == 1, "{} processes", processes.len());
    let process = &processes[0];
    let command = array(process, "/cmdline")?.last();
    ensure!(
        command.is_some_and(|last| last == "0") && process["python"]["supported"] == true,
        "{command:?}, python {}",
        process["python"]
    );
    let threads = array(process, "/threads")?;
    let lives = threads.iter().map(|thread| {
        let wall_ns = thread["wall_ns"].as_u64().context("no wall")?;
        Ok((thread["started_unix_ns"].to_string(), wall_ns))
    });
    let lives: Vec<(String, u64)> = lives.collect::<Result<_>>()?;
    let window_ns = summary["window"]["duration_ns"]
        .as_u64()
        .context("no window")?;
    ensure!(
        lives.iter().all(|(_, wall_ns)| *wall_ns <= window_ns),
        "longer than {window_ns}: {lives:?}"
    );
    // Two threads beside the first in each of two programs, and the first once for each of three.
    ensure!(
        (5..=7).contains(&lives.len()),
        "{} threads: {lives:?}",
        lives.len()
    );
    Ok(())
}

/// An interpreter that cannot be read is watched by what the kernel knows, and the report says why.
fn hidden(version: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let library = folder.path().join("hidden.so");
    let mut compiler = Command::new("cc");
    compiler
        .args(["-shared", "-fPIC", "-pthread", "-o"])
        .arg(&library);
    let compiled = compiler.arg(programs().join("hidden.c")).status()?;
    ensure!(compiled.success(), "cc: {compiled}");
    let library = library.to_string_lossy();
    for how in ["unmap", "protect"] {
        let python = Interpreter::find(version)?;
        let workload = Workload::start(&python, "hidden.py", &[&library, how])?;
        // Who has just begun may not have mapped all of itself yet.
        std::thread::sleep(std::time::Duration::from_millis(1_200));
        let pid = workload.pid().to_string();
        let mut command = Command::new(binary()?);
        // One line warns of it.
        command.args(["-q", "--json", "-d", "2s", "-p", &pid]);
        let watched = run(&mut command)?;
        let text = watched.ok()?;
        let summary: Value = serde_json::from_str(text.lines().last().context("no summary")?)?;
        let process = &summary["processes"][0];
        let python = &process["python"];
        let reason = python["reason"].as_str().unwrap_or_default();
        ensure!(
            python["supported"] == false && !reason.is_empty(),
            "{how}: {python}"
        );
        let threads = array(process, "/threads")?;
        let on_cpu_ns = threads
            .iter()
            .filter_map(|thread| thread["on_cpu_ns"].as_u64());
        ensure!(
            threads.len() == 2 && on_cpu_ns.sum::<u64>() > 0,
            "{how}: {process}"
        );
    }
    Ok(())
}

/// A program that ends before the first window does is Python, and its threads have names.
fn short(version: &str) -> Result<()> {
    let python = Interpreter::find(version)?;
    for _ in 0..4 {
        let programs = Programs::copy(&python)?;
        let mut command = Command::new(binary()?);
        command
            .args(["--json", "-i", "5s", "--"])
            .arg(python.command().get_program());
        let output = command.args([&programs.path("short.py"), "1"]).output()?;
        let text = String::from_utf8(output.stdout)?;
        let summary: Value = serde_json::from_str(text.lines().last().context("no summary")?)?;
        let process = &summary["processes"][0];
        let found = process["python"]["version"].as_str().unwrap_or_default();
        ensure!(
            found.starts_with(&format!("{version}.")),
            "python: {}",
            process["python"]
        );
        let names = array(process, "/threads")?
            .iter()
            .map(|thread| &thread["name"]);
        let names: Vec<&Value> = names.collect();
        ensure!(names == ["MainThread", "short-lived"], "threads: {names:?}");
    }
    Ok(())
}

/// The tasks that one look tells of a process.
fn tasks(look: &str, pid: u32) -> Result<(Value, Vec<Value>)> {
    let line = tool(&[look, "--json"], pid)?.json()?;
    let loops = array(&line, "/processes/0/loops")?;
    let tasks = loops.iter().map(|one| array(one, "/tasks"));
    let tasks: Vec<&Vec<Value>> = tasks.collect::<Result<_>>()?;
    let tasks = tasks.into_iter().flatten().cloned().collect();
    Ok((line, tasks))
}

/// Of the functions in a task's chain the plain names: before 3.11, code has no others.
fn chain(task: &Value) -> Result<Vec<String>> {
    let frames = array(task, "/awaiting")?.iter();
    let names = frames.map(|frame| frame["function"].as_str().context("no function"));
    names.map(|name| Ok(name?.to_owned())).collect()
}

/// The task that runs is told with where it is, in both looks, whatever its coroutine is.
fn steps(version: &str) -> Result<()> {
    let python = Interpreter::find(version)?;
    let step = ["generator", "below", "blocks"];
    let cases = [
        (&["step", "anext"][..], step),
        (&["step", "asend"], step),
        (&["step", "athrow"], step),
        (&["step", "aclose"], step),
        (&["chain"], ["outer", "below", "blocks"]),
    ];
    for (args, expected) in cases {
        let workload = Workload::start(&python, "whole.py", args)?;
        let name: String = workload.said("running")?;
        for look in ["tasks", "dump"] {
            let (line, tasks) = tasks(look, workload.pid())?;
            let task = tasks.iter().find(|task| task["name"] == *name);
            let task = task.with_context(|| format!("{args:?}: {name} is not in {line}"))?;
            ensure!(
                task["state"] == "running" && chain(task)? == expected,
                "{args:?}, {look}: {task}"
            );
        }
    }
    Ok(())
}

fn many(version: &str) -> Result<()> {
    let python = Interpreter::find(version)?;
    let (folder, inside) = python.folder()?;
    let workload = Workload::start(&python, "whole.py", &["many", &inside.to_string_lossy()])?;
    drop(folder);
    let (line, tasks) = tasks("tasks", workload.pid())?;
    let text = |value: &Value| value.as_str().map(str::to_owned).context("no text");
    let names = tasks
        .iter()
        .map(|task| Ok((text(&task["id"])?, text(&task["name"])?)));
    let names: BTreeMap<String, String> = names.collect::<Result<_>>()?;
    let awaiters = |name: &str| -> Result<Vec<&String>> {
        let task = tasks.iter().find(|task| task["name"] == name);
        let awaiters = array(task.with_context(|| format!("no {name}"))?, "/awaited_by")?;
        let known = awaiters.iter().map(|id| names.get(id.as_str()?));
        known.collect::<Option<_>>().context("unknown awaiters")
    };
    let shared = awaiters("shared")?;
    let are_meant = shared.iter().all(|name| name.starts_with("awaiter-"));
    ensure!(shared.len() == 150 && are_meant, "awaiters: {shared:?}");
    for number in 0..3 {
        let part = awaiters(&format!("part-{number}"))?;
        ensure!(part == ["collector"], "part-{number}: {part:?}");
    }
    // Of the chain both ends are there, and as many in between as are missing.
    let deep = tasks.iter().find(|task| task["name"] == "deep");
    let deep = chain(deep.context("no deep")?)?;
    let counted: Vec<usize> = deep
        .iter()
        .map(|name| match name.strip_prefix('[') {
            Some(rest) => Ok(rest.split(' ').next().unwrap_or_default().parse()?),
            None => Ok(1),
        })
        .collect::<Result<_>>()?;
    let ends = deep.first().zip(deep.last());
    ensure!(
        ends.is_some_and(|(first, last)| first == "deep" && last == "sleep")
            && counted.iter().sum::<usize>() == 203
            && deep.len() == 64,
        "{deep:?}"
    );
    let reason = array(&line, "/processes/0/limits")?
        .iter()
        .find(|limit| limit["field"] == "tasks.awaiting");
    ensure!(reason.is_some(), "nothing is said about chains");
    // Both ends of long texts are there, and how much is between them.
    let whole_len = |told: &str| -> Result<usize> {
        let (first, rest) = told.split_once('[').context("nothing is left out")?;
        let (between, last) = rest.split_once(" characters left out]").context("what?")?;
        Ok(first.len() + between.parse::<usize>()? + last.len())
    };
    let long = tasks
        .iter()
        .find(|task| text(&task["name"]).is_ok_and(|name| name.ends_with("-end")));
    let long = long.context("a long name without its end")?;
    let name = text(&long["name"])?;
    ensure!(
        name.starts_with("name-") && whole_len(&name)? == workload.said::<usize>("name_len")?,
        "{name}"
    );
    let path = text(&long["awaiting"][0]["file"])?;
    ensure!(
        path.ends_with("/far_below.py")
            && whole_len(&path)? == workload.said::<usize>("path_len")?,
        "{path}"
    );
    Ok(())
}
