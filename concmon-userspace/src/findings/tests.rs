//! Rules on snapshots that are made up: each is raised by one, and not by one that comes near.

mod churn;
mod deadlocks;
mod gil;
mod groups;
mod holding;
mod polls;
mod pools;
mod starved;
mod throttled;

use std::collections::BTreeMap;

use super::*;
use crate::event::{PyExecutor, PyGc, Tid};
use crate::model::testing::{Fixture, MS, SECOND, START, py_loop, py_task, py_thread};
use crate::schema::{Address, CulpritKind, TaskState};
use crate::schema::{
    ByName, Cause, CodeSamples, Cost, CountedPool, Culprit, Deadlock, DeadlockMember, Descriptor,
    Exact, Exited, Frame, GilHog, GilPair, Histogram, Pools, Purpose, Ready, Stall, Task, Thread,
    Timing, WaitKind, WaitingFor, Waker, Work,
};

const HOG: u32 = 101;
/// Of the process that is beside the other in stories.
const PARENT: u32 = 50;

/// A process with four threads, a loop, an executor and a collector, in a window of a second in which
/// nothing is wrong.
fn quiet() -> Snapshot {
    let mut watch = Fixture::new();
    for tid in 100..104 {
        watch.read(100, tid, SECOND, |_| {});
    }
    watch.proc(100, SECOND, |_| {});
    watch.look(100, SECOND, |look| {
        look.threads = (100..104)
            .map(|tid| py_thread(tid, &format!("thread-{tid}")))
            .collect();
        look.loops = vec![py_loop(100, 7)];
        look.tasks = vec![py_task(1, 7, "Task-1")];
        look.gc = Some(PyGc::default());
        look.executors = vec![PyExecutor {
            id: 5,
            queue: 9,
            kind: crate::event::ExecutorKind::Thread,
            name_prefix: Some("pool".into()),
            workers: 2,
            workers_idle: Some(0),
            max_workers: Some(2),
            queued: Some(0),
            running: vec![crate::event::PyWork {
                tid: Some(Tid(103)),
                function: Some("app.job".into()),
                item: 1,
                future: 0,
            }],
            queued_futures: Vec::new(),
            borrowers: Vec::new(),
        }];
        look.gils = vec![crate::event::PyGil {
            read_ns: START + SECOND,
            address: 0x1000,
            cond: 0x1020,
            locked: false,
            last_holder: None,
            switches: 0,
            samples: 0,
            locked_samples: 0,
        }];
    });
    let mut snapshot = watch.tick(SECOND);
    snapshot.processes[0].loops[0].timing = Some(timing());
    busy(&mut snapshot.processes[0], 100);
    snapshot
}

fn timing() -> Timing {
    Timing {
        iterations: Some(100),
        lag: None,
        step: Some(Histogram {
            count: 1_000,
            sum_ns: 1_000 * MS / 20,
            ..Histogram::default()
        }),
        tasks_ns: 0,
        callbacks_ns: 0,
        unknown_ns: 0,
        busy: Default::default(),
        stalls_count: 0,
        stalls_ns: 0,
        delayed: None,
        stalls: Vec::new(),
        saturation: Default::default(),
        by_name: vec![ByName {
            name: "app.serve".into(),
            pending: 1,
            started: None,
            finished: None,
            failed: None,
            cancelled: None,
            gone: None,
            duration: None,
            cost: Cost::default(),
            samples: 50,
            estimated: Vec::new(),
            limits: Vec::new(),
        }],
        callbacks: Vec::new(),
        estimated: Vec::new(),
    }
}

fn frame(function: &str) -> Frame {
    Frame {
        function: function.into(),
        file: "/srv/app.py".into(),
        line: 10,
    }
}

/// A loop that stood still at an instant of the window.
fn stalled(process: &mut Process, kind: CulpritKind, at_unix_ns: u64, ms: u64) {
    let timing = process.loops[0].timing.as_mut().expect("a timing");
    timing.stalls_count += 1;
    timing.stalls_ns = timing.stalls_ns.saturating_add(ms * MS);
    timing.stalls.push(Stall {
        at_unix_ns,
        duration_ns: ms * MS,
        cost: Cost::default(),
        collecting_ns: 0,
        culprit: Culprit {
            kind,
            frame: Some(frame("slow")),
            holder_tid: None,
        },
        task: None,
        coroutine: Some("app.slow".into()),
        creator: None,
        stack: vec![frame("slow")],
        context: [("request_id".to_owned(), "r-17".to_owned())].into(),
        trace: None,
        waiting: None,
        delayed: None,
        samples: 9,
        estimated: Vec::new(),
        limits: Vec::new(),
    });
}

/// Probes have counted failures that nobody has asked for, some of them for long.
fn pools(process: &mut Process, unretrieved: u64, silent: u64) {
    let row = CountedPool {
        queue: Some(Address(9)),
        name_prefix: Some("pool".into()),
        submitted: 100,
        failed: 10,
        unretrieved,
        silent,
    };
    process.exact = Some(Exact {
        since_unix_ns: None,
        tasks: None,
        pools: Some(Pools {
            since_unix_ns: Some(1),
            rows: Some(vec![row]),
            limits: Vec::new(),
        }),
        limits: Vec::new(),
    });
}

/// The loop was busy for so many ms of its second.
fn busy(process: &mut Process, ms: u64) {
    let row = &mut process.loops[0];
    (row.wall_ns, row.busy_ns, row.idle_ns) = (SECOND, ms * MS, (1_000 - ms) * MS);
    row.utilization = ms as f64 / 1e3;
}

fn failed_task(number: u64) -> Task {
    let mut snapshot = quiet();
    let mut task = snapshot.processes[0].loops[0].tasks.remove(0);
    task.id = Address(number);
    (task.state, task.retrieved) = (TaskState::Done, Some(false));
    (task.exception, task.coroutine) = (Some("ValueError".into()), "app.job".into());
    task
}

const STORY_BEGIN: u64 = 1_700_000_000 * SECOND;

/// Windows one after the other, `interval` ns each.
struct Story {
    judge: Judge,
    interval: u64,
    begin: u64,
    /// All of them show the look of the first.
    one_look: bool,
    /// Nobody looks.
    is_blind: bool,
}

impl Story {
    fn new() -> Self {
        Story {
            judge: Judge::default(),
            interval: SECOND,
            begin: STORY_BEGIN,
            one_look: false,
            is_blind: false,
        }
    }

    /// The rules that hold in a window after `change`.
    fn window(&mut self, change: impl FnOnce(&mut Process, u64)) -> Vec<Finding> {
        let mut snapshot = quiet();
        snapshot.window = crate::schema::Window {
            start_unix_ns: self.begin,
            duration_ns: self.interval,
        };
        if self.is_blind {
            snapshot.monitor.unobserved_ns = self.interval;
        }
        let parent = parent(&snapshot.processes[0]);
        snapshot.processes.push(parent);
        let process = &mut snapshot.processes[0];
        change(process, self.begin);
        let looked_ns = if self.one_look {
            0
        } else {
            self.begin - STORY_BEGIN
        };
        for row in &mut process.loops {
            row.queue_read_unix_ns = Some(STORY_BEGIN + looked_ns);
            for seen in row.tasks.iter_mut().filter_map(|task| task.seen.as_mut()) {
                seen.age_ns += looked_ns;
            }
        }
        self.begin += self.interval;
        self.judge.judge(&mut snapshot);
        snapshot.processes.remove(0).findings
    }

    fn summary(&mut self) -> Vec<Finding> {
        let mut snapshot = quiet();
        snapshot.kind = Kind::Summary;
        self.judge.judge(&mut snapshot);
        snapshot.processes.remove(0).findings
    }
}

type Change = fn(&mut Process, u64, u64);

/// What holds after twelve windows that are all `change`d; `number` counts them.
fn after(change: impl Fn(&mut Process, u64, u64)) -> Vec<Finding> {
    let mut story = Story::new();
    let mut found = Vec::new();
    for number in 0..12 {
        found = story.window(|process, begin| change(process, begin, number));
    }
    found
}

fn names(findings: &[Finding]) -> Vec<&'static str> {
    findings.iter().map(|finding| finding.rule).collect()
}

fn contended(process: &mut Process, wait_ms: u64, utilization: f64) {
    for thread in &mut process.threads {
        thread.ledger.on_cpu_ns = 250 * MS;
    }
    let gil = process.gil.as_mut().expect("a GIL");
    (gil.wait_ns, gil.utilization) = (Some(wait_ms * MS), Some(utilization));
    // Bytecode lets go after 5 ms.
    gil.waits.as_mut().expect("waits").count = wait_ms / 5;
    let pair = |holder_tid, victim_tid, ns| GilPair {
        holder_tid,
        victim_tid,
        wait_ns: ns,
        count: 9,
    };
    gil.pairs = vec![
        pair(Some(HOG), 100, wait_ms * MS / 2),
        pair(Some(HOG), 102, wait_ms * MS / 4),
        pair(Some(102), HOG, wait_ms * MS / 8),
        pair(None, 103, wait_ms * MS / 8),
    ];
}

fn convoy(process: &mut Process, threads: usize, ms: u64) {
    let mut last = process.threads[threads - 1].tid;
    for thread in process.threads.iter_mut().take(threads) {
        thread.ledger.wall_ns = SECOND;
        thread.lock_ns.contended = ms * MS;
        // Each is woken by the one before it.
        thread.wakers = vec![Waker {
            tid: Some(last),
            process: None,
            cause: Cause::Lock,
            count: 9,
            blocked_ns: ms * MS,
        }];
        last = thread.tid;
    }
}

/// Two threads wait for one lock since then.
fn waiting(process: &mut Process, since_unix_ns: u64, change: fn(&mut WaitingFor)) {
    for thread in process.threads.iter_mut().skip(1).take(2) {
        let mut wait = WaitingFor {
            kind: WaitKind::Lock,
            purpose: Purpose::Contended,
            object: Some(Address(0xa)),
            owner_tid: None,
            owner_inferred: false,
            owner_gone: false,
            at_statement: false,
            since_unix_ns: Some(since_unix_ns),
        };
        change(&mut wait);
        thread.waiting_for = Some(wait);
    }
}

/// A worker of a pool whose parent waits for results.
fn killed(process: &mut Process, signal: u8) {
    process.title = Some("ForkPoolWorker-2".to_owned());
    process.exited = Some(Exited {
        code: None,
        signal: Some(signal),
    });
    process.ppid = PARENT;
}

/// A process that waits for results of a pool of processes.
fn parent(process: &Process) -> Process {
    let mut parent = process.clone();
    parent.pid = PARENT;
    waiting(&mut parent, 0, |wait| {
        (wait.kind, wait.purpose) = (WaitKind::Future, Purpose::Other);
    });
    parent.threads[1].stack = [Frame {
        function: "ApplyResult.get".into(),
        file: "/usr/lib/python3.11/multiprocessing/pool.py".into(),
        line: 7,
    }]
    .into();
    parent
}

/// Two threads wait in a function of this name and file.
fn connecting(process: &mut Process, since_unix_ns: u64, file: &str) {
    waiting(process, since_unix_ns, |wait| {
        (wait.kind, wait.purpose) = (WaitKind::Condition, Purpose::Other);
    });
    for thread in process.threads.iter_mut().skip(1).take(2) {
        thread.stack = frames_of(&[
            ("Condition.wait", "threading.py"),
            ("Queue.get", "sqlalchemy/util/queue.py"),
            ("QueuePool._do_get", file),
        ]);
    }
}

fn frames_of(places: &[(&str, &str)]) -> std::sync::Arc<[Frame]> {
    places
        .iter()
        .map(|(function, file)| Frame {
            function: (*function).into(),
            file: format!("/srv/lib/{file}").into(),
            line: 7,
        })
        .collect()
}

fn deadlocked(process: &mut Process, since_unix_ns: u64) {
    waiting(process, since_unix_ns, |_| {});
    let member = |tid: u32| DeadlockMember {
        tid: Some(tid),
        task: None,
        name: Some(format!("thread-{tid}")),
        holds: Some("RLock 0xa".to_owned()),
        inferred: false,
        waits_for: "RLock 0xb".to_owned(),
        place: Some(frame("restock")),
    };
    process.deadlocks = vec![Deadlock {
        members: vec![member(101), member(102)],
        behind: 0,
    }];
}

fn churn(process: &mut Process, begin: u64, born: u32, alive: bool) {
    for tid in 0..born {
        let mut thread = process.threads[1].clone();
        thread.tid = 1_000 + tid;
        (thread.started_unix_ns, thread.alive) = (begin + u64::from(tid) * MS, alive);
        process.threads.push(thread);
    }
}

fn starved(process: &mut Process, runnable_ms: u64) {
    for thread in &mut process.threads {
        thread.ledger.on_cpu_ns = 100 * MS;
        thread.ledger.runnable_ns = runnable_ms * MS;
    }
}

fn sleeping_zero(process: &mut Process, step_ns: u64) {
    busy(process, 990);
    let row = &mut process.loops[0];
    row.tasks[0].awaiting.push(frame("__sleep0"));
    row.tasks[0].timeout_ns = Some(0);
    let step = row.timing.as_mut().and_then(|timing| timing.step.as_mut());
    let step = step.expect("steps");
    step.sum_ns = step.count * step_ns;
}

/// A loop that never waits, goes round so often, and has these callbacks in its queue.
fn ready(process: &mut Process, turns: u64, callbacks: &[(&str, Option<u32>)]) {
    busy(process, 990);
    let row = &mut process.loops[0];
    row.queue = callbacks
        .iter()
        .map(|(function, number)| Ready {
            function: Some((*function).to_owned()),
            task: None,
            descriptor: number.map(|number| Descriptor {
                number,
                writes: false,
                kind: Some("socket".into()),
            }),
        })
        .collect();
    let timing = row.timing.as_mut().expect("a timing");
    timing.iterations = Some(turns);
    // Next to all of it is the loop's own.
    timing.unknown_ns = 800 * MS;
    let step = timing.step.as_mut().expect("steps");
    (step.count, step.sum_ns) = (turns, 190 * MS);
}

/// Two seconds of a loop that serves many descriptors, then two of rest.
fn ready_or_saturated(process: &mut Process, number: u64) {
    if number % 4 < 2 {
        let descriptor = Some(7 + number as u32);
        ready(process, 50_000, &[("app.on_readable", descriptor)]);
    }
}

fn missed(process: &mut Process, ms: u64) {
    ready_for_a_moment(process);
    let row = &mut process.loops[0];
    row.missed_wakeup = Some(crate::schema::MissedWakeup {
        since_unix_ns: 1,
        asleep_ns: ms * MS,
        count: 1,
        ready: row.queue.clone(),
    });
}

fn ready_for_a_moment(process: &mut Process) {
    let task = &process.loops[0].tasks[0];
    let step = Ready {
        function: Some("app.consume".into()),
        task: Some(crate::schema::StallTask {
            id: task.id,
            name: "consumer".into(),
        }),
        descriptor: None,
    };
    (process.loops[0].queue, process.loops[0].ready) = (vec![step], Some(1));
}

fn gone(process: &mut Process, count: u64) {
    let timing = process.loops[0].timing.as_mut().expect("a timing");
    (timing.by_name[0].started, timing.by_name[0].gone) = (Some(40), Some(count));
}

/// A task waits for so long each time, in a loop that goes round so often.
fn polling(process: &mut Process, timeout_ns: u64, turns: u64) {
    busy(process, 100);
    let row = &mut process.loops[0];
    row.timing.as_mut().expect("a timing").iterations = Some(turns);
    row.tasks[0].timeout_ns = Some(timeout_ns);
    row.tasks[0].awaiting.push(Frame {
        function: "sleep".into(),
        file: "/usr/lib/python3.13/asyncio/tasks.py".into(),
        line: 718,
    });
}

/// More clients come at once, and stay.
#[test]
fn another_level_of_load_is_no_pileup() {
    let mut story = Story::new();
    for pending in [
        4, 5, 5, 6, 5, 5, 6, 21, 54, 55, 56, 56, 58, 57, 60, 61, 61, 62,
    ] {
        let found = story.window(|process, _| process.loops[0].pending_tasks = Some(pending));
        assert_eq!(names(&found), [""; 0], "{pending} are pending");
    }
}

#[test]
fn each_rule_is_raised_and_a_near_miss_raises_none() {
    let table: [(&str, Change, Change); 21] = [
        (
            "loop-blocked",
            |p, begin, _| stalled(p, CulpritKind::Sleep, begin, 150),
            |p, _, _| busy(p, 900),
        ),
        (
            "loop-saturated",
            |p, _, _| busy(p, 970),
            |p, _, _| busy(p, 940),
        ),
        (
            "sleep-zero-spin",
            |p, _, _| sleeping_zero(p, 50_000),
            |p, _, number| {
                // It polls, but waits now and then.
                sleeping_zero(p, 50_000);
                busy(p, if number % 2 == 0 { 990 } else { 500 });
            },
        ),
        (
            "busy-poll",
            |p, _, _| ready(p, 50_000, &[("app.on_readable", Some(7))]),
            // Another descriptor is ready each time.
            |p, _, number| ready_or_saturated(p, number),
        ),
        (
            "missed-wakeup",
            |p, _, _| missed(p, 60),
            // It is read while somebody is about to wake the loop.
            |p, _, _| ready_for_a_moment(p),
        ),
        ("task-collected", |p, _, _| gone(p, 3), |p, _, _| gone(p, 0)),
        (
            "task-pileup",
            |p, _, number| p.loops[0].pending_tasks = Some(100 + 40 * number),
            |p, _, number| p.loops[0].pending_tasks = Some(100 + 400 * number.min(4)),
        ),
        (
            "task-exception-never-retrieved",
            |p, _, _| p.loops[0].tasks = vec![failed_task(1)],
            |p, _, number| p.loops[0].tasks = vec![failed_task(number), failed_task(number + 1)],
        ),
        (
            "executor-saturated",
            |p, _, number| p.executors[0].queued = Some(1_000 - 4 * number),
            |p, _, number| p.executors[0].queued = Some(1_200 - 100 * number.min(11)),
        ),
        (
            "futures-failing-silently",
            |p, _, _| pools(p, 9, 2),
            // Somebody may still ask.
            |p, _, _| pools(p, 9, 0),
        ),
        (
            "gil-contention",
            |p, _, _| contended(p, 900, 0.97),
            |p, _, _| contended(p, 900, 0.5),
        ),
        (
            "cpu-starved",
            |p, _, _| starved(p, 60),
            |p, _, _| starved(p, 30),
        ),
        (
            "lock-convoy",
            |p, _, _| convoy(p, 3, 400),
            |p, _, _| convoy(p, 2, 900),
        ),
        (
            "deadlock",
            |p, begin, _| deadlocked(p, begin - 9 * SECOND),
            // Who waits has only just begun to.
            |p, begin, _| deadlocked(p, begin + 900 * MS),
        ),
        (
            "lock-held-across-fork",
            |p, begin, _| {
                waiting(p, begin - 9 * SECOND, |wait| {
                    (wait.kind, wait.owner_gone) = (WaitKind::RLock, true);
                });
            },
            |p, begin, _| waiting(p, begin - 9 * SECOND, |wait| wait.owner_tid = Some(100)),
        ),
        (
            "lock-not-released",
            |p, begin, _| waiting(p, begin - 20 * SECOND, |wait| wait.at_statement = true),
            // It is a signal, by which nobody else is kept out.
            |p, begin, _| waiting(p, begin - 20 * SECOND, |_| {}),
        ),
        (
            "pool-exhausted",
            |p, begin, _| connecting(p, begin - 9 * SECOND, "sqlalchemy/pool/impl.py"),
            |p, begin, _| connecting(p, begin - 9 * SECOND, "app/pool/impl.py"),
        ),
        (
            "worker-killed",
            |p, _, _| killed(p, libc::SIGKILL as u8),
            // As a pool ends its workers.
            |p, _, _| killed(p, libc::SIGTERM as u8),
        ),
        (
            "thread-churn",
            |p, begin, _| churn(p, begin, 25, false),
            |p, begin, number| churn(p, begin, if number == 0 { 200 } else { 10 }, false),
        ),
        (
            "gc-heavy",
            |p, _, _| {
                p.cpu_ns = 500 * MS;
                p.gc.as_mut().expect("a collector").collecting_ns = Some(60 * MS);
            },
            |p, _, _| {
                p.cpu_ns = 500 * MS;
                p.gc.as_mut().expect("a collector").collecting_ns = Some(40 * MS);
            },
        ),
        (
            "fd-exhaustion",
            |p, _, _| (p.fds_count, p.fds_limit) = (Some(820), Some(1_024)),
            |p, _, _| (p.fds_count, p.fds_limit) = (Some(800), Some(1_024)),
        ),
    ];
    let known: Vec<_> = rules().map(|(name, _)| name).collect();
    for (rule, bad, near) in table {
        assert!(known.contains(&rule));
        let found = after(bad);
        assert_eq!(names(&found), [rule]);
        assert!(!found[0].summary.is_empty() && !found[0].advice.is_empty());
        assert!(!found[0].evidence.is_empty());
        assert_eq!(names(&after(near)), [""; 0], "near {rule}");
    }
    assert_eq!(names(&after(|_, _, _| ())), [""; 0]);
}

/// Workers of which each waits at a lock or a semaphore that somebody else opens when there is work.
#[test]
fn handing_work_over_by_locks_is_no_convoy() {
    type Wait = fn(&Thread) -> (WaitKind, u64, Option<u32>);
    let raised = |wait: Wait| {
        let mut story = Story::new();
        let mut found = Vec::new();
        for _ in 0..12 {
            found = story.window(|process, _| {
                convoy(process, 3, 900);
                let main = process.threads[3].tid;
                for thread in process.threads.iter_mut().take(3) {
                    thread.wakers[0].tid = Some(main);
                    let (kind, object, owner_tid) = wait(thread);
                    thread.waiting_for = Some(WaitingFor {
                        kind,
                        purpose: Purpose::Contended,
                        object: Some(Address(object)),
                        owner_tid,
                        owner_inferred: false,
                        owner_gone: false,
                        at_statement: false,
                        since_unix_ns: None,
                    });
                }
            });
        }
        names(&found) == ["lock-convoy"]
    };
    assert!(!raised(|thread| (
        WaitKind::Lock,
        u64::from(thread.tid),
        None
    )));
    assert!(!raised(|_| (WaitKind::Semaphore, 7, None)));
    // One lock for which several wait, and one that somebody is known to have.
    assert!(raised(|_| (WaitKind::Lock, 7, None)));
    assert!(raised(|thread| (
        WaitKind::RLock,
        u64::from(thread.tid),
        Some(103)
    )));
}

/// Threads that wake each other wait some microseconds each time.
#[test]
fn handing_over_is_not_starvation() {
    let after_waits = |ns: u64| {
        let mut story = Story::new();
        let busy = |process: &mut Process, _: u64| {
            starved(process, 60);
            for thread in &mut process.threads {
                thread.switches.voluntary = thread.ledger.runnable_ns / ns;
            }
        };
        (0..5).fold(Vec::new(), |_, _| story.window(busy))
    };
    assert_eq!(names(&after_waits(20_000)), [""; 0]);
    assert_eq!(names(&after_waits(200_000)), ["cpu-starved"]);
}

#[test]
fn a_stall_is_told_with_its_culprit_and_its_request() {
    let mut story = Story::new();
    let found = story.window(|process, begin| stalled(process, CulpritKind::Sleep, begin, 150));
    let finding = &found[0];
    assert_eq!(
        finding.summary,
        "the event loop stood still for 150 ms in app.slow: sleep, slow (app.py:10)"
    );
    assert_eq!(finding.evidence["where"], "slow (/srv/app.py:10)");
    assert_eq!(finding.evidence["context"]["request_id"], "r-17");
    assert!(finding.advice.contains("asyncio.sleep"));
}

#[test]
fn the_hog_is_named_with_its_code_and_its_victims() {
    for (interpreter, native, runs) in [
        (90, 10, Some("bytecode")),
        (10, 90, Some("native code")),
        (1, 1, None),
    ] {
        let mut story = Story::new();
        let mut found = Vec::new();
        for _ in 0..3 {
            found = story.window(|process, _| {
                contended(process, 900, 0.97);
                let hog = process.threads.iter_mut().find(|thread| thread.tid == HOG);
                hog.expect("the hog").code = Some(CodeSamples {
                    interpreter,
                    native,
                    kernel: 500,
                });
            });
        }
        let evidence = &found[0].evidence;
        assert_eq!(evidence["hog_tid"], HOG);
        assert_eq!(evidence["hog"], "thread-101 (101)");
        assert_eq!(evidence["hog_runs"].as_str(), runs);
        assert_eq!(evidence["long_waits"], false);
        let victims = ["thread-100 (100)", "thread-102 (102)", "thread-103 (103)"];
        assert_eq!(evidence["victims"], serde_json::json!(victims));
        assert!(found[0].summary.contains("thread-101 (101) holds it most"));
    }
}

#[test]
fn pools_are_no_churn() {
    let churns = |change: Change| names(&after(change)).contains(&"thread-churn");
    assert!(!churns(|process, begin, _| churn(process, begin, 60, true)));
    assert!(!churns(|process, begin, _| churn(
        process,
        begin - 3_600 * SECOND,
        60,
        false
    )));
    assert!(churns(|process, _, _| process.ended.threads = 30));
}

/// Loops that run for moments, one after the other, as `asyncio.run` in a script does.
#[test]
fn short_loops_are_not_saturated() {
    let found = after(|process, _, _| {
        busy(process, 1_000);
        let row = &mut process.loops[0];
        (row.wall_ns, row.busy_ns) = (30 * MS, 30 * MS);
    });
    assert_eq!(names(&found), [""; 0]);
    // And one that one step blocks is blocked, not saturated.
    let found = after(|process, begin, _| {
        busy(process, 1_000);
        stalled(process, CulpritKind::Cpu, begin, 900);
    });
    assert_eq!(names(&found), ["loop-blocked"]);
}

#[test]
fn nothing_known_is_nothing_found() {
    let found = after(|process, _, _| {
        (process.gil, process.gc) = (None, None);
        process.threads.clear();
        process.loops.clear();
        process.executors.clear();
        (process.fds_count, process.fds_limit) = (Some(7), Some(0));
    });
    assert_eq!(names(&found), [""; 0]);
}

#[test]
fn extreme_numbers_do_not_panic() {
    for interval in [0, 1, u64::MAX] {
        let mut story = Story::new();
        story.interval = interval;
        story.begin = 0;
        for _ in 0..3 {
            story.begin = 0;
            let mut snapshot = quiet();
            snapshot.window = crate::schema::Window {
                start_unix_ns: u64::MAX,
                duration_ns: interval,
            };
            let process = &mut snapshot.processes[0];
            for thread in &mut process.threads {
                thread.ledger.on_cpu_ns = u64::MAX;
                thread.ledger.runnable_ns = u64::MAX;
                thread.ledger.stolen_ns = u64::MAX;
                thread.ledger.wall_ns = u64::MAX;
                thread.lock_ns.contended = u64::MAX;
                thread.code = Some(CodeSamples {
                    interpreter: u64::MAX,
                    native: u64::MAX,
                    kernel: 0,
                });
            }
            contended(process, 900, f64::NAN);
            contended(process, 900, 1.0);
            stalled(process, CulpritKind::Cpu, u64::MAX, 1);
            stalled(process, CulpritKind::Cpu, 0, u64::MAX / MS);
            let row = &mut process.loops[0];
            (row.wall_ns, row.busy_ns) = (u64::MAX, u64::MAX);
            row.pending_tasks = Some(u64::MAX);
            row.utilization = 1.0;
            process.loops.push(process.loops[0].clone());
            process.executors[0].queued = Some(u64::MAX);
            process.executors.push(process.executors[0].clone());
            (process.fds_count, process.fds_limit) = (Some(u64::MAX), Some(1));
            process.ended.threads = u64::MAX;
            story.judge.judge(&mut snapshot);
            story.summary();
        }
    }
}

/// Each has a text that says when it holds and what to do.
#[test]
fn rules_explain_themselves() {
    let all: BTreeMap<_, _> = rules().collect();
    assert_eq!(all.len(), RULES.len(), "names are unique");
    for (name, text) in all {
        assert!(text.contains("What to do: "), "{name}");
        assert!(
            name.chars().all(|c| c.is_ascii_lowercase() || c == '-'),
            "{name}"
        );
    }
    insta::assert_snapshot!(
        rules()
            .map(|(name, text)| format!("{name}\n\n{text}\n"))
            .collect::<Vec<_>>()
            .join("\n")
    );
}
