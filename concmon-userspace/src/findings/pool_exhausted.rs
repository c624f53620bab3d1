//! Threads and tasks that wait for an item of a pool which has none left.

use std::collections::BTreeMap;

use serde_json::Value;

use super::executor_threads::{Workers, workers_of};
use super::{
    Context, Held, Rule, Severity, last_part, ms, place, thread_name, waits_ns, whole_place,
};
use crate::event::own_frame;
use crate::schema::{Address, Executor, ExecutorKind, Frame, Thread, WaitKind};

/// Who wants an item of a pool waits for one, and only those that have one could return it.
pub(super) struct PoolExhausted;

/// Each has waited for so long, ns.
const AGE_NS: u64 = 2_000_000_000;
/// So many workers that wait for one thing are no coincidence.
const WORKERS: usize = 2;

/// Functions in which connection pools wait for a connection: how the file's path ends, function, name.
const POOLS: &[(&str, &str, &str)] = &[
    (
        "/sqlalchemy/pool/impl.py",
        "_do_get",
        "SQLAlchemy's connection pool",
    ),
    (
        "/psycopg_pool/pool.py",
        "getconn",
        "psycopg's connection pool",
    ),
    (
        "/psycopg_pool/pool_async.py",
        "getconn",
        "psycopg's connection pool",
    ),
    (
        "/redis/connection.py",
        "get_connection",
        "redis's connection pool",
    ),
    (
        "/redis/asyncio/connection.py",
        "get_connection",
        "redis's connection pool",
    ),
    ("/asyncpg/pool.py", "_acquire", "asyncpg's connection pool"),
    (
        "/urllib3/connectionpool.py",
        "_get_conn",
        "urllib3's connection pool",
    ),
    (
        "/dbutils/pooled_db.py",
        "connection",
        "DBUtils' connection pool",
    ),
    (
        "/httpcore/_sync/connection_pool.py",
        "wait_for_connection",
        "httpx's connection pool",
    ),
    (
        "/httpcore/_async/connection_pool.py",
        "wait_for_connection",
        "httpx's connection pool",
    ),
];
/// What these call until an item is there. They call others, too: to connect, to check a connection.
const WAITS: &[&str] = &[
    "get",
    "wait",
    "wait_for",
    "wait_timeout",
    "_wait_lock",
    "_getconn_unchecked",
    "_getconn_with_check_loop",
    "_acquire_impl",
    "park",
    "wait_task_rescheduled",
];
/// What a task waits for then. (`wait_for` may hide anything: up to Python 3.11 it runs as a task of its own.)
const TASK_WAITS: &[&str] = &[
    "Condition",
    "Event",
    "Future",
    "LifoQueue",
    "PriorityQueue",
    "Queue",
    "Semaphore",
    "BoundedSemaphore",
];

impl Rule for PoolExhausted {
    fn name(&self) -> &'static str {
        "pool-exhausted"
    }

    fn patience_ns(&self) -> u64 {
        1_000_000_000
    }

    fn explanation(&self) -> &'static str {
        "Threads or tasks have waited for two seconds and more for an item of a pool that has none left: for a \
         connection of a connection pool (SQLAlchemy, psycopg, redis, asyncpg, urllib3, httpx and others, known by \
         the function that waits; who connects or checks a connection there does not count); or all workers of an \
         executor wait for the same queue or semaphore (a warning: event or condition), while more work is queued \
         for them, so that what would give it back may be in that queue; or all threads of a loop's limiter (anyio, \
         trio) wait for tasks that want another one; or all permits of a semaphore, tokens of a limiter, or items of a bounded queue that context managers get and put back, or functions \
         right before a `try` statement whose `finally` puts them back first of all, are \
         had by threads or tasks that wait for one another and for more of them (who has a permit is concluded from the \
         `with` statement of it that it is in, itself or by way of a manager that is a generator; who has an item also from the \
         code of the `try` statement that it is in, of Python 3.8 to 3.13). Only who has an item can return it.\n\n\
         What to do: look where those that have items are (concmon-bpf dump); return them sooner, in a `with` \
         statement, and not in work that needs a worker of the same executor; do not take a second one while \
         having one; set a timeout, then the size."
    }

    fn check(&self, context: &Context<'_>) -> Option<Held> {
        connections(context)
            .or_else(|| workers(context))
            .or_else(|| super::nested_limiter::held(context, AGE_NS))
            .or_else(|| permits(context))
    }
}

/// The pool in whose function a stack waits, the innermost frame first, and how paths of its files name its package.
fn pool<'a>(mut frames: impl Iterator<Item = &'a Frame>) -> Option<(&'static str, &'static str)> {
    let frame = frames.find(|frame| !WAITS.contains(&last_part(&frame.function)))?;
    let function = last_part(&frame.function);
    let mut pools = POOLS.iter();
    let known = pools.find(|(file, name, _)| *name == function && frame.file.ends_with(file));
    let (file, _, pool) = known?;
    let package = file.get(1..).and_then(|path| path.find('/'));
    Some((*pool, file.get(..package? + 2)?))
}

/// Where the program asks for a connection, the innermost frame first: outside of the pool's package.
fn asks<'a>(frames: impl Iterator<Item = &'a Frame>, package: &str) -> Option<&'a Frame> {
    let frames: Vec<&Frame> = frames.collect();
    let inside = frames
        .iter()
        .rposition(|frame| frame.file.contains(package));
    let outer = frames.get(inside.map_or(0, |inside| inside + 1)..)?;
    own_frame(outer, |frame| &frame.file).copied()
}

/// Whether a thread waits as one does for an item of a pool: not for a lock, nor for the network.
fn may_wait_for_item(thread: &Thread) -> bool {
    let wait = thread.waiting_for.as_ref();
    wait.is_some_and(|wait| wait.kind == WaitKind::Future || severity(wait.kind).is_some())
}

/// How bad it is that all workers of an executor wait for one thing of this kind; `None`: it is no pool of anything.
fn severity(kind: WaitKind) -> Option<Severity> {
    match kind {
        WaitKind::Queue | WaitKind::SimpleQueue | WaitKind::Semaphore => Some(Severity::Critical),
        WaitKind::Event | WaitKind::Condition => Some(Severity::Warning),
        _ => None,
    }
}

/// Who waits for a connection.
fn connections(context: &Context<'_>) -> Option<Held> {
    let process = context.process;
    let mut waiting: BTreeMap<&str, Vec<(String, Option<&Frame>)>> = BTreeMap::new();
    for thread in process
        .threads
        .iter()
        .filter(|thread| may_wait_for_item(thread) && waits_ns(context, thread) >= AGE_NS)
    {
        if let Some((pool, package)) = pool(thread.stack.iter()) {
            let frame = asks(thread.stack.iter(), package);
            let name = thread_name(process, thread.tid);
            waiting.entry(pool).or_default().push((name, frame));
        }
    }
    for task in process.loops.iter().flat_map(|one| &one.tasks) {
        let wait = task.waits_for.as_ref();
        if wait.is_some_and(|wait| TASK_WAITS.contains(&&*wait.kind))
            && task.wait_ns().is_some_and(|ns| ns >= AGE_NS)
            && let Some((pool, package)) = pool(task.awaiting.iter().rev())
        {
            let frame = asks(task.awaiting.iter().rev(), package);
            waiting
                .entry(pool)
                .or_default()
                .push((format!("task {}", task.name), frame));
        }
    }
    let (pool, waiting) = waiting
        .into_iter()
        .max_by_key(|(_, waiting)| waiting.len())?;
    let names: Vec<&str> = waiting.iter().take(3).map(|(name, _)| &**name).collect();
    let frame = waiting.iter().find_map(|(_, frame)| *frame);
    let mut evidence = super::Evidence::new();
    evidence.insert("pool", Value::from(pool));
    evidence.insert("waiting", Value::from(waiting.len()));
    evidence.insert("names", Value::from(names.clone()));
    evidence.insert("where", Value::from(frame.map(whole_place)));
    // Who has a permit without a `with` statement is not seen.
    let severity = match pool.contains("Limiter") {
        true => Severity::Critical,
        false => Severity::Warning,
    };
    Some(Held {
        severity,
        summary: format!(
            "{pool} has none left: {} wait for one ({}){}",
            waiting.len(),
            names.join(", "),
            frame.map_or_else(String::new, |frame| format!(", at {}", place(frame))),
        ),
        evidence,
        advice: "return connections sooner, in a with statement, and take no second one while having one; see \
                 with concmon-bpf dump who has them"
            .to_owned(),
        weight: waiting.len() as f64,
    })
}

/// All permits of a semaphore are had by those that wait for one.
fn permits(context: &Context<'_>) -> Option<Held> {
    let deadlocks = context.process.deadlocks.iter();
    let mut found = deadlocks.filter_map(|one| Some((one, super::deadlock::permits_of(one)?)));
    let (one, pool) = found.find(|(one, _)| super::deadlock::lasts(context, one))?;
    let holders = one
        .members
        .iter()
        .filter(|member| member.holds.is_some())
        .count();
    let names: Vec<String> = one
        .members
        .iter()
        .take(3)
        .map(super::deadlock::name)
        .collect();
    let frame = one.members.iter().find_map(|member| member.place.as_ref());
    let mut evidence = super::Evidence::new();
    evidence.insert("pool", Value::from(pool));
    evidence.insert("members", serde_json::json!(one.members));
    evidence.insert("behind", Value::from(one.behind));
    evidence.insert("where", Value::from(frame.map(whole_place)));
    Some(Held {
        severity: Severity::Critical,
        summary: format!(
            "{pool} has none left: who has one ({holders}) waits for another ({}){}, {} more wait behind",
            names.join(", "),
            frame.map_or_else(String::new, |frame| format!(", at {}", place(frame))),
            one.behind,
        ),
        evidence,
        advice: "take no second one while having one, and do not wait for work that needs one"
            .to_owned(),
        weight: one.members.len() as f64,
    })
}

/// What all workers of a full executor wait for, and for how long all of them have, ns.
pub(super) fn stuck(context: &Context<'_>, one: &Executor) -> Option<(WaitKind, Address, u64)> {
    let process = context.process;
    let threads = workers_of(process, one);
    let count = threads.len() as u64;
    // Threads of another limiter have the same names.
    let are_known =
        count == one.workers || (count > one.workers && one.kind != ExecutorKind::Limiter);
    let is_full = one.workers_idle == Some(0)
        && one.max_workers.is_some_and(|most| one.workers >= most)
        && one.queued.is_some_and(|queued| queued > 0)
        && are_known
        && threads.len() >= WORKERS;
    let first = threads.first()?.waiting_for.as_ref().filter(|_| is_full)?;
    severity(first.kind)?;
    let waits_so = |thread: &&Thread| {
        let wait = thread.waiting_for.as_ref();
        wait.is_some_and(|wait| (wait.kind, wait.object) == (first.kind, first.object))
    };
    let shortest_ns = threads
        .iter()
        .map(|thread| waits_ns(context, thread))
        .min()?;
    threads
        .iter()
        .all(waits_so)
        .then_some((first.kind, first.object?, shortest_ns))
}

/// All workers of an executor wait for one thing.
fn workers(context: &Context<'_>) -> Option<Held> {
    let process = context.process;
    let executors = process.executors.iter();
    let found = executors.filter_map(|one| Some((one, stuck(context, one)?)));
    let mut found = found.filter(|(_, (.., ns))| *ns >= AGE_NS);
    let (one, (kind, object, ns)) = found.next()?;
    let Workers {
        name,
        queued,
        at,
        evidence,
    } = Workers::of(process, one, Some(format!("{kind} {object}")))?;
    Some(Held {
        severity: severity(kind)?,
        summary: format!(
            "all {} workers of executor {name} have waited for {kind} {object} for {}{at}, {queued} more are queued",
            one.workers,
            ms(ns),
        ),
        evidence,
        advice: "what would give it back may be queued behind them: return it elsewhere, or bound how many \
                 workers may wait for it"
            .to_owned(),
        weight: one.workers as f64,
    })
}
