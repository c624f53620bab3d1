//! Threads and tasks that wait for one another: cycles of owners in one look.
//!
//! Who waits for something is *stuck* when all that could end its wait are stuck. What remains of the stuck when those
//! are taken away for whom nobody stuck waits are the cycles; the others wait behind them. Waits that end by
//! themselves, and those of which it is not known who could end them, count as not stuck.

use std::collections::{BTreeMap, BTreeSet};

use super::rows;
use crate::event::{
    ExecutorKind, PyExecutor, PyFrame, PyTask, PyThread, PyWait, PythonFact, TaskState, Tid,
    WaitKind, WaitPurpose, own_frame,
};
use crate::schema::{Address, Deadlock, DeadlockMember, WaitingFor};

/// Threads and tasks that are looked at: cycles among more are not searched for.
const MAX_NODES: usize = 20_000;
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
    let stuck = stuck(&waits);
    if stuck.is_empty() {
        return Vec::new();
    }
    let cycles = cycles(&waits, stuck.clone());
    let names = Names::of(look);
    let mut found: Vec<Deadlock> = parts(&waits, &cycles)
        .into_iter()
        .take(MAX_DEADLOCKS)
        .map(|members| Deadlock {
            behind: behind(&waits, &stuck, &members),
            members: members
                .iter()
                .take(MAX_MEMBERS)
                .map(|node| member(*node, &members, &waits, &names))
                .collect(),
        })
        .collect();
    found.sort_by_key(|one| std::cmp::Reverse(one.members.len()));
    found
}

fn waits(look: &PythonFact) -> BTreeMap<Node, Wait> {
    let timed: BTreeSet<Tid> = look.timed.iter().copied().collect();
    let threads = look.threads.iter();
    let threads = threads.filter(|thread| !timed.contains(&thread.tid));
    let threads = threads.filter_map(|thread| {
        let wait = thread_wait(thread.waiting_for.as_ref()?, &look.executors)?;
        Some((Node::Thread(thread.tid), wait))
    });
    let mut waits: BTreeMap<Node, Wait> = threads.collect();
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
    let owners = lock_owners(&look.tasks);
    for task in &look.tasks {
        if let Some(wait) = task_wait(task, &awaited, &owners) {
            waits.insert(Node::Task(task.id), wait);
        }
    }
    waits
}

fn thread_wait(wait: &PyWait, executors: &[PyExecutor]) -> Option<Wait> {
    let one = |on: Tid, what: What| Wait {
        on: vec![Node::Thread(on)],
        all: false,
        what,
        inferred: wait.inferred,
    };
    match (wait.kind, wait.purpose) {
        (_, WaitPurpose::Contended) => {
            let row = WaitingFor::of(wait);
            let object = row
                .object
                .map_or_else(String::new, |object| format!(" {object}"));
            Some(one(
                wait.owner?,
                What::Held(format!("{}{object}", row.kind)),
            ))
        }
        (_, WaitPurpose::Join) => wait.owner.map(|owner| one(owner, What::End(owner))),
        (WaitKind::Future, _) => {
            let future = wait.object?;
            let works = executors.iter().flat_map(|executor| &executor.running);
            let running = works.filter(|work| work.future == future);
            if let Some(tid) = running.filter_map(|work| work.tid).next() {
                return Some(one(tid, What::Result(tid)));
            }
            let pool = executors
                .iter()
                .find(|executor| executor.queued_futures.contains(&future) && is_full(executor))?;
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

/// The lock that a task waits for.
fn wanted_lock(task: &PyTask) -> Option<u64> {
    let wait = task.waits_for.as_ref()?;
    wait.object.filter(|_| wait.kind == "Lock")
}

/// Which task has each lock that tasks wait for; none where several may.
fn lock_owners(tasks: &[PyTask]) -> BTreeMap<u64, u64> {
    let wanted: BTreeMap<u64, u64> = tasks
        .iter()
        .filter_map(|task| Some((task.id, wanted_lock(task)?)))
        .collect();
    let locks: BTreeSet<u64> = wanted.values().copied().collect();
    // In how many statements of a lock each task is.
    let mut statements: BTreeMap<u64, BTreeMap<u64, usize>> = BTreeMap::new();
    for task in tasks.iter().filter(|_| !locks.is_empty()) {
        for lock in task.holds.iter().filter(|lock| locks.contains(lock)) {
            let of_lock = statements.entry(*lock).or_default();
            *of_lock.entry(task.id).or_default() += 1;
        }
    }
    let owners = statements.into_iter().filter_map(|(lock, inside)| {
        let those = |waiting: bool, least: usize| {
            let mut those = inside.iter().filter(|(task, count)| {
                (wanted.get(*task) == Some(&lock)) == waiting && **count >= least
            });
            Some((those.next()?.0, those.next()))
        };
        // Who waits for it is in one statement of it by that, whoever has it.
        let (owner, other) = those(false, 1).or_else(|| those(true, 2))?;
        other.is_none().then_some((lock, *owner))
    });
    owners.collect()
}

fn task_wait(
    task: &PyTask,
    awaited: &BTreeMap<u64, Vec<u64>>,
    owners: &BTreeMap<u64, u64>,
) -> Option<Wait> {
    // A time that it was given ends it.
    let wait = task
        .waits_for
        .as_ref()
        .filter(|_| task.timeout_ns.is_none())?;
    match &*wait.kind {
        "Lock" => {
            let lock = wait.object?;
            Some(Wait {
                on: vec![Node::Task(*owners.get(&lock)?)],
                all: false,
                what: What::Held(format!("asyncio.Lock {}", Address(lock))),
                inferred: true,
            })
        }
        "Task" | "gather" | "TaskGroup" => {
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

/// Those whose waits nobody ends.
fn stuck(waits: &BTreeMap<Node, Wait>) -> BTreeSet<Node> {
    let mut stuck: BTreeSet<Node> = waits.keys().copied().collect();
    loop {
        let before = stuck.len();
        let known = stuck.clone();
        stuck.retain(|node| {
            let wait = &waits[node];
            let mut on = wait.on.iter();
            match wait.all {
                true => on.any(|one| known.contains(one)),
                false => !wait.on.is_empty() && on.all(|one| known.contains(one)),
            }
        });
        if stuck.len() == before {
            return stuck;
        }
    }
}

/// Those for whom somebody stuck waits, again and again.
fn cycles(waits: &BTreeMap<Node, Wait>, mut left: BTreeSet<Node>) -> BTreeSet<Node> {
    loop {
        let waited_for: BTreeSet<Node> = left
            .iter()
            .flat_map(|node| &waits[node].on)
            .copied()
            .collect();
        let before = left.len();
        left.retain(|node| waited_for.contains(node));
        if left.len() == before {
            return left;
        }
    }
}

/// The cycles apart: those that do not wait for one another.
fn parts(waits: &BTreeMap<Node, Wait>, cycles: &BTreeSet<Node>) -> Vec<Vec<Node>> {
    let mut part_of: BTreeMap<Node, Node> = cycles.iter().map(|node| (*node, *node)).collect();
    let root = |part_of: &BTreeMap<Node, Node>, node: Node| {
        let mut node = node;
        while let Some(next) = part_of.get(&node).filter(|next| **next != node) {
            node = *next;
        }
        node
    };
    for node in cycles {
        for other in waits[node].on.iter().filter(|other| cycles.contains(other)) {
            let (one, other) = (root(&part_of, *node), root(&part_of, *other));
            part_of.insert(one.max(other), one.min(other));
        }
    }
    let mut parts: BTreeMap<Node, Vec<Node>> = BTreeMap::new();
    for node in cycles {
        parts.entry(root(&part_of, *node)).or_default().push(*node);
    }
    parts.into_values().collect()
}

/// How many wait for members without being one.
fn behind(waits: &BTreeMap<Node, Wait>, stuck: &BTreeSet<Node>, members: &[Node]) -> u64 {
    let mut reached: BTreeSet<Node> = members.iter().copied().collect();
    loop {
        let more: Vec<Node> = stuck
            .iter()
            .copied()
            .filter(|node| {
                !reached.contains(node) && waits[node].on.iter().any(|on| reached.contains(on))
            })
            .collect();
        if more.is_empty() {
            return (reached.len() - members.len()) as u64;
        }
        reached.extend(more);
    }
}

/// Threads and tasks by id.
struct Names<'a> {
    threads: BTreeMap<Tid, &'a PyThread>,
    tasks: BTreeMap<u64, &'a PyTask>,
}

impl<'a> Names<'a> {
    fn of(look: &'a PythonFact) -> Self {
        Names {
            threads: look
                .threads
                .iter()
                .map(|thread| (thread.tid, thread))
                .collect(),
            tasks: look.tasks.iter().map(|task| (task.id, task)).collect(),
        }
    }

    fn name(&self, node: Node) -> Option<String> {
        match node {
            Node::Thread(tid) => self.threads.get(&tid)?.name.clone(),
            Node::Task(id) => self.tasks.get(&id).map(|task| task.name.clone()),
        }
    }

    /// Where it waits.
    fn place(&self, node: Node) -> Option<PyFrame> {
        let innermost: Vec<PyFrame> = match node {
            Node::Thread(tid) => self.threads.get(&tid)?.stack.clone(),
            Node::Task(id) => self
                .tasks
                .get(&id)?
                .awaiting
                .iter()
                .rev()
                .cloned()
                .collect(),
        };
        let own = own_frame(&innermost, |frame| &frame.file);
        own.or(innermost.first()).cloned()
    }

    fn label(&self, node: Node) -> String {
        match (node, self.name(node)) {
            (Node::Thread(tid), Some(name)) => format!("{name} ({tid})"),
            (Node::Thread(tid), None) => format!("thread {tid}"),
            (Node::Task(_), Some(name)) => format!("task {name}"),
            (Node::Task(id), None) => format!("task {}", Address(id)),
        }
    }
}

fn member(
    node: Node,
    members: &[Node],
    waits: &BTreeMap<Node, Wait>,
    names: &Names<'_>,
) -> DeadlockMember {
    let wait = &waits[&node];
    let of_it = members.iter().map(|other| &waits[other]);
    let held = of_it.filter(|other| other.on.contains(&node));
    let held = held.filter_map(|other| match &other.what {
        What::Held(object) => Some((object.clone(), other.inferred)),
        _ => None,
    });
    let held = held.into_iter().next();
    let on = || {
        let inside = wait.on.iter().filter(|on| members.contains(on));
        let labels: Vec<String> = inside.take(3).map(|on| names.label(*on)).collect();
        labels.join(", ")
    };
    DeadlockMember {
        tid: match node {
            Node::Thread(tid) => Some(tid.0),
            Node::Task(_) => None,
        },
        task: match node {
            Node::Thread(_) => None,
            Node::Task(id) => Some(Address(id)),
        },
        name: names.name(node),
        inferred: held.as_ref().is_some_and(|(_, inferred)| *inferred),
        holds: held.map(|(object, _)| object),
        waits_for: match &wait.what {
            What::Held(object) => object.clone(),
            What::End(tid) => format!("the end of {}", names.label(Node::Thread(*tid))),
            What::Result(tid) => format!("a result of {}", names.label(Node::Thread(*tid))),
            What::Queued(pool) => format!("a result that waits for a worker of {pool}"),
            What::Tasks => on(),
        },
        place: names.place(node).as_ref().map(rows::frame),
    }
}

#[cfg(test)]
mod tests;
