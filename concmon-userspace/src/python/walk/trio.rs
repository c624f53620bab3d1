//! trio's runs and tasks, by trio's own objects. What is private in them may change with any
//! release: what is not there is `None`, with a reason in the limits.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::chain::{self, Chain, End};
use super::stacks::{self, Stack};
use super::tasks::{self, Listed};
use super::thread_states::ThreadRecord;
use super::{thread_locals, trio_waits};
use crate::event::{LoopKind, PyFrame, PyLoop, PyTask, PythonFact, TaskState, TaskWait, Tid};
use crate::python::memory::addresses::AddressSet;
use crate::python::memory::plausible;
use crate::python::objects::code::CodeCache;
use crate::python::objects::text::as_bool;
use crate::python::objects::{Kind, Reader};
use crate::python::options::ScanOptions;

/// The module that has all of it.
pub(crate) const MODULE: &str = "trio._core._run";
/// Attributes of a task.
const TASK: &[&str] = &[
    "coro",
    "name",
    "_parent_nursery",
    "_next_send_fn",
    "custom_sleep_data",
    "_cancel_status",
];

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

/// A trio run in a thread.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Which of the threads.
    thread: usize,
    tid: Tid,
    runner: u64,
    /// The task that runs right now.
    task: Option<u64>,
}

/// What a task says of itself; equal before and after, its chain was read in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TaskHead {
    coroutine: u64,
    name: u64,
    nursery: Option<u64>,
    /// What it goes on with once its turn has come.
    next_send: Option<u64>,
    sleeps_on: Option<u64>,
    cancel_status: Option<u64>,
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
    /// Adds all runs of the threads with their tasks to `fact`.
    pub(crate) fn add(
        &self,
        reader: &mut Reader<'_>,
        codes: &mut CodeCache,
        fact: &mut PythonFact,
    ) {
        let found = reader.dict_values(self.module, &["GLOBAL_RUN_CONTEXT", "Task"]);
        let Some([Some(context), Some(class)]) = found.as_deref() else {
            // While trio is being imported, its names are not there yet.
            unread(reader, "trio's names could not be read");
            return;
        };
        let Some(runs) = self.runs(reader, *context) else {
            unread(reader, "trio's run context could not be read");
            return;
        };
        for run in runs {
            if reader.is_over() {
                break;
            }
            let attributes = reader.members_of(run.runner, &["runq", "deadlines", "tasks"]);
            let [ready, deadlines, tasks] = match attributes.as_deref() {
                Some([ready, deadlines, tasks]) => [*ready, *deadlines, *tasks],
                _ => [None; 3],
            };
            fact.loops.push(read_loop(reader, run, ready, deadlines));
            let Some(tasks) = tasks else {
                unread(reader, "trio's tasks could not be read");
                continue;
            };
            let mut walk = Walk {
                run,
                stack: self.stacks.get(run.thread),
                class: *class,
                codes,
                options: self.options,
            };
            let limit = self.options.tasks.saturating_sub(fact.tasks.len());
            fact.tasks.extend(walk.tasks(reader, tasks, limit));
        }
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

fn unread(reader: &mut Reader<'_>, reason: &str) {
    reader.limits.insert("tasks".to_owned(), reason.to_owned());
}

/// How many deadlines there are: since 0.19 an object counts them, before it was a sorted dict.
fn active_deadlines(reader: &mut Reader<'_>, deadlines: u64) -> Option<u64> {
    let info = reader.types_of(&[deadlines]).pop()??;
    if info.kind == Kind::Dict {
        return Some(reader.dict(deadlines)?.len() as u64);
    }
    let active = reader.members_of(deadlines, &["_active"])?[0]?;
    u64::try_from(reader.integers(&[active])[0]?).ok()
}

/// What the tasks of one run are read with.
struct Walk<'a> {
    run: Run,
    /// The stack of its thread.
    stack: Option<&'a Stack>,
    /// The class of trio's tasks, which cannot have subclasses.
    class: u64,
    codes: &'a mut CodeCache,
    options: &'a ScanOptions,
}

impl Walk<'_> {
    /// The tasks in a set, at most `limit`.
    fn tasks(&mut self, reader: &mut Reader<'_>, set: u64, limit: usize) -> Vec<PyTask> {
        let Ok(mut open) = reader.set(set) else {
            reader.failed += 1;
            unread(reader, "trio's set of tasks could not be read");
            return Vec::new();
        };
        let listed = match open.len() {
            count if count > limit => Listed::AtLeast(count),
            count => Listed::All(count),
        };
        if open.len() > limit {
            open.truncate(limit);
            let most = self.options.tasks;
            unread(
                reader,
                &format!("there are more than the {most} that are read"),
            );
        }
        let mut result = Vec::with_capacity(open.len());
        open = tasks::in_ever_smaller_groups(reader, open, |reader, tasks| {
            self.read_once(reader, tasks, &mut result)
        });
        // One that has left the set meanwhile has ended; that is not a failed read.
        if !open.is_empty() {
            let left: AddressSet = reader.set(set).unwrap_or_default().into_iter().collect();
            open.retain(|task| left.contains(task));
            reader.failed += open.len() as u64;
        }
        tasks::note_cut(reader, result.len(), &listed);
        result
    }

    /// One attempt: what held goes to `result`, what changed meanwhile is given back.
    fn read_once(
        &mut self,
        reader: &mut Reader<'_>,
        tasks: &[u64],
        result: &mut Vec<PyTask>,
    ) -> Vec<u64> {
        let (tasks, heads): (Vec<u64>, Vec<TaskHead>) = self
            .read_heads(reader, tasks)
            .into_iter()
            .zip(tasks)
            .filter_map(|(head, task)| Some((*task, head?)))
            .unzip();
        let coroutines: Vec<u64> = heads.iter().map(|head| head.coroutine).collect();
        let chains = chain::chains(reader, &coroutines, self.options.chain);
        let positions = chains.iter().flat_map(|chain| &chain.positions);
        self.codes
            .load(reader, positions.map(|position| position.code));
        let inner = chains.iter().flat_map(|chain| &chain.qualnames).copied();
        reader.load_texts(inner.chain(chains.iter().map(|chain| chain.qualname)));
        let names = read_names(reader, &heads);
        let parents = of_each(
            reader,
            heads.iter().map(|head| head.nursery),
            "_parent_task",
        );
        let cancelled = cancelled(reader, &heads);
        let classes = class_names(reader, &heads);
        let hold = chain::still_hold(reader, &coroutines, &chains);
        let after = self.read_heads(reader, &tasks);
        let names_after = read_names(reader, &heads);
        let mut again = Vec::new();
        for (slot, task) in tasks.iter().enumerate() {
            if reader.is_over() {
                break;
            }
            let (head, chain) = (heads[slot], &chains[slot]);
            let unchanged = after[slot] == Some(head) && names_after[slot] == names[slot];
            let read = (unchanged && hold[slot]).then(|| {
                let is_running = chain.end == End::Executing
                    || chain.qualname == 0 && self.run.task == Some(*task);
                let awaiting = self.frames(reader, head, chain)?;
                let is_blocked = !is_running && is_none(&classes, head.next_send);
                let waits_for = is_blocked.then(|| waits_for(head, chain, &awaiting, &classes));
                Some(PyTask {
                    id: *task,
                    loop_id: self.run.runner,
                    name: names[slot].clone()?,
                    coroutine: reader
                        .text(chain.qualname)
                        .map_or_else(String::new, |name| name.to_string()),
                    coroutine_id: head.coroutine,
                    state: if is_running {
                        TaskState::Running
                    } else {
                        TaskState::Pending
                    },
                    awaiting,
                    waits_for,
                    awaited_by: head
                        .nursery
                        .and_then(|nursery| parents.get(&nursery).copied())
                        .into_iter()
                        .collect(),
                    cancel_requested: head
                        .cancel_status
                        .is_some_and(|status| cancelled.get(&status) == Some(&true)),
                    exception: None,
                    retrieved: None,
                    context: BTreeMap::new(),
                })
            });
            match read.flatten() {
                Some(read) => result.push(read),
                None => again.push(*task),
            }
        }
        if chains
            .iter()
            .any(|chain| chain.end == End::TooDeep && !chain.positions.is_empty())
        {
            let depth = self.options.chain;
            let reason = format!("only the outer {depth} frames of a chain are read");
            reader.limits.insert("tasks.awaiting".to_owned(), reason);
        }
        again
    }

    /// What each task says; `None` for what is no task of trio's, or no more.
    fn read_heads(&self, reader: &mut Reader<'_>, tasks: &[u64]) -> Vec<Option<TaskHead>> {
        let classes = reader.classes_of(tasks);
        let members = reader.members_in(tasks, &classes, TASK);
        classes
            .into_iter()
            .zip(members)
            .map(|(class, members)| {
                (class == Some(self.class)).then_some(())?;
                let members = members?;
                Some(TaskHead {
                    coroutine: members[0].filter(|coroutine| plausible(*coroutine))?,
                    name: members[1]?,
                    nursery: members[2],
                    next_send: members[3],
                    sleeps_on: members[4],
                    cancel_status: members[5],
                })
            })
            .collect()
    }

    fn frames(
        &mut self,
        reader: &mut Reader<'_>,
        head: TaskHead,
        chain: &Chain,
    ) -> Option<Vec<PyFrame>> {
        let lines = reader.walk.code.lines;
        if chain.end == End::Executing {
            // It has no chain, but a place on the stack of the thread that runs it.
            let frames = self
                .stack
                .and_then(|stack| stacks::below(reader, stack, head.coroutine))
                .unwrap_or_default();
            return frames
                .iter()
                .map(|frame| self.codes.frame(frame.position, lines))
                .collect();
        }
        let positions = chain.positions.iter().zip(&chain.qualnames);
        positions
            .map(|(position, qualname)| {
                let mut frame = self.codes.frame(*position, lines)?;
                // Code objects before 3.11 know their plain names only.
                let longer = reader.text(*qualname).filter(|qualname| {
                    let prefix = qualname.strip_suffix(&*frame.function);
                    prefix.is_some_and(|prefix| prefix.ends_with('.'))
                });
                if let Some(qualname) = longer {
                    frame.function = Arc::clone(qualname);
                }
                Some(frame)
            })
            .collect()
    }
}

/// The name of each task, read now: strings come and go with their tasks.
fn read_names(reader: &mut Reader<'_>, heads: &[TaskHead]) -> Vec<Option<String>> {
    reader.forget_texts(heads.iter().map(|head| head.name));
    reader.load_texts(heads.iter().map(|head| head.name));
    let text = |head: &TaskHead| reader.text(head.name).map(|text| text.to_string());
    heads.iter().map(text).collect()
}

/// One attribute of many objects, each read once.
fn of_each(
    reader: &mut Reader<'_>,
    objects: impl Iterator<Item = Option<u64>>,
    attribute: &str,
) -> HashMap<u64, u64> {
    let mut objects: Vec<u64> = objects.flatten().collect();
    objects.sort_unstable();
    objects.dedup();
    let found = reader.members(&objects, &[attribute]);
    objects
        .into_iter()
        .zip(found)
        .filter_map(|(object, found)| Some((object, found?[0]?)))
        .collect()
}

/// Whether what runs under each cancel status shall end.
fn cancelled(reader: &mut Reader<'_>, heads: &[TaskHead]) -> HashMap<u64, bool> {
    let statuses = heads.iter().map(|head| head.cancel_status);
    let (statuses, flags): (Vec<u64>, Vec<u64>) =
        of_each(reader, statuses, "effectively_cancelled")
            .into_iter()
            .unzip();
    let flags = reader.integers(&flags);
    statuses
        .into_iter()
        .zip(flags)
        .filter_map(|(status, flag)| Some((status, as_bool(flag)?)))
        .collect()
}

/// The names of the classes of what tasks go on with and sleep on.
fn class_names(reader: &mut Reader<'_>, heads: &[TaskHead]) -> HashMap<u64, String> {
    let objects = heads
        .iter()
        .flat_map(|head| [head.next_send, head.sleeps_on]);
    let mut objects: Vec<u64> = objects.flatten().collect();
    objects.sort_unstable();
    objects.dedup();
    let infos = reader.types_of(&objects);
    objects
        .into_iter()
        .zip(infos)
        .filter_map(|(object, info)| Some((object, info?.name.to_string())))
        .collect()
}

fn is_none(classes: &HashMap<u64, String>, object: Option<u64>) -> bool {
    object.is_some_and(|object| classes.get(&object).is_some_and(|name| name == "NoneType"))
}

fn waits_for(
    head: TaskHead,
    chain: &Chain,
    frames: &[PyFrame],
    classes: &HashMap<u64, String>,
) -> TaskWait {
    let object = head.sleeps_on.filter(|_| !is_none(classes, head.sleeps_on));
    let class = object.and_then(|object| classes.get(&object));
    // Of a chain that goes on it is not known which function waits.
    let frames = if chain.end == End::Whole { frames } else { &[] };
    TaskWait {
        kind: trio_waits::kind(frames, class.map(String::as_str)),
        object,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::python::objects::Slots;
    use crate::python::objects::synthetic::{Noise, World};

    /// Whatever memory holds where tasks should be, reading them ends, with no more than asked for.
    #[test]
    fn reading_tasks_in_noise_ends() {
        let slots: Arc<Slots> = Arc::new(
            TASK.iter()
                .chain(&["_parent_task", "effectively_cancelled"])
                .zip((16..).step_by(8))
                .map(|(name, offset)| (Arc::from(*name), offset))
                .collect(),
        );
        let mut read = 0;
        for seed in 0..100 {
            let minor = 8 + (seed % 8) as u8;
            let memory = Noise::new(minor, seed);
            let options = ScanOptions {
                tasks: 50,
                chain: 16,
                ..ScanOptions::default()
            };
            let mut reader = Reader::new(&memory, World::new(minor).walk, 1 << 22);
            let objects: Vec<u64> = (0..500).map(|index| memory.address(index)).collect();
            let classes = reader.classes_of(&objects);
            let class = classes.iter().flatten().next().copied().unwrap_or_default();
            for class in classes.into_iter().flatten() {
                reader.slots.insert(class, slots.clone());
            }
            let run = Run {
                thread: 0,
                tid: Tid(1),
                runner: objects[0],
                task: None,
            };
            let mut codes = CodeCache::default();
            let mut walk = Walk {
                run,
                stack: None,
                class,
                codes: &mut codes,
                options: &options,
            };
            for object in &objects[..20] {
                let found = walk.tasks(&mut reader, *object, 50);
                assert!(found.len() <= 50, "{}", found.len());
            }
            let heads = walk.read_heads(&mut reader, &objects);
            read += heads.iter().flatten().count();
            let mut result = Vec::new();
            walk.read_once(&mut reader, &objects, &mut result);
            active_deadlines(&mut reader, objects[1]);
        }
        assert!(read > 100, "{read}");
    }
}
