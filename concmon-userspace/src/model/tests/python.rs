//! Columns that come from the interpreter.

use crate::event::*;
use crate::model::testing::*;
use crate::schema::{Address, Role, Thread};

fn reason<'a>(thread: &'a Thread, field: &str) -> Option<&'a str> {
    let limit = thread.limits.iter().find(|limit| limit.field == field);
    limit.map(|limit| &*limit.reason)
}

#[test]
fn roles_names_and_native_threads() {
    let mut watch = Fixture::new();
    for tid in 100..105 {
        watch.read(100, tid, SECOND, |_| {});
    }
    watch.look(100, SECOND, |look| {
        look.threads = vec![
            PyThread {
                main: true,
                ..py_thread(100, "MainThread")
            },
            PyThread {
                pool: true,
                ..py_thread(101, "ThreadPoolExecutor-0_0")
            },
            PyThread {
                pool: true,
                ..py_thread(102, "looper")
            },
            PyThread {
                name: None,
                daemon: None,
                entry: None,
                ..py_thread(103, "")
            },
            // Of no thread that is known here.
            py_thread(999, "gone"),
        ];
        look.loops = vec![py_loop(102, 1), py_loop(100, 2)];
        look.limits = [("threads.entry".to_owned(), "no bootstrap frame".to_owned())].into();
    });
    let snapshot = watch.tick(SECOND);
    let threads = &snapshot.processes[0].threads;
    let roles: Vec<_> = threads.iter().map(|thread| thread.role).collect();
    assert_eq!(
        roles,
        [
            Some(Role::Main),
            Some(Role::Pool),
            Some(Role::Loop),
            Some(Role::Other),
            None
        ]
    );
    assert_eq!(threads[0].name.as_deref(), Some("MainThread"));
    assert_eq!(threads[0].ident, Some(100 << 32));
    assert_eq!(reason(&threads[3], "entry"), Some("no bootstrap frame"));
    assert_eq!(
        reason(&threads[3], "name"),
        Some("the threading module does not know it")
    );
    assert_eq!(reason(&threads[4], "name"), Some("not a Python thread"));
    let python = snapshot.processes[0].python.as_ref().expect("it is Python");
    assert_eq!(python.version.as_deref(), Some("3.13.0"));

    // A loop that has stopped, and a thread that has ended, keep what they were.
    watch.die(100, 101, 2 * SECOND);
    for tid in [100, 102, 103, 104] {
        watch.read(100, tid, 2 * SECOND, |_| {});
    }
    watch.look(100, 2 * SECOND, |look| {
        look.threads = vec![py_thread(102, "renamed")]
    });
    let snapshot = watch.tick(2 * SECOND);
    let threads = &snapshot.processes[0].threads;
    assert_eq!(
        (threads[1].alive, threads[1].role),
        (false, Some(Role::Pool))
    );
    assert_eq!(
        (threads[2].name.as_deref(), threads[2].role),
        (Some("renamed"), Some(Role::Loop))
    );
}

#[test]
fn why_there_are_no_python_columns() {
    let unsupported = |look: &mut PythonFact| {
        look.info.supported = false;
        look.info.implementation = "pypy".into();
        look.info.reason = Some("PyPy is not supported".into());
    };
    let partial = |look: &mut PythonFact| {
        look.limits = [("threads".to_owned(), "list torn".to_owned())].into();
    };
    let early = |look: &mut PythonFact| look.read_ns = START - 1;
    type Change = fn(&mut PythonFact);
    let cases: [(Option<Change>, &str); 5] = [
        (None, "no Python interpreter was seen in its process"),
        (Some(unsupported), "PyPy is not supported"),
        (Some(partial), "list torn"),
        (Some(early), "the interpreter was not read while it lived"),
        (Some(|_| {}), "not a Python thread"),
    ];
    for (change, want) in cases {
        let mut watch = Fixture::new();
        watch.read(100, 100, SECOND, |_| {});
        if let Some(change) = change {
            watch.look(100, SECOND, change);
        }
        let snapshot = watch.tick(SECOND);
        let thread = &snapshot.processes[0].threads[0];
        for field in [
            "name",
            "ident",
            "role",
            "daemon",
            "entry",
            "stack_size_bytes",
        ] {
            assert_eq!(reason(thread, field), Some(want), "{field}");
        }
        let loops = has_limit(&snapshot.processes[0].limits, "loops");
        assert_eq!(loops, want == "PyPy is not supported");
    }
}

#[test]
fn a_look_finds_the_thread_that_held_the_id_then() {
    let mut watch = Fixture::new();
    watch.read(100, 100, MS, |_| {});
    watch.fork(100, 100, 101, 100 * MS).die(100, 101, 200 * MS);
    watch.look(100, 150 * MS, |look| {
        look.threads = vec![py_thread(101, "first")]
    });
    watch
        .fork(100, 100, 101, 300 * MS)
        .read(100, 101, SECOND, |_| {});
    let snapshot = watch.tick(SECOND);
    let names: Vec<_> = snapshot.processes[0].threads[1..]
        .iter()
        .map(|t| t.name.as_deref())
        .collect();
    assert_eq!(names, [Some("first"), None]);
}

/// What a look says beside names is there as of the latest look, and goes when the thread goes.
#[test]
fn stacks_waits_and_executors_are_those_of_the_latest_look() {
    let frame = |line| PyFrame {
        function: "work".into(),
        file: "app.py".into(),
        line,
    };
    let wait = PyWait {
        kind: WaitKind::RLock,
        purpose: WaitPurpose::Contended,
        object: Some(0xbeef),
        owner: Some(Tid(100)),
        futex: 0xbef0,
        inferred: false,
        owner_gone: false,
        at_statement: false,
        holders: Vec::new(),
    };
    let mut watch = Fixture::new();
    for window in 1..=3 {
        for tid in [100, 101, 102] {
            watch.read(100, tid, window * SECOND, |_| {});
        }
        if window == 3 {
            watch.die(100, 101, window * SECOND);
        }
        watch.look(100, window * SECOND, |look| {
            let line = window as u32;
            look.threads = vec![PyThread {
                stack: vec![frame(line), frame(40)],
                waiting_for: Some(wait.clone()),
                ..py_thread(101, "worker")
            }];
            if window == 1 {
                look.threads.push(PyThread {
                    stack: vec![frame(1)],
                    ..py_thread(102, "seen once")
                });
            }
            look.executors = vec![PyExecutor {
                id: 7,
                queue: 9,
                kind: ExecutorKind::Thread,
                name_prefix: Some("crunch".into()),
                workers: 2,
                workers_idle: Some(0),
                max_workers: Some(2),
                queued: Some(3),
                running: vec![PyWork {
                    tid: Some(Tid(101)),
                    function: Some("app.work".into()),
                    item: if window == 3 { 2 } else { 1 },
                    future: 0,
                }],
                queued_futures: Vec::new(),
                borrowers: Vec::new(),
            }];
        });
        let snapshot = watch.tick(window * SECOND);
        let process = &snapshot.processes[0];
        let thread = &process.threads[1];
        let lines: Vec<u32> = thread.stack.iter().map(|frame| frame.line).collect();
        let once = &process.threads[2];
        if window == 3 {
            assert!(lines.is_empty() && thread.waiting_for.is_none());
            assert_eq!(reason(thread, "stack"), Some("it has ended"));
        } else {
            assert_eq!(lines, [window as u32, 40]);
            let waiting = thread.waiting_for.as_ref().expect("it waits");
            assert_eq!(
                (waiting.kind.name(), waiting.owner_tid),
                ("RLock", Some(100))
            );
            assert_eq!(waiting.object, Some(Address(0xbeef)));
        }
        assert_eq!(once.stack.len(), if window == 1 { 1 } else { 0 });
        assert_eq!(reason(once, "stack").is_some(), window > 1);
        let executor = &process.executors[0];
        assert_eq!((executor.queued, executor.unfinished), (Some(3), Some(4)));
        assert!(executor.failed.is_none() && !executor.limits.is_empty());
        assert_eq!(
            executor.running[0].since_unix_ns,
            Some(START_UNIX + if window == 3 { 3 } else { 1 } * SECOND)
        );
    }
}

/// A thread's wait is as old as its account says; one that began after the look is another one.
#[test]
fn waits_that_go_on_have_an_age() {
    let mut watch = Fixture::new();
    let wait = PyWait {
        kind: WaitKind::Lock,
        purpose: WaitPurpose::Contended,
        object: Some(0xbeef),
        owner: None,
        futex: 0xbef0,
        inferred: false,
        owner_gone: false,
        at_statement: false,
        holders: Vec::new(),
    };
    for (window, since) in [(1, 0), (2, 0), (3, 2 * SECOND + 5), (4, 4 * SECOND)] {
        watch.read(100, 100, window * SECOND, |fact| {
            fact.since_ns = START + since
        });
        watch.read(100, 101, window * SECOND, |fact| {
            fact.state = ThreadState::Running;
        });
        // It begins before the accounts are read.
        watch.look(100, window * SECOND - MS, |look| {
            look.threads = [100, 101]
                .map(|tid| PyThread {
                    waiting_for: Some(wait.clone()),
                    ..py_thread(tid, "waits")
                })
                .into();
        });
        let snapshot = watch.tick(window * SECOND);
        let threads = &snapshot.processes[0].threads;
        let found = threads[0].wait.expect("it waits");
        assert_eq!(found.cause.name(), "lock");
        assert_eq!(found.since_unix_ns, START_UNIX + since);
        assert_eq!(found.before_watch, window < 3);
        let since_unix_ns = |at: usize| {
            let waiting = threads[at].waiting_for.as_ref();
            waiting.expect("it was met").since_unix_ns
        };
        let same = (window < 4).then_some(START_UNIX + since);
        assert_eq!(since_unix_ns(0), same);
        assert_eq!((threads[1].wait, since_unix_ns(1)), (None, None));
    }
    watch.die(100, 100, 5 * SECOND);
    let snapshot = watch.tick(5 * SECOND);
    assert!(snapshot.processes[0].threads[0].wait.is_none());
}

#[test]
fn collections_and_made_tasks_are_the_growth_in_the_window() {
    let mut watch = Fixture::new();
    for (window, collections, created) in [(1, 10, 50), (2, 14, 58), (3, 14, 60)] {
        watch.read(100, 100, window * SECOND, |_| {});
        watch.look(100, window * SECOND, |look| {
            look.gc = Some(PyGc {
                generations: vec![PyGeneration {
                    collections,
                    collected: 2 * collections,
                    uncollectable: 0,
                }],
                collecting: false,
                generation: None,
            });
            look.loops = vec![PyLoop {
                tasks_created: Some(created),
                queue: None,
                ..py_loop(100, 7)
            }];
        });
        let snapshot = watch.tick(window * SECOND);
        let process = &snapshot.processes[0];
        let gc = process.gc.as_ref().expect("it was seen");
        let (collections, created) = [(0, 0), (4, 8), (0, 2)][window as usize - 1];
        assert_eq!(gc.collections, [collections]);
        assert_eq!(gc.collected, [2 * collections]);
        assert_eq!(process.loops[0].tasks_created, Some(created));
        assert!(
            process
                .limits
                .iter()
                .any(|limit| limit.field == "gc.collecting_ns")
        );
    }
    let summary = watch.model.summary();
    let process = &summary.processes[0];
    assert_eq!(process.gc.as_ref().expect("it was seen").collections, [4]);
    assert_eq!(process.loops[0].tasks_created, Some(10));
}

#[test]
fn deadlocks_are_those_of_the_latest_look() {
    let mut watch = Fixture::new();
    let mut told = Vec::new();
    for window in 1..=3 {
        watch.read(100, 100, window * SECOND, |_| {});
        match window {
            1 => watch.look(100, SECOND, |look| {
                look.tasks = vec![PyTask {
                    waits_for: Some(TaskWait {
                        kind: "Lock".into(),
                        object: Some(0xa),
                    }),
                    holds: vec![0xa, 0xa],
                    ..py_task(1, 7, "again")
                }];
            }),
            2 => &mut watch,
            _ => watch.look(100, window * SECOND, |_| {}),
        };
        told.push(watch.tick(window * SECOND).processes[0].deadlocks.len());
    }
    assert_eq!(told, [1, 1, 0]);
}
