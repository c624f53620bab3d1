//! Pools that nobody gives back, and what only looks like it.

use super::*;
use crate::schema::{Executor, ExecutorKind, TaskWait};

/// What holds after four windows in which two threads wait for one queue, each of them `change`d.
fn after_waiting_for_a_queue(change: impl Fn(&mut Process)) -> Vec<Finding> {
    let mut story = Story::new();
    (0..4).fold(Vec::new(), |_, _| {
        story.window(|process, begin| {
            waiting(process, begin - 9 * SECOND, |wait| {
                (wait.kind, wait.purpose) = (WaitKind::Queue, Purpose::WaitingForWork);
            });
            change(process);
        })
    })
}

/// Work that would put something into the queue waits behind who waits for it.
#[test]
fn workers_that_all_wait_for_one_queue_have_exhausted_it() {
    let found = |change: fn(&mut Process)| {
        let found = after_waiting_for_a_queue(|process| {
            let tids: Vec<u32> = process.threads[1..3].iter().map(|one| one.tid).collect();
            let executor = &mut process.executors[0];
            executor.running = tids
                .into_iter()
                .map(|tid| Work {
                    tid: Some(tid),
                    function: None,
                    since_unix_ns: None,
                })
                .collect();
            executor.queued = Some(1);
            change(process);
        });
        let mut found = found.into_iter();
        found
            .find(|one| one.rule == "pool-exhausted")
            .map(|one| one.severity)
    };
    let raised = |change: fn(&mut Process)| found(change).is_some();
    assert_eq!(found(|_| {}), Some(Severity::Critical));
    assert_eq!(
        found(|process| of_kind(process, WaitKind::Event)),
        Some(Severity::Warning)
    );
    // A lock is given back by who has it, whoever that is.
    assert!(!raised(|process| of_kind(process, WaitKind::Lock)));
    assert!(!raised(|process| of_kind(process, WaitKind::RLock)));
    assert!(!raised(|process| of_kind(process, WaitKind::Future)));
    assert!(!raised(|process| process.executors[0].queued = Some(0)));
    assert!(!raised(|process| process.threads[1].waiting_for = None));
    assert!(!raised(|process| {
        let wait = process.threads[1].waiting_for.as_mut();
        wait.expect("it waits").object = Some(Address(0xb));
    }));
}

/// One thread maps a batch over a pool, and waits.
#[test]
fn a_batch_saturates_nothing() {
    let raised_in = |function: &str, waiting_threads: usize, with_loop: bool| {
        let mut story = Story::new();
        let mut found = Vec::new();
        for _ in 0..6 {
            found = story.window(|process, begin| {
                process.executors[0].queued = Some(1_000);
                process.loops[0].running = with_loop;
                waiting(process, begin, |wait| {
                    (wait.kind, wait.purpose) = (WaitKind::Future, Purpose::Other);
                });
                for thread in process.threads.iter_mut().skip(1).take(waiting_threads) {
                    thread.stack = [Frame {
                        function: function.into(),
                        file: "/usr/lib/python3.11/concurrent/futures/_base.py".into(),
                        line: 7,
                    }]
                    .into();
                }
            });
        }
        names(&found).contains(&"executor-saturated")
    };
    let raised = |waiting: usize, with_loop: bool| raised_in("Future.result", waiting, with_loop);
    assert!(!raised(1, false));
    // It submits, and waits for nothing.
    assert!(raised_in("ThreadPoolExecutor.submit", 1, false));
    assert!(raised(0, false));
    assert!(raised(2, false));
    assert!(raised(1, true));
}

fn of_kind(process: &mut Process, kind: WaitKind) {
    let threads = process.threads.iter_mut();
    for wait in threads.filter_map(|thread| thread.waiting_for.as_mut()) {
        wait.kind = kind;
    }
}

/// A loop's own limiter has lent all its tokens, and the threads that have them wait for one queue.
#[test]
fn a_limiter_is_exhausted_by_the_threads_that_it_lets_run() {
    let found = |change: fn(&mut Process)| {
        let found = after_waiting_for_a_queue(|process| {
            for thread in process.threads.iter_mut().skip(1).take(2) {
                thread.name = Some("AnyIO worker thread".into());
                thread.stack = frames_of(&[
                    ("Condition.wait", "threading.py"),
                    ("Queue.get", "queue.py"),
                    ("checkout", "app.py"),
                    ("WorkerThread.run", "anyio/_backends/_asyncio.py"),
                ]);
            }
            let executor = &mut process.executors[0];
            executor.kind = ExecutorKind::Limiter;
            executor.name_prefix = Some("AnyIO worker thread".to_owned());
            (executor.running, executor.queued) = (Vec::new(), Some(1));
            change(process);
        });
        names(&found).first().copied()
    };
    assert_eq!(found(|_| {}), Some("pool-exhausted"));
    // They have no work, and wait for it in queues of their own; or for what the pool itself was given to call.
    fn called_by_the_pool(process: &mut Process) {
        for thread in &mut process.threads {
            let frames = thread.stack.iter().cloned();
            thread.stack = frames
                .filter(|frame| &*frame.function != "checkout")
                .collect();
        }
    }
    fn of_their_own(process: &mut Process) {
        for thread in &mut process.threads {
            let own = Address(u64::from(thread.tid));
            let wait = thread.waiting_for.as_mut();
            wait.into_iter().for_each(|wait| wait.object = Some(own));
        }
    }
    assert_eq!(found(called_by_the_pool), Some("pool-exhausted"));
    assert_eq!(
        found(|process| {
            called_by_the_pool(process);
            of_their_own(process);
        }),
        Some("executor-saturated")
    );
    // They are of another kind, or there are more than it has let run.
    assert_eq!(
        found(|process| process.threads[1].name = Some("worker".into())),
        Some("executor-saturated")
    );
    assert_eq!(
        found(|process| {
            process.threads[3].name = process.threads[1].name.clone();
            process.threads[3].waiting_for = process.threads[1].waiting_for.clone();
        }),
        Some("executor-saturated")
    );
    // A limiter that the program made for itself keeps work back on purpose.
    assert_eq!(
        found(|process| process.executors[0].name_prefix = None),
        None
    );
}

/// Task queues fetch work before they can run it.
#[test]
fn what_a_task_queue_has_fetched_does_not_wait_for_its_workers() {
    let of = |change: &dyn Fn(&mut Executor)| {
        let mut story = Story::new();
        let mut found = Vec::new();
        for _ in 0..6 {
            found = story.window(|process, _| {
                process.executors[0].queued = Some(8);
                change(&mut process.executors[0]);
            });
        }
        names(&found).contains(&"executor-saturated")
    };
    let raised = |kind: ExecutorKind| of(&|executor| executor.kind = kind);
    assert!(raised(ExecutorKind::Process) && raised(ExecutorKind::Server));
    // A server does not begin threads up to its bound by itself.
    let below_its_bound = |kind: ExecutorKind| {
        of(&|executor| (executor.kind, executor.max_workers) = (kind, Some(9)))
    };
    assert!(below_its_bound(ExecutorKind::Server));
    assert!(!below_its_bound(ExecutorKind::Process));
    assert!(!raised(ExecutorKind::Task));
    // celery's pool of threads is one of `concurrent.futures`.
    let running = |function: &str| {
        let function = Some(function.to_owned());
        of(&|executor| executor.running[0].function.clone_from(&function))
    };
    assert!(running("shop.apply_target"));
    assert!(!running("celery.concurrency.base.apply_target"));
}

/// Who gets a connection may have to make it, or to see whether it is still good.
#[test]
fn connecting_is_no_exhausted_pool() {
    let raised = |kind: WaitKind, stack: &[(&str, &str)]| {
        let mut story = Story::new();
        let mut found = Vec::new();
        for _ in 0..4 {
            found = story.window(|process, begin| {
                waiting(process, begin - 9 * SECOND, |_| {});
                of_kind(process, kind);
                for thread in process.threads.iter_mut().skip(1).take(2) {
                    thread.stack = frames_of(stack);
                }
            });
        }
        names(&found).contains(&"pool-exhausted")
    };
    let wait = ("Condition.wait", "threading.py");
    let pool = ("ConnectionPool.getconn", "psycopg_pool/pool.py");
    let unchecked = ("ConnectionPool._getconn_unchecked", "psycopg_pool/pool.py");
    let client = ("WaitingClient.wait", "psycopg_pool/pool.py");
    let check = ("ConnectionPool._check_connection", "psycopg_pool/pool.py");
    assert!(raised(
        WaitKind::Condition,
        &[wait, client, unchecked, pool]
    ));
    assert!(!raised(WaitKind::Condition, &[wait, check, pool]));
    // The pool's own lock.
    assert!(!raised(WaitKind::RLock, &[unchecked, pool]));
    assert!(!raised(WaitKind::Lock, &[pool]));
    let redis = ("get_connection", "redis/connection.py");
    let get = ("Queue.get", "queue.py");
    assert!(raised(WaitKind::Queue, &[wait, get, redis]));
    let connect = ("AbstractConnection.connect", "redis/connection.py");
    assert!(!raised(WaitKind::Event, &[wait, connect, redis]));
    assert!(!raised(
        WaitKind::Queue,
        &[wait, get, ("get_connection", "myredis/connection.py")]
    ));
}

/// The same of tasks.
#[test]
fn tasks_that_connect_wait_for_no_item() {
    let raised = |kind: &str, stack: &[(&str, &str)]| {
        let mut story = Story::new();
        let mut found = Vec::new();
        for _ in 0..4 {
            found = story.window(|process, _| {
                let task = &mut process.loops[0].tasks[0];
                task.awaiting = frames_of(stack).to_vec();
                task.waits_for = Some(TaskWait {
                    kind: kind.to_owned(),
                    object: None,
                    since_unix_ns: Some(0),
                });
            });
        }
        names(&found).contains(&"pool-exhausted")
    };
    let pool = ("Pool._acquire", "asyncpg/pool.py");
    let inner = ("Pool._acquire.<locals>._acquire_impl", "asyncpg/pool.py");
    let get = ("Queue.get", "asyncio/queues.py");
    assert!(raised("LifoQueue", &[pool, inner, get]));
    let holder = ("PoolConnectionHolder.acquire", "asyncpg/pool.py");
    let connect = ("PoolConnectionHolder.connect", "asyncpg/pool.py");
    assert!(!raised("Future", &[pool, inner, holder, connect]));
    assert!(!raised(
        "wait_for",
        &[pool, ("wait_for", "asyncio/tasks.py")]
    ));
    assert!(!raised("socket", &[pool, inner]));
}

/// Who has ended waits for nothing, whatever the last look has seen.
#[test]
fn a_parent_that_has_ended_is_owed_nothing() {
    let mut process = parent(&quiet().processes[0]);
    assert!(worker_killed::is_owed(&process));
    process.exited = Some(Exited {
        code: Some(0),
        signal: None,
    });
    assert!(!worker_killed::is_owed(&process));
}

/// The threads that a loop lets run wait for its tasks, which wait for another thread.
#[test]
fn threads_that_want_another_one_have_exhausted_their_limiter() {
    let found = |change: fn(&mut Process)| {
        let mut story = Story::new();
        let mut found = Vec::new();
        for _ in 0..4 {
            found = story.window(|process, begin| {
                waiting(process, begin - 9 * SECOND, |wait| {
                    (wait.kind, wait.purpose) = (WaitKind::Future, Purpose::Other);
                });
                for thread in process.threads.iter_mut().skip(1).take(2) {
                    thread.name = Some("AnyIO worker thread".into());
                    thread.stack = frames_of(&[
                        ("Future.result", "concurrent/futures/_base.py"),
                        ("run_async_from_thread", "anyio/_backends/_asyncio.py"),
                        ("render", "app.py"),
                    ]);
                }
                let executor = &mut process.executors[0];
                executor.kind = ExecutorKind::Limiter;
                executor.object = Some(Address(0xc));
                executor.name_prefix = Some("AnyIO worker thread".to_owned());
                (executor.running, executor.queued) = (Vec::new(), Some(2));
                let mut task = process.loops[0].tasks[0].clone();
                task.waits_for = Some(TaskWait {
                    kind: "CapacityLimiter".to_owned(),
                    object: Some(Address(0xc)),
                    since_unix_ns: Some(begin - 9 * SECOND),
                });
                let frames = [("task_wrapper", "anyio/_backends/_asyncio.py")];
                task.awaiting = frames_of(&frames).to_vec();
                process.loops[0].tasks = vec![task.clone(), task];
                change(process);
            });
        }
        let mut found = found.iter().map(|one| one.rule);
        found.find(|rule| ["pool-exhausted", "executor-saturated"].contains(rule))
    };
    assert_eq!(found(|_| {}), Some("pool-exhausted"));
    // One of the threads works, or one of the tasks wants something else.
    assert_eq!(
        found(|process| process.threads[1].waiting_for = None),
        Some("executor-saturated")
    );
    assert_eq!(
        found(|process| process.loops[0].tasks[1].waits_for = None),
        Some("executor-saturated")
    );
}
