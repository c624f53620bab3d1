//! What stands still is told in one word, and reported as if all of it had been read again.

use crate::event::*;
use crate::model::testing::*;
use crate::schema;

const PID: u32 = 100;

fn gil(at: u64, samples: u64) -> PyGil {
    PyGil {
        read_ns: START + at,
        address: 0x1000,
        cond: 0x1010,
        locked: false,
        last_holder: Some(Tid(PID)),
        switches: 7,
        samples,
        locked_samples: samples / 4,
    }
}

fn frame(function: &str, file: &str) -> PyFrame {
    PyFrame {
        function: function.into(),
        file: file.into(),
        line: 1,
    }
}

/// All that can be read of a process whose threads all wait, by a clock that reads `at`.
fn read(watch: &mut Fixture, at: u64) {
    for (tid, cause) in [(100, Cause::Poll), (101, Cause::Lock), (102, Cause::Sleep)] {
        watch.read(PID, tid, at, |fact| {
            fact.state = ThreadState::Blocked(cause);
        });
    }
    watch.proc(PID, at, |_| {});
    watch.look(PID, SECOND / 2, |look| {
        look.read_ns = START + at;
        look.gils = vec![gil(at, at / MS)];
        look.threads = vec![
            PyThread {
                stack: vec![
                    frame("select", "/lib/selectors.py"),
                    frame("BaseEventLoop._run_once", "/lib/asyncio/base_events.py"),
                ],
                ..py_thread(100, "MainThread")
            },
            PyThread {
                waiting_for: Some(PyWait {
                    kind: WaitKind::Lock,
                    purpose: WaitPurpose::Contended,
                    object: Some(0x77),
                    owner: Some(Tid(102)),
                    futex: 0x78,
                    at_statement: false,
                    holders: Vec::new(),
                    inferred: false,
                    owner_gone: false,
                }),
                ..py_thread(101, "Thread-1")
            },
            py_thread(102, "Thread-2"),
        ];
        look.loops = vec![PyLoop {
            queue: Some(PyQueue {
                read_ns: START + SECOND / 2,
                ready: vec![PyReady {
                    function: Some("app.tick".into()),
                    task: None,
                    descriptor: None,
                }],
                watched: Vec::new(),
            }),
            ..py_loop(100, 1)
        }];
        look.tasks = vec![PyTask {
            waits_for: Some(TaskWait {
                kind: "sleep".into(),
                object: Some(5),
            }),
            ..py_task(0x10, 1, "serve")
        }];
        look.gc = Some(PyGc {
            generations: vec![PyGeneration {
                collections: 3,
                collected: 9,
                uncollectable: 0,
            }],
            ..PyGc::default()
        });
    });
}

fn still(watch: &mut Fixture, at: u64) {
    watch.apply(Event::Still(Box::new(StillFact {
        read_ns: START + at,
        pid: Pid(PID),
        gils: vec![gil(at, at / MS)],
    })));
}

#[test]
fn one_word_is_as_good_as_all_readings() {
    let (mut told, mut all) = (Fixture::new(), Fixture::new());
    for second in 1..=8 {
        let at = second * SECOND;
        read(&mut all, at);
        match second {
            // It has run in between.
            1 | 5 => read(&mut told, at),
            _ => still(&mut told, at),
        }
        let windows = [&mut told, &mut all].map(|watch| {
            let window = watch.tick(at);
            serde_json::to_value(window).expect("it is a line")
        });
        assert_eq!(windows[0], windows[1], "in second {second}");
        let threads = &windows[0]["processes"][0]["threads"];
        assert_eq!(threads[1]["wall_ns"], SECOND, "in second {second}");
    }
    let summaries = [told, all].map(|watch| {
        let summary = watch.model.summary();
        assert_lawful(&summary);
        serde_json::to_value(summary).expect("it is a line")
    });
    assert_eq!(summaries[0], summaries[1]);
    let first = &summaries[0]["processes"][0];
    assert_eq!(first["loops"][0]["idle_ns"], 8 * SECOND);
    assert!(first["gil"]["held_ns"].as_u64() > Some(SECOND));
    assert!(first["loops"][0]["missed_wakeup"].is_object());
}

/// A second of a watch whose windows are given back; `change` is made to the row before it is.
fn next(watch: &mut Fixture, at: u64, change: impl Fn(&mut schema::Process)) -> serde_json::Value {
    watch.apply(Event::Tick(Tick {
        at_ns: START + at,
        unix_ns: START_UNIX + at,
    }));
    let mut window = watch.model.next_snapshot();
    assert_lawful(&window);
    let line = serde_json::to_value(&window).expect("it is a line");
    change(&mut window.processes[0]);
    watch.model.give_back(window);
    line
}

#[test]
fn rows_that_are_taken_up_again_are_as_good_as_new_ones() {
    let (mut kept, mut new) = (Fixture::new(), Fixture::new());
    for second in 1..=10 {
        let at = second * SECOND;
        for watch in [&mut kept, &mut new] {
            match second {
                1 | 5 => read(watch, at),
                _ => still(watch, at),
            }
            // Its memory was read, and nothing else.
            if second == 8 {
                watch.proc(PID, at, |fact| fact.rss_bytes = Some(4_711));
            }
        }
        let line = next(&mut kept, at, |_| {});
        let whole = serde_json::to_value(new.tick(at)).expect("it is a line");
        assert_eq!(line, whole, "in second {second}");
    }
}

#[test]
fn only_who_has_stood_still_for_two_windows_has_the_row_of_the_first() {
    let mut watch = Fixture::new();
    let mut marked = Vec::new();
    for second in 1..=14 {
        let at = second * SECOND;
        match second {
            1 | 5 => read(&mut watch, at),
            _ => still(&mut watch, at),
        }
        match second {
            // Whatever else comes of it, or is lost, its row is made anew.
            8 => {
                watch.proc(PID, at, |_| {});
            }
            12 => {
                watch.apply(Event::Loss(Loss {
                    cpu: 0,
                    records: 1,
                    from_ns: START + at - SECOND,
                    to_ns: START + at,
                }));
            }
            _ => {}
        }
        let line = next(&mut watch, at, |row| row.name = "marked".into());
        if line["processes"][0]["name"] == "marked" {
            marked.push(second);
        }
    }
    assert_eq!(marked, [3, 4, 7, 10, 11, 14]);
}
