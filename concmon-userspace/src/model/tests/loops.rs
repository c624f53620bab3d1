//! Event loops and their tasks.

use std::sync::Arc;

use crate::event::*;
use crate::model::testing::*;
use crate::schema::{Address, Loop, Snapshot};

fn only_loop(snapshot: &Snapshot) -> &Loop {
    let loops = &snapshot.processes[0].loops;
    assert_eq!(loops.len(), 1);
    &loops[0]
}

/// The main thread polls for `poll` ms of a window of a second, and computes for the rest.
fn second(watch: &mut Fixture, window: u64, poll: u64) {
    watch.read(100, 100, window * SECOND, |fact| {
        fact.since_ns = fact.read_ns;
        fact.blocked_ns[Cause::Poll as usize] += poll * MS;
        fact.on_cpu_ns += (1_000 - poll) * MS;
    });
}

#[test]
fn idle_and_busy_from_the_first_tick_on() {
    let mut watch = Fixture::new();
    let mut sum = (0, 0, 0);
    for (window, poll) in [(1, 900), (2, 250), (3, 1_000)] {
        second(&mut watch, window, poll);
        watch.look(100, window * SECOND, |look| {
            look.loops = vec![py_loop(100, 7), py_loop(100, 7)]
        });
        let snapshot = watch.tick(window * SECOND);
        let row = only_loop(&snapshot);
        assert_eq!((row.wall_ns, row.idle_ns), (SECOND, poll * MS));
        assert_eq!(row.utilization, (1_000 - poll) as f64 / 1_000.0);
        assert_eq!(
            (row.kind.name(), row.running, row.tid),
            ("asyncio", true, 100)
        );
        assert_eq!(
            (row.ready, row.scheduled, row.pending_tasks),
            (Some(1), Some(2), Some(0))
        );
        assert!(!has_limit(&row.limits, "wall_ns"), "{:?}", row.limits);
        sum = (
            sum.0 + row.wall_ns,
            sum.1 + row.idle_ns,
            sum.2 + row.busy_ns,
        );
    }
    let summary = watch.model.summary();
    let row = only_loop(&summary);
    assert_eq!((row.wall_ns, row.idle_ns, row.busy_ns), sum);
}

#[test]
fn a_loop_counts_while_looks_find_it() {
    let mut watch = Fixture::new();
    let wall = |watch: &mut Fixture, window: u64, found: bool| {
        second(watch, window, 500);
        watch.look(100, window * SECOND, |look| {
            if found {
                look.loops = vec![py_loop(100, 7)];
            }
        });
        let snapshot = watch.tick(window * SECOND);
        let row = snapshot.processes[0].loops.first();
        row.map(|row| {
            (
                row.running,
                row.wall_ns / SECOND,
                has_limit(&row.limits, "wall_ns"),
            )
        })
    };
    assert_eq!(wall(&mut watch, 1, false), None);
    // It appears within a window that began without it.
    assert_eq!(wall(&mut watch, 2, true), Some((true, 0, true)));
    assert_eq!(wall(&mut watch, 3, true), Some((true, 1, false)));
    assert_eq!(wall(&mut watch, 4, false), Some((false, 0, true)));
    assert_eq!(wall(&mut watch, 5, false), None);
    assert_eq!(wall(&mut watch, 6, true), Some((true, 0, true)));
    assert_eq!(wall(&mut watch, 7, true), Some((true, 1, false)));
    let summary = watch.model.summary();
    assert_eq!(only_loop(&summary).wall_ns, 2 * SECOND);
    assert!(has_limit(&only_loop(&summary).limits, "wall_ns"));
}

#[test]
fn a_loop_ends_with_its_thread() {
    let mut watch = Fixture::new();
    second(&mut watch, 1, 500);
    watch
        .look(100, SECOND, |look| look.loops = vec![py_loop(100, 7)])
        .tick(SECOND);
    watch.die(100, 100, 1_200 * MS);
    let snapshot = watch.tick(2 * SECOND);
    let row = only_loop(&snapshot);
    assert_eq!(
        (row.running, row.wall_ns, row.busy_ns),
        (false, 200 * MS, 200 * MS)
    );
}

#[test]
fn loops_that_stopped_are_bounded_and_counted() {
    let mut watch = Fixture::new();
    for window in 1..=200 {
        second(&mut watch, window, 0);
        watch.look(100, window * SECOND, |look| {
            look.loops = vec![py_loop(100, window)]
        });
        let snapshot = watch.tick(window * SECOND);
        let rows = snapshot.processes[0].loops.len();
        assert!((1..=2).contains(&rows), "{rows}");
    }
    let summary = watch.model.summary();
    let rows = summary.processes[0].loops.len();
    assert!((64..=66).contains(&rows), "{rows}");
    let limits = &summary.processes[0].limits;
    let said = limits
        .iter()
        .find(|limit| limit.field == "loops")
        .expect("a limit");
    assert_eq!(
        said.reason,
        format!("{} loops that stopped are left out", 200 - rows)
    );
}

#[test]
fn tasks_are_known_by_address_and_name() {
    let mut watch = Fixture::new();
    for (window, name, state) in [
        (1, "Task-1", TaskState::Pending),
        (2, "Task-1", TaskState::Running),
        (3, "Task-9", TaskState::Pending),
        (4, "Task-9", TaskState::Done),
    ] {
        second(&mut watch, window, 0);
        watch.look(100, window * SECOND, |look| {
            look.loops = vec![py_loop(100, 7)];
            look.tasks = vec![
                PyTask {
                    state,
                    ..py_task(0xbeef, 7, name)
                },
                py_task(0xbeef, 8, "of another loop"),
            ];
        });
        let snapshot = watch.tick(window * SECOND);
        let row = only_loop(&snapshot);
        if window == 4 {
            assert_eq!((row.pending_tasks, row.tasks.len()), (Some(0), 1));
            assert_eq!(row.tasks[0].state.name(), "done");
            break;
        }
        assert_eq!((row.pending_tasks, row.tasks.len()), (Some(1), 1));
        let task = &row.tasks[0];
        assert_eq!((task.id, task.name.as_str()), (Address(0xbeef), name));
        assert_eq!(
            task.state.name(),
            if window == 2 { "running" } else { "pending" }
        );
        assert_eq!(task.age_ns(), Some(if window == 2 { SECOND } else { 0 }));
        assert_eq!(
            task.seen.map(|seen| seen.first_seen_unix_ns),
            Some(START_UNIX + if window == 3 { 3 } else { 1 } * SECOND)
        );
        assert_eq!(
            (task.awaiting[0].function.as_ref(), task.awaiting[0].line),
            ("serve", 7)
        );
    }
}

#[test]
fn what_cannot_be_read_of_a_loop_is_null_with_a_reason() {
    let mut watch = Fixture::new();
    second(&mut watch, 1, 0);
    watch.look(100, SECOND, |look| {
        look.loops = vec![PyLoop {
            ready: None,
            scheduled: None,
            stall_threshold_ns: None,
            ..py_loop(100, 7)
        }];
        look.limits = [
            (
                "loops.ready".to_owned(),
                "uvloop keeps it to itself".to_owned(),
            ),
            ("tasks".to_owned(), "the set was torn".to_owned()),
        ]
        .into();
    });
    let snapshot = watch.tick(SECOND);
    let row = only_loop(&snapshot);
    assert_eq!(
        (row.ready, row.scheduled, row.pending_tasks),
        (None, None, None)
    );
    for (field, want) in [
        ("ready", "uvloop keeps it to itself"),
        ("scheduled", "could not be read"),
        ("stall_threshold_ns", "could not be read"),
        ("pending_tasks", "the set was torn"),
        ("tasks", "the set was torn"),
    ] {
        let limit = row.limits.iter().find(|limit| limit.field == field);
        assert_eq!(limit.map(|limit| &*limit.reason), Some(want));
    }
}

/// A look that was cut short before it came to the loops does not say that they have stopped.
#[test]
fn a_loop_that_a_cut_look_lacks_goes_on() {
    for is_cut in [true, false] {
        let mut watch = Fixture::new();
        for window in 1..=2 {
            second(&mut watch, window, 500);
            watch.look(100, window * SECOND, |look| {
                if window == 1 {
                    look.loops = vec![py_loop(100, 7)];
                } else if is_cut {
                    look.limits = [("loops".to_owned(), "the look ended".to_owned())].into();
                }
            });
            let snapshot = watch.tick(window * SECOND);
            let row = only_loop(&snapshot);
            assert_eq!(row.running, window == 1 || is_cut, "{window}");
        }
    }
}

/// Where looks take long, not every window has one.
#[test]
fn a_window_without_a_look_shows_what_was_known() {
    let mut watch = Fixture::new();
    let mut shown = Vec::new();
    for window in 1..=4 {
        second(&mut watch, window, 500);
        if window != 3 {
            watch.look(100, window * SECOND, |look| {
                look.threads = vec![py_thread(100, "MainThread")];
                look.loops = vec![py_loop(100, 7)];
                look.tasks = vec![py_task(1, 7, "one"), py_task(2, 7, "two")];
            });
        }
        let snapshot = watch.tick(window * SECOND);
        let row = only_loop(&snapshot);
        assert_eq!((row.wall_ns, row.idle_ns), (SECOND, SECOND / 2), "{window}");
        assert!(
            row.running && !has_limit(&row.limits, "wall_ns"),
            "{window}"
        );
        let names: Vec<_> = row.tasks.iter().map(|task| task.name.clone()).collect();
        let thread = &snapshot.processes[0].threads[0];
        shown.push((row.pending_tasks, names, thread.name.clone()));
    }
    assert_eq!(shown[2], shown[1]);
    assert_eq!(shown[3], shown[1]);
    assert_eq!(shown[1].0, Some(2));
}

/// A task's wait is as old as looks in a row have found it the same, in the same place, without a sample of
/// it in between.
#[test]
fn waits_of_tasks_have_the_age_of_looks_in_a_row() {
    let mut watch = Fixture::new();
    let table = [
        // Window, object, line, sampled behind the look; since which window.
        (1, Some(5), 7, false, Some(1)),
        (2, Some(5), 7, true, Some(1)),
        (3, Some(5), 7, false, Some(3)),
        (4, Some(5), 7, false, Some(3)),
        (5, Some(6), 7, false, Some(5)),
        (6, Some(6), 8, false, Some(6)),
        (7, None, 8, false, None),
        (8, Some(6), 8, false, Some(8)),
    ];
    for (window, object, line, sampled, since) in table {
        second(&mut watch, window, 500);
        watch.look(100, window * SECOND - MS, |look| {
            look.loops = vec![py_loop(100, 7)];
            let mut task = py_task(1, 7, "waits");
            task.awaiting[0].line = line;
            task.waits_for = object.map(|object| TaskWait {
                kind: "Queue".into(),
                object: Some(object),
            });
            look.tasks = vec![task];
        });
        if sampled {
            let at = |ms: u64| START + window * SECOND - ms * MS;
            watch.apply(Event::Sample(Box::new(Sample {
                at_ns: at(350),
                pid: Pid(100),
                tid: Tid(100),
                kind: SampleKind::OnCpu,
                context_version: Some(9),
                iteration: None,
                collecting: false,
                code: None,
                coroutine: Some(1 ^ 0xc0),
                turns: None,
                creator: None,
                stack: Arc::new(SampledStack {
                    frames: py_task(1, 7, "waits").awaiting,
                    step_frames: 1,
                    in_loop: true,
                    truncated: false,
                }),
            })));
            watch.apply(Event::Slice(Slice {
                tid: Tid(100),
                cpu: 0,
                wait: None,
                in_ns: at(400),
                out_ns: at(300),
                on_cpu_ns: 100 * MS,
                voluntary: true,
            }));
        }
        let snapshot = watch.tick(window * SECOND);
        let task = &only_loop(&snapshot).tasks[0];
        let told = task.waits_for.as_ref().and_then(|wait| wait.since_unix_ns);
        let wanted = since.map(|window| START_UNIX + window * SECOND - MS);
        assert_eq!(told, wanted, "window {window}");
        let age_ns = since.map(|since| (window - since) * SECOND);
        assert_eq!(task.wait_ns(), age_ns, "window {window}");
    }
}
