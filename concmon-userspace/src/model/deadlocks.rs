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
mod tests {
    use super::*;
    use crate::event::{PyWork, TaskWait};
    use crate::model::testing::{look, py_task, py_thread};

    fn waiting(tid: u32, kind: WaitKind, object: u64, owner: Option<u32>) -> PyThread {
        PyThread {
            waiting_for: Some(PyWait {
                kind,
                purpose: match kind {
                    WaitKind::Join => WaitPurpose::Join,
                    WaitKind::Future => WaitPurpose::Other,
                    _ => WaitPurpose::Contended,
                },
                object: Some(object),
                owner: owner.map(Tid),
                futex: object,
                inferred: kind == WaitKind::Lock,
                owner_gone: false,
                at_statement: false,
            }),
            stack: ["wait", "work"]
                .map(|function| PyFrame {
                    function: function.into(),
                    file: if function == "wait" {
                        "/usr/lib/python3.11/threading.py"
                    } else {
                        "/srv/app.py"
                    }
                    .into(),
                    line: 3,
                })
                .into(),
            ..py_thread(tid, &format!("t{tid}"))
        }
    }

    fn task(id: u64, kind: &str, object: u64, holds: &[u64]) -> PyTask {
        PyTask {
            waits_for: Some(TaskWait {
                kind: kind.into(),
                object: Some(object),
            }),
            holds: holds.to_vec(),
            ..py_task(id, 7, &format!("task-{id}"))
        }
    }

    fn found(threads: Vec<PyThread>, tasks: Vec<PyTask>) -> Vec<Deadlock> {
        let mut look = look(100, 1);
        (look.threads, look.tasks) = (threads, tasks);
        deadlocks(&look)
    }

    fn tids(deadlock: &Deadlock) -> Vec<u32> {
        deadlock
            .members
            .iter()
            .filter_map(|member| member.tid)
            .collect()
    }

    #[test]
    fn cycles_of_owners_are_found_with_who_waits_behind_them() {
        use WaitKind::{Join, Lock, RLock};
        let two = [
            waiting(1, RLock, 0xa, Some(2)),
            waiting(2, RLock, 0xb, Some(1)),
        ];
        let behind = [
            waiting(3, RLock, 0xa, Some(2)),
            waiting(4, Join, 0, Some(3)),
        ];
        let all = found(two.iter().chain(&behind).cloned().collect(), Vec::new());
        assert_eq!(
            (all.len(), tids(&all[0]), all[0].behind),
            (1, vec![1, 2], 2)
        );
        let first = &all[0].members[0];
        assert_eq!(first.holds.as_deref(), Some("RLock 0xb"));
        assert_eq!((&*first.waits_for, first.inferred), ("RLock 0xa", false));
        assert_eq!(
            first.place.as_ref().map(|frame| &*frame.function),
            Some("work")
        );
        // A lock and the end of a thread; one that locks twice; two deadlocks.
        let joins = vec![waiting(1, Join, 0, Some(2)), waiting(2, Lock, 0xa, Some(1))];
        let all = found(joins, Vec::new());
        assert_eq!(all[0].members[0].waits_for, "the end of t2 (2)");
        assert_eq!(
            (all[0].members[0].inferred, &all[0].members[1].holds),
            (true, &None)
        );
        let relock = found(vec![waiting(1, Lock, 0xa, Some(1))], Vec::new());
        assert_eq!(tids(&relock[0]), [1]);
        let more = [
            waiting(5, RLock, 0xc, Some(6)),
            waiting(6, RLock, 0xd, Some(5)),
        ];
        assert_eq!(
            found(two.into_iter().chain(more).collect(), Vec::new()).len(),
            2
        );
    }

    #[test]
    fn waits_that_somebody_may_end_are_none() {
        use WaitKind::{Join, Lock, RLock};
        for threads in [
            // Its owner runs, or is not known.
            vec![waiting(1, RLock, 0xa, Some(2)), py_thread(2, "runs")],
            vec![waiting(1, Lock, 0xa, None), waiting(2, RLock, 0xb, Some(1))],
            vec![
                waiting(1, Join, 0, Some(2)),
                waiting(2, RLock, 0xa, Some(3)),
                py_thread(3, "runs"),
            ],
        ] {
            assert_eq!(found(threads, Vec::new()), []);
        }
        // One of them goes on after a time, and the other by that.
        let mut look = look(100, 1);
        look.threads = vec![waiting(1, Join, 0, Some(2)), waiting(2, Lock, 0xa, Some(1))];
        assert_eq!(deadlocks(&look).len(), 1);
        look.timed = vec![Tid(1)];
        assert_eq!(deadlocks(&look), []);
    }

    #[test]
    fn a_pool_waits_for_itself_when_all_its_workers_do() {
        use WaitKind::Future;
        let mut look = look(100, 1);
        look.threads = vec![
            waiting(1, Future, 0xf1, None),
            waiting(2, Future, 0xf2, None),
        ];
        let work = |tid: u32| PyWork {
            tid: Some(Tid(tid)),
            function: None,
            item: tid.into(),
            future: 0xf0 + u64::from(tid) * 16,
        };
        let pool = PyExecutor {
            id: 5,
            queue: 9,
            kind: ExecutorKind::Thread,
            name_prefix: Some("pool".into()),
            workers: 2,
            workers_idle: Some(0),
            max_workers: Some(2),
            queued: Some(2),
            running: vec![work(1), work(2)],
            queued_futures: vec![0xf1, 0xf2],
        };
        look.executors = vec![pool.clone()];
        let all = deadlocks(&look);
        assert_eq!(tids(&all[0]), [1, 2]);
        assert_eq!(
            all[0].members[0].waits_for,
            "a result that waits for a worker of pool"
        );
        // One worker does something else, or there may be more; or the work is another pool's.
        for change in [
            |look: &mut PythonFact| look.threads[1].waiting_for = None,
            |look: &mut PythonFact| look.executors[0].max_workers = Some(3),
            |look: &mut PythonFact| look.executors[0].queued_futures = vec![0xf2],
        ] {
            let mut look = look.clone();
            change(&mut look);
            assert_eq!(deadlocks(&look), []);
        }
    }

    #[test]
    fn tasks_wait_for_locks_and_for_one_another() {
        // Each is in a statement of the lock that it waits for, too.
        let locks = vec![
            task(1, "Lock", 0xb, &[0xa, 0xb]),
            task(2, "Lock", 0xa, &[0xa, 0xb]),
        ];
        let all = found(Vec::new(), locks);
        assert_eq!(all[0].members[0].task, Some(Address(1)));
        assert_eq!(all[0].members[0].holds.as_deref(), Some("asyncio.Lock 0xa"));
        assert!(all[0].members.iter().all(|member| member.inferred));
        let relock = found(Vec::new(), vec![task(1, "Lock", 0xa, &[0xa, 0xa])]);
        assert_eq!(relock[0].members.len(), 1);
        let mut each = vec![task(1, "Task", 2, &[]), task(2, "Task", 1, &[])];
        (each[0].awaited_by, each[1].awaited_by) = (vec![2], vec![1]);
        assert_eq!(
            found(Vec::new(), each.clone())[0].members[1].waits_for,
            "task task-1"
        );
        each[0].timeout_ns = Some(5);
        assert_eq!(found(Vec::new(), each), []);
        let queue = vec![task(1, "Lock", 0xa, &[0xa]), task(2, "sleep", 0, &[0xa])];
        assert_eq!(found(Vec::new(), queue), []);
    }

    #[test]
    fn who_waits_for_a_lock_does_not_have_it_by_that() {
        let two = || vec![task(1, "Lock", 0xa, &[0xa]), task(2, "Lock", 0xa, &[0xa])];
        let with = |more: &[PyTask]| found(Vec::new(), [&two(), more].concat());
        let ids = |all: &[Deadlock]| -> Vec<Option<u64>> {
            let members = all.iter().flat_map(|one| &one.members);
            members.map(|one| one.task.map(|task| task.0)).collect()
        };
        // Who has it runs, or has taken it without a statement, or goes on by itself.
        let goes_on = task(3, "socket", 5, &[0xa]);
        assert_eq!(with(&[]), []);
        assert_eq!(with(&[py_task(3, 7, "runs")]), []);
        assert_eq!(with(std::slice::from_ref(&goes_on)), []);
        // Who has it waits for one of them.
        let mut circle = two();
        circle[0].awaited_by = vec![3];
        circle.push(task(3, "Task", 1, &[0xa]));
        let all = found(Vec::new(), circle.clone());
        assert_eq!((ids(&all), all[0].behind), (vec![Some(1), Some(3)], 1));
        // So may another that is inside.
        circle[1].awaited_by = vec![4];
        circle.push(task(4, "Task", 2, &[0xa]));
        assert_eq!(found(Vec::new(), circle), []);
        // One that has it wants it again, unless one that does not wait for it is inside, or another does that, too.
        let again = task(4, "Lock", 0xa, &[0xa, 0xa]);
        let all = with(std::slice::from_ref(&again));
        assert_eq!((ids(&all), all[0].behind), (vec![Some(4)], 2));
        assert_eq!(with(&[again.clone(), goes_on]), []);
        let too = task(5, "Lock", 0xa, &[0xa, 0xa]);
        assert_eq!(with(&[again, too]), []);
    }
}
