//! Loops that are busy with nothing, sleep on ready work, or lose tasks, against what the programs count
//! themselves; and healthy ones that come close.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::{case, quiet as in_company};
use concmon_tests::interpreter::Interpreter;
use concmon_tests::report::{Finding, Report};
use concmon_tests::watch::{Outcome, PATIENCE, Watch};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::watch_python;

/// Programs that take a CPU, with the kind of what they poll: one at a time.
const SPINNING: [(&str, &str, &str); 8] = [
    ("3.9", "closed_pipe", "descriptor"),
    ("3.13", "own_pipe", "descriptor"),
    ("3.9", "writer", "descriptor"),
    ("3.13", "again", "callback"),
    ("3.9", "again_soon", "callback"),
    ("3.9", "wait_none", "task"),
    ("3.11", "wait_for_none", "task"),
    ("3.13", "wait_none", "task"),
];
/// Programs that need little: watched together, each beside the one that is healthy.
const QUIET: [(&str, &str); 4] = [
    ("short_sleep", "busy-poll"),
    ("short_get", "busy-poll"),
    ("event", "missed-wakeup"),
    ("handler", "missed-wakeup"),
];
/// Healthy programs that take a CPU.
const BUSY_NEAR: [&str; 2] = ["own_pipe_near", "writer_near"];
/// What no healthy program raises here.
const RULES: [&str; 3] = ["busy-poll", "missed-wakeup", "task-collected"];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (version, name, kind) in SPINNING {
        let needs = watch_python(version);
        let name_of = format!("polls::{name}_on_{version}");
        trials.push(case(name_of, &needs, move || spinning(version, name, kind)));
    }
    for version in ["3.9", "3.13"] {
        let needs = watch_python(version);
        trials.push(in_company(
            format!("polls::quiet_on_{version}"),
            &needs,
            move || quiet(version),
        ));
        trials.push(in_company(
            format!("polls::vanish_on_{version}"),
            &needs,
            move || vanish(version),
        ));
    }
    let needs = watch_python("3.13");
    for name in BUSY_NEAR {
        trials.push(case(format!("polls::{name}"), &needs, move || {
            let program = start("3.13", name)?;
            let outcome = watch(&[program.pid()], 5, &[])?;
            no_findings(outcome.summary()?, name, &program)
        }));
    }
    trials
}

fn start(version: &str, name: &str) -> Result<Workload> {
    Workload::start(&Interpreter::find(version)?, "polls.py", &[name])
}

fn truth(program: &mut Workload) -> Result<Value> {
    program.ask(&json!({}), "truth")
}

fn watch(pids: &[u32], seconds: u64, more: &[&str]) -> Result<Outcome> {
    let duration = format!("{seconds}s");
    let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
    let mut args = vec!["--json", "-d", &duration];
    args.extend(more);
    for pid in &pids {
        args.extend(["-p", pid]);
    }
    Watch::start(&args)?
        .finish(PATIENCE + Duration::from_secs(seconds))?
        .ok()
}

fn raised(report: &Report, pid: u32, rule: &str) -> Result<Option<Finding>> {
    let findings = &report.process(pid)?.findings;
    let mut of_rule = findings.iter().filter(|finding| finding.rule == rule);
    Ok(of_rule.next().cloned())
}

fn no_findings(report: &Report, name: &str, program: &Workload) -> Result<()> {
    for rule in RULES {
        let found = raised(report, program.pid(), rule)?;
        ensure!(found.is_none(), "{name}: {found:?}");
    }
    Ok(())
}

/// The finding names the descriptor and callback, or the task, and hides that there was too much work.
fn spinning(version: &str, name: &str, kind: &str) -> Result<()> {
    let mut program = start(version, name)?;
    let before = truth(&mut program)?;
    let outcome = watch_until_polling(program.pid())?;
    let truth = truth(&mut program)?;
    let found = raised(outcome.summary()?, program.pid(), "busy-poll")?;
    let found = found.with_context(|| {
        let process = outcome
            .summary()
            .and_then(|report| report.process(program.pid()));
        format!("{name}: {:?}", process.map(|process| &process.findings))
    })?;
    let evidence = &found.evidence;
    ensure!(evidence["kind"] == kind, "{name}: {found:?}");
    if kind == "descriptor" {
        ensure!(
            evidence["descriptor"] == truth["descriptor"],
            "{name}: {found:?}, {truth}"
        );
        let expected = if name == "closed_pipe" {
            "pipe"
        } else {
            "socket"
        };
        ensure!(evidence["descriptor_kind"] == expected, "{found:?}");
        ensure!(evidence["writes"] == (name == "writer"), "{found:?}");
    }
    if kind == "task" {
        ensure!(evidence["tasks"][0]["name"] == truth["task"], "{found:?}");
        let own = per_second(&before, &truth)?;
        let told = rate(&outcome, program.pid())?;
        ensure!(
            (0.3..3.0).contains(&(told / own)),
            "{name}: {told} times per second, were {own}"
        );
    } else {
        let function = evidence["function"].as_str().context("no function")?;
        let own = match name {
            "own_pipe" => "_read_from_self",
            "again" | "again_soon" => "tick",
            _ => "count",
        };
        ensure!(function.ends_with(own), "{found:?}");
    }
    Ok(())
}

/// Watches until `busy-poll` stands alone: what a look meets of a queue that is filled for a moment is chance, so that it
/// may take some, and `loop-saturated` may come first.
fn watch_until_polling(pid: u32) -> Result<Outcome> {
    let mut watch = Watch::start(&["--json", "-p", &pid.to_string()])?;
    let begin = Instant::now();
    loop {
        let report = watch.next(PATIENCE)?;
        let polls = raised(&report, pid, "busy-poll")?.is_some();
        let saturated = raised(&report, pid, "loop-saturated")?;
        if polls && saturated.is_none() {
            return watch.interrupt();
        }
        ensure!(
            begin.elapsed() < PATIENCE,
            "busy-poll: {polls}, and {saturated:?}"
        );
    }
}

/// How often the program has counted between two of its accounts.
fn per_second(before: &Value, after: &Value) -> Result<f64> {
    let grown = |field: &str| {
        let [before, after] = [before, after].map(|of| of[field].as_f64());
        Some(after? - before?)
    };
    let (count, seconds) = (grown("count"), grown("at"));
    Ok(count.context("no count")? / seconds.context("no instant")?)
}

/// The middle one of how often the tasks of `busy-poll` ask, by the windows.
fn rate(outcome: &Outcome, pid: u32) -> Result<f64> {
    let mut rates = Vec::new();
    for report in outcome.snapshots() {
        if let Some(found) = raised(&report, pid, "busy-poll")? {
            rates.extend(found.evidence["tasks"][0]["per_second"].as_f64());
        }
    }
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().context("no rate")
}

fn quiet(version: &str) -> Result<()> {
    let mut bad = Vec::new();
    let mut near = Vec::new();
    let again_near = start(version, "again_near")?;
    let pipe_near = start(version, "closed_pipe_near")?;
    for (name, rule) in QUIET {
        let mut program = start(version, name)?;
        let before = truth(&mut program)?;
        bad.push((name, rule, program, before));
        let name_near = format!("{name}_near");
        near.push((name_near.clone(), start(version, &name_near)?));
    }
    near.push(("again_near".to_owned(), again_near));
    near.push(("closed_pipe_near".to_owned(), pipe_near));
    let pids = bad.iter().map(|(_, _, program, _)| program.pid());
    let pids: Vec<u32> = pids
        .chain(near.iter().map(|(_, program)| program.pid()))
        .collect();
    let outcome = watch(&pids, 10, &[])?;
    let summary = outcome.summary()?;
    for (name, rule, program, before) in &mut bad {
        let after = truth(program)?;
        let found = raised(summary, program.pid(), rule)?;
        let found = found.with_context(|| format!("{name}: no {rule}"))?;
        let evidence = &found.evidence;
        let number = |of: &Value, field: &str| of[field].as_f64().context("no number");
        if *rule == "busy-poll" {
            ensure!(evidence["tasks"][0]["name"] == after["task"], "{found:?}");
            let own = per_second(before, &after)?;
            let told = rate(&outcome, program.pid())?;
            ensure!(
                (0.6..1.7).contains(&(told / own)),
                "{name}: {told} times per second, were {own}"
            );
        } else {
            ensure!(evidence["ready"][0]["task"] == after["task"], "{found:?}");
            let asleep = number(&json!(evidence), "asleep_ns")? / 1e9;
            let longest = number(&after, "longest")?;
            ensure!(
                asleep <= longest + 0.05,
                "{name}: slept on for {asleep} s, waited for {longest} s"
            );
        }
    }
    for (name, program) in &near {
        no_findings(summary, name, program)?;
    }
    Ok(())
}

/// What is gone is at most what the program has seen vanish, and most of what began.
fn vanish(version: &str) -> Result<()> {
    let mut program = start(version, "vanish")?;
    let near = start(version, "vanish_near")?;
    let before = truth(&mut program)?;
    let outcome = watch(&[program.pid(), near.pid()], 8, &["--exact", "tasks"])?;
    let after = truth(&mut program)?;
    let summary = outcome.summary()?;
    let rows = summary.process(program.pid())?.exact.as_ref();
    let rows = rows
        .and_then(|exact| exact.tasks.as_ref())
        .context("no counts")?;
    let row = |name: &str| rows.iter().find(|row| row.name == name);
    let gone = |name: &str| row(name).and_then(|row| row.gone);
    let count = |of: &Value| of["count"].as_u64().context("no count");
    let own = count(&after)? - count(&before)?;
    let found = gone("deliver").context("nothing was counted as gone")?;
    let started = row("deliver").map_or(0, |row| row.started);
    ensure!(
        found <= own && found * 3 > started,
        "{found} are gone, {own} have vanished, {started} began"
    );
    ensure!(gone("passing") == Some(0), "{rows:?}");
    let finding = raised(summary, program.pid(), "task-collected")?;
    let finding = finding.context("no task-collected")?;
    ensure!(finding.evidence["name"] == "deliver", "{finding:?}");
    no_findings(summary, "vanish_near", &near)
}
