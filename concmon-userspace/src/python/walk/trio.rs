//! trio's runs and tasks, by trio's own objects. What is private in them may change with any
//! release: what is not there is `None`, with a reason in the limits.

use super::limiters::{self, Limiter};
use super::stacks::Stack;
use super::thread_locals;
use super::thread_states::ThreadRecord;
use super::trio_deadlines;
use super::trio_tasks::{Run, TaskWalk, unread};
use crate::event::{LoopKind, PyLoop, PyTask, PythonFact, Tid};
use crate::python::objects::code::CodeCache;
use crate::python::objects::{Kind, Reader};
use crate::python::options::ScanOptions;

/// The module that has all of it.
pub(crate) const MODULE: &str = "trio._core._run";

/// The task that a thread runs right now: its address, its name and its coroutine. `module` is the dict
/// of trio's module of runs.
pub(crate) fn running(
    reader: &mut Reader<'_>,
    module: u64,
    thread: &ThreadRecord,
) -> Option<(u64, String, Option<u64>)> {
    let context = reader.dict_values(module, &["GLOBAL_RUN_CONTEXT"])?[0]?;
    let threads = std::slice::from_ref(thread);
    for values in thread_locals::values(reader, context, threads)? {
        if values.thread.is_none() {
            continue;
        }
        let task = reader.dict_values(values.dict, &["task"])?[0]?;
        let found = reader.members_of(task, &["name", "coro"])?;
        let name = reader.read_text(found[0]?)?.to_string();
        return Some((task, name, found[1]));
    }
    None
}

/// What a scan of trio begins with.
pub(crate) struct TrioScan<'a> {
    /// The dict of [`MODULE`].
    pub(crate) module: u64,
    pub(crate) threads: &'a [ThreadRecord],
    /// Our ids of the threads.
    pub(crate) tids: &'a [Option<Tid>],
    /// The stacks of the threads; empty when none were read.
    pub(crate) stacks: &'a [Stack],
    pub(crate) options: &'a ScanOptions,
}

impl TrioScan<'_> {
    /// Adds all runs of the threads with their tasks to `fact`; gives the limiters of their threads.
    pub(crate) fn add(
        &self,
        reader: &mut Reader<'_>,
        codes: &mut CodeCache,
        fact: &mut PythonFact,
    ) -> Vec<Limiter> {
        let mut limiters = Vec::new();
        let found = reader.dict_values(self.module, &["GLOBAL_RUN_CONTEXT", "Task"]);
        let Some([Some(context), Some(class)]) = found.as_deref() else {
            // While trio is being imported, its names are not there yet.
            unread(reader, "trio's names could not be read");
            return limiters;
        };
        let Some(runs) = self.runs(reader, *context) else {
            unread(reader, "trio's run context could not be read");
            return limiters;
        };
        for run in runs {
            if reader.is_over() {
                break;
            }
            let names = ["runq", "deadlines", "tasks", "_locals"];
            let attributes = reader.members_of(run.runner, &names);
            let [ready, deadlines, tasks, variables] = match attributes.as_deref() {
                Some([ready, deadlines, tasks, variables]) => {
                    [*ready, *deadlines, *tasks, *variables]
                }
                _ => [None; 4],
            };
            if let Some(variables) = variables {
                let found = limiters::among_variables(reader, variables, limiters::TRIO_THREADS);
                limiters.extend(found);
            }
            fact.loops.push(read_loop(reader, run, ready, deadlines));
            let Some(tasks) = tasks else {
                unread(reader, "trio's tasks could not be read");
                continue;
            };
            let mut walk = TaskWalk {
                run,
                stack: self.stacks.get(run.thread),
                class: *class,
                codes,
                options: self.options,
            };
            let limit = self.options.tasks.saturating_sub(fact.tasks.len());
            let mut found = walk.tasks(reader, tasks, limit);
            let may_be_stuck = |task: &PyTask| {
                let wait = task.waits_for.as_ref();
                !task.holds.is_empty() || wait.is_some_and(|wait| wait.kind == limiters::CLASS)
            };
            if found.iter().any(may_be_stuck) {
                trio_deadlines::add(reader, &mut found);
            }
            fact.tasks.extend(found);
        }
        limiters
    }

    /// The runs of the threads; `None` when it cannot be told.
    fn runs(&self, reader: &mut Reader<'_>, context: u64) -> Option<Vec<Run>> {
        let mut runs = Vec::new();
        for values in thread_locals::values(reader, context, self.threads)? {
            let found = reader.dict_values(values.dict, &["runner", "task"]);
            let Some([Some(runner), task]) = found.as_deref() else {
                continue;
            };
            let of_thread = values
                .thread
                .and_then(|thread| Some((thread, (*self.tids.get(thread)?)?)));
            let Some((thread, tid)) = of_thread else {
                reader.failed += 1;
                continue;
            };
            runs.push(Run {
                thread,
                tid,
                runner: *runner,
                task: *task,
            });
        }
        Some(runs)
    }
}

fn read_loop(
    reader: &mut Reader<'_>,
    run: Run,
    ready: Option<u64>,
    deadlines: Option<u64>,
) -> PyLoop {
    let found = PyLoop {
        tid: run.tid,
        id: run.runner,
        kind: LoopKind::Trio,
        ready: ready.and_then(|ready| reader.length(ready)),
        scheduled: deadlines.and_then(|deadlines| active_deadlines(reader, deadlines)),
        stall_threshold_ns: None,
        debug: None,
        tasks_created: None,
        queue: None,
    };
    let unknown = "this trio keeps it in a form that is not known";
    for (field, is_known, reason) in [
        ("ready", found.ready.is_some(), unknown),
        ("scheduled", found.scheduled.is_some(), unknown),
        ("stall_threshold_ns", false, "trio has no such threshold"),
        ("debug", false, "trio has no debug mode"),
        ("tasks_created", false, "trio keeps no count of its tasks"),
    ] {
        if !is_known {
            let field = format!("loops.{field}");
            reader
                .limits
                .entry(field)
                .or_insert_with(|| reason.to_owned());
        }
    }
    found
}

/// How many deadlines there are: since 0.19 an object counts them, before it was a sorted dict.
pub(super) fn active_deadlines(reader: &mut Reader<'_>, deadlines: u64) -> Option<u64> {
    let info = reader.types_of(&[deadlines]).pop()??;
    if info.kind == Kind::Dict {
        return Some(reader.dict(deadlines)?.len() as u64);
    }
    let active = reader.members_of(deadlines, &["_active"])?[0]?;
    u64::try_from(reader.integers(&[active])[0]?).ok()
}
