//! The tasks of a trio run: what each says of itself, its chain, and what it waits for.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::chain::{self, Chain, End};
use super::stacks::{self, Stack};
use super::tasks::{self, Listed};
use super::trio_waits;
use crate::event::{PyFrame, PyTask, TaskState, TaskWait, Tid};
use crate::python::memory::addresses::AddressSet;
use crate::python::memory::plausible;
use crate::python::objects::Reader;
use crate::python::objects::code::CodeCache;
use crate::python::objects::text::as_bool;
use crate::python::options::ScanOptions;

/// Attributes of a task.
const TASK: &[&str] = &[
    "coro",
    "name",
    "_parent_nursery",
    "_next_send_fn",
    "custom_sleep_data",
    "_cancel_status",
];

/// A trio run in a thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// Which of the threads.
    pub(super) thread: usize,
    pub(super) tid: Tid,
    pub(super) runner: u64,
    /// The task that runs right now.
    pub(super) task: Option<u64>,
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

pub(super) fn unread(reader: &mut Reader<'_>, reason: &str) {
    reader.limits.insert("tasks".to_owned(), reason.to_owned());
}

/// What the tasks of one run are read with.
pub(super) struct TaskWalk<'a> {
    pub(super) run: Run,
    /// The stack of its thread.
    pub(super) stack: Option<&'a Stack>,
    /// The class of trio's tasks, which cannot have subclasses.
    pub(super) class: u64,
    pub(super) codes: &'a mut CodeCache,
    pub(super) options: &'a ScanOptions,
}

impl TaskWalk<'_> {
    /// The tasks in a set, at most `limit`.
    pub(super) fn tasks(&mut self, reader: &mut Reader<'_>, set: u64, limit: usize) -> Vec<PyTask> {
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
        trio_waits::add_owners(reader, &mut result);
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
        // Whether what runs under each cancel status shall end.
        let statuses = heads.iter().map(|head| head.cancel_status);
        let cancelled = flags(reader, statuses, "effectively_cancelled");
        let classes = class_names(reader, &heads);
        let hold = chain::still_hold(reader, &chains);
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
                let awaiting = self.frames(reader, chain)?;
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
                    timeout_ns: None,
                    in_timeout: false,
                    client_port: None,
                    hosts: Vec::new(),
                    holds: Vec::new(),
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
        chain::note_folded(reader, &chains, self.options.chain);
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

    fn frames(&mut self, reader: &mut Reader<'_>, chain: &Chain) -> Option<Vec<PyFrame>> {
        let lines = reader.walk.code.lines;
        if chain.end == End::Executing {
            // It has no chain, but a place on the stack of the thread that runs it.
            let frames = self
                .stack
                .and_then(|stack| stacks::below(reader, stack, chain.generator))
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

/// What a flag of each object says, of those where it can be read.
pub(super) fn flags(
    reader: &mut Reader<'_>,
    objects: impl Iterator<Item = Option<u64>>,
    attribute: &str,
) -> HashMap<u64, bool> {
    let (objects, flags): (Vec<u64>, Vec<u64>) =
        of_each(reader, objects, attribute).into_iter().unzip();
    let flags = reader.integers(&flags);
    objects
        .into_iter()
        .zip(flags)
        .filter_map(|(object, flag)| Some((object, as_bool(flag)?)))
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
    // What it sleeps on is only a part of a limiter or a lock, whose own function has that.
    let whole = trio_waits::own_frame(frames)
        .and_then(|index| chain.locals.get(index))
        .map(|locals| locals[0]);
    TaskWait {
        kind: trio_waits::kind(frames, class.map(String::as_str)),
        object: whole.or(object),
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
            let mut walk = TaskWalk {
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
            super::super::trio::active_deadlines(&mut reader, objects[1]);
        }
        assert!(read > 100, "{read}");
    }
}
