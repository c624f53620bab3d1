//! Who waits for whom, and what comes of it.

use super::*;
use crate::event::{PyThread, PyWork, TaskWait};
use crate::model::testing::{look, py_task, py_thread};
use crate::schema::Address;

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
            holders: Vec::new(),
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
        borrowers: Vec::new(),
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
    let all = found(Vec::new(), locks.clone());
    assert_eq!(all[0].members[0].task, Some(Address(1)));
    assert_eq!(all[0].members[0].holds.as_deref(), Some("asyncio.Lock 0xa"));
    assert!(all[0].members.iter().all(|member| member.inferred));
    // One of them gives up after a time, or is given up by who waits for it.
    let limited = |change: fn(&mut PyTask)| {
        let mut locks = locks.clone();
        change(&mut locks[1]);
        found(Vec::new(), locks)
    };
    assert_eq!(limited(|task| task.in_timeout = true), []);
    assert_eq!(limited(|task| task.timeout_ns = Some(5)), []);
    let waits = |timeout_ns: Option<u64>| {
        let mut waiter = task(3, "Task", 1, &[]);
        waiter.timeout_ns = timeout_ns;
        let mut locks = locks.clone();
        locks[0].awaited_by = vec![3];
        locks.push(waiter);
        found(Vec::new(), locks).len()
    };
    assert_eq!((waits(None), waits(Some(5))), (1, 0));
    // Or when the task ends that has entered the scope it is in, whatever that does.
    let hosted = |in_timeout: bool| {
        let mut host = task(3, "sleep", 0xc, &[]);
        host.in_timeout = in_timeout;
        let mut locks = locks.clone();
        locks[1].hosts = vec![3];
        locks.push(host);
        found(Vec::new(), locks).len()
    };
    assert_eq!((hosted(false), hosted(true)), (1, 0));
    let relock = found(Vec::new(), vec![task(1, "Lock", 0xa, &[0xa, 0xa])]);
    assert_eq!(relock[0].members.len(), 1);
    let mut each = vec![task(1, "Task", 2, &[]), task(2, "Task", 1, &[])];
    (each[0].awaited_by, each[1].awaited_by) = (vec![2], vec![1]);
    assert_eq!(
        found(Vec::new(), each.clone())[0].members[1].waits_for,
        "task task-1"
    );
    let mut folded = each.clone();
    folded[0].awaiting = vec![PyFrame::of_left_out(27)];
    assert_eq!(found(Vec::new(), folded), []);
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

#[test]
fn long_chains_are_followed_to_their_end() {
    const LENGTH: u64 = 9_000;
    // Each waits for the one before it.
    let chain = |first: PyTask| {
        let others = (2..=LENGTH).map(|id| task(id, "Task", id - 1, &[]));
        let mut tasks: Vec<PyTask> = [first].into_iter().chain(others).collect();
        for task in &mut tasks {
            task.awaited_by = vec![task.id % LENGTH + 1];
        }
        found(Vec::new(), tasks)
    };
    assert_eq!(chain(py_task(1, 7, "runs")), []);
    let all = chain(task(1, "Lock", 0xa, &[0xa, 0xa]));
    assert_eq!((all[0].members.len(), all[0].behind), (1, LENGTH - 1));
    let all = chain(task(1, "Task", LENGTH, &[]));
    assert_eq!((all[0].members.len(), all[0].behind), (MAX_MEMBERS, 0));
}

#[test]
fn so_many_waits_are_followed() {
    let all_for_one = |workers: u32| {
        let mut look = look(100, 1);
        let tids = 1..=workers;
        look.threads = tids
            .clone()
            .map(|tid| waiting(tid, WaitKind::Future, 0xf1, None))
            .collect();
        let work = |tid: u32| PyWork {
            tid: Some(Tid(tid)),
            function: None,
            item: tid.into(),
            future: 0,
        };
        look.executors = vec![PyExecutor {
            id: 5,
            queue: 9,
            kind: ExecutorKind::Thread,
            name_prefix: None,
            workers: workers.into(),
            workers_idle: Some(0),
            max_workers: Some(workers.into()),
            queued: Some(1),
            running: tids.map(work).collect(),
            queued_futures: vec![0xf1],
            borrowers: Vec::new(),
        }];
        deadlocks(&look).len()
    };
    assert_eq!((all_for_one(200), all_for_one(2_000)), (1, 0));
}

#[test]
fn permits_are_had_by_several() {
    let waits = |tid: u32, holders: &[u32]| {
        let mut thread = waiting(tid, WaitKind::Semaphore, 0xa, None);
        let wait = thread.waiting_for.as_mut().expect("it waits");
        wait.purpose = WaitPurpose::Item;
        wait.holders = holders.iter().copied().map(Tid).collect();
        thread
    };
    let all = found(
        vec![waits(1, &[1, 2]), waits(2, &[1, 2]), waits(3, &[1, 2])],
        vec![],
    );
    assert_eq!((tids(&all[0]), all[0].behind), (vec![1, 2], 1));
    assert_eq!(all[0].members[0].holds.as_deref(), Some("Semaphore 0xa"));
    // One that has a permit does something else; nobody is known to have one.
    assert!(found(vec![waits(1, &[1, 2]), py_thread(2, "t2")], vec![]).is_empty());
    assert!(found(vec![waits(1, &[]), waits(2, &[])], vec![]).is_empty());

    // Who waits for it is in one statement by that.
    let tasks = |again: usize| {
        let one = |id: u64, count: usize| task(id, "Semaphore", 0xb, &vec![0xb; count]);
        vec![one(1, 2), one(2, again), one(3, 1)]
    };
    let all = found(vec![], tasks(2));
    assert_eq!((all[0].members.len(), all[0].behind), (2, 1));
    let first = &all[0].members[0];
    assert_eq!(&*first.waits_for, "asyncio.Semaphore 0xb");
    let mut with_other = tasks(2);
    with_other.push(task(4, "sleep", 0, &[0xb]));
    assert!(found(vec![], with_other).is_empty());
    assert_eq!(found(vec![], tasks(1))[0].members.len(), 1);
}

#[test]
fn who_has_an_item_of_a_queue_is_in_no_statement_of_it() {
    let tasks = |third: &[u64]| {
        let one = |id: u64, holds: &[u64]| task(id, "Queue", 0xd, holds);
        vec![one(1, &[0xd]), one(2, &[0xd]), one(3, third)]
    };
    let all = found(vec![], tasks(&[]));
    assert_eq!((all[0].members.len(), all[0].behind), (2, 1));
    let first = &all[0].members[0];
    assert_eq!(first.holds.as_deref(), Some("asyncio.Queue 0xd"));
    assert_eq!(found(vec![], tasks(&[0xd]))[0].members.len(), 3);
    let mut with_other = tasks(&[]);
    with_other.push(task(4, "sleep", 0, &[0xd]));
    assert!(found(vec![], with_other).is_empty());
}

#[test]
fn a_limiter_says_who_has_its_tokens() {
    let of_waits = |borrowers: &[u64], kind: &str| {
        let mut look = look(100, 1);
        let mut outer = task(1, kind, 2, &[]);
        let inner = PyTask {
            awaited_by: vec![1],
            ..task(2, "CapacityLimiter", 0xc, &[])
        };
        outer.timeout_ns = None;
        look.tasks = vec![outer, inner];
        look.executors = vec![PyExecutor {
            id: 0xc,
            kind: ExecutorKind::Limiter,
            workers: borrowers.len() as u64,
            max_workers: Some(borrowers.len() as u64),
            borrowers: borrowers.to_vec(),
            ..LIMITER
        }];
        look
    };
    let of = |borrowers: &[u64]| deadlocks(&of_waits(borrowers, "Task"));
    let all = of(&[1]);
    assert_eq!(all[0].members.len(), 2);
    let held = all[0].members.iter().find_map(|one| one.holds.as_deref());
    assert_eq!(held, Some("CapacityLimiter 0xc"));
    // What stands for a token is no task.
    assert!(of(&[1, 0xdead]).is_empty());
    // Which nursery is waited for must be known.
    let mut of_nursery = of_waits(&[1], "Nursery");
    assert_eq!(deadlocks(&of_nursery)[0].members.len(), 2);
    let wait = of_nursery.tasks[0].waits_for.as_mut();
    wait.expect("it waits").object = None;
    assert!(deadlocks(&of_nursery).is_empty());
}

const LIMITER: PyExecutor = PyExecutor {
    id: 0,
    queue: 0,
    kind: ExecutorKind::Limiter,
    name_prefix: None,
    workers: 0,
    workers_idle: Some(0),
    max_workers: None,
    queued: Some(1),
    running: Vec::new(),
    queued_futures: Vec::new(),
    borrowers: Vec::new(),
};

/// trio's locks say who has them.
#[test]
fn the_owner_of_a_lock_of_trio_is_not_concluded() {
    let of = |file: &str| {
        let mut tasks = vec![task(1, "Lock", 0xb, &[0xa]), task(2, "Lock", 0xa, &[0xb])];
        for task in &mut tasks {
            task.awaiting.push(PyFrame {
                function: "wait_task_rescheduled".into(),
                file: file.into(),
                line: 3,
            });
        }
        let mut found = found(Vec::new(), tasks);
        let deadlock = found.pop().expect("a deadlock");
        let members = deadlock.members.into_iter();
        members
            .map(|one| (one.holds.unwrap_or_default(), one.inferred))
            .collect::<Vec<_>>()
    };
    let own = of("/site-packages/trio/_core/_traps.py");
    assert_eq!(own[0], ("trio.Lock 0xa".to_owned(), false));
    let other = of("/usr/lib/python3.11/asyncio/locks.py");
    assert_eq!(other[0], ("asyncio.Lock 0xa".to_owned(), true));
    let in_folder = of("/srv/trio/lib/python3.11/asyncio/locks.py");
    assert_eq!(in_folder, other);
}
