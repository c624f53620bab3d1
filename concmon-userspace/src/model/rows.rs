//! Rows that one look into an interpreter gives, alike in the reports of a watch and in a dump.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::pools::Known;
use super::snapshot::{Limit, TaskCost};
use super::window::limit;
use crate::event::{
    ExecutorKind, LoopKind, PyExecutor, PyFrame, PyTask, PyWait, PyWork, PythonFact, TaskState,
    WaitKind, WaitPurpose,
};

#[derive(Clone, Debug, Serialize)]
pub struct Task {
    /// Address of the task object, `0x...`.
    pub id: String,
    pub name: String,
    pub coroutine: String,
    /// `pending`, `running`, `done`.
    pub state: &'static str,
    /// From the task's own coroutine down to the innermost one that waits.
    pub awaiting: Vec<Frame>,
    /// What it is suspended on; `None` while it is ready, runs or is done, or it cannot be told.
    pub waits_for: Option<TaskWait>,
    /// Ids of the tasks that wait for this one.
    pub awaited_by: Vec<String>,
    pub cancel_requested: bool,
    /// Type name of the exception that a done task ended with.
    pub exception: Option<String>,
    /// Whether somebody has asked for the outcome; `None` while there is none.
    pub retrieved: Option<bool>,
    /// Values of the context variables that were asked for, by name.
    pub context: BTreeMap<String, String>,
    /// A single look does not know it.
    #[serde(flatten)]
    pub seen: Option<Seen>,
    /// `None`: nothing is sampled.
    #[serde(flatten)]
    pub cost: Option<TaskCost>,
}

/// For how long a watch has known a task.
#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq)]
pub struct Seen {
    pub first_seen_unix_ns: u64,
    pub age_ns: u64,
}

/// What a task is suspended on.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct TaskWait {
    /// `sleep`, `Event`, `Lock`, `Queue`, `socket`, `Task`, ..., else the class of the future.
    pub kind: String,
    /// Address, `0x...`.
    pub object: Option<String>,
}

#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Frame {
    pub function: Arc<str>,
    pub file: Arc<str>,
    /// 0 when there is none.
    pub line: u32,
}

/// What a blocked thread waits for.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct WaitingFor {
    /// `Lock`, `RLock`, `Condition`, `Event`, `Semaphore`, `Barrier`, `Queue`, `SimpleQueue`,
    /// `join`, `Future`.
    pub kind: &'static str,
    /// `contended`, `waiting_for_work`, `join`, `other`.
    pub purpose: &'static str,
    /// Address, `0x...`; `None` when only the kind could be told.
    pub object: Option<String>,
    /// The thread that has it, or whose end is waited for.
    pub owner_tid: Option<u32>,
}

/// A `concurrent.futures` executor.
#[derive(Clone, Debug, Serialize)]
pub struct Executor {
    /// `thread`, `process`.
    pub kind: &'static str,
    pub name_prefix: Option<String>,
    pub workers: u64,
    pub workers_idle: Option<u64>,
    pub max_workers: Option<u64>,
    /// Work that no worker has begun.
    pub queued: Option<u64>,
    pub running: Vec<Work>,
    /// Queued and running.
    pub unfinished: Option<u64>,
    pub submitted: Option<u64>,
    pub finished: Option<u64>,
    pub failed: Option<u64>,
    pub unretrieved: Option<u64>,
    pub limits: Vec<Limit>,
}

/// What a worker of an executor runs.
#[derive(Clone, Debug, Serialize)]
pub struct Work {
    /// `None` in another process.
    pub tid: Option<u32>,
    pub function: Option<String>,
    /// When a watch first saw it run; a single look does not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_unix_ns: Option<u64>,
}

impl Task {
    pub(crate) fn of(task: &PyTask, seen: Option<Seen>) -> Self {
        Task {
            id: address(task.id),
            name: task.name.clone(),
            coroutine: task.coroutine.clone(),
            state: match task.state {
                TaskState::Pending => "pending",
                TaskState::Running => "running",
                TaskState::Done => "done",
            },
            awaiting: frames(&task.awaiting),
            waits_for: task.waits_for.as_ref().map(|wait| TaskWait {
                kind: wait.kind.clone(),
                object: wait.object.map(address),
            }),
            awaited_by: task.awaited_by.iter().copied().map(address).collect(),
            cancel_requested: task.cancel_requested,
            exception: task.exception.clone(),
            retrieved: task.retrieved,
            context: task.context.clone(),
            seen,
            cost: None,
        }
    }

    pub fn is_done(&self) -> bool {
        self.state == "done"
    }

    /// For how long a watch has known it, ns.
    pub fn age_ns(&self) -> Option<u64> {
        self.seen.map(|seen| seen.age_ns)
    }
}

impl WaitingFor {
    pub(crate) fn of(wait: &PyWait) -> Self {
        WaitingFor {
            kind: match wait.kind {
                WaitKind::Lock => "Lock",
                WaitKind::RLock => "RLock",
                WaitKind::Condition => "Condition",
                WaitKind::Event => "Event",
                WaitKind::Semaphore => "Semaphore",
                WaitKind::Barrier => "Barrier",
                WaitKind::Queue => "Queue",
                WaitKind::SimpleQueue => "SimpleQueue",
                WaitKind::Join => "join",
                WaitKind::Future => "Future",
            },
            purpose: match wait.purpose {
                WaitPurpose::Contended => "contended",
                WaitPurpose::Work => "waiting_for_work",
                WaitPurpose::Join => "join",
                WaitPurpose::Other => "other",
            },
            object: wait.object.map(address),
            owner_tid: wait.owner.map(|tid| tid.0),
        }
    }
}

/// Why nobody can count what went through an executor.
const NO_TRACE: &str = "a dropped failed future leaves no trace in memory";

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
        let mut limits: Vec<Limit> = ["submitted", "finished", "failed", "unretrieved"]
            .map(|field| limit(field, NO_TRACE))
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
                ExecutorKind::Thread => "thread",
                ExecutorKind::Process => "process",
            },
            name_prefix: executor.name_prefix.clone(),
            workers: executor.workers,
            workers_idle: executor.workers_idle,
            max_workers: executor.max_workers,
            queued: executor.queued,
            unfinished: executor
                .queued
                .map(|queued| queued.saturating_add(running.len() as u64)),
            running,
            submitted: None,
            finished: None,
            failed: None,
            unretrieved: None,
            limits,
        }
    }
}

impl Executor {
    /// With what probes have counted.
    pub(crate) fn counted(mut self, known: Known) -> Self {
        let Known {
            submitted,
            failed,
            unretrieved,
            doubt,
        } = known;
        self.submitted = Some(submitted);
        self.failed = Some(failed);
        self.unretrieved = Some(unretrieved);
        let counted = ["submitted", "failed", "unretrieved"];
        self.limits
            .retain(|limit| !counted.contains(&limit.field.as_ref()));
        for limit in &mut self.limits {
            if limit.field == "finished" {
                limit.reason = "what ends well passes no probe".into();
            }
        }
        self.limits.push(limit("unretrieved", UNSEEN));
        self.limits
            .extend(doubt.map(|reason| limit("submitted", reason)));
        self
    }
}

/// Who asks for an exception without raising it.
pub(crate) const UNSEEN: &str = "who asks by Future.exception(), or in a callback that is not \
                                 asyncio's, is not seen; timeouts up to Python 3.12 are not counted";

const UNREAD: &str = "could not be read";

pub(crate) fn frames(frames: &[PyFrame]) -> Vec<Frame> {
    let frames = frames.iter().map(|frame| Frame {
        function: frame.function.clone(),
        file: frame.file.clone(),
        line: frame.line,
    });
    frames.collect()
}

pub(crate) fn address(address: u64) -> String {
    format!("{address:#x}")
}

pub(crate) const fn loop_kind(kind: LoopKind) -> &'static str {
    match kind {
        LoopKind::Asyncio => "asyncio",
        LoopKind::Uvloop => "uvloop",
        LoopKind::Trio => "trio",
    }
}

/// Limits of a loop's row, for the fields that are missing.
pub(crate) fn loop_limits(look: Option<&PythonFact>, fields: &[(&str, bool)]) -> Vec<Limit> {
    let missing = fields.iter().filter(|(_, missing)| *missing);
    missing
        .map(|(field, _)| {
            let said = look.and_then(|look| look.limits.get(&format!("loops.{field}")));
            limit(*field, said.map_or(UNREAD, String::as_str))
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
    missing: Option<&str>,
    empty: bool,
) -> Vec<Limit> {
    let said = |field: &str| look.and_then(|look| look.limits.get(&format!("threads.{field}")));
    let mut limits = Vec::new();
    if let Some(reason) = missing {
        limits.push(limit("stack", reason));
    } else if let Some(reason) = said("stack").filter(|_| empty) {
        limits.push(limit("stack", reason));
    }
    limits.extend(said("waiting_for").map(|reason| limit("waiting_for", reason)));
    limits
}
