//! Looks at programs in which very many wait for very many: what they say, and what they cost.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::quiet;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::needs::Need;
use concmon_tests::schema;
use concmon_tests::watch::{PATIENCE, Watch, binary};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::watch_python;

const VERSIONS: [&str; 8] = ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15"];
/// How many that wait for one task are told.
const TOLD: usize = 4096;
/// The time over which the budget is averaged.
const SPAN: Duration = Duration::from_secs(10);

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = VERSIONS
        .into_iter()
        .map(|version| {
            quiet(
                format!("looks::those_who_wait_equal_the_programs_own_account::py{version}"),
                &[Need::Root, Need::Python(version)],
                move || who_waits(version),
            )
        })
        .collect();
    let needs = watch_python("3.11");
    trials.extend([
        // CPU time of the tool's own, whoever else takes some.
        quiet(
            "looks::the_budget_holds_from_the_first_look_on",
            &needs,
            inside_the_budget,
        ),
        quiet("looks::a_signal_ends_a_look", &needs, signals),
    ]);
    trials
}

/// What `tasks` says of a process.
fn tasks(pid: u32) -> Result<Value> {
    let output = Command::new(binary()?)
        .args(["tasks", "--json", "-p", &pid.to_string()])
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    schema::line(&output.stdout)
}

/// The names of those that wait for each task, by its name.
fn waiters(process: &Value) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let tasks = process.pointer("/loops/0/tasks").and_then(Value::as_array);
    let tasks = tasks.context("no tasks")?;
    let text = |value: &Value| value.as_str().map(str::to_owned).context("no text");
    let mut names = BTreeMap::new();
    for task in tasks {
        names.insert(text(&task["id"])?, text(&task["name"])?);
    }
    let mut waiters = BTreeMap::new();
    for task in tasks {
        let ids = task["awaited_by"].as_array().context("no awaiters")?;
        let of = |id: &Value| names.get(&text(id)?).cloned().context("not a task");
        let by: BTreeSet<String> = ids.iter().map(of).collect::<Result<_>>()?;
        ensure!(
            by.len() == ids.len(),
            "one waits twice for {}",
            task["name"]
        );
        waiters.insert(text(&task["name"])?, by);
    }
    Ok(waiters)
}

fn who_waits(version: &str) -> Result<()> {
    let python = Interpreter::find(version)?;
    let has_groups = !["3.8", "3.9", "3.10"].contains(&version);
    for (kind, all, count) in [
        ("gathers", 40, 7),
        ("waits", 40, 7),
        ("chain", 40, 1),
        ("group", 40, 1),
        ("gathers", 3, TOLD + 6),
    ] {
        if kind == "group" && !has_groups {
            continue;
        }
        let count = count.to_string();
        let args = [kind, &all.to_string(), &count];
        let mut workload = Workload::start(&python, "crowds.py", &args)?;
        let said = tasks(workload.pid())?;
        let process = said.pointer("/processes/0").context("no process")?;
        let found = waiters(process)?;
        let own = workload.ask(&json!({ "waiters": 1000 }), "waiters")?;
        let own: BTreeMap<String, BTreeSet<String>> =
            serde_json::from_value(own["waiters"].clone())?;
        ensure!(
            own.len() >= all - 1,
            "{kind}: {} tasks are waited for",
            own.len()
        );
        let mut is_cut = false;
        for (name, by) in &own {
            let found = found.get(name).with_context(|| format!("no task {name}"))?;
            is_cut |= by.len() > TOLD;
            ensure!(
                found.is_subset(by) && found.len() == by.len().min(TOLD),
                "{kind}: {found:?} wait for {name}, own account {by:?}"
            );
        }
        let limits = process["limits"].as_array().context("no limits")?;
        let is_said = limits.iter().any(|one| one["field"] == "tasks.awaited_by");
        ensure!(is_said == is_cut, "{kind} of {count}: limits {limits:?}");
        for (name, by) in found {
            let is_awaited = own.contains_key(&name);
            ensure!(
                is_awaited || by.is_empty(),
                "{kind}: {by:?} wait for {name}"
            );
        }
    }
    Ok(())
}

fn crowd(kind: &str) -> Result<Workload> {
    let python = Interpreter::find("3.11")?;
    Workload::start(&python, "crowds.py", &[kind, "20000", "50"])
}

/// The part of a CPU that a watch of so many seconds took in the first span, and after the second, if it went on.
fn costs(kind: &str, seconds: u64) -> Result<(f64, Option<f64>)> {
    let program = crowd(kind)?;
    let pid = program.pid();
    let duration = format!("{seconds}s");
    let args = ["--json", "-p", &pid.to_string(), "-i", "1s"];
    let args = [&args[..], &["-d", &duration, "--budget-cpu", "10%"]].concat();
    let outcome = Watch::start(&args)?.finish(PATIENCE + SPAN * 3)?.ok()?;
    let span_ns = SPAN.as_nanos() as u64;
    let mut at_ns = 0;
    let (mut early_ns, mut late_ns, mut late_wall_ns) = (0, 0, 0);
    for report in &outcome.reports {
        if report.kind != "snapshot" {
            continue;
        }
        if at_ns < span_ns {
            early_ns += report.monitor.cpu_ns;
        } else if at_ns > 2 * span_ns {
            late_ns += report.monitor.cpu_ns;
            late_wall_ns += report.window.duration_ns;
        }
        at_ns += report.window.duration_ns;
        // There are more than a look reads, and it may have had no time for these.
        let process = report.process(pid)?;
        let of_loop = process.loops.first().context("no loop")?;
        ensure!(
            of_loop.pending_tasks.is_none() && of_loop.tasks.len() <= 10_000,
            "{:?} pending of {}",
            of_loop.pending_tasks,
            of_loop.tasks.len()
        );
        let said = process.limits.iter().find(|limit| limit.field == "tasks");
        ensure!(said.is_some(), "nothing says that tasks are missing");
    }
    let early = early_ns as f64 / span_ns as f64;
    let late = (late_wall_ns > 0).then(|| late_ns as f64 / late_wall_ns as f64);
    Ok((early, late))
}

fn inside_the_budget() -> Result<()> {
    const BUDGET: f64 = 0.1;
    let (early, late) = costs("gathers", 28)?;
    let late = late.context("the watch ended before")?;
    ensure!(late < 2.0 * BUDGET, "{late} of a CPU after two spans");
    // What is left of the first span's cost are reports, which every program has with as many tasks.
    let (plain, _) = costs("plain", SPAN.as_secs() + 2)?;
    ensure!(
        early < 3.0 * plain + 2.0 * BUDGET,
        "{early} of a CPU in the first span, {plain} where nobody waits"
    );
    Ok(())
}

fn signals() -> Result<()> {
    let program = crowd("gathers")?;
    let pid = program.pid().to_string();
    for after_ms in [700, 1500, 3000] {
        // All of the span's time may go into one look.
        let args = ["--json", "-p", &pid, "-i", "1s", "--budget-cpu", "100%"];
        let watch = Watch::start(&args)?;
        std::thread::sleep(Duration::from_millis(after_ms));
        let sent = Instant::now();
        watch.signal(libc::SIGINT);
        let outcome = watch.finish(PATIENCE)?.ok()?;
        let took = sent.elapsed();
        outcome.summary()?;
        ensure!(took < SPAN, "{took:?} after a signal at {after_ms} ms");
    }
    Ok(())
}
