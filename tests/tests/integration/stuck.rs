//! Programs that stand still get the one finding that says why, with who does and where; those that only wait for
//! work get none.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::{Skip, case, quiet};
use concmon_tests::interpreter::Interpreter;
use concmon_tests::packages;
use concmon_tests::report::{Finding, Report};
use concmon_tests::watch::{Outcome, PATIENCE, Watch};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;

use crate::dump::{array, tool};
use crate::gil::counts_in_its_window;
use crate::watch_python;

/// A program: its file, which one, what it needs, and the rule that holds for it. What is idle has none.
pub(crate) type Row = (
    &'static str,
    &'static str,
    &'static [&'static str],
    Option<&'static str>,
);

const STUCK: &str = "stuck.py";
pub(crate) const UNSTUCK: &str = "unstuck.py";
const POOLED: &str = "pooled.py";
const LOOPS: &[&str] = &["anyio", "trio"];

const DEADLOCK: Option<&str> = Some("deadlock");
const ACROSS_FORK: Option<&str> = Some("lock-held-across-fork");
const EXHAUSTED: Option<&str> = Some("pool-exhausted");
const FULL: &str = "executor-saturated";
/// It takes ten seconds to tell.
const NOT_RELEASED: &str = "lock-not-released";

pub(crate) const SICK: [Row; 38] = [
    (STUCK, "two_rlocks", &[], DEADLOCK),
    (STUCK, "three_rlocks", &[], DEADLOCK),
    (STUCK, "two_locks", &[], DEADLOCK),
    (STUCK, "lock_and_join", &[], DEADLOCK),
    (STUCK, "relocking_handler", &[], DEADLOCK),
    (STUCK, "lock_that_is_taken_twice", &[], DEADLOCK),
    (STUCK, "own_pool", &[], DEADLOCK),
    (STUCK, "asyncio_locks", &[], DEADLOCK),
    (STUCK, "tasks_that_await_each_other", &[], DEADLOCK),
    (STUCK, "group_of_anyio", LOOPS, DEADLOCK),
    (STUCK, "locks_of_trio", LOOPS, DEADLOCK),
    (STUCK, "lock_across_fork", &[], ACROSS_FORK),
    (STUCK, "plain_lock_across_fork", &[], ACROSS_FORK),
    (STUCK, "workers_that_wait_for_one_queue", &[], EXHAUSTED),
    (STUCK, "queue_of_threads_of_anyio", LOOPS, EXHAUSTED),
    (STUCK, "queue_of_threads_of_trio", LOOPS, EXHAUSTED),
    (STUCK, "nested_threads_of_anyio", LOOPS, EXHAUSTED),
    (STUCK, "nested_threads_of_trio", LOOPS, EXHAUSTED),
    (STUCK, "tokens_of_anyio", LOOPS, EXHAUSTED),
    (STUCK, "tokens_of_trio", LOOPS, EXHAUSTED),
    (STUCK, "semaphore_of_threads", &[], EXHAUSTED),
    (STUCK, "bounded_semaphore_of_threads", &[], EXHAUSTED),
    (STUCK, "semaphore_of_tasks", &[], EXHAUSTED),
    (STUCK, "semaphore_of_anyio", LOOPS, EXHAUSTED),
    (
        STUCK,
        "connections_of_sqlalchemy",
        &["sqlalchemy"],
        EXHAUSTED,
    ),
    (STUCK, "lock_that_is_left_taken", &[], Some(NOT_RELEASED)),
    (STUCK, "connections_in_a_queue", &[], EXHAUSTED),
    (STUCK, "connections_in_a_queue_of_tasks", &[], EXHAUSTED),
    (STUCK, "connections_in_a_plain_queue", &[], EXHAUSTED),
    (
        STUCK,
        "connections_in_a_plain_queue_of_tasks",
        &[],
        EXHAUSTED,
    ),
    (STUCK, "semaphore_in_a_manager", &[], EXHAUSTED),
    (STUCK, "semaphore_in_a_manager_of_tasks", &[], EXHAUSTED),
    (STUCK, "convoy_for_a_lock", &[], Some("lock-convoy")),
    (STUCK, "full_pool_of_threads", &[], Some(FULL)),
    (POOLED, "full_waitress", &["waitress"], Some(FULL)),
    (POOLED, "full_cheroot", &["cheroot"], Some(FULL)),
    (POOLED, "full_gthread", &["gunicorn"], Some(FULL)),
    // It is killed when it has been there for six seconds, which the watch is to see.
    (STUCK, "killed_pool_worker", &[], Some(KILLED)),
];
pub(crate) const HEALTHY: [Row; 34] = [
    (UNSTUCK, "idle_thread_pool", &[], None),
    (UNSTUCK, "idle_process_pool", &[], None),
    (UNSTUCK, "idle_multiprocessing_pool", &[], None),
    (UNSTUCK, "idle_pool_of_threads", &[], None),
    (POOLED, "gevent", &["gevent"], None),
    (POOLED, "waitress", &["waitress"], None),
    (POOLED, "cheroot", &["cheroot"], None),
    (POOLED, "celery", &["celery"], None),
    (POOLED, "celery_threads", &["celery"], None),
    (POOLED, "dask", &["distributed"], None),
    (UNSTUCK, "signals_by_semaphore", &[], None),
    (UNSTUCK, "signals_by_locks", &[], None),
    (UNSTUCK, "barrier", &[], None),
    (UNSTUCK, "many_consumers", &[], None),
    (UNSTUCK, "consumers_in_processes", &[], None),
    (UNSTUCK, "batch_over_own_pool", &[], None),
    (UNSTUCK, "nested_locks", &[], None),
    (UNSTUCK, "long_work_behind_a_semaphore", &[], None),
    (UNSTUCK, "two_permits_at_times", &[], None),
    (UNSTUCK, "connections_of_two_queues", &[], None),
    (UNSTUCK, "messages_that_are_put_back", &[], None),
    (UNSTUCK, "connections_of_queues_of_tasks", &[], None),
    (UNSTUCK, "permits_in_managers", &[], None),
    (UNSTUCK, "tasks_behind_a_semaphore", &[], None),
    (UNSTUCK, "joins_with_a_time", &[], None),
    (UNSTUCK, "waiters_of_one_asyncio_lock", &[], None),
    (UNSTUCK, "tasks_with_a_time", &[], None),
    (UNSTUCK, "tasks_that_are_given_up", &[], None),
    (UNSTUCK, "groups_with_a_time", &[], None),
    (STUCK, "groups_of_anyio_with_a_time", LOOPS, None),
    (STUCK, "permits_of_anyio_with_a_time", LOOPS, None),
    (STUCK, "tokens_of_trio_with_a_time", LOOPS, None),
    (STUCK, "locks_of_trio_with_a_time", LOOPS, None),
    (UNSTUCK, "locks_of_a_fork", &[], None),
];
/// Programs in which one thread keeps the GIL for long, or several want it all the time.
pub(crate) const GIL: [Row; 4] = [
    (STUCK, "backtracking_pattern", &[], CONTENTION),
    (STUCK, "large_power", &[], CONTENTION),
    (STUCK, "sleeping_call_of_c", &[], CONTENTION),
    (STUCK, CONVOY, &[], CONTENTION),
];
const CONTENTION: Option<&str> = Some("gil-contention");
const CONVOY: &str = "convoy_for_the_gil";
pub(crate) const VERSIONS: [&str; 3] = ["3.9", "3.11", "3.13"];
/// Of programs that do not compute, it is the host's.
pub(crate) const BY_HOST: &str = "cpu-starved";
/// Windows of a second by which a finding is told.
pub(crate) const SOON: usize = 5;
const KILLED: &str = "worker-killed";
const KILLED_AFTER: usize = 6;

/// Besides the idle pools: nobody in these has what others want.
const NOT_CONTENDED: [&str; 4] = [
    "signals_by_semaphore",
    "signals_by_locks",
    "barrier",
    "many_consumers",
];

/// Every version says in another way who is inside of a `with` statement.
const ALL_VERSIONS: [&str; 8] = ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15"];
/// Programs of which no thread has what it waits for, and one in which it has.
pub(crate) const WAITERS: [&str; 3] = [
    "with_statements_again_and_again",
    "statements_of_any_length",
    "methods_in_variables",
];
const OWNER: &str = "lock_that_is_taken_twice";

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![quiet(
        "stuck::who_waits_at_a_statement_does_not_own_the_lock",
        &watch_python("3.9"),
        who_waits_at_a_statement_does_not_own_the_lock,
    )];
    for version in VERSIONS {
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
        trials.push(case(
            format!("stuck::who_keeps_the_gil_is_named::py{version}"),
            &watch_python(version),
            move || who_keeps_the_gil_is_named(version),
        ));
    }
    trials
}

fn start(version: &str, file: &str, program: &str) -> Result<Workload> {
    let python = Interpreter::find(version)?;
    let workload = Workload::start(&python, file, &[program]);
    workload.with_context(|| program.to_owned())
}

/// Those of the programs whose packages are there; of others it is said why not.
pub(crate) fn start_all(version: &str, rows: &[Row]) -> Result<Vec<(Row, Workload)>> {
    let python = Interpreter::find(version)?;
    let mut workloads = Vec::new();
    for row @ (file, program, needed, _) in rows {
        let packages = match needed {
            [] => None,
            needed => match packages::folder(&python, version, needed) {
                Ok(folder) => Some(folder),
                Err(error) => {
                    let Skip(reason) = error.downcast::<Skip>()?;
                    eprintln!("    {program}: not run, {reason}");
                    continue;
                }
            },
        };
        let workload = Workload::start_with(&python, packages.as_deref(), file, &[program]);
        workloads.push((*row, workload.with_context(|| (*program).to_owned())?));
    }
    Ok(workloads)
}

fn start_watch<'a>(workloads: impl Iterator<Item = &'a Workload>, args: &[&str]) -> Result<Watch> {
    let pids: Vec<String> = workloads.map(|one| one.pid().to_string()).collect();
    let of_pids = pids.iter().flat_map(|pid| ["-p", pid]);
    let args: Vec<&str> = ["--json", "--fail-on", "any"]
        .into_iter()
        .chain(args.iter().copied())
        .chain(of_pids)
        .collect();
    Watch::start(&args)
}

fn watch<'a>(workloads: impl Iterator<Item = &'a Workload>, seconds: u32) -> Result<Outcome> {
    let duration = format!("{seconds}s");
    start_watch(workloads, &["-d", &*duration])?
        .finish(PATIENCE + Duration::from_secs(u64::from(seconds)))
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
    let workloads = start_all(version, &SICK)?;
    let outcome = watch(workloads.iter().map(|(_, one)| one), 14)?;
    ensure!(outcome.code == 6, "exit code {}", outcome.code);
    workloads
        .iter()
        .try_for_each(|(row, workload)| is_told(row, workload, &outcome))
}

/// It has the one finding that is meant, soon, with its members and a place in its source.
fn is_told((_, program, _, rule): &Row, workload: &Workload, outcome: &Outcome) -> Result<()> {
    let rule = rule.context("it is sick")?;
    let found = findings(outcome.summary()?, workload.pid());
    let rules: Vec<&str> = found.iter().map(|one| &*one.rule).collect();
    ensure!(rules == [rule], "{program}: {rules:?}, wanted {rule}");
    let said = format!("{} {:?}", found[0].summary, found[0].evidence);
    let members: Vec<String> = workload.said("members")?;
    for member in members {
        ensure!(said.contains(&member), "{program}: no {member} in {said}");
    }
    // Nobody has the GIL for long in a convoy, and workers that are full have functions.
    let needs_place = ![KILLED, FULL].contains(&rule) && *program != CONVOY;
    let has_place = !needs_place || said.contains(STUCK);
    ensure!(has_place, "{program}: no place in {said}");
    let told = |report: &Report| !findings(report, workload.pid()).is_empty();
    let snapshots = outcome.snapshots();
    let first = snapshots.iter().position(told).context("in no snapshot")?;
    let begins = if rule == KILLED { KILLED_AFTER } else { 0 };
    ensure!(
        rule == NOT_RELEASED || first < begins + SOON,
        "{program}: told in window {first}"
    );
    Ok(())
}

/// Two at a time, for each takes a CPU.
fn who_keeps_the_gil_is_named(version: &str) -> Result<()> {
    for rows in GIL.chunks(2) {
        let workloads = start_all(version, rows)?;
        let duration = format!("{}s", SOON + 1);
        let watched = workloads.iter().map(|(_, one)| one);
        let mut watch = start_watch(watched, &["-d", &*duration])?;
        watch.next(PATIENCE)?;
        for ((_, program, ..), workload) in &workloads {
            waiters_are_not_idle(workload.pid()).context(*program)?;
        }
        let outcome = watch.finish(PATIENCE)?;
        ensure!(outcome.code == 6, "exit code {}", outcome.code);
        for (row, workload) in &workloads {
            is_told(row, workload, &outcome)?;
            for report in outcome.snapshots() {
                counts_in_its_window(&report, workload.pid()).context(row.1)?;
            }
        }
    }
    Ok(())
}

/// Threads that want to compute run or wait for the GIL, whenever they are looked at.
fn waiters_are_not_idle(pid: u32) -> Result<()> {
    const LOOKS: usize = 6;
    let (mut all, mut waiting) = (0, 0);
    for _ in 0..LOOKS {
        let look = tool(&["dump", "--json"], pid)?.json()?;
        for thread in array(&look, "/processes/0/threads")? {
            let name = thread["name"].as_str().unwrap_or_default();
            if name.starts_with("victim-") || name.starts_with("computes-") {
                let state = thread["state"].as_str();
                ensure!(
                    matches!(state, Some("active" | "waiting_for_gil")),
                    "{name} is {state:?}"
                );
                all += 1;
                waiting += usize::from(state == Some("waiting_for_gil"));
            }
        }
    }
    // Who is woken to get it waits for a CPU by then.
    ensure!(waiting * 4 > all, "{waiting} of {all} wait");
    Ok(())
}

/// Of all versions that are there.
fn who_waits_at_a_statement_does_not_own_the_lock() -> Result<()> {
    let is_there = |version: &&str| Interpreter::find(version).is_ok();
    let mut workloads = Vec::new();
    for version in ALL_VERSIONS.into_iter().filter(is_there) {
        let waiters = WAITERS.map(|program| (UNSTUCK, program));
        for (file, program) in waiters.into_iter().chain([(STUCK, OWNER)]) {
            workloads.push((program, start(version, file, program)?));
        }
    }
    let outcome = watch(workloads.iter().map(|(_, one)| one), 6)?;
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
    let workloads = start_all(version, &HEALTHY)?;
    let outcome = watch(workloads.iter().map(|(_, one)| one), 15)?;
    let summary = outcome.summary()?;
    for ((_, program, ..), workload) in &workloads {
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
