//! Nothing is missed and nothing is cut in silence: steps of generators that run, awaiters, names, chains.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::quiet;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::needs::Need;
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;
use serde_json::Value;

use crate::dump::{array, tool};

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
    trials
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
