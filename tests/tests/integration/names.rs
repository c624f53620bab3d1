//! Names, entries, roles, tasks and await chains against what the program says of itself.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::quiet;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::report::{Process, Task};
use concmon_tests::watch::{PATIENCE, Watch};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;
use serde::Deserialize;

use crate::watch_python;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for version in ["3.11", "3.12", "3.13", "3.14", "3.15"] {
        trials.push(quiet(
            format!("names::threads_equal_the_programs_own_account::py{version}"),
            &watch_python(version),
            move || watched(version, threads_equal),
        ));
        trials.push(quiet(
            format!("names::tasks_equal_the_programs_own_account::py{version}"),
            &watch_python(version),
            move || watched(version, tasks_equal),
        ));
    }
    trials
}

#[derive(Deserialize)]
struct OwnThread {
    tid: u32,
    ident: u64,
    name: String,
    daemon: bool,
    /// `None`: the program does not say.
    entry: Option<String>,
    role: String,
}

#[derive(Deserialize)]
struct OwnTask {
    tid: u32,
    id: String,
    name: String,
    coroutine: String,
    state: String,
    /// `None` for a task that is running.
    awaiting: Option<Vec<OwnFrame>>,
}

#[derive(Debug, Deserialize)]
struct OwnFrame {
    function: String,
    qualname: String,
    file: String,
    line: u32,
}

fn watched(version: &str, check: fn(&Workload, &Process) -> Result<()>) -> Result<()> {
    let workload = Workload::start(&Interpreter::find(version)?, "names.py", &[])?;
    let outcome = Watch::pid(workload.pid(), "1s", Some("2s"))?
        .finish(PATIENCE)?
        .ok()?;
    for report in &outcome.reports {
        let process = report.process(workload.pid())?;
        let python = process.python.as_ref().context("python is null")?;
        ensure!(python.supported, "not supported: {:?}", python.reason);
        ensure!(
            python.implementation == "cpython" && !python.free_threaded,
            "python is {python:?}"
        );
        let own: String = workload.said("version")?;
        ensure!(
            python.version.as_deref() == Some(own.as_str()),
            "version {:?}, is {own}",
            python.version
        );
        check(&workload, process).with_context(|| report.kind.clone())?;
    }
    Ok(())
}

fn threads_equal(workload: &Workload, process: &Process) -> Result<()> {
    let mut wrong = Vec::new();
    for own in workload.said::<Vec<OwnThread>>("threads")? {
        let seen = process.thread(own.tid)?;
        let mut compare = |field: &str, same: bool, got: String| {
            if !same {
                wrong.push(format!("{:?}: {field} is {got}", own.name));
            }
        };
        compare(
            "name",
            seen.name.as_ref() == Some(&own.name),
            format!("{:?}", seen.name),
        );
        compare(
            "ident",
            seen.ident == Some(own.ident),
            format!("{:?}, not {}", seen.ident, own.ident),
        );
        compare(
            "daemon",
            seen.daemon == Some(own.daemon),
            format!("{:?}, not {}", seen.daemon, own.daemon),
        );
        compare(
            "role",
            seen.role.as_ref() == Some(&own.role),
            format!("{:?}, not {}", seen.role, own.role),
        );
        compare(
            "entry",
            own.entry.is_none() || seen.entry == own.entry,
            format!("{:?}, not {:?}", seen.entry, own.entry),
        );
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn tasks_equal(workload: &Workload, process: &Process) -> Result<()> {
    let mut wrong = Vec::new();
    let mut by_loop: HashMap<u32, Vec<OwnTask>> = HashMap::new();
    for own in workload.said::<Vec<OwnTask>>("tasks")? {
        by_loop.entry(own.tid).or_default().push(own);
    }
    ensure!(by_loop.len() == 2, "the program has two loops");
    for (tid, own_tasks) in by_loop {
        let one = process
            .loops
            .iter()
            .find(|one| one.tid == tid)
            .with_context(|| format!("no loop in thread {tid}"))?;
        ensure!(
            one.kind == "asyncio" && one.running,
            "loop of thread {tid}: {} running={}",
            one.kind,
            one.running
        );
        let pending = one.tasks.iter().filter(|task| task.state != "done").count();
        ensure!(
            pending == own_tasks.len(),
            "loop of thread {tid}: {pending} tasks that are not done, the program has {}",
            own_tasks.len()
        );
        for own in own_tasks {
            match one.tasks.iter().find(|task| task.id == own.id) {
                None => wrong.push(format!("{:?} ({}): not seen", own.name, own.id)),
                Some(seen) => wrong.extend(differences(&own, seen)),
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn differences(own: &OwnTask, seen: &Task) -> Option<String> {
    let OwnTask {
        name,
        coroutine,
        state,
        ..
    } = own;
    if (name, coroutine, state) != (&seen.name, &seen.coroutine, &seen.state) {
        return Some(format!(
            "{name:?} {coroutine} {state}: seen as {:?} {} {}",
            seen.name, seen.coroutine, seen.state
        ));
    }
    let awaiting = own.awaiting.as_ref()?;
    let same = awaiting.len() == seen.awaiting.len()
        && awaiting.iter().zip(&seen.awaiting).all(|(own, seen)| {
            [&own.function, &own.qualname].contains(&&seen.function)
                && (&own.file, own.line) == (&seen.file, seen.line)
        });
    (!same).then(|| {
        format!(
            "{name:?}: awaits {awaiting:?}\n  seen as {:?}",
            seen.awaiting
        )
    })
}
