//! Executors whose workers are all busy while work waits.

use serde_json::Value;

use super::history::History;
use super::{Context, Held, Rule, Severity, last_part};
use crate::schema::{Executor, ExecutorKind, Frame, Process, Role, Thread};

/// All workers of an executor are busy, and work waits.
pub(super) struct ExecutorSaturated;

/// With the window in which it fills up, it is told within three seconds.
const RULE_PATIENCE_NS: u64 = 2_000_000_000;

/// When all workers have waited for one thing for so long, ns, that is told once it is sure, not this.
const STUCK_NS: u64 = 500_000_000;

/// Over so long it is seen whether a queue falls.
const FALLS_NS: u64 = 3_000_000_000;

/// Whoever submits something waits for less than this, ns: no harm.
const SHORT_NS: f64 = 5e9;

/// How long the queue takes to be worked off, ns, if it goes on falling as it did in the last seconds;
/// `None`: it does not fall.
fn drain_ns(history: &History) -> Option<f64> {
    let mut windows = history.windows().rev();
    let mut earlier = windows.next()?;
    let (now, mut ns) = (earlier.queued, 0);
    for past in windows {
        ns += earlier.duration_ns;
        earlier = past;
        if ns >= FALLS_NS {
            break;
        }
    }
    let fallen = earlier
        .queued
        .checked_sub(now)
        .filter(|fallen| *fallen > 0)?;
    Some(now as f64 / fallen as f64 * ns as f64)
}

/// What the workers of celery's pool of threads run.
const CELERY: &str = "celery.concurrency.base.apply_target";

fn is_full(executor: &Executor) -> bool {
    let may_grow = match (executor.kind, executor.max_workers) {
        // It begins all its threads when it starts, whatever its bound is.
        (ExecutorKind::Server, _) => executor.workers == 0,
        (_, Some(most)) => executor.workers < most,
        (_, None) => true,
    };
    let busy = executor.workers_idle == Some(0) && !may_grow;
    busy && executor.queued.is_some_and(|queued| queued > 0)
}

/// Whether it is there to keep work from waiting. A limiter that a program made for itself keeps work back on purpose,
/// and task queues fetch work before they can run it.
fn is_pool(executor: &Executor) -> bool {
    let runs = |function: &str| {
        let mut running = executor.running.iter();
        running.any(|work| work.function.as_deref() == Some(function))
    };
    match executor.kind {
        ExecutorKind::Limiter => executor.name_prefix.is_some(),
        ExecutorKind::Task => false,
        _ => !runs(CELERY),
    }
}

/// Whether one thread has filled the queue and waits for the results, and no loop hands work over beside it: that is
/// how a batch is worked off.
fn is_batch(process: &Process, one: &Executor) -> bool {
    let works = |tid: u32| one.running.iter().any(|work| work.tid == Some(tid));
    let waits = |thread: &&Thread| {
        let mut frames = thread.stack.iter();
        !works(thread.tid)
            && frames.any(waits_for_results)
            && thread.role != Some(Role::Pool)
            && !is_manager(thread)
    };
    let no_loop = process.loops.iter().all(|one| !one.running);
    no_loop && process.threads.iter().filter(waits).count() == 1
}

/// Functions by which results are waited for, and what they do in between.
const OF_FUTURES: &[&str] = &[
    "result",
    "exception",
    "result_iterator",
    "_result_or_cancel",
    "_chain_from_iterable_of_lists",
    "wait",
    "as_completed",
    "shutdown",
    "__exit__",
];
const OF_POOLS: &[&str] = &["wait", "next", "get"];

/// Whether a frame is of these functions. Who is just woken by one result waits for the next one.
fn waits_for_results(frame: &Frame) -> bool {
    let function = last_part(&frame.function);
    match frame.file.ends_with("/multiprocessing/pool.py") {
        true => OF_POOLS.contains(&function),
        false => frame.file.contains("/concurrent/futures/") && OF_FUTURES.contains(&function),
    }
}

/// The thread that hands the work of a process pool over.
fn is_manager(thread: &Thread) -> bool {
    let mut frames = thread.stack.iter();
    frames.any(|frame| {
        last_part(&frame.function) == "run"
            && frame.file.ends_with("/concurrent/futures/process.py")
    })
}

impl Rule for ExecutorSaturated {
    fn name(&self) -> &'static str {
        "executor-saturated"
    }

    fn patience_ns(&self) -> u64 {
        RULE_PATIENCE_NS
    }

    fn explanation(&self) -> &'static str {
        "For two seconds all workers of an executor (concurrent.futures, ThreadPool), a server's threads, or all tokens of the \
         limiter of a loop's own threads (anyio, trio) were busy while work waited in the queue. What is submitted now (run_in_executor, to_thread included) waits for its turn \
         before it runs. A queue that is worked off within five seconds does not count, nor \
         does a batch: one thread has filled the queue and waits for the results, and no event loop runs. \
         Nor do limiters that a program made for itself, and workers of task queues.\n\n\
         What to do: see what the workers do (concmon-bpf dump); give it more workers when they wait \
         for something outside, fewer jobs or processes when they compute, an executor of its own to \
         slow work."
    }

    fn check(&self, context: &Context<'_>) -> Option<Held> {
        // One that waits for itself is told as that.
        let is_stuck = |one: &&Executor| {
            let tids = one.running.iter().filter_map(|work| work.tid);
            tids.into_iter()
                .any(|tid| super::is_deadlocked(context.process, tid))
                || super::pool_exhausted::stuck(context, one).is_some_and(|(.., ns)| ns >= STUCK_NS)
                || super::nested_limiter::stuck_ns(context, one).is_some_and(|ns| ns >= STUCK_NS)
        };
        let executors = context.process.executors.iter();
        let full = executors.filter(|one| is_pool(one) && is_full(one) && !is_stuck(one));
        let full = full.filter(|one| !is_batch(context.process, one));
        let one = full.max_by_key(|one| one.queued)?;
        if drain_ns(context.history).is_some_and(|ns| ns < SHORT_NS) {
            return None;
        }
        let queued = one.queued.unwrap_or(0);
        let mut functions: Vec<String> = one
            .running
            .iter()
            .filter_map(|work| work.function.clone())
            .collect();
        functions.sort();
        functions.dedup();
        functions.truncate(3);
        let name = one
            .name_prefix
            .clone()
            .unwrap_or_else(|| one.kind.to_string());
        let mut evidence = super::Evidence::new();
        evidence.insert("executor", Value::from(name.clone()));
        evidence.insert("workers", Value::from(one.workers));
        evidence.insert("queued", Value::from(queued));
        evidence.insert("running", Value::from(functions.clone()));
        Some(Held {
            severity: Severity::Warning,
            summary: format!(
                "all {} workers of executor {name} are busy{}, {queued} more wait",
                one.workers,
                functions
                    .first()
                    .map_or_else(String::new, |function| format!(" with {function}"))
            ),
            evidence,
            advice: "more workers for waiting, processes for computing, an executor of its own for slow work"
                .to_owned(),
            weight: queued as f64,
        })
    }
}
