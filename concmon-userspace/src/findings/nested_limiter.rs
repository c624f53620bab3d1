//! A loop's threads that wait for work of the loop which wants another thread.

use super::executor_threads::{Workers, workers_of};
use super::{Context, Held, Severity, last_part, ms, waits_ns};
use crate::schema::{Address, Executor, ExecutorKind, Task, Thread};

/// Functions in which a thread waits for what the loop runs for it: how the file's path ends, function.
const THREADS: &[(&str, &str)] = &[
    ("/anyio/_backends/_asyncio.py", "run_async_from_thread"),
    ("/trio/_threads.py", "from_thread_run"),
];
/// Functions of tasks, or parts of them, that run for a thread.
const TASKS: &[(&str, &str)] = &[
    ("/anyio/_backends/_asyncio.py", "task_wrapper"),
    ("/trio/_threads.py", "unprotected_afn"),
];

fn is_in<'a>(mut frames: impl Iterator<Item = (&'a str, &'a str)>, known: &[(&str, &str)]) -> bool {
    frames.any(|(function, file)| {
        let name = last_part(function);
        known
            .iter()
            .any(|(end, one)| *one == name && file.ends_with(end))
    })
}

/// How long all threads of a loop's limiter have waited for tasks which wait for another one of its tokens, ns.
pub(super) fn stuck_ns(context: &Context<'_>, one: &Executor) -> Option<u64> {
    let is_full = one.kind == ExecutorKind::Limiter
        && one.max_workers.is_some_and(|most| one.workers >= most)
        && one.workers > 0;
    let object = one.object.filter(|_| is_full)?;
    let threads = workers_of(context.process, one);
    let waits = |thread: &&Thread| {
        let frames = thread.stack.iter();
        thread.waiting_for.is_some()
            && is_in(
                frames.map(|frame| (&*frame.function, &*frame.file)),
                THREADS,
            )
    };
    if threads.len() as u64 != one.workers || !threads.iter().all(waits) {
        return None;
    }
    let tasks: Vec<&Task> = waiting(context, object).collect();
    // A time that one of them was given ends its wait.
    let is_timed = tasks.iter().any(|task| task.timeout_ns.is_some());
    if is_timed || (tasks.len() as u64) < one.workers {
        return None;
    }
    let of_threads = threads.iter().map(|thread| waits_ns(context, thread));
    let of_tasks = tasks.iter().map(|task| task.wait_ns().unwrap_or(0));
    of_threads.chain(of_tasks).min()
}

/// The tasks that run for a thread and wait for a token.
fn waiting<'a>(context: &'a Context<'_>, object: Address) -> impl Iterator<Item = &'a Task> {
    let tasks = context.process.loops.iter().flat_map(|one| &one.tasks);
    tasks.filter(move |task| {
        let frames = task.awaiting.iter();
        task.waits_for
            .as_ref()
            .is_some_and(|wait| wait.object == Some(object))
            && is_in(frames.map(|frame| (&*frame.function, &*frame.file)), TASKS)
    })
}

pub(super) fn held(context: &Context<'_>, age_ns: u64) -> Option<Held> {
    let executors = context.process.executors.iter();
    let mut found = executors.filter_map(|one| Some((one, stuck_ns(context, one)?)));
    let (one, ns) = found.find(|(_, ns)| *ns >= age_ns)?;
    let pool = one.object.map(|object| format!("CapacityLimiter {object}"));
    let Workers {
        name,
        queued,
        at,
        evidence,
    } = Workers::of(context.process, one, pool)?;
    Some(Held {
        severity: Severity::Critical,
        summary: format!(
            "all {} workers of executor {name} have waited for {} for tasks that want another one{at}, {queued} more wait",
            one.workers,
            ms(ns),
        ),
        evidence,
        advice: "let no work of a thread wait for another thread of the same limiter: give the inner one a limiter \
                 of its own, or do it in the thread that is there"
            .to_owned(),
        weight: one.workers as f64,
    })
}
