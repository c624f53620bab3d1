//! Programs that stand still get the one finding that says why, with who does and where; those that only wait for
//! work get none.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::quiet;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::packages;
use concmon_tests::report::{Finding, Report};
use concmon_tests::watch::{Outcome, PATIENCE, Watch};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;

use crate::watch_python;

/// Programs, and the rule that holds for each.
const SICK: [(&str, &str); 13] = [
    ("two_rlocks", "deadlock"),
    ("three_rlocks", "deadlock"),
    ("two_locks", "deadlock"),
    ("lock_and_join", "deadlock"),
    ("relocking_handler", "deadlock"),
    ("lock_that_is_taken_twice", "deadlock"),
    ("own_pool", "deadlock"),
    ("asyncio_locks", "deadlock"),
    ("tasks_that_await_each_other", "deadlock"),
    ("lock_across_fork", "lock-held-across-fork"),
    ("plain_lock_across_fork", "lock-held-across-fork"),
    ("workers_that_wait_for_one_queue", "pool-exhausted"),
    ("killed_pool_worker", "worker-killed"),
];
/// The same of those that need libraries, which one version of Python has: what they need, and the rule.
const LIBRARIES: [(&str, &[&str], &str); 4] = [
    (
        "connections_of_sqlalchemy",
        &["sqlalchemy"],
        "pool-exhausted",
    ),
    (
        "queue_of_threads_of_anyio",
        &["anyio", "trio"],
        "pool-exhausted",
    ),
    (
        "queue_of_threads_of_trio",
        &["anyio", "trio"],
        "pool-exhausted",
    ),
    ("group_of_anyio", &["anyio", "trio"], "deadlock"),
];
/// It needs them, too, and a time ends what waits in it.
const LIMITED: (&str, &[&str]) = ("groups_of_anyio_with_a_time", &["anyio", "trio"]);
const VERSION: &str = "3.13";
/// Of programs that do not compute, it is the host's.
const BY_HOST: &str = "cpu-starved";
/// It takes ten seconds to tell.
const LEFT_TAKEN: (&str, &str) = ("lock_that_is_left_taken", "lock-not-released");
const HEALTHY: [&str; 15] = [
    "idle_thread_pool",
    "idle_process_pool",
    "idle_multiprocessing_pool",
    "idle_pool_of_threads",
    "signals_by_semaphore",
    "signals_by_locks",
    "barrier",
    "many_consumers",
    "nested_locks",
    "joins_with_a_time",
    "waiters_of_one_asyncio_lock",
    "tasks_with_a_time",
    "tasks_that_are_given_up",
    "groups_with_a_time",
    "locks_of_a_fork",
];

/// Besides the idle pools: nobody in these has what others want.
const NOT_CONTENDED: [&str; 4] = [
    "signals_by_semaphore",
    "signals_by_locks",
    "barrier",
    "many_consumers",
];

/// Every version says in another way who is inside of a `with` statement.
const VERSIONS: [&str; 8] = ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15"];
/// Programs of which no thread has what it waits for, and one in which it has.
const WAITERS: [&str; 3] = [
    "with_statements_again_and_again",
    "statements_of_any_length",
    "methods_in_variables",
];
const OWNER: &str = "lock_that_is_taken_twice";

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![quiet(
        format!("stuck::programs_with_libraries_get_their_finding::py{VERSION}"),
        &watch_python(VERSION),
        programs_with_libraries_get_their_finding,
    )];
    trials.push(quiet(
        "stuck::who_waits_at_a_statement_does_not_own_the_lock",
        &watch_python("3.9"),
        who_waits_at_a_statement_does_not_own_the_lock,
    ));
    for version in ["3.9", "3.11", "3.13"] {
        trials.push(quiet(
            format!("stuck::each_program_gets_its_finding::py{version}"),
            &watch_python(version),
            move || each_program_gets_its_finding(version),
        ));
        trials.push(quiet(
            format!("stuck::who_waits_for_work_gets_none::py{version}"),
            &watch_python(version),
            move || who_waits_for_work_gets_none(version),
        ));
    }
    trials
}

fn start(version: &str, program: &str) -> Result<Workload> {
    let python = Interpreter::find(version)?;
    let workload = Workload::start(&python, "stuck.py", &[program]);
    workload.with_context(|| program.to_owned())
}

fn watch(workloads: &[(&str, Workload)], seconds: u32) -> Result<Outcome> {
    let duration = format!("{seconds}s");
    let pids: Vec<String> = workloads
        .iter()
        .map(|(_, one)| one.pid().to_string())
        .collect();
    let mut args = vec!["--json", "-d", &*duration, "--fail-on", "any"];
    for pid in &pids {
        args.extend(["-p", pid]);
    }
    Watch::start(&args)?.finish(PATIENCE + Duration::from_secs(u64::from(seconds)))
}

/// Those of a program and of what it forked, but for what other programs took of the CPUs.
fn findings(report: &Report, pid: u32) -> Vec<&Finding> {
    let of_it = report
        .processes
        .iter()
        .filter(|one| one.pid == pid || one.ppid == pid);
    let all = of_it.flat_map(|one| &one.findings);
    all.filter(|one| one.rule != BY_HOST).collect()
}

fn each_program_gets_its_finding(version: &str) -> Result<()> {
    let all = SICK.into_iter().chain([LEFT_TAKEN]);
    let sick: Vec<(&str, &str)> = all.collect();
    let mut workloads = Vec::new();
    for (program, _) in &sick {
        workloads.push((*program, start(version, program)?));
    }
    are_told(&sick, &workloads, 14)
}

fn programs_with_libraries_get_their_finding() -> Result<()> {
    let python = Interpreter::find(VERSION)?;
    let mut workloads = Vec::new();
    for (program, needed, _) in LIBRARIES {
        let packages = packages::folder(&python, VERSION, needed)?;
        let workload = Workload::start_with(&python, Some(&packages), "stuck.py", &[program]);
        workloads.push((program, workload.context(program)?));
    }
    let sick = LIBRARIES.map(|(program, _, rule)| (program, rule));
    are_told(&sick, &workloads, 6)?;
    let (program, needed) = LIMITED;
    let packages = packages::folder(&python, VERSION, needed)?;
    let workload = Workload::start_with(&python, Some(&packages), "stuck.py", &[program]);
    let workloads = [(program, workload.context(program)?)];
    let outcome = watch(&workloads, 10)?;
    let found = findings(outcome.summary()?, workloads[0].1.pid());
    let said: Vec<&str> = found.iter().map(|one| &*one.summary).collect();
    ensure!(said.is_empty(), "{program}: {said:?}");
    Ok(())
}

/// Each of these has the one finding that is meant, soon, with its members and a place in its source.
fn are_told(sick: &[(&str, &str)], workloads: &[(&str, Workload)], seconds: u32) -> Result<()> {
    let outcome = watch(workloads, seconds)?;
    ensure!(outcome.code == 6, "exit code {}", outcome.code);
    let summary = outcome.summary()?;
    let snapshots = outcome.snapshots();
    for ((program, rule), (_, workload)) in sick.iter().zip(workloads) {
        let found = findings(summary, workload.pid());
        let rules: Vec<&str> = found.iter().map(|one| &*one.rule).collect();
        ensure!(rules == [*rule], "{program}: {rules:?}, wanted {rule}");
        let said = format!("{} {:?}", found[0].summary, found[0].evidence);
        let members: Vec<String> = workload.said("members")?;
        for member in members {
            ensure!(said.contains(&member), "{program}: no {member} in {said}");
        }
        let has_place = *rule == "worker-killed" || said.contains("stuck.py");
        ensure!(has_place, "{program}: no place in {said}");
        let told = |report: &Report| !findings(report, workload.pid()).is_empty();
        let first = snapshots.iter().position(told).context("in no snapshot")?;
        ensure!(
            *rule == LEFT_TAKEN.1 || first < 6,
            "{program}: told in window {first}"
        );
    }
    Ok(())
}

/// Of all versions that are there.
fn who_waits_at_a_statement_does_not_own_the_lock() -> Result<()> {
    let is_there = |version: &&str| Interpreter::find(version).is_ok();
    let mut workloads = Vec::new();
    for version in VERSIONS.into_iter().filter(is_there) {
        for program in WAITERS.into_iter().chain([OWNER]) {
            workloads.push((program, start(version, program)?));
        }
    }
    let outcome = watch(&workloads, 6)?;
    let summary = outcome.summary()?;
    for (program, workload) in &workloads {
        let found = findings(summary, workload.pid());
        let rules: Vec<&str> = found.iter().map(|one| &*one.rule).collect();
        let wanted: &[&str] = match *program {
            OWNER => &["deadlock"],
            _ => &[],
        };
        ensure!(rules == wanted, "{program}, {}: {rules:?}", workload.pid());
    }
    Ok(())
}

fn who_waits_for_work_gets_none(version: &str) -> Result<()> {
    let mut workloads = Vec::new();
    for program in HEALTHY {
        workloads.push((program, start(version, program)?));
    }
    let outcome = watch(&workloads, 15)?;
    let summary = outcome.summary()?;
    for (program, workload) in &workloads {
        let found = findings(summary, workload.pid());
        let said: Vec<&str> = found.iter().map(|one| &*one.summary).collect();
        ensure!(said.is_empty(), "{program}: {said:?}");
        let waits_for_others = NOT_CONTENDED.contains(program) || program.starts_with("idle_");
        let of_it = summary.processes.iter();
        let of_it = of_it.filter(|one| one.pid == workload.pid() || one.ppid == workload.pid());
        for thread in of_it
            .flat_map(|one| &one.threads)
            .filter(|_| waits_for_others)
        {
            let contended = thread.lock_ns.contended;
            ensure!(
                contended <= thread.lock_ns.total() / 20 + 50_000_000,
                "{program}: thread {} contended for {contended} ns",
                thread.tid
            );
        }
    }
    let of_all = outcome.reports.iter().flat_map(|report| &report.processes);
    let by_host = of_all
        .flat_map(|one| &one.findings)
        .any(|one| one.rule == BY_HOST);
    let code = if by_host { 6 } else { 0 };
    ensure!(outcome.code == code, "exit code {}", outcome.code);
    Ok(())
}
