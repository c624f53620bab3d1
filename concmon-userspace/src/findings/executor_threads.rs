//! The threads that work for an executor.

use serde_json::Value;

use super::{Evidence, last_part, place, whole_place};
use crate::event::own_frame;
use crate::schema::{Executor, ExecutorKind, Process, Thread};

/// The prefix of the limiter of trio's own threads.
const TRIO: &str = "Trio thread";

/// What a finding tells of an executor whose workers all wait for something.
pub(super) struct Workers {
    pub(super) name: String,
    pub(super) queued: u64,
    /// Where the first one waits, as it stands in a sentence.
    pub(super) at: String,
    pub(super) evidence: Evidence,
}

impl Workers {
    /// `pool`: what they wait for. `None`: none of them is known.
    pub(super) fn of(process: &Process, one: &Executor, pool: Option<String>) -> Option<Self> {
        let thread = *workers_of(process, one).first()?;
        let frame = own_frame(&thread.stack, |frame| &frame.file).or(thread.stack.first());
        let name = one.name_prefix.clone();
        let name = name.unwrap_or_else(|| one.kind.to_string());
        let queued = one.queued.unwrap_or(0);
        let mut evidence = Evidence::new();
        evidence.insert("pool", Value::from(pool));
        evidence.insert("executor", Value::from(name.clone()));
        evidence.insert("workers", Value::from(one.workers));
        evidence.insert("queued", Value::from(queued));
        evidence.insert("where", Value::from(frame.map(whole_place)));
        Some(Self {
            name,
            queued,
            at: frame.map_or_else(String::new, |frame| format!(", at {}", place(frame))),
            evidence,
        })
    }
}

/// The threads that work for an executor. A limiter does not say who has its tokens: those of a loop's own are had by
/// the threads of anyio with its prefix that have work, and those in trio's function for it, which have names of their own.
pub(super) fn workers_of<'a>(process: &'a Process, executor: &Executor) -> Vec<&'a Thread> {
    let threads = process.threads.iter().filter(|thread| thread.alive);
    if executor.kind != ExecutorKind::Limiter {
        let works = |tid: u32| executor.running.iter().any(|work| work.tid == Some(tid));
        return threads.filter(|thread| works(thread.tid)).collect();
    }
    let Some(prefix) = &executor.name_prefix else {
        return Vec::new();
    };
    let is_its = |thread: &&Thread| {
        let name = thread.name.as_deref();
        let is_named = name.is_some_and(|name| name.starts_with(&**prefix));
        (is_named && !is_idle(process, thread)) || (&**prefix == TRIO && works_for_trio(thread))
    };
    threads.filter(is_its).collect()
}

/// A thread of anyio's waits for the next function to run: in a queue of its own. Others wait in one that a function
/// was given which it runs.
fn is_idle(process: &Process, thread: &Thread) -> bool {
    let waits = ["/threading.py", "/queue.py"];
    let mut frames = thread.stack.iter();
    let frame = frames.find(|frame| !waits.iter().any(|file| frame.file.ends_with(file)));
    let object = |thread: &Thread| thread.waiting_for.as_ref()?.object;
    let mut others = process.threads.iter().filter(|one| one.tid != thread.tid);
    let is_own = object(thread).is_none_or(|own| !others.any(|one| object(one) == Some(own)));
    is_own && frame.is_some_and(|frame| frame.file.ends_with("/anyio/_backends/_asyncio.py"))
}

fn works_for_trio(thread: &Thread) -> bool {
    let mut frames = thread.stack.iter();
    frames.any(|frame| {
        last_part(&frame.function) == "worker_fn" && frame.file.ends_with("/trio/_threads.py")
    })
}
