//! `--exact`: what probes count equals what the program counts itself, and probes do no harm.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::quiet;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::needs::Need;
use concmon_tests::report::{CountedTasks, Process};
use concmon_tests::watch::Watch;
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::watch_python;

const VERSIONS: [&str; 8] = ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15"];
/// Those in which tasks can run within their own initialization.
const EAGER: [&str; 4] = ["3.12", "3.13", "3.14", "3.15"];
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = VERSIONS
        .into_iter()
        .map(|version| {
            quiet(
                format!("exact::tasks_{version}"),
                &watch_python(version),
                move || tasks(version, "asyncio"),
            )
        })
        .collect();
    trials.extend(EAGER.map(|version| {
        quiet(
            format!("exact::eager_tasks_{version}"),
            &watch_python(version),
            move || tasks(version, "eager"),
        )
    }));
    trials.extend(["3.9", "3.13"].map(|version| {
        quiet(
            format!("exact::attach_and_detach_{version}"),
            &watch_python(version),
            move || attach_and_detach(version),
        )
    }));
    trials.extend(["3.11", "3.13"].map(|version| {
        quiet(
            format!("exact::uvloop_tasks_{version}"),
            &[
                Need::Root,
                Need::Ebpf,
                Need::Python(version),
                Need::Package(version, "uvloop"),
            ],
            move || tasks(version, "uvloop"),
        )
    }));
    trials.extend(VERSIONS.map(|version| {
        quiet(
            format!("exact::futures_{version}"),
            &watch_python(version),
            move || futures(version),
        )
    }));
    trials.push(quiet(
        "exact::nothing_is_exact_unasked",
        &watch_python("3.11"),
        unasked,
    ));
    trials
}

/// Failures of thread pools are counted, and so is who asks; the finding is about those alone that
/// nobody asks for.
fn futures(version: &str) -> Result<()> {
    const RULE: &str = "futures-failing-silently";
    let mut program = Workload::start(&Interpreter::find(version)?, "pools.py", &[])?;
    let pid = program.pid();
    let id = pid.to_string();
    let args = ["-p", &id, "-i", "200ms", "--json", "--exact", "futures"];
    let mut watch = Watch::start(&args)?;
    watch.next(LIMIT)?;
    let asked = program.ask(&json!({"do": "ask"}), "asked")?;
    watch.next(LIMIT)?;
    let near_miss = watch.interrupt()?;
    let mut watch = Watch::start(&args)?;
    watch.next(LIMIT)?;
    let dropped = program.ask(&json!({"do": "drop"}), "dropped")?;
    watch.next(LIMIT)?;
    let outcome = watch.interrupt()?;
    program.end()?;

    let own = |of: &Value, field: &str| of[field].as_u64().context("no account");
    let summary = near_miss.summary()?.process(pid)?.clone();
    let counted = pool(&summary, "asked")?;
    let wanted = [own(&asked, "submitted")?, own(&asked, "failed")?, 0, 0];
    ensure!(counted == wanted, "asked: {counted:?}, were {wanted:?}");
    // Only from 3.9 on, asyncio gives its default executor a name.
    let default = if version == "3.8" {
        "ThreadPoolExecutor-0"
    } else {
        "asyncio"
    };
    let [_, failed, unretrieved, _] = pool(&summary, default)?;
    ensure!(
        (failed, unretrieved) == (own(&asked, "awaited")?, 0),
        "awaited: {failed} failed, {unretrieved} unretrieved of {asked}"
    );
    let has_rule = |process: &Process| process.findings.iter().any(|one| one.rule == RULE);
    ensure!(!has_rule(&summary), "{:?}", summary.findings);

    let summary = outcome.summary()?.process(pid)?.clone();
    let [submitted, failed, unretrieved, silent] = pool(&summary, "dropped")?;
    let wanted = own(&dropped, "failed")?;
    ensure!(
        wanted == 100 && [failed, unretrieved] == [wanted; 2],
        "{failed} failed, {unretrieved} unretrieved of {wanted} that were dropped"
    );
    ensure!(
        submitted == own(&dropped, "submitted")?,
        "{submitted} submitted, were {dropped}"
    );
    // Of the last ones it is not known that they are gone.
    ensure!(
        (1..=unretrieved).contains(&silent),
        "{silent} of {unretrieved} are silent"
    );
    ensure!(has_rule(&summary), "{:?}", summary.findings);
    Ok(())
}

/// Submitted, failed, unretrieved, silent.
fn pool(process: &Process, name: &str) -> Result<[u64; 4]> {
    let exact = process.exact.as_ref();
    let pools = exact.and_then(|exact| exact.pools.as_ref());
    let pools = pools.context("no pools")?;
    ensure!(
        !pools.limits.iter().any(|limit| limit.field == "rows"),
        "{:?}",
        pools.limits
    );
    let rows = pools.rows.as_ref().context("no rows")?;
    let row = rows
        .iter()
        .find(|row| row.name_prefix.as_deref() == Some(name))
        .with_context(|| format!("no row for {name}: {rows:?}"))?;
    Ok([row.submitted, row.failed, row.unretrieved, row.silent])
}

/// Watches a process until it has run its tasks; what the tool and the program say of them.
fn run(version: &str, kind: &str, exact: bool) -> Result<(Process, Value)> {
    let packages = Interpreter::package(version, kind).unwrap_or_default();
    let args = [kind, &packages.to_string_lossy()];
    let mut program = Workload::start(&Interpreter::find(version)?, "exact.py", &args)?;
    let pid = program.pid();
    let id = pid.to_string();
    let mut args = vec!["-p", &id, "-i", "200ms", "--json"];
    if exact {
        args.extend(["--exact", "tasks"]);
    }
    let mut watch = Watch::start(&args)?;
    // Probes are there before the first report is.
    watch.next(LIMIT)?;
    let said = program.ask(&json!({"do": "run"}), "ran")?;
    watch.next(LIMIT)?;
    let outcome = watch.interrupt()?;
    let summary = outcome.summary()?.process(pid)?.clone();
    // What windows say adds up to the summary.
    let sum = |of: &dyn Fn(&CountedTasks) -> u64| -> u64 {
        let snapshots = outcome.snapshots();
        let rows = snapshots
            .iter()
            .filter_map(|report| report.process(pid).ok().cloned());
        let rows = rows.filter_map(|process| process.exact?.tasks);
        rows.flatten().map(|row| of(&row)).sum()
    };
    let whole = summary
        .exact
        .iter()
        .filter_map(|exact| exact.tasks.as_ref());
    let whole: Vec<&CountedTasks> = whole.flatten().collect();
    for of in [
        (|row: &CountedTasks| row.started) as fn(&CountedTasks) -> u64,
        |row| row.finished + row.failed + row.cancelled,
        |row| row.duration.count,
    ] {
        let (windows, total) = (sum(&of), whole.iter().map(|row| of(row)).sum::<u64>());
        ensure!(
            windows == total,
            "windows sum to {windows}, the summary has {total}"
        );
    }
    program.end()?;
    Ok((summary, said))
}

fn tasks(version: &str, kind: &str) -> Result<()> {
    let (process, said) = run(version, kind, true)?;
    let exact = process.exact.as_ref().context("nothing was counted")?;
    ensure!(exact.limits.is_empty(), "{:?}", exact.limits);
    let rows = exact.tasks.as_ref().context("no tasks")?;
    let names: BTreeMap<&str, &CountedTasks> =
        rows.iter().map(|row| (row.name.as_str(), row)).collect();
    let done = said["done"].as_object().context("no account")?;
    ensure!(done.len() == 5, "the program made {} names", done.len());
    let by_name: Vec<_> = process
        .loops
        .iter()
        .filter_map(|one| one.timing.as_ref())
        .flat_map(|timing| &timing.by_name)
        .collect();
    for (name, outcomes) in done {
        let row = names
            .get(name.as_str())
            .with_context(|| format!("no row for {name}: {rows:?}"))?;
        let own = |outcome: &str| outcomes[outcome].as_u64().unwrap_or(0);
        let counted = [row.finished, row.failed, row.cancelled];
        let wanted = [own("finished"), own("failed"), own("cancelled")];
        ensure!(
            counted == wanted,
            "{name}: counted {counted:?}, were {wanted:?}"
        );
        let made = said["made"].as_u64().context("made")?;
        ensure!(
            row.started == made && row.duration.count == made,
            "{name}: {} started, {} timed, {made} made",
            row.started,
            row.duration.count
        );
        check_lives(name, row, &said["lives"][name])?;
        let of_loop = by_name
            .iter()
            .find(|one| one.name == *name)
            .with_context(|| format!("{name} is not among the loop's tasks"))?;
        ensure!(
            of_loop.started == Some(row.started)
                && of_loop.finished == Some(row.finished)
                && of_loop.failed == Some(row.failed)
                && of_loop.cancelled == Some(row.cancelled)
                && of_loop.duration.as_ref().map(|duration| duration.sum_ns)
                    == Some(row.duration.sum_ns)
                && of_loop.limits.is_empty(),
            "the loop says otherwise of {name}: {of_loop:?}"
        );
    }
    // It was there before, and has ended.
    ensure!(
        names.get("main").is_none_or(|main| main.started == 0),
        "a task from before is counted as started"
    );
    Ok(())
}

/// The program sees a task from before its making to a callback after its end.
fn check_lives(name: &str, row: &CountedTasks, lives: &Value) -> Result<()> {
    let life = |index: usize| lives[index].as_f64().context("a life");
    let (longest, sum) = (life(1)?, life(2)?);
    let seconds = |ns: u64| ns as f64 / 1e9;
    let (counted_sum, counted_longest) = (
        seconds(row.duration.sum_ns),
        seconds(row.duration.max_ns.unwrap_or(0)),
    );
    ensure!(
        counted_sum <= sum && counted_longest <= longest,
        "{name}: {counted_sum} s counted, longest {counted_longest}; were {sum}, {longest}"
    );
    // Callbacks come with the loop's next turn.
    let each = 0.010 * row.duration.count as f64;
    ensure!(
        counted_sum >= sum * 0.9 - each,
        "{name}: {counted_sum} s counted of {sum}"
    );
    Ok(())
}

/// Without the option, no count is given, and the reason is.
fn unasked() -> Result<()> {
    let (process, _) = run("3.11", "asyncio", false)?;
    ensure!(process.exact.is_none(), "counted unasked");
    let timings = process.loops.iter().filter_map(|one| one.timing.as_ref());
    let rows: Vec<_> = timings.flat_map(|timing| &timing.by_name).collect();
    ensure!(!rows.is_empty(), "no tasks by name");
    for row in rows {
        ensure!(
            row.started.is_none()
                && row.finished.is_none()
                && row.failed.is_none()
                && row.cancelled.is_none()
                && row.duration.is_none()
                && row.limits.len() == 6,
            "{row:?}"
        );
    }
    Ok(())
}

/// Probes come and go, once by a kill, while the program makes tasks all the time.
fn attach_and_detach(version: &str) -> Result<()> {
    let mut program = Workload::start(&Interpreter::find(version)?, "exact.py", &["asyncio"])?;
    let pid = program.pid();
    let id = pid.to_string();
    program.tell(&json!({"do": "spin"}))?;
    for round in 0..3 {
        let args = ["-p", &id, "-i", "200ms", "--json", "--exact", "tasks"];
        let mut watch = Watch::start(&args)?;
        let report = watch.next(LIMIT)?;
        let exact = report.process(pid)?.exact.clone();
        let tasks = exact.and_then(|exact| exact.tasks).unwrap_or_default();
        ensure!(
            tasks
                .iter()
                .any(|row| row.name == "short" && row.finished > 0),
            "round {round}: {tasks:?}"
        );
        if round == 1 {
            watch.signal(libc::SIGKILL);
            sleep(Duration::from_millis(300));
        } else {
            watch.interrupt()?;
        }
    }
    let spun = program.ask(&json!({"do": "stop"}), "spun")?;
    ensure!(spun["count"].as_u64().unwrap_or(0) > 0, "{spun}");
    let status = program.end()?;
    ensure!(status.success(), "the program ended with {status}");
    Ok(())
}
