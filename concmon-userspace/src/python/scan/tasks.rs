//! The tasks of an interpreter, wherever asyncio lists them.

use std::collections::HashSet;

use super::pass::Scan;
use super::remembered::ASYNCIO_TASKS;
use crate::event::{PyFrame, PyTask, PythonFact, TaskState};
use crate::python::memory::addresses::{AddressMap, AddressSet};
use crate::python::memory::at;
use crate::python::objects::Reader;
use crate::python::walk::stacks::Stack;
use crate::python::walk::task_lists::{self, ListHead};
use crate::python::walk::tasks::{self, Listed};
use crate::python::walk::thread_states::ThreadRecord;
use crate::python::walk::{deadlines, managers, queues, served};

/// Suspended tasks that are searched for locks that they have.
const MAX_SEARCHED: usize = 2_000;
/// What asyncio's tasks have by an `async with` statement.
const HELD: &[&str] = &["Lock", "Semaphore", "BoundedSemaphore"];
const SEMAPHORES: &[&str] = &["Semaphore", "BoundedSemaphore"];
const QUEUES: &[&str] = &["Queue", "LifoQueue", "PriorityQueue"];
/// Where tasks wait for an item, and what enters a manager that does.
const QUEUES_FILE: &str = "/asyncio/queues.py";
const CONTEXTLIB: &str = "/contextlib.py";
const ENTER: &str = "__aenter__";
/// Those that are followed.
const MAX_ENTERING: usize = 256;
/// Statements of one task that are told.
const MAX_HELD: usize = 64;

/// Says which tasks have the locks that tasks wait for, and the items of queues that managers do.
fn add_holders(reader: &mut Reader<'_>, tasks: &mut [PyTask]) {
    let waits = tasks.iter().filter_map(|task| task.waits_for.as_ref());
    let locks = waits.filter(|wait| HELD.contains(&&*wait.kind));
    let locks: AddressSet = locks.filter_map(|wait| wait.object).collect();
    let entering = tasks.iter().any(|task| gets_in_manager(task).is_some());
    if (locks.is_empty() && !entering) || reader.is_over() {
        return;
    }
    let several = tasks.iter().filter_map(|task| {
        let wait = task.waits_for.as_ref()?;
        let is_semaphore = SEMAPHORES.contains(&&*wait.kind);
        wait.object
            .filter(|_| is_semaphore || gets_in_manager(task).is_some())
    });
    let several: AddressSet = several.collect();
    // Of a semaphore or queue all that have a part must be known: of a task that runs it is not.
    let mut knows_all = !reader.limits.contains_key("tasks")
        && tasks.iter().all(|task| task.state != TaskState::Running);
    let pending = tasks
        .iter_mut()
        .filter(|task| task.state == TaskState::Pending);
    let mut suspended: Vec<&mut PyTask> = match several.is_empty() {
        true => pending.filter(|task| task.waits_for.is_some()).collect(),
        false => pending.collect(),
    };
    knows_all &= suspended.len() <= MAX_SEARCHED;
    suspended.truncate(MAX_SEARCHED);
    let coroutines: Vec<u64> = suspended.iter().map(|task| task.coroutine_id).collect();
    let frames = managers::kept(reader, &coroutines);
    knows_all &= frames.are_whole();
    let mut inside = managers::held_by_coroutines(reader, &frames, coroutines.len(), &locks);
    let slots = suspended.iter().enumerate();
    let queue = |slot: usize| suspended[slot].waits_for.as_ref()?.object;
    let entering: Vec<(usize, usize, u64)> = slots
        .filter_map(|(slot, task)| Some((slot, gets_in_manager(task)?, queue(slot)?)))
        .take(MAX_ENTERING)
        .collect();
    let again = managers::again_awaited(reader, &frames, &entering);
    let queues: Vec<u64> = entering.iter().map(|(.., queue)| *queue).collect();
    let bounds = queues::bounds(reader, &queues, "_maxsize");
    for ((wanted, bound), holders) in queues.into_iter().zip(bounds).zip(again) {
        if holders.have_all(bound, |slot| queue(slot) == Some(wanted)) {
            for slot in holders.slots {
                if !inside[slot].contains(&wanted) {
                    inside[slot].push(wanted);
                }
            }
        }
    }
    let knows_all = knows_all && !reader.is_over();
    for (task, inside) in suspended.iter_mut().zip(inside) {
        task.holds = inside;
        task.holds
            .retain(|held| knows_all || !several.contains(held));
        task.holds.truncate(MAX_HELD);
    }
}

/// Says which tasks have all items of a queue that they wait for by statements of their own.
fn add_items(reader: &mut Reader<'_>, tasks: &mut [PyTask]) {
    let queue = |task: &PyTask| {
        let wait = task.waits_for.as_ref();
        let wait = wait.filter(|wait| QUEUES.contains(&&*wait.kind))?;
        // Others wait for room in it, or for its end.
        let gets =
            |frame: &PyFrame| frame.file.ends_with(QUEUES_FILE) && frame.function.ends_with("get");
        let wants = task.state == TaskState::Pending && task.awaiting.last().is_some_and(gets);
        wait.object.filter(|_| wants)
    };
    let wanted = tasks.iter().filter_map(queue);
    let bounded = queues::bounded_of_several(reader, wanted, "_maxsize");
    let (queues, bounds): (Vec<u64>, Vec<Option<u64>>) = bounded.into_iter().unzip();
    let is_one = |task: &PyTask| queue(task).is_some_and(|queue| queues.contains(&queue));
    let slots = tasks.iter().enumerate();
    let slots = slots.filter(|(_, task)| is_one(task)).map(|(slot, _)| slot);
    let slots: Vec<usize> = slots.take(MAX_SEARCHED).collect();
    if slots.is_empty() || reader.is_over() {
        return;
    }
    let coroutines: Vec<u64> = slots.iter().map(|slot| tasks[*slot].coroutine_id).collect();
    let found = managers::awaiting_with_items(reader, &coroutines, &queues);
    for ((wanted, bound), holders) in queues.into_iter().zip(bounds).zip(found) {
        let wants = |index: usize| queue(&tasks[slots[index]]) == Some(wanted);
        if holders.have_all(bound, wants) {
            for index in holders.slots {
                let holds = &mut tasks[slots[index]].holds;
                if !holds.contains(&wanted) && holds.len() < MAX_HELD {
                    holds.push(wanted);
                }
            }
        }
    }
}

/// How many frames lie inside of the one of a manager's generator in which a task waits for an item of a queue; `None`:
/// it does not do so while it enters a manager.
fn gets_in_manager(task: &PyTask) -> Option<usize> {
    let wait = task.waits_for.as_ref()?;
    QUEUES.contains(&&*wait.kind).then_some(())?;
    let mut outwards = task.awaiting.iter().rev();
    let is_inner = |frame: &&PyFrame| frame.file.ends_with(QUEUES_FILE);
    let inner = outwards.clone().take_while(is_inner).count();
    let entering = outwards.nth(inner + 1)?;
    let enters = entering.function.ends_with(ENTER) && entering.file.ends_with(CONTEXTLIB);
    (enters && inner > 0).then_some(inner)
}

/// Says which of the tasks that wait for each other a time ends, and so of those whose end would end them.
fn add_timeouts(reader: &mut Reader<'_>, tasks: &mut [PyTask]) {
    let waits = |task: &PyTask, kinds: &[&str]| {
        let wait = task.waits_for.as_ref();
        wait.is_some_and(|wait| kinds.contains(&&*wait.kind))
    };
    const TASKS: &[&str] = &["Task", "gather", "TaskGroup"];
    let held = tasks.iter().flat_map(|task| &task.holds);
    let held: AddressSet = held.copied().collect();
    let wants_item = |task: &PyTask| {
        let wait = task.waits_for.as_ref();
        let queue = wait.and_then(|wait| wait.object);
        waits(task, QUEUES) && queue.is_some_and(|queue| held.contains(&queue))
    };
    let wants =
        |task: &PyTask| waits(task, HELD) || waits(task, &["CapacityLimiter"]) || wants_item(task);
    let may_be_stuck =
        |task: &PyTask| wants(task) || (waits(task, TASKS) && !task.awaited_by.is_empty());
    if !tasks.iter().any(may_be_stuck) || reader.is_over() {
        return;
    }
    let slots = tasks.iter().enumerate();
    let slots: AddressMap<usize> = slots.map(|(slot, task)| (task.id, slot)).collect();
    let first = tasks.iter().enumerate();
    let first = first.filter(|(_, task)| wants(task) || waits(task, TASKS));
    let mut front: Vec<usize> = first.map(|(slot, _)| slot).collect();
    let mut seen: HashSet<usize> = front.iter().copied().collect();
    let mut left = MAX_SEARCHED;
    while !front.is_empty() {
        let unread = front.split_off(front.len().min(left));
        left -= front.len();
        let coroutines = front.iter().map(|slot| tasks[*slot].coroutine_id);
        let coroutines: Vec<u64> = coroutines.collect();
        let found = deadlines::of_coroutines(reader, &coroutines);
        let mut next = Vec::new();
        for (slot, found) in front.into_iter().zip(found) {
            let task = &mut tasks[slot];
            task.in_timeout = found.is_set;
            task.hosts = found.hosts;
            task.hosts.retain(|host| *host != task.id);
            task.hosts.truncate(MAX_HELD);
            let others = task.awaited_by.iter().chain(&task.hosts);
            let others = others.filter_map(|other| slots.get(other).copied());
            next.extend(others.filter(|other| seen.insert(*other)));
        }
        // What was not read may have a time.
        for slot in unread {
            tasks[slot].in_timeout = true;
        }
        front = next;
    }
}

impl Scan<'_> {
    pub(super) fn add_tasks(
        &mut self,
        reader: &mut Reader<'_>,
        records: &[ThreadRecord],
        stacks: &[Stack],
        fact: &mut PythonFact,
    ) {
        let fields = reader.walk.task;
        let names: Vec<&str> = ["_current_tasks"]
            .iter()
            .chain(fields.weak_sets)
            .chain(fields.sets)
            .copied()
            .collect();
        let module = self.remembered.module(ASYNCIO_TASKS);
        let found = module.and_then(|module| {
            reader.known_values(module, &names, &mut self.remembered.of_asyncio)
        });
        let Some(found) = found else {
            // While asyncio is being imported, its names are not there yet.
            reader.limits.insert(
                "tasks".to_owned(),
                "asyncio.tasks could not be read".to_owned(),
            );
            return;
        };
        let mut addresses = self.listed_tasks(reader, records);
        for (index, set) in found.iter().enumerate().skip(1) {
            let weak = index <= fields.weak_sets.len();
            let members =
                set.and_then(|set| task_lists::in_set(reader, set, weak, self.options.tasks));
            match members {
                Some(members) => addresses.extend(members),
                None => {
                    reader.failed += 1;
                    let reason = format!("asyncio.tasks.{} could not be read", names[index]);
                    reader.limits.insert("tasks".to_owned(), reason);
                }
            }
        }
        let running = self.running_tasks(reader, records, found[0]);
        // A task that runs its first step eagerly may be in no list yet.
        addresses.extend(&running);
        let mut seen = AddressSet::default();
        addresses.retain(|address| seen.insert(*address));
        let limit = self.options.tasks.saturating_sub(fact.tasks.len());
        let listed = match addresses.len() {
            count if count > limit || reader.cut().is_some() => Listed::AtLeast(count),
            count => Listed::All(count),
        };
        if addresses.len() > limit {
            addresses.truncate(limit);
            reader.limits.insert(
                "tasks".to_owned(),
                format!(
                    "there are more than the {} that are read",
                    self.options.tasks
                ),
            );
        }
        let found = tasks::read(
            reader,
            self.codes,
            &addresses,
            &running,
            stacks,
            self.options,
        );
        tasks::note_cut(reader, found.len(), &listed);
        let mut found = found;
        add_holders(reader, &mut found);
        add_items(reader, &mut found);
        add_timeouts(reader, &mut found);
        if self.options.routes {
            served::of_tasks(reader, &mut found);
        }
        fact.tasks.extend(found);
    }

    /// The tasks that threads say they run right now.
    pub(super) fn running_tasks(
        &self,
        reader: &mut Reader<'_>,
        records: &[ThreadRecord],
        current_tasks: Option<u64>,
    ) -> HashSet<u64> {
        match reader.walk.thread.running_task {
            Some(offset) => records
                .iter()
                .map(|record| record.field(offset))
                .filter(|task| *task != 0)
                .collect(),
            None => current_tasks
                .and_then(|tasks| reader.dict(tasks))
                .map(|entries| entries.into_iter().map(|(_, task)| task).collect())
                .unwrap_or_default(),
        }
    }

    pub(super) fn listed_tasks(
        &mut self,
        reader: &mut Reader<'_>,
        records: &[ThreadRecord],
    ) -> Vec<u64> {
        let of_threads = reader.walk.thread.tasks_head;
        let of_ended = self.layout.interpreter.tasks_head;
        let heads: Vec<ListHead> = records
            .iter()
            .filter_map(|record| Some(ListHead(at(record.address, of_threads?))))
            .chain(of_ended.map(|head| ListHead(at(self.interpreter, head))))
            .collect();
        let before = std::mem::take(&mut self.remembered.tasks);
        self.remembered.tasks = task_lists::linked(reader, self.memory, &heads, self.options.tasks);
        if heads.is_empty() {
            return Vec::new();
        }
        // Tasks leave the lists when they are done; those that failed are of interest as long as
        // somebody keeps them.
        let listed: AddressSet = self.remembered.tasks.iter().copied().collect();
        let failed = std::mem::take(&mut self.remembered.failed);
        let gone: Vec<u64> = before
            .into_iter()
            .chain(failed)
            .filter(|task| !listed.contains(task))
            .collect();
        self.remembered.failed = tasks::failed(reader, &gone);
        if reader.is_over() {
            // The next scan finds out which of them have failed.
            self.remembered.failed = gone;
            self.remembered.failed.truncate(self.options.tasks);
            return self.remembered.tasks.clone();
        }
        let failed = self.remembered.failed.iter();
        self.remembered
            .tasks
            .iter()
            .chain(failed)
            .copied()
            .collect()
    }
}
