//! Rows that one look into an interpreter gives, alike in the reports of a watch and in a dump.

use std::borrow::Cow;

use super::window::limit;
use crate::event::{
    self, PyExecutor, PyFrame, PyLoop, PyReady, PyTask, PyWait, PyWork, PythonFact, SpanContext,
    WaitPurpose,
};
use crate::schema::{
    Address, Cause, Descriptor, Executor, ExecutorKind, Frame, Limit, LoopKind, Purpose, Ready,
    Seen, StallTask, Task, TaskState, TaskWait, Trace, WaitKind, WaitingFor, Work,
};

impl Task {
    pub(crate) fn of(task: &PyTask, seen: Option<Seen>) -> Self {
        Task {
            id: Address(task.id),
            name: task.name.clone(),
            coroutine: task.coroutine.clone(),
            state: match task.state {
                event::TaskState::Pending => TaskState::Pending,
                event::TaskState::Running => TaskState::Running,
                event::TaskState::Done => TaskState::Done,
            },
            awaiting: frames(&task.awaiting),
            waits_for: task.waits_for.as_ref().map(|wait| TaskWait {
                kind: wait.kind.clone(),
                object: wait.object.map(Address),
                since_unix_ns: None,
            }),
            timeout_ns: task.timeout_ns,
            awaited_by: task.awaited_by.iter().copied().map(Address).collect(),
            cancel_requested: task.cancel_requested,
            exception: task.exception.clone(),
            retrieved: task.retrieved,
            context: task.context.clone(),
            seen,
            cost: None,
        }
    }
}

/// A span in the user's own trace.
pub(crate) fn trace(of: &SpanContext) -> Trace {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Trace {
        trace_id: hex(&of.trace_id),
        span_id: of.span_id.as_ref().map(|id| hex(id)),
        sampled: of.sampled,
    }
}

/// The head of a loop's queue.
pub(crate) fn ready(of: &PyLoop, look: &PythonFact) -> Vec<Ready> {
    let ready = of.queue.iter().flat_map(|queue| &queue.ready);
    ready.map(|ready| callback(ready, look)).collect()
}

/// What a loop calls for descriptors, where its queue does not have that.
pub(crate) fn watched(of: &PyLoop, look: &PythonFact) -> Vec<Ready> {
    let watched = of.queue.iter().flat_map(|queue| &queue.watched);
    watched.map(|watched| callback(watched, look)).collect()
}

fn callback(ready: &PyReady, look: &PythonFact) -> Ready {
    let task = look.tasks.iter().find(|task| Some(task.id) == ready.task);
    Ready {
        function: match task {
            Some(task) => Some(task.coroutine.clone()),
            None => ready.function.clone(),
        },
        task: task.map(|task| StallTask {
            id: Address(task.id),
            name: task.name.clone(),
        }),
        descriptor: ready.descriptor.as_ref().map(|descriptor| Descriptor {
            number: descriptor.number,
            writes: descriptor.writes,
            kind: descriptor.kind.clone(),
        }),
    }
}

impl WaitingFor {
    pub(crate) fn of(wait: &PyWait) -> Self {
        WaitingFor {
            kind: match wait.kind {
                event::WaitKind::Lock => WaitKind::Lock,
                event::WaitKind::RLock => WaitKind::RLock,
                event::WaitKind::Condition => WaitKind::Condition,
                event::WaitKind::Event => WaitKind::Event,
                event::WaitKind::Semaphore => WaitKind::Semaphore,
                event::WaitKind::Barrier => WaitKind::Barrier,
                event::WaitKind::Queue => WaitKind::Queue,
                event::WaitKind::SimpleQueue => WaitKind::SimpleQueue,
                event::WaitKind::Join => WaitKind::Join,
                event::WaitKind::Future => WaitKind::Future,
            },
            purpose: match wait.purpose {
                WaitPurpose::Contended => Purpose::Contended,
                WaitPurpose::Work => Purpose::WaitingForWork,
                WaitPurpose::Item => Purpose::Item,
                WaitPurpose::Join => Purpose::Join,
                WaitPurpose::Other => Purpose::Other,
            },
            object: wait.object.map(Address),
            owner_tid: wait.owner.map(|tid| tid.0),
            owner_inferred: wait.inferred,
            owner_gone: wait.owner_gone,
            at_statement: wait.at_statement,
            since_unix_ns: None,
        }
    }
}

/// Why nobody can count what went through an executor.
const NO_TRACE: &str = "a dropped failed future leaves no trace in memory";

const NO_COUNT: &str = "it keeps no count of that";

impl Executor {
    /// `since` tells when a watch first saw a piece of work, on the wall clock.
    pub(crate) fn of(executor: &PyExecutor, since: impl Fn(&PyWork) -> Option<u64>) -> Self {
        let running: Vec<Work> = executor
            .running
            .iter()
            .map(|work| Work {
                tid: work.tid.map(|tid| tid.0),
                function: work.function.clone(),
                since_unix_ns: since(work),
            })
            .collect();
        let is_pool = matches!(
            executor.kind,
            event::ExecutorKind::Thread | event::ExecutorKind::Process
        );
        let busy = executor
            .workers_idle
            .map(|idle| executor.workers.saturating_sub(idle));
        // What servers run, and who has a limiter's tokens, has no name.
        let begun = match busy.filter(|_| !is_pool) {
            Some(busy) => busy,
            None => running.len() as u64,
        };
        let uncounted = if is_pool { NO_TRACE } else { NO_COUNT };
        let mut limits: Vec<Limit> = ["submitted", "finished", "failed", "unretrieved"]
            .map(|field| limit(field, uncounted))
            .into();
        for (field, missing) in [
            ("workers_idle", executor.workers_idle.is_none()),
            ("max_workers", executor.max_workers.is_none()),
            ("queued", executor.queued.is_none()),
            ("unfinished", executor.queued.is_none()),
        ] {
            if missing {
                limits.push(limit(field, UNREAD));
            }
        }
        if executor.name_prefix.is_none() {
            limits.push(limit("name_prefix", "it has none, or it could not be read"));
        }
        if running.iter().any(|work| work.function.is_none()) {
            limits.push(limit("running.function", UNREAD));
        }
        Executor {
            kind: match executor.kind {
                event::ExecutorKind::Thread => ExecutorKind::Thread,
                event::ExecutorKind::Process => ExecutorKind::Process,
                event::ExecutorKind::Limiter => ExecutorKind::Limiter,
                event::ExecutorKind::Server => ExecutorKind::Server,
                event::ExecutorKind::Task => ExecutorKind::Task,
            },
            name_prefix: executor.name_prefix.clone(),
            object: (executor.kind == event::ExecutorKind::Limiter).then_some(Address(executor.id)),
            workers: executor.workers,
            workers_idle: executor.workers_idle,
            max_workers: executor.max_workers,
            queued: executor.queued,
            waiting: executor.queued.filter(|_| !is_pool),
            unfinished: executor.queued.map(|queued| queued.saturating_add(begun)),
            running,
            submitted: None,
            finished: None,
            failed: None,
            unretrieved: None,
            limits,
        }
    }
}

/// Who asks for an exception without raising it.
pub(crate) const UNSEEN: &str = "who asks by Future.exception(), or in a callback that is not \
                                 asyncio's, is not seen; timeouts up to Python 3.12 are not counted";

const UNREAD: &str = "could not be read";

pub(crate) fn frame(frame: &PyFrame) -> Frame {
    Frame {
        function: frame.function.clone(),
        file: frame.file.clone(),
        line: frame.line,
    }
}

pub(crate) fn frames(frames: &[PyFrame]) -> Vec<Frame> {
    frames.iter().map(frame).collect()
}

pub(crate) const fn cause(cause: event::Cause) -> Cause {
    match cause {
        event::Cause::Gil => Cause::Gil,
        event::Cause::Lock => Cause::Lock,
        event::Cause::Poll => Cause::Poll,
        event::Cause::Sleep => Cause::Sleep,
        event::Cause::Io => Cause::Io,
        event::Cause::Child => Cause::Child,
        event::Cause::Disk => Cause::Disk,
        event::Cause::Stopped => Cause::Stopped,
        event::Cause::Other => Cause::Other,
    }
}

pub(crate) const fn loop_kind(kind: event::LoopKind) -> LoopKind {
    match kind {
        event::LoopKind::Asyncio => LoopKind::Asyncio,
        event::LoopKind::Uvloop => LoopKind::Uvloop,
        event::LoopKind::Trio => LoopKind::Trio,
    }
}

/// What a look says of a field of its `part`, where it has a limit.
pub(super) fn said<'a>(look: &'a PythonFact, part: &str, field: &str) -> Option<&'a String> {
    let is_of = |key: &str| {
        let rest = key.strip_prefix(part);
        rest.and_then(|rest| rest.strip_prefix('.')) == Some(field)
    };
    // They are few, and every row asks.
    let mut limits = look.limits.iter();
    limits.find_map(|(key, reason)| is_of(key).then_some(reason))
}

/// Limits of a loop's row, for the fields that are missing.
pub(crate) fn loop_limits(
    look: Option<&PythonFact>,
    fields: &[(&'static str, bool)],
) -> Vec<Limit> {
    let missing = fields.iter().filter(|(_, missing)| *missing);
    missing
        .map(|(field, _)| {
            let said = look.and_then(|look| said(look, "loops", field));
            limit(
                *field,
                said.map_or(UNREAD.into(), |said| Cow::from(said.clone())),
            )
        })
        .collect()
}

/// What a count of made tasks does not cover, where there is one.
pub(crate) fn created_limit(look: Option<&PythonFact>) -> Option<Limit> {
    let look = look?;
    let said = look.limits.get("loops.tasks_created").cloned();
    let mut ids = look.loops.iter().map(|one| one.id);
    let first = ids.next();
    let shared = ids
        .any(|id| Some(id) != first)
        .then(|| "counted for the whole process: all its loops show the same".to_owned());
    let reasons: Vec<String> = said.into_iter().chain(shared).collect();
    (!reasons.is_empty()).then(|| limit("tasks_created", reasons.join("; ")))
}

/// A stack that could not be read in one piece.
pub(crate) const TORN: &str = "it changed each time it was read";

/// Limits of what a thread runs and waits for, in its row.
///
/// `missing`: why there is no stack, where the look itself says so.
pub(crate) fn stack_limits(
    look: Option<&PythonFact>,
    missing: Option<&'static str>,
    empty: bool,
) -> Vec<Limit> {
    let said = |field| look.and_then(|look| said(look, "threads", field));
    let mut limits = Vec::new();
    if let Some(reason) = missing {
        limits.push(limit("stack", reason));
    } else if let Some(reason) = said("stack").filter(|_| empty) {
        limits.push(limit("stack", reason.clone()));
    }
    limits.extend(said("waiting_for").map(|reason| limit("waiting_for", reason.clone())));
    limits
}
