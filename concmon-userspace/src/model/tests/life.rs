//! Birth, death and identity of threads and processes.

use crate::event::*;
use crate::model::testing::*;
use crate::schema::Snapshot;

fn process(snapshot: &Snapshot, pid: u32) -> &crate::schema::Process {
    let found = snapshot.processes.iter().find(|process| process.pid == pid);
    found.expect("the process has a row")
}

#[test]
fn an_ended_thread_has_a_row_in_its_last_window_and_in_the_summary() {
    let mut watch = Fixture::new();
    watch
        .read(100, 100, SECOND, |_| {})
        .fork(100, 100, 101, SECOND / 2);
    watch.read(100, 101, SECOND, |_| {});
    assert_eq!(watch.tick(SECOND).processes[0].threads.len(), 2);
    watch
        .exit(100, 101, SECOND + 200 * MS, |_| {})
        .die(100, 101, SECOND + 200 * MS);
    watch.read(100, 100, 2 * SECOND, |_| {});
    let snapshot = watch.tick(2 * SECOND);
    let thread = &snapshot.processes[0].threads[1];
    assert_eq!((thread.tid, thread.alive), (101, false));
    assert_eq!(thread.started_unix_ns, START_UNIX + SECOND / 2);
    assert_eq!(thread.ended_unix_ns, Some(START_UNIX + SECOND + 200 * MS));
    assert_eq!(
        (thread.ledger.wall_ns, thread.ledger.on_cpu_ns),
        (200 * MS, 200 * MS)
    );
    watch.read(100, 100, 3 * SECOND, |_| {});
    assert_eq!(watch.tick(3 * SECOND).processes[0].threads.len(), 1);
    let summary = watch.model.summary();
    assert_eq!(summary.processes[0].threads[1].ledger.wall_ns, 700 * MS);
    assert_eq!(summary.processes[0].cpu_ns, 700 * MS);
}

#[test]
fn a_thread_is_told_from_the_next_holder_of_its_id() {
    let mut watch = Fixture::new();
    watch.fork(100, 100, 101, 100 * MS).die(100, 101, 200 * MS);
    watch
        .fork(100, 100, 101, 300 * MS)
        .read(100, 101, SECOND, |_| {});
    let snapshot = watch.tick(SECOND);
    let threads = &snapshot.processes[0].threads;
    let walls: Vec<_> = threads
        .iter()
        .map(|thread| (thread.alive, thread.ledger.wall_ns))
        .collect();
    assert_eq!(walls, [(false, 100 * MS), (true, 700 * MS)]);
}

#[test]
fn a_process_is_told_from_the_next_holder_of_its_id() {
    let mut watch = Fixture::new();
    watch.read(100, 100, 100 * MS, |_| {});
    watch.fork(100, 200, 200, 100 * MS).die(200, 200, 200 * MS);
    watch.exit(200, 200, 200 * MS, |exit| {
        (exit.last, exit.status) = (true, 1 << 8)
    });
    watch
        .fork(100, 200, 200, 300 * MS)
        .read(200, 200, SECOND, |_| {})
        .proc(200, SECOND, |_| {});
    let snapshot = watch.tick(SECOND);
    let rows: Vec<_> = snapshot.processes[1..]
        .iter()
        .map(|p| {
            (
                p.pid,
                p.start_unix_ns - START_UNIX,
                p.exited.map(|e| e.code),
                p.cpu_ns,
            )
        })
        .collect();
    assert_eq!(
        rows,
        [
            (200, 100 * MS, Some(Some(1)), 100 * MS),
            (200, 300 * MS, None, 700 * MS)
        ]
    );
    assert_eq!(snapshot.processes[2].cmdline.len(), 2);
}

/// The kernel tells starts to the nanosecond, `/proc` to a tick.
#[test]
fn processes_of_one_id_may_start_in_the_same_tick() {
    let mut watch = Fixture::new();
    watch.read(100, 100, 100 * MS, |_| {});
    for at in [300 * MS, 302 * MS, 304 * MS] {
        watch.fork(100, 200, 200, at).die(200, 200, at + MS);
        watch.exit(200, 200, at + MS, |exit| exit.last = true);
    }
    let snapshot = watch.tick(SECOND);
    let rows = snapshot.processes[1..].iter();
    let rows: Vec<_> = rows.map(|p| (p.pid, p.cpu_ns)).collect();
    assert_eq!(rows, [(200, MS); 3]);
}

#[test]
fn a_late_reading_of_an_old_thread_belongs_to_the_old_process() {
    let mut watch = Fixture::new();
    watch
        .read(100, 100, MS, |_| {})
        .fork(100, 200, 200, 100 * MS);
    watch
        .exit(200, 200, 200 * MS, |exit| exit.last = true)
        .die(200, 200, 200 * MS);
    watch
        .fork(100, 200, 200, 300 * MS)
        .read(200, 200, SECOND, |_| {});
    // A second thread of the first process, of which nothing was seen before.
    watch.read(200, 201, SECOND, |fact| {
        (fact.start_boottime_ns, fact.start_ns) = (boot(START + 150 * MS), START + 150 * MS);
        fact.since_ns = START + 200 * MS;
        (fact.on_cpu_ns, fact.state) = (50 * MS, ThreadState::Dead);
    });
    let snapshot = watch.tick(SECOND);
    let rows = snapshot.processes[1..].iter();
    let rows: Vec<_> = rows.map(|p| (p.threads.len(), p.cpu_ns)).collect();
    assert_eq!(rows, [(2, 150 * MS), (1, 700 * MS)]);
}

#[test]
fn how_a_process_ended() {
    // Leader's status, then the last thread's: as a group, or on its own.
    for (leader, last, group, want) in [
        (3 << 8, 0, false, (Some(3), None)),
        (0, 9, true, (None, Some(9))),
        (15, 7 << 8, true, (Some(7), None)),
    ] {
        let mut watch = Fixture::new();
        watch.read(100, 100, MS, |_| {}).fork(100, 100, 101, MS);
        assert!(watch.tick(2 * MS).processes[0].exited.is_none());
        watch
            .exit(100, 100, 3 * MS, |exit| exit.status = leader)
            .die(100, 100, 3 * MS);
        watch.exit(100, 101, 4 * MS, |exit| {
            (exit.status, exit.last, exit.group) = (last, true, group);
        });
        watch.die(100, 101, 4 * MS);
        let exited = watch.tick(SECOND).processes[0].exited.expect("it ended");
        assert_eq!((exited.code, exited.signal), want);
        assert!(watch.tick(2 * SECOND).processes.is_empty());
        assert!(watch.model.summary().processes[0].exited.is_some());
    }
}

#[test]
fn the_last_exit_may_be_lost_if_another_told_how_the_process_ended() {
    let mut watch = Fixture::new();
    watch
        .read(100, 100, MS, |_| {})
        .fork(100, 100, 101, MS)
        .tick(2 * MS);
    watch.exit(100, 101, 3 * MS, |exit| {
        (exit.status, exit.group) = (9, true)
    });
    watch.die(100, 101, 3 * MS).die(100, 100, 3 * MS);
    for at in 1..5 {
        watch.tick(at * SECOND);
    }
    let exited = watch.model.summary().processes[0].exited.expect("it ended");
    assert_eq!((exited.code, exited.signal), (None, Some(9)));
}

/// An exec by a thread that is not the first: it takes over the first one's id, and keeps its account.
#[test]
fn an_exec_by_another_thread_makes_no_other_process_of_it() {
    let mut watch = Fixture::new();
    watch
        .fork(100, 200, 200, 10 * MS)
        .fork(200, 200, 207, 20 * MS);
    let began = |fact: &mut LedgerFact, at| {
        fact.start_boottime_ns = START_BOOT + at;
        (fact.start_ns, fact.since_ns) = (START + at, START + at);
    };
    watch
        .read(200, 200, SECOND, |fact| began(fact, 10 * MS))
        .read(200, 207, SECOND, |fact| began(fact, 20 * MS));
    let snapshot = watch.tick(SECOND);
    assert_eq!(process(&snapshot, 200).threads.len(), 2);
    let at = SECOND + 100 * MS;
    watch.exit(200, 200, at, |exit| {
        exit.start_boottime_ns = START_BOOT + 10 * MS;
    });
    watch.apply(Event::Exec(Exec {
        at_ns: START + at,
        pid: Pid(200),
        comm: "other".into(),
    }));
    watch.read(200, 200, 2 * SECOND, |fact| began(fact, 20 * MS));
    let snapshot = watch.tick(2 * SECOND);
    let rows = snapshot.processes.iter().filter(|row| row.pid == 200);
    assert_eq!(rows.count(), 1);
    let row = process(&snapshot, 200);
    assert_eq!((row.name.as_str(), row.exited.is_none()), ("other", true));
    let alive: Vec<u32> = row
        .threads
        .iter()
        .filter(|thread| thread.alive)
        .map(|thread| thread.tid)
        .collect();
    assert_eq!(alive, [200]);
    // The thread that it was is not there a second time.
    assert!(row.threads.iter().all(|thread| thread.tid == 200));
}

#[test]
fn a_child_that_dies_before_proc_is_read_still_has_a_row() {
    let mut watch = Fixture::new();
    watch
        .read(100, 100, SECOND, |_| {})
        .fork(100, 200, 200, 10 * MS);
    watch.apply(Event::Exec(Exec {
        at_ns: START + 11 * MS,
        pid: Pid(200),
        comm: "true".into(),
    }));
    watch
        .exit(200, 200, 20 * MS, |exit| exit.last = true)
        .die(200, 200, 20 * MS);
    let snapshot = watch.tick(SECOND);
    let child = process(&snapshot, 200);
    assert_eq!(
        (child.name.as_str(), child.ppid, child.cpu_ns),
        ("true", 100, 10 * MS)
    );
    assert_eq!(child.start_unix_ns, START_UNIX + 10 * MS);
    assert_eq!(child.cpu_percent, 100.0);
    assert!(child.cmdline.is_empty());
    for field in ["cmdline", "entry", "rss_bytes", "threads_count"] {
        assert!(has_limit(&child.limits, field), "{field}");
    }
}

#[test]
fn gauges_are_the_last_known_after_the_end() {
    let mut watch = Fixture::new();
    watch.read(100, 100, SECOND, |_| {});
    watch.proc(100, SECOND, |fact| fact.children = 4);
    assert_eq!(watch.tick(SECOND).processes[0].children_count, Some(4));
    // A living process that cannot be read has none.
    watch.read(100, 100, 2 * SECOND, |_| {});
    watch.proc(100, 2 * SECOND, |fact| fact.fds = None);
    let snapshot = watch.tick(2 * SECOND);
    assert_eq!(snapshot.processes[0].fds_count, None);
    assert!(has_limit(&snapshot.processes[0].limits, "fds_count"));
    // A zombie uses nothing, but that is not what it used.
    watch
        .exit(100, 100, 3 * SECOND, |exit| exit.last = true)
        .die(100, 100, 3 * SECOND);
    watch.proc(100, 3 * SECOND, |fact| {
        (fact.zombie, fact.rss_bytes, fact.fds) = (true, Some(0), None);
        fact.cmdline.clear();
    });
    let snapshot = watch.tick(3 * SECOND);
    let last = &snapshot.processes[0];
    assert_eq!((last.rss_bytes, last.fds_count), (Some(1 << 20), Some(3)));
    assert_eq!(last.cmdline, ["python3", "app.py"]);
    assert_eq!(last.entry.as_deref(), Some("app.py"));
}

#[test]
fn another_program_has_another_command_line() {
    let exec = |at| {
        Event::Exec(Exec {
            at_ns: START + at,
            pid: Pid(100),
            comm: "sh".into(),
        })
    };
    let mut watch = Fixture::new();
    watch
        .read(100, 100, SECOND, |_| {})
        .proc(100, SECOND, |_| {})
        .look(100, SECOND, |_| {});
    // One that /proc and the interpreter were read after changes nothing.
    watch.apply(exec(SECOND - 1));
    let snapshot = watch.tick(SECOND);
    assert_eq!(snapshot.processes[0].name, "python3");
    assert!(snapshot.processes[0].python.is_some());
    watch
        .apply(exec(SECOND + 1))
        .read(100, 100, 2 * SECOND, |_| {});
    let snapshot = watch.tick(2 * SECOND);
    let process = &snapshot.processes[0];
    assert_eq!((process.name.as_str(), process.cmdline.len()), ("sh", 0));
    assert!(process.python.is_none());
    assert!(has_limit(&process.limits, "cmdline"));
    watch
        .read(100, 100, 3 * SECOND, |_| {})
        .proc(100, 3 * SECOND, |fact| fact.entry = None);
    assert_eq!(watch.tick(3 * SECOND).processes[0].cmdline.len(), 2);
}

#[test]
fn a_process_whose_exit_was_lost_ends_all_the_same() {
    let mut watch = Fixture::new();
    watch
        .read(100, 100, SECOND, |_| {})
        .proc(100, SECOND, |_| {})
        .tick(SECOND);
    watch.die(100, 100, 2 * SECOND);
    let mut shown = 0;
    for at in 2..6 {
        if let Some(process) = watch.tick(at * SECOND).processes.first() {
            shown += 1;
            assert_eq!(
                process.exited.is_some(),
                has_limit(&process.limits, "exited")
            );
        }
    }
    assert!((1..4).contains(&shown), "shown in {shown} windows");
    let summary = watch.model.summary();
    let exited = summary.processes[0].exited.expect("it ended");
    assert_eq!((exited.code, exited.signal), (None, None));
}

#[test]
fn what_the_kernel_folded_is_counted_once() {
    for exit_seen in [true, false] {
        folded_once(exit_seen);
    }
}

fn folded_once(exit_seen: bool) {
    let mut watch = Fixture::new();
    watch.read(100, 100, SECOND, |_| {});
    watch.fork(100, 100, 101, 0).read(100, 101, SECOND, |_| {});
    assert_eq!(watch.tick(SECOND).processes[0].cpu_ns, SECOND);
    // 101 ran for 1.5 s and was folded when it ended, and so was 102, which ran for 200 ms.
    if exit_seen {
        watch.exit(100, 101, 1_500 * MS, |_| {});
    }
    watch
        .fork(100, 100, 102, 1_500 * MS)
        .exit(100, 102, 1_700 * MS, |_| {});
    let folded = |at: u64, on_cpu_ns: u64| {
        Event::Ledger(Box::new(LedgerFact {
            read_ns: START + at,
            folded: true,
            start_ns: 0,
            since_ns: on_cpu_ns,
            on_cpu_ns,
            ..ledger(100, 0)
        }))
    };
    watch
        .apply(folded(2 * SECOND, 1_700 * MS))
        .read(100, 100, 2 * SECOND, |_| {});
    let snapshot = watch.tick(2 * SECOND);
    let process = &snapshot.processes[0];
    assert_eq!(
        (process.cpu_ns, process.ended.ledger.on_cpu_ns),
        (700 * MS, 700 * MS)
    );
    let gone = &process.threads[1];
    assert!(!gone.alive && has_limit(&gone.limits, "wall_ns"));
    assert_eq!(gone.ledger.wall_ns, 0);
    for at in 3..7 {
        watch
            .apply(folded(at * SECOND, 1_700 * MS))
            .read(100, 100, at * SECOND, |_| {});
        let snapshot = watch.tick(at * SECOND);
        assert_eq!(snapshot.processes[0].cpu_ns, 0);
    }
    let summary = watch.model.summary();
    let process = &summary.processes[0];
    assert_eq!((process.cpu_ns, process.ended.threads), (1_700 * MS, 1));
    let rows: u64 = process
        .threads
        .iter()
        .map(|thread| thread.ledger.on_cpu_ns)
        .sum();
    assert_eq!((rows, process.ended.ledger.wall_ns), (SECOND, 700 * MS));
}

#[test]
fn ended_threads_without_an_account_are_named() {
    let mut watch = Fixture::new();
    watch.read(100, 100, SECOND, |_| {});
    watch.fork(100, 100, 101, MS).exit(100, 101, 2 * MS, |_| {});
    watch.tick(SECOND);
    for at in 2..5 {
        watch.read(100, 100, at * SECOND, |_| {}).tick(at * SECOND);
    }
    let summary = watch.model.summary();
    let process = &summary.processes[0];
    assert_eq!((process.threads.len(), process.ended.threads), (1, 1));
    assert!(has_limit(&process.limits, "ended.ledger"));
}

#[test]
fn a_thread_of_which_nothing_comes_any_more_is_given_up_and_taken_back() {
    let mut watch = Fixture::new();
    watch
        .read(100, 100, MS, |_| {})
        .fork(100, 100, 101, 0)
        .read(100, 101, SECOND, |_| {});
    watch.tick(SECOND);
    let mut windows = 1;
    while watch
        .read(100, 100, windows * SECOND, |_| {})
        .tick(windows * SECOND)
        .processes[0]
        .threads
        .len()
        == 2
    {
        windows += 1;
        assert!(windows < 30, "never given up");
    }
    assert!(windows > 5, "given up after {windows} windows");
    windows += 1;
    watch.read(100, 101, windows * SECOND, |_| {});
    let snapshot = watch.tick(windows * SECOND);
    let thread = snapshot.processes[0]
        .threads
        .iter()
        .find(|thread| thread.tid == 101);
    let thread = thread.expect("it is back");
    assert!(thread.alive);
    assert_eq!(thread.ledger.wall_ns, (windows - 1) * SECOND);
}
