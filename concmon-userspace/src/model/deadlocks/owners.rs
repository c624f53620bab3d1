//! Which tasks have what tasks wait for: locks, permits of semaphores, tokens of limiters, items of queues.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::{ExecutorKind, PyTask, PythonFact, TaskWait};
use crate::schema::Address;

/// One task has it, or as many as it has permits; who, is concluded from `async with` statements, where it does not say so.
const LOCK: &str = "Lock";
const SEMAPHORES: &[&str] = &["Semaphore", "BoundedSemaphore"];
/// Whoever gets an item by way of a context manager puts it back.
const QUEUES: &[&str] = &["Queue", "LifoQueue", "PriorityQueue"];
/// It says who has its tokens.
pub(super) const LIMITER: &str = "CapacityLimiter";

/// A lock or semaphore of anyio's is waited for in functions of its package, of which one is among so many.
const ANYIO: &str = "/anyio/";
/// Locks of trio's say who has them. A folder of another name may be in one that is called so, as in a virtual environment.
const TRIO: &str = "/trio/_";
const ENTERING: usize = 3;

/// Those of one thing: each who waits for it waits for all of them.
const MAX_OWNERS: usize = 64;

/// Whether tasks have what is waited for.
pub(super) fn is_held(kind: &str) -> bool {
    kind == LOCK || kind == LIMITER || SEMAPHORES.contains(&kind) || QUEUES.contains(&kind)
}

/// By what they have.
pub(super) struct Owners(BTreeMap<u64, Vec<u64>>);

impl Owners {
    pub(super) fn of(look: &PythonFact) -> Self {
        let mut owners = by_statements(&look.tasks);
        let tasks: BTreeSet<u64> = look.tasks.iter().map(|task| task.id).collect();
        let limiters = look.executors.iter();
        for limiter in limiters.filter(|one| one.kind == ExecutorKind::Limiter) {
            // Who is no task may give it back at any time.
            let known = limiter.borrowers.iter().all(|one| tasks.contains(one));
            let is_full = limiter
                .max_workers
                .is_some_and(|most| limiter.workers >= most);
            if known && is_full && limiter.borrowers.len() <= MAX_OWNERS {
                owners.insert(limiter.id, limiter.borrowers.clone());
            }
        }
        Owners(owners)
    }

    /// What a task waits for is called, and who has it.
    pub(super) fn of_wait(&self, task: &PyTask, wait: &TaskWait) -> Option<(String, &[u64])> {
        let object = wait.object?;
        let owners = self.0.get(&object).filter(|owners| !owners.is_empty())?;
        let innermost = task.awaiting.iter().rev().take(ENTERING);
        let library = match wait.kind == LIMITER {
            true => "",
            false if is_of_trio(task) => "trio.",
            false if innermost.clone().any(|frame| frame.file.contains(ANYIO)) => "anyio.",
            false => "asyncio.",
        };
        Some((
            format!("{library}{} {}", wait.kind, Address(object)),
            owners,
        ))
    }
}

/// Whether a task waits in a function of trio's.
pub(super) fn is_of_trio(task: &PyTask) -> bool {
    let innermost = task.awaiting.last();
    innermost.is_some_and(|frame| frame.file.contains(TRIO))
}

/// Of each lock the one task that has it, none where several may; of each semaphore all that have a permit.
fn by_statements(tasks: &[PyTask]) -> BTreeMap<u64, Vec<u64>> {
    let wanted: BTreeMap<u64, &TaskWait> = tasks
        .iter()
        .filter_map(|task| Some((task.id, task.waits_for.as_ref()?)))
        .filter(|(_, wait)| is_held(&wait.kind) && wait.kind != LIMITER)
        .collect();
    let objects: BTreeMap<u64, &str> = wanted
        .values()
        .filter_map(|wait| Some((wait.object?, &*wait.kind)))
        .collect();
    // In how many statements of each a task is.
    let mut statements: BTreeMap<u64, BTreeMap<u64, usize>> = BTreeMap::new();
    for task in tasks.iter().filter(|_| !objects.is_empty()) {
        for held in task.holds.iter().filter(|held| objects.contains_key(held)) {
            let of_object = statements.entry(*held).or_default();
            *of_object.entry(task.id).or_default() += 1;
        }
    }
    let owners = statements.into_iter().map(|(object, inside)| {
        let wants = |task: &u64| wanted.get(task).and_then(|wait| wait.object) == Some(object);
        let kind = objects.get(&object).copied().unwrap_or(LOCK);
        // Who waits for it is in one statement of it by that, whoever has it; of an item, there is no such statement.
        let by_waiting = usize::from(!QUEUES.contains(&kind));
        let (waiting, others): (Vec<_>, Vec<_>) =
            inside.into_iter().partition(|(task, _)| wants(task));
        let again = waiting.into_iter().filter(|(_, count)| *count > by_waiting);
        let owners: Vec<u64> = match (kind == LOCK, &others[..]) {
            (false, _) => others
                .into_iter()
                .chain(again)
                .map(|(task, _)| task)
                .collect(),
            (_, []) => again.map(|(task, _)| task).collect(),
            _ => others.into_iter().map(|(task, _)| task).collect(),
        };
        let is_told = match kind == LOCK {
            false => owners.len() <= MAX_OWNERS,
            true => owners.len() == 1,
        };
        (object, if is_told { owners } else { Vec::new() })
    });
    owners.collect()
}
