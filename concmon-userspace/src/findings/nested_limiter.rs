//! A loop's threads that wait for work of the loop which wants another thread.

use serde_json::Value;

use super::executor_threads::workers_of;
use super::{Context, Held, Severity, last_part, ms, place, waits_ns, whole_place};
use crate::event::own_frame;
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
    let found = executors.filter_map(|one| Some((one, stuck_ns(context, one)?)));
    let (one, ns) = found.into_iter().find(|(_, ns)| *ns >= age_ns)?;
    let thread = *workers_of(context.process, one).first()?;
    let frame = own_frame(&thread.stack, |frame| &frame.file).or(thread.stack.first());
    let name = one
        .name_prefix
        .clone()
        .unwrap_or_else(|| one.kind.to_string());
    let queued = one.queued.unwrap_or(0);
    let mut evidence = super::Evidence::new();
    evidence.insert(
        "pool",
        Value::from(one.object.map(|object| format!("CapacityLimiter {object}"))),
    );
    evidence.insert("executor", Value::from(name.clone()));
    evidence.insert("workers", Value::from(one.workers));
    evidence.insert("queued", Value::from(queued));
    evidence.insert("where", Value::from(frame.map(whole_place)));
    Some(Held {
        severity: Severity::Critical,
        summary: format!(
            "all {} workers of executor {name} have waited for {} for tasks that want another one{}, {queued} more wait",
            one.workers,
            ms(ns),
            frame.map_or_else(String::new, |frame| format!(", at {}", place(frame))),
        ),
        evidence,
        advice: "let no work of a thread wait for another thread of the same limiter: give the inner one a limiter \
                 of its own, or do it in the thread that is there"
            .to_owned(),
        weight: one.workers as f64,
    })
}
