//! Threads and tasks that wait for one another: cycles of owners in one look.
//!
//! Who waits for something is *stuck* when all that could end its wait are stuck. What remains of the stuck when those
//! are taken away for whom nobody stuck waits are the cycles; the others wait behind them. Waits that end by
//! themselves, and those of which it is not known who could end them, count as not stuck.

mod names;
mod owners;

use std::collections::{BTreeMap, BTreeSet};

use names::{Names, member};
use owners::Owners;

use crate::event::{
    ExecutorKind, PyExecutor, PyFrame, PyTask, PyWait, PythonFact, TaskState, Tid, WaitKind,
    WaitPurpose,
};
use crate::schema::{Deadlock, WaitingFor};

/// Threads and tasks that are looked at: cycles among more are not searched for.
const MAX_NODES: usize = 20_000;
/// Who waits for whom: more are not followed.
const MAX_EDGES: usize = 100_000;
/// Deadlocks that are told, and members of each.
const MAX_DEADLOCKS: usize = 16;
const MAX_MEMBERS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    Thread(Tid),
    Task(u64),
}

/// What one waits for.
#[derive(Clone, Debug)]
struct Wait {
    /// Who could end it.
    on: Vec<Node>,
    /// All of them must, else one is enough.
    all: bool,
    what: What,
    /// Who has it is concluded.
    inferred: bool,
}

#[derive(Clone, Debug)]
enum What {
    /// An object that somebody has.
    Held(String),
    /// The end of a thread.
    End(Tid),
    /// The result of work that a worker has.
    Result(Tid),
    /// The result of work that waits for a worker of this pool.
    Queued(String),
    Tasks,
}

/// The deadlocks that a look shows.
pub(crate) fn deadlocks(look: &PythonFact) -> Vec<Deadlock> {
    if look.threads.len() + look.tasks.len() > MAX_NODES {
        return Vec::new();
    }
    let waits = waits(look);
    let waiters = waiters(&waits);
    let stuck = stuck(&waits, &waiters);
    if stuck.is_empty() {
        return Vec::new();
    }
    let cycles = cycles(&waits, &stuck);
    let names = Names::of(look);
    let parts = parts(&waits, &waiters, cycles).into_iter();
    let found = parts.take(MAX_DEADLOCKS).map(|members| {
        let held = held(&waits, &members);
        let told = members.iter().take(MAX_MEMBERS).map(|node| {
            let held = held.get(node).copied();
            member(*node, &members, held, &waits, &names)
        });
        Deadlock {
            behind: behind(&waiters, &stuck, &members),
            members: told.collect(),
        }
    });
    let mut found: Vec<Deadlock> = found.collect();
    found.sort_by_key(|one| std::cmp::Reverse(one.members.len()));
    found
}

/// Waits, as long as they are not too many.
#[derive(Default)]
struct Waits {
    all: BTreeMap<Node, Wait>,
    edges: usize,
}

impl Waits {
    fn add(&mut self, node: Node, wait: Option<Wait>) {
        let Some(wait) = wait else {
            return;
        };
        // Who waits for what is not followed is taken for somebody who goes on.
        if let Some(edges) = self.edges.checked_add(wait.on.len())
            && edges <= MAX_EDGES
        {
            self.edges = edges;
            self.all.insert(node, wait);
        }
    }
}

fn waits(look: &PythonFact) -> BTreeMap<Node, Wait> {
    let mut waits = Waits::default();
    let timed: BTreeSet<Tid> = look.timed.iter().copied().collect();
    let results = Results::of(&look.executors);
    let threads = look.threads.iter();
    for thread in threads.filter(|thread| !timed.contains(&thread.tid)) {
        let wait = thread.waiting_for.as_ref();
        let wait = wait.and_then(|wait| thread_wait(wait, &results));
        waits.add(Node::Thread(thread.tid), wait);
    }
    // Who a task waits for says so.
    let mut awaited: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for task in look
        .tasks
        .iter()
        .filter(|task| task.state != TaskState::Done)
    {
        for waiter in &task.awaited_by {
            awaited.entry(*waiter).or_default().push(task.id);
        }
    }
    let owners = Owners::of(look);
    let timed = timed_tasks(&look.tasks, &awaited);
    for task in look.tasks.iter().filter(|task| !timed.contains(&task.id)) {
        waits.add(Node::Task(task.id), task_wait(task, &awaited, &owners));
    }
    waits.all
}

fn thread_wait(wait: &PyWait, results: &Results<'_>) -> Option<Wait> {
    let one = |on: Tid, what: What| Wait {
        on: vec![Node::Thread(on)],
        all: false,
        what,
        inferred: wait.inferred,
    };
    let object = || {
        let row = WaitingFor::of(wait);
        let object = row.object.map(|object| format!(" {object}"));
        What::Held(format!("{}{}", row.kind, object.unwrap_or_default()))
    };
    match (wait.kind, wait.purpose) {
        (_, WaitPurpose::Contended) => Some(one(wait.owner?, object())),
        (WaitKind::Semaphore | WaitKind::Queue | WaitKind::SimpleQueue, _)
            if !wait.holders.is_empty() =>
        {
            Some(Wait {
                on: wait.holders.iter().copied().map(Node::Thread).collect(),
                all: false,
                what: object(),
                inferred: true,
            })
        }
        (_, WaitPurpose::Join) => wait.owner.map(|owner| one(owner, What::End(owner))),
        (WaitKind::Future, _) => {
            let future = wait.object?;
            if let Some(tid) = results.running.get(&future) {
                return Some(one(*tid, What::Result(*tid)));
            }
            let pool = results.queued.get(&future)?;
            let name = pool
                .name_prefix
                .clone()
                .unwrap_or_else(|| "a thread pool".to_owned());
            let workers = pool.running.iter().filter_map(|work| work.tid);
            Some(Wait {
                on: workers.map(Node::Thread).collect(),
                all: false,
                what: What::Queued(name),
                inferred: false,
            })
        }
        _ => None,
    }
}

/// Results of work, by their futures.
#[derive(Default)]
struct Results<'a> {
    /// The worker that has it.
    running: BTreeMap<u64, Tid>,
    /// The pool that has no worker for it.
    queued: BTreeMap<u64, &'a PyExecutor>,
}

impl<'a> Results<'a> {
    fn of(executors: &'a [PyExecutor]) -> Self {
        let mut results = Results::default();
        for executor in executors {
            for work in &executor.running {
                if let Some(tid) = work.tid {
                    results.running.entry(work.future).or_insert(tid);
                }
            }
            if is_full(executor) {
                for future in &executor.queued_futures {
                    results.queued.entry(*future).or_insert(executor);
                }
            }
        }
        results
    }
}

/// Each worker that it may have has work, and it is known who that is.
fn is_full(executor: &PyExecutor) -> bool {
    let known = executor
        .running
        .iter()
        .filter(|work| work.tid.is_some())
        .count() as u64;
    executor.kind == ExecutorKind::Thread
        && executor
            .max_workers
            .is_some_and(|most| executor.workers >= most)
        && known == executor.workers
}

/// The tasks that a time ends, which they were given, or who waits for them: it cancels what it waits for. So does who
/// has entered a scope that they are in.
fn timed_tasks(tasks: &[PyTask], awaited: &BTreeMap<u64, Vec<u64>>) -> BTreeSet<u64> {
    // Who sleeps for a time cancels nobody at its end.
    let sleeps = |task: &PyTask| {
        let wait = task.waits_for.as_ref();
        wait.is_some_and(|wait| wait.kind == "sleep")
    };
    // Of frames that are left out, one may have given it a time.
    let is_folded = |task: &PyTask| task.awaiting.iter().any(PyFrame::is_left_out);
    let is_timed = |task: &PyTask| task.timeout_ns.is_some() && !sleeps(task);
    let own = tasks
        .iter()
        .filter(|task| task.in_timeout || is_timed(task) || is_folded(task));
    let mut front: Vec<u64> = own.map(|task| task.id).collect();
    let mut timed: BTreeSet<u64> = front.iter().copied().collect();
    let mut hosted: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for task in tasks {
        for host in &task.hosts {
            hosted.entry(*host).or_default().push(task.id);
        }
    }
    while let Some(task) = front.pop() {
        let of_task = [awaited.get(&task), hosted.get(&task)];
        for on in of_task.into_iter().flatten().flatten() {
            if timed.insert(*on) {
                front.push(*on);
            }
        }
    }
    timed
}

fn task_wait(task: &PyTask, awaited: &BTreeMap<u64, Vec<u64>>, owners: &Owners) -> Option<Wait> {
    let wait = task.waits_for.as_ref()?;
    match &*wait.kind {
        kind if owners::is_held(kind) => {
            let (name, on) = owners.of_wait(task, wait)?;
            Some(Wait {
                on: on.iter().copied().map(Node::Task).collect(),
                all: false,
                what: What::Held(name),
                inferred: kind != owners::LIMITER && !owners::is_of_trio(task),
            })
        }
        kind @ ("Task" | "gather" | "TaskGroup" | "Nursery") => {
            // Tasks of several nurseries may wait for one, and it waits for those of one.
            if kind == "Nursery" {
                wait.object?;
            }
            let on: Vec<Node> = awaited
                .get(&task.id)?
                .iter()
                .copied()
                .map(Node::Task)
                .collect();
            Some(Wait {
                on,
                all: true,
                what: What::Tasks,
                inferred: false,
            })
        }
        _ => None,
    }
}

/// Who waits for each.
fn waiters(waits: &BTreeMap<Node, Wait>) -> BTreeMap<Node, Vec<Node>> {
    let mut waiters: BTreeMap<Node, Vec<Node>> = BTreeMap::new();
    for (node, wait) in waits {
        for on in &wait.on {
            waiters.entry(*on).or_default().push(*node);
        }
    }
    waiters
}

/// Those whose waits nobody ends.
fn stuck(waits: &BTreeMap<Node, Wait>, waiters: &BTreeMap<Node, Vec<Node>>) -> BTreeSet<Node> {
    let ends = |node: &Node, on_stuck: usize| {
        let wait = &waits[node];
        match wait.all {
            true => on_stuck == 0,
            false => wait.on.is_empty() || on_stuck < wait.on.len(),
        }
    };
    let mut stuck: BTreeSet<Node> = waits.keys().copied().collect();
    // Of those that each waits for, so many are stuck.
    let mut on_stuck: BTreeMap<Node, usize> = BTreeMap::new();
    for (node, wait) in waits {
        let on = wait.on.iter().filter(|on| stuck.contains(on));
        on_stuck.insert(*node, on.count());
    }
    let ended = on_stuck.iter().filter(|(node, count)| ends(node, **count));
    let mut ended: Vec<Node> = ended.map(|(node, _)| *node).collect();
    stuck.retain(|node| !ends(node, on_stuck[node]));
    while let Some(node) = ended.pop() {
        for waiter in waiters.get(&node).into_iter().flatten() {
            let Some(count) = on_stuck.get_mut(waiter) else {
                continue;
            };
            *count = count.saturating_sub(1);
            if ends(waiter, *count) && stuck.remove(waiter) {
                ended.push(*waiter);
            }
        }
    }
    stuck
}

/// Those for whom somebody stuck waits, again and again.
fn cycles(waits: &BTreeMap<Node, Wait>, stuck: &BTreeSet<Node>) -> BTreeSet<Node> {
    let mut waiting: BTreeMap<Node, usize> = BTreeMap::new();
    for on in stuck.iter().flat_map(|node| &waits[node].on) {
        *waiting.entry(*on).or_default() += 1;
    }
    let mut left = stuck.clone();
    let unwanted = stuck.iter().filter(|node| !waiting.contains_key(node));
    let mut unwanted: Vec<Node> = unwanted.copied().collect();
    while let Some(node) = unwanted.pop() {
        left.remove(&node);
        for on in waits[&node].on.iter().filter(|on| stuck.contains(on)) {
            let count = waiting.entry(*on).or_default();
            *count = count.saturating_sub(1);
            if *count == 0 {
                unwanted.push(*on);
            }
        }
    }
    left
}

/// The cycles apart: those that do not wait for one another.
fn parts(
    waits: &BTreeMap<Node, Wait>,
    waiters: &BTreeMap<Node, Vec<Node>>,
    mut cycles: BTreeSet<Node>,
) -> Vec<BTreeSet<Node>> {
    let mut parts = Vec::new();
    while let Some(first) = cycles.pop_first() {
        let mut part = BTreeSet::from([first]);
        let mut front = vec![first];
        while let Some(node) = front.pop() {
            let waiters = waiters.get(&node).into_iter().flatten();
            for other in waits[&node].on.iter().chain(waiters) {
                if cycles.remove(other) {
                    part.insert(*other);
                    front.push(*other);
                }
            }
        }
        parts.push(part);
    }
    parts
}

/// How many wait for members without being one.
fn behind(
    waiters: &BTreeMap<Node, Vec<Node>>,
    stuck: &BTreeSet<Node>,
    members: &BTreeSet<Node>,
) -> u64 {
    let mut reached = members.clone();
    let mut front: Vec<Node> = members.iter().copied().collect();
    while let Some(node) = front.pop() {
        for waiter in waiters.get(&node).into_iter().flatten() {
            if stuck.contains(waiter) && reached.insert(*waiter) {
                front.push(*waiter);
            }
        }
    }
    (reached.len() - members.len()) as u64
}

/// What each member has that another waits for, and whether that is concluded.
fn held<'a>(
    waits: &'a BTreeMap<Node, Wait>,
    members: &BTreeSet<Node>,
) -> BTreeMap<Node, (&'a str, bool)> {
    let mut held = BTreeMap::new();
    for wait in members.iter().map(|node| &waits[node]) {
        if let What::Held(object) = &wait.what {
            for on in &wait.on {
                held.entry(*on).or_insert((&**object, wait.inferred));
            }
        }
    }
    held
}

#[cfg(test)]
mod tests;
