//! What polls, and what only looks like it.

use super::*;

fn called(name: &str, samples: u64) -> crate::schema::Callback {
    crate::schema::Callback {
        name: name.into(),
        cost: Cost::default(),
        samples,
    }
}

/// What holds after twelve windows that all show the same look.
fn after_one_look(change: Change) -> Vec<Finding> {
    let mut story = Story::new();
    story.one_look = true;
    (0..12).fold(Vec::new(), |_, number| {
        story.window(|process, begin| change(process, begin, number))
    })
}

/// What polls is named with how often; who waits for a time that is worth it does not poll.
#[test]
fn tasks_poll_when_they_ask_often_for_next_to_no_time() {
    let found = after(|p, _, _| polling(p, MS, 940));
    assert_eq!(names(&found), ["busy-poll"]);
    assert_eq!(
        found[0].summary,
        "task Task-1 (app.serve) asks 940 times per second with asyncio.sleep(0.001): the event loop \
         is busy 10 %"
    );
    assert_eq!(found[0].severity, Severity::Info);
    assert_eq!(found[0].evidence["tasks"][0]["per_second"], 940);
    // The loop goes round for others: it asks once in the time that it waits.
    let found = after(|p, _, _| polling(p, 2 * MS, 5_000));
    assert_eq!(found[0].evidence["tasks"][0]["per_second"], 500);
    for change in [
        |p: &mut Process, _, _| polling(p, 10 * MS, 5_000),
        |p: &mut Process, _, _| polling(p, MS, 100),
        // Another task each time, as for each request.
        |p: &mut Process, _, number| {
            polling(p, MS, 940);
            p.loops[0].tasks[0].id = Address(number);
        },
        // Others of the same name, at the same address as often as not.
        |p: &mut Process, _, number| {
            polling(p, MS, 940);
            p.loops[0].tasks[0].name = "app.Sleep".into();
            p.loops[0].tasks.truncate(usize::from(number % 5 != 4));
        },
        // It waits for something else in between.
        |p: &mut Process, _, number: u64| {
            polling(p, MS, 940);
            if number % 2 == 1 {
                p.loops[0].tasks[0].timeout_ns = Some(SECOND);
            }
        },
    ] {
        assert_eq!(names(&after(change)), [""; 0]);
    }
}

/// What keeps a loop from waiting is told as that, and not as too much work; and the other way round.
#[test]
fn callbacks_are_named_as_what_they_are() {
    let timer = after(|p, _, _| ready(p, 50_000, &[("app.tick", None)]));
    assert_eq!(names(&timer), ["busy-poll"]);
    assert_eq!(timer[0].evidence["kind"], "callback");
    let spin = after(|p, _, _| ready(p, 50_000, &[("app.on_readable", Some(7))]));
    assert_eq!(spin[0].evidence["descriptor"], 7);
    assert_eq!(spin[0].evidence["per_second"], 50_000);
    // A loop that does not tell what is ready, but what it watches.
    fn watching(p: &mut Process, number: u32) {
        ready(p, 50_000, &[("app.on_readable", Some(number))]);
        let row = &mut p.loops[0];
        row.watched = std::mem::take(&mut row.queue);
        let timing = row.timing.as_mut().expect("a timing");
        (timing.iterations, timing.by_name[0].samples) = (None, 0);
        timing.callbacks = vec![crate::schema::Callback {
            name: "on_readable".into(),
            cost: Cost::default(),
            samples: 9,
        }];
    }
    let polled = after(|p, _, _| watching(p, 7));
    assert_eq!(names(&polled), ["busy-poll"]);
    assert_eq!(polled[0].evidence["descriptor"], 7);
    let with_work = after(|p, _, _| {
        watching(p, 7);
        p.loops[0].timing.as_mut().expect("a timing").iterations = Some(5_000);
    });
    assert_eq!(names(&with_work), ["loop-saturated"]);
    let among_others = after(|p, _, _| {
        watching(p, 7);
        p.loops[0].timing.as_mut().expect("a timing").by_name[0].samples = 9;
    });
    assert_eq!(names(&among_others), ["loop-saturated"]);
    // A connection that has data all the time, and a callback that takes most of it to handle them.
    const READ: &str = "asyncio.selector_events._SelectorSocketTransport._read_ready";
    let server = after(|p, _, _| ready(p, 50_000, &[(READ, Some(7))]));
    assert_eq!(names(&server), ["loop-saturated"]);
    let worker = after(|p, _, _| {
        ready(p, 5_000, &[("app.on_readable", Some(7))]);
        let timing = p.loops[0].timing.as_mut().expect("a timing");
        timing.unknown_ns = 100 * MS;
        timing.callbacks = vec![crate::schema::Callback {
            name: "on_readable".into(),
            cost: Cost {
                on_cpu_ns: 792 * MS,
                ..Cost::default()
            },
            samples: 79,
        }];
    });
    assert_eq!(names(&worker), ["loop-saturated"]);
    assert!(
        worker[0]
            .summary
            .ends_with(": on_readable 80 %, app.serve 0 %")
    );
    assert_eq!(worker[0].evidence["top"][0], "on_readable");
    assert_eq!(worker[0].evidence["shares"][0]["kind"], "callback");
}

/// Frameworks let go of the loop with `sleep(0)` for each request: other tasks stand in it each time.
#[test]
fn tasks_that_do_not_live_long_do_not_spin() {
    let served = |process: &mut Process, _, number: u64| {
        sleeping_zero(process, 50_000);
        process.loops[0].tasks[0].id = Address(number);
    };
    assert_eq!(names(&after(served)), ["loop-saturated"]);
}

/// A task that computes in parts and lets others run in between does not poll, long parts or short.
#[test]
fn computing_in_parts_is_no_polling() {
    let parts = after(|p, _, _| {
        sleeping_zero(p, MS);
        p.loops[0].timing.as_mut().expect("a timing").iterations = Some(1_000);
    });
    assert_eq!(names(&parts), ["loop-saturated"]);
    // Nor does it while it is not met there.
    let seldom = after(|p, _, number| {
        sleeping_zero(p, MS);
        p.loops[0].timing.as_mut().expect("a timing").iterations = Some(1_000);
        if number > 3 {
            p.loops[0].tasks[0].awaiting.pop();
        }
    });
    assert_eq!(names(&seldom), ["loop-saturated"]);
}

/// A host that is busy shows a task that spins in its step as often as between two.
#[test]
fn a_task_that_is_met_in_its_step_spins_on() {
    fn met_running(p: &mut Process, _: u64, number: u64) {
        sleeping_zero(p, 50_000);
        if !number.is_multiple_of(3) {
            let task = &mut p.loops[0].tasks[0];
            task.awaiting.pop();
            (task.state, task.timeout_ns) = (TaskState::Running, None);
        }
    }
    assert_eq!(names(&after(met_running)), ["sleep-zero-spin"]);
    // It has gone on to something else.
    let over = after(|p, begin, number| {
        met_running(p, begin, if number < 4 { 0 } else { 1 });
    });
    assert_eq!(names(&over), ["loop-saturated"]);
}

/// What it waits for is known from when it was met waiting.
#[test]
fn a_poller_that_is_met_in_its_step_keeps_its_rate() {
    fn met_running(p: &mut Process, timeout_ns: u64, number: u64) {
        polling(p, timeout_ns, 5_000);
        if number % 2 == 1 {
            let task = &mut p.loops[0].tasks[0];
            (task.state, task.timeout_ns) = (TaskState::Running, None);
        }
    }
    let found = after(|p, _, number| met_running(p, 2 * MS, number));
    assert_eq!(names(&found), ["busy-poll"]);
    let task = &found[0].evidence["tasks"][0];
    assert_eq!(
        (&task["per_second"], &task["timeout_ns"]),
        (&500.into(), &(2 * MS).into())
    );
    assert!(found[0].summary.contains("asyncio.sleep(0.002)"));
    // It is known from when it was met in its step, and not by one wait alone.
    for (waits, expected) in [(1, 0), (2, 1)] {
        let mut story = Story::new();
        let mut found = Vec::new();
        for number in 0..6 {
            found = story.window(|p, _| {
                met_running(p, MS, u64::from(!(2..2 + waits).contains(&number)));
            });
        }
        assert_eq!(found.len(), expected);
    }
    // One that never waits is why the loop does not.
    let found = after(|p, _, number| {
        met_running(p, 0, number);
        busy(p, 990);
    });
    assert_eq!(names(&found), ["busy-poll"]);
}

/// Windows show a look until there is another.
#[test]
fn one_look_is_one_sighting() {
    let changes: [Change; 3] = [
        |p, _, _| polling(p, MS, 940),
        |p, _, _| ready(p, 50_000, &[("app.on_readable", Some(7))]),
        |p, _, _| sleeping_zero(p, 50_000),
    ];
    for change in changes {
        let found = names(&after_one_look(change));
        assert!(matches!(found[..], [] | ["loop-saturated"]), "{found:?}");
        assert!(!matches!(
            names(&after(change))[..],
            [] | ["loop-saturated"]
        ));
    }
}

/// Other threads make the loop call what they hand over, and read its own pipe.
#[test]
fn work_of_other_threads_is_no_timer() {
    const READ: &str = "asyncio.selector_events.BaseSelectorEventLoop._read_from_self";
    const PUT: &str = "asyncio.queues.Queue.put_nowait";
    fn fed(p: &mut Process, queue: &[(&str, Option<u32>)], others: u64) {
        ready(p, 50_000, queue);
        let timing = p.loops[0].timing.as_mut().expect("a timing");
        timing.by_name[0].samples = others;
        timing.callbacks = vec![called(READ, 20)];
    }
    let changes: [Change; 5] = [
        |p, _, _| fed(p, &[(PUT, None), (READ, Some(5))], 30),
        |p, _, _| fed(p, &[(READ, Some(5))], 3),
        |p, _, _| fed(p, &[("app.handle", None)], 30),
        |p, _, _| ready(p, 50_000, &[(PUT, None)]),
        |p, _, _| {
            const DONE: &str = "asyncio.futures._set_result_unless_cancelled";
            const ACCEPT: &str = "asyncio.selector_events.BaseSelectorEventLoop._accept_connection";
            ready(p, 50_000, &[(DONE, None), (ACCEPT, Some(6))]);
        },
    ];
    for change in changes {
        assert_eq!(names(&after(change)), ["loop-saturated"]);
    }
    // The pipe is at its end: next to nothing else is called.
    let found = after(|p, _, _| fed(p, &[(READ, Some(5))], 1));
    assert_eq!(names(&found), ["busy-poll"]);
    assert_eq!(found[0].evidence["descriptor"], 5);
}

/// A program that runs one loop after the other in a thread has several rows of it.
#[test]
fn what_is_ready_is_kept_once() {
    let mut history = History::default();
    let mut snapshot = quiet();
    for second in 0..40 {
        let process = &mut snapshot.processes[0];
        process.loops.truncate(1);
        process.loops[0].running = true;
        ready(process, 50_000, &[("app.tick", None), ("app.tick", None)]);
        if second > 0 {
            process.loops[0].queue.clear();
        }
        process.loops[0].queue_read_unix_ns = Some(second * SECOND);
        process.loops = vec![process.loops[0].clone(); 3];
        process.loops[0].running = false;
        history.add(process, snapshot.window);
        let tid = snapshot.processes[0].loops[0].tid;
        let kept = history.always_ready(tid);
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0].sighted.known_ns(), second * SECOND);
        assert_eq!(kept[0].sighted.count, 1);
    }
    // However many there are.
    let process = &mut snapshot.processes[0];
    process.loops.truncate(1);
    process.loops[0].running = true;
    let calls: Vec<String> = (0..1_000)
        .map(|number| format!("app.tick{number}"))
        .collect();
    let calls: Vec<_> = calls.iter().map(|call| (call.as_str(), None)).collect();
    ready(process, 50_000, &calls);
    process.loops[0].queue_read_unix_ns = Some(100 * SECOND);
    process.loops = (0..1_000)
        .map(|tid| Loop {
            tid,
            ..process.loops[0].clone()
        })
        .collect();
    history.add(process, snapshot.window);
    let kept: usize = (0..1_000).map(|tid| history.always_ready(tid).len()).sum();
    assert!((64..=10_000).contains(&kept), "{kept}");
}
