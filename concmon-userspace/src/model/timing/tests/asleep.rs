//! Work that is ready while its loop sleeps: told when it is sure, and never of a loop that is woken.

use crate::event::{
    Cause, Event, LoopKind, PyFrame, PyQueue, PyReady, PythonFact, Slice, ThreadState, Tid, Wait,
};
use crate::model::testing::{Fixture, MS, SECOND, START, START_UNIX, py_loop, py_task, py_thread};
use crate::schema::{MissedWakeup, Snapshot};

const TID: u32 = 100;
const LOOP: u64 = 7;

fn frame(function: &str, file: &str) -> PyFrame {
    PyFrame {
        function: function.into(),
        file: file.into(),
        line: 1,
    }
}

/// A look that finds the step of a task in the queue of a loop that seems to sleep.
fn ready(look: &mut PythonFact) {
    let mut thread = py_thread(TID, "MainThread");
    thread.stack = vec![
        frame("EpollSelector.select", "/usr/lib/python3.13/selectors.py"),
        frame(
            "BaseEventLoop._run_once",
            "/usr/lib/python3.13/asyncio/base_events.py",
        ),
    ];
    look.threads = vec![thread, py_thread(101, "worker")];
    let mut one = py_loop(TID, LOOP);
    one.queue = Some(PyQueue {
        read_ns: look.read_ns + MS,
        ready: vec![PyReady {
            function: None,
            task: Some(1),
            descriptor: None,
        }],
        watched: Vec::new(),
    });
    look.loops = vec![one];
    look.tasks = vec![py_task(1, LOOP, "consumer")];
}

/// The loop's thread is blocked in its selector since 0.1 s; a look at 0.9 s, and the ledger at `read`.
struct Watch {
    watch: Fixture,
}

impl Watch {
    fn new() -> Self {
        let mut watch = Fixture::new();
        watch.proc(100, 0, |_| {});
        Watch { watch }
    }

    fn ledger(&mut self, at: u64, since: u64, state: ThreadState) {
        self.watch.read(100, TID, at, |fact| {
            (fact.state, fact.since_ns) = (state, START + since);
        });
    }

    fn look(&mut self, at: u64, change: impl FnOnce(&mut PythonFact)) {
        self.watch.look(100, at, |look| {
            ready(look);
            change(look);
        });
    }

    /// The thread is blocked from `off` to `wake`, then runs for a moment.
    fn slice(&mut self, off: u64, wake: u64, queue: bool) {
        self.watch.apply(Event::Slice(Slice {
            tid: Tid(TID),
            cpu: 0,
            wait: Some(Wait {
                off_ns: START + off,
                wake_ns: Some(START + wake),
                cause: Some(Cause::Poll),
                queue,
                arg0: 0,
                waker: None,
            }),
            in_ns: START + wake,
            out_ns: START + wake + MS,
            on_cpu_ns: MS,
            voluntary: true,
        }));
    }

    fn tick(&mut self, at: u64) -> Option<MissedWakeup> {
        missed(&self.watch.tick(at))
    }
}

fn missed(snapshot: &Snapshot) -> Option<MissedWakeup> {
    snapshot.processes[0].loops[0].missed_wakeup.clone()
}

const POLL: ThreadState = ThreadState::Blocked(Cause::Poll);

#[test]
fn a_loop_that_sleeps_on_has_missed_its_wakeup() {
    let mut watch = Watch::new();
    watch.ledger(SECOND, 100 * MS, POLL);
    watch.look(900 * MS, |_| {});
    let found = watch.tick(SECOND).expect("a missed wakeup");
    assert_eq!(
        (found.since_unix_ns, found.asleep_ns),
        (START_UNIX + 901 * MS, 99 * MS)
    );
    assert_eq!(found.ready[0].function.as_deref(), Some("app.serve"));
    assert_eq!(
        found.ready[0].task.as_ref().map(|task| &*task.name),
        Some("consumer")
    );
    // It goes on, is given out again, and is one.
    watch.ledger(2 * SECOND, 100 * MS, POLL);
    watch.look(2 * SECOND, |look| {
        look.loops[0].queue.as_mut().expect("a queue").read_ns = START + 901 * MS;
    });
    let found = watch.tick(2 * SECOND).expect("it sleeps still");
    assert_eq!((found.asleep_ns, found.count), (1_099 * MS, 1));
    // It wakes: the slice says when.
    watch.slice(100 * MS, 2_500 * MS, true);
    watch.ledger(3 * SECOND, 2_501 * MS, POLL);
    let found = watch.tick(3 * SECOND).expect("it has slept");
    assert_eq!(found.asleep_ns, 1_599 * MS);
    watch.ledger(4 * SECOND, 2_501 * MS, POLL);
    assert_eq!(watch.tick(4 * SECOND), None);
    let summary = missed(&watch.watch.model.summary()).expect("it was seen");
    assert_eq!((summary.asleep_ns, summary.count), (1_599 * MS, 1));
}

#[test]
fn a_loop_that_is_woken_has_missed_nothing() {
    type Story = fn(&mut Watch);
    let stories: [(&str, Story); 7] = [
        ("it is woken soon", |watch| {
            watch.ledger(SECOND, 930 * MS, POLL);
            watch.look(900 * MS, |_| {});
            watch.slice(100 * MS, 920 * MS, true);
        }),
        ("the ledger is read soon", |watch| {
            watch.ledger(940 * MS, 100 * MS, POLL);
            watch.look(900 * MS, |_| {});
        }),
        ("it went to sleep behind the look", |watch| {
            watch.ledger(SECOND, 905 * MS, POLL);
            watch.look(900 * MS, |_| {});
        }),
        ("a step waits in a selector of its own", |watch| {
            watch.ledger(SECOND, 100 * MS, POLL);
            watch.look(900 * MS, |look| {
                look.threads[0]
                    .stack
                    .insert(0, frame("wait_for_socket", "/srv/urllib3/wait.py"));
            });
            watch.slice(100 * MS, 1_100 * MS, false);
        }),
        ("a thread is about to wake it", |watch| {
            watch.ledger(SECOND, 100 * MS, POLL);
            watch.look(900 * MS, |look| {
                let file = "/usr/lib/python3.13/asyncio/base_events.py";
                look.threads[1].stack = vec![frame("BaseEventLoop.call_soon_threadsafe", file)];
            });
        }),
        ("nothing is ready", |watch| {
            watch.ledger(SECOND, 100 * MS, POLL);
            watch.look(900 * MS, |look| {
                look.loops[0].queue.as_mut().expect("a queue").ready.clear();
            });
        }),
        ("trio has another queue", |watch| {
            watch.ledger(SECOND, 100 * MS, POLL);
            watch.look(900 * MS, |look| look.loops[0].kind = LoopKind::Trio);
        }),
    ];
    for (what, story) in stories {
        let mut watch = Watch::new();
        story(&mut watch);
        assert_eq!(watch.tick(SECOND), None, "{what}");
    }
}
