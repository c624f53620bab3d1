//! Streams of events that are made up, cut into intervals.
use std::sync::Arc;

use super::*;
use crate::event::{
    Fork, Pid, PyThread, PyWait, SampleKind, SampledStack, Tick, Wait, WaitKind, WaitPurpose,
};
use crate::model::testing::{
    MS, Random, START, START_BOOT, START_UNIX, boot, ledger, look, py_loop, py_task, py_thread,
    random_state,
};
use crate::schema::LedgerSum;

fn info() -> WatchInfo {
    WatchInfo {
        version: "0.0.0".into(),
        start_ns: START,
        start_unix_ns: START_UNIX,
        start_boottime_ns: START_BOOT,
        targets: vec![Pid(100)],
        stall_threshold_ns: None,
        knows_causes: true,
        place: crate::event::PlaceFact::default(),
        http: Default::default(),
    }
}

/// Keeps what it is given, and checks that it fits together.
#[derive(Default)]
struct Kept(Vec<Interval>, Vec<(u64, String)>);

impl Sink for Kept {
    fn interval(&mut self, interval: &Interval, place: Option<&PyFrame>, threads: &Threads) {
        self.1
            .extend(place.map(|frame| (interval.from_ns, frame.function.to_string())));
        assert!(interval.from_ns < interval.to_ns, "{interval:?}");
        assert!(interval.on_cpu_ns <= interval.ns());
        assert!(threads.get(interval.thread).is_some());
        let before = self
            .0
            .iter()
            .rev()
            .find(|one| one.thread == interval.thread);
        if let Some(before) = before {
            assert_eq!(before.to_ns, interval.from_ns, "{before:?} {interval:?}");
        }
        self.0.push(*interval);
    }
}

impl Kept {
    /// From when to when, ms after the start, and what.
    fn told(&self) -> Vec<(u64, u64, &'static str)> {
        let ms = |ns: u64| (ns - START) / MS;
        let told = self.0.iter();
        told.map(|one| (ms(one.from_ns), ms(one.to_ns), one.activity.name()))
            .collect()
    }
}

/// In ms after the start.
fn slice(tid: u32, wait: Option<(u64, u64, Cause)>, run: (u64, u64)) -> Slice {
    let at = |ms: u64| START + ms * MS;
    Slice {
        tid: Tid(tid),
        cpu: 0,
        wait: wait.map(|(off, wake, cause)| Wait {
            off_ns: at(off),
            wake_ns: Some(at(wake)),
            cause: Some(cause),
            queue: true,
            arg0: 0,
            waker: Some(Tid(100)),
        }),
        in_ns: at(run.0),
        out_ns: at(run.1),
        on_cpu_ns: (run.1 - run.0) * MS,
        voluntary: true,
    }
}

fn sample(tid: u32, at: u64, kind: SampleKind, functions: &[&str]) -> Event {
    let frame = |function: &&str| PyFrame {
        function: (*function).into(),
        file: "app.py".into(),
        line: 1,
    };
    Event::Sample(Box::new(Sample {
        at_ns: START + at * MS,
        pid: Pid(100),
        tid: Tid(tid),
        kind,
        context_version: None,
        iteration: None,
        turns: None,
        creator: None,
        collecting: false,
        code: None,
        coroutine: None,
        stack: Arc::new(SampledStack {
            frames: functions.iter().map(frame).collect(),
            ..SampledStack::default()
        }),
    }))
}

/// A thread known from its account, which says at the end that it is in `state` since `since` ms.
fn account(tid: u32, since: u64, state: ThreadState, read: u64) -> Event {
    let mut fact = ledger(100, tid);
    (fact.since_ns, fact.read_ns) = (START + since * MS, START + read * MS);
    fact.state = state;
    Event::Ledger(Box::new(fact))
}

fn tick(at: u64) -> Event {
    Event::Tick(Tick {
        at_ns: START + at * MS,
        unix_ns: START_UNIX + at * MS,
    })
}

fn run(events: &[Event]) -> (Intervals, Kept) {
    let (mut intervals, mut kept) = (Intervals::new(&info()), Kept::default());
    for event in events {
        intervals.apply(event, &mut kept);
    }
    intervals.finish(&mut kept);
    (intervals, kept)
}

#[test]
fn slices_and_the_last_account_leave_nothing_out() {
    let (intervals, kept) = run(&[
        account(100, 0, ThreadState::Blocked(Cause::Poll), 0),
        Event::Slice(slice(100, Some((0, 10, Cause::Poll)), (12, 20))),
        Event::Slice(slice(100, Some((20, 30, Cause::Gil)), (31, 40))),
        account(100, 40, ThreadState::Blocked(Cause::Lock), 100),
        tick(100),
    ]);
    let want = [
        (0, 10, "poll"),
        (10, 12, "runnable"),
        (12, 20, "on_cpu"),
        (20, 30, "gil"),
        (30, 31, "runnable"),
        (31, 40, "on_cpu"),
        (40, 100, "lock"),
    ];
    assert_eq!(kept.told(), want);
    let row = intervals.bins().row(0).expect("it has bins");
    let sum =
        |activity: Activity| -> u64 { row.cells.iter().map(|cell| cell[activity.number()]).sum() };
    assert_eq!(sum(Activity::OnCpu), 17 * MS);
    assert_eq!(sum(Activity::Blocked(Cause::Lock)), 60 * MS);
    assert_eq!(row.cells.iter().flatten().sum::<u64>(), 100 * MS);
}

#[test]
fn what_was_lost_is_unseen() {
    let (_, kept) = run(&[
        account(100, 0, ThreadState::Running, 0),
        Event::Slice(slice(100, Some((50, 60, Cause::Io)), (60, 70))),
        account(100, 90, ThreadState::Blocked(Cause::Sleep), 100),
        tick(100),
    ]);
    let want = [
        (0, 50, "unseen"),
        (50, 60, "io"),
        (60, 70, "on_cpu"),
        (70, 90, "unseen"),
        (90, 100, "sleep"),
    ];
    assert_eq!(kept.told(), want);
}

#[test]
fn an_id_has_one_holder_after_another() {
    let fork = |at: u64| {
        Event::Fork(Fork {
            at_ns: START + at * MS,
            parent: Tid(100),
            pid: Pid(100),
            tid: Tid(7),
            start_boottime_ns: boot(START + at * MS),
            comm: "worker".into(),
        })
    };
    let dead = |born: u64, died: u64| {
        let mut fact = ledger(100, 7);
        fact.start_boottime_ns = boot(START + born * MS);
        fact.start_ns = START + born * MS;
        (fact.since_ns, fact.read_ns) = (START + died * MS, START + (died + 5) * MS);
        Event::Ledger(Box::new(fact))
    };
    let (intervals, kept) = run(&[
        fork(10),
        Event::Slice(slice(7, None, (10, 30))),
        dead(10, 30),
        fork(50),
        Event::Slice(slice(7, None, (50, 55))),
        dead(50, 60),
        tick(100),
    ]);
    assert_eq!(intervals.threads().len(), 2);
    let want = [(10, 30, "on_cpu"), (50, 55, "on_cpu"), (55, 60, "unseen")];
    assert_eq!(kept.told(), want);
}

#[test]
fn time_goes_to_the_stack_that_was_met() {
    let (intervals, _) = run(&[
        account(100, 0, ThreadState::Running, 0),
        sample(100, 5, SampleKind::OnCpu, &["inner", "outer"]),
        sample(100, 10, SampleKind::Block(Cause::Lock), &["wait", "outer"]),
        Event::Slice(slice(100, None, (0, 10))),
        // The stack of the block at 40 comes before the slice that ends there.
        sample(100, 40, SampleKind::Block(Cause::Lock), &["other", "outer"]),
        Event::Slice(slice(100, Some((10, 30, Cause::Lock)), (32, 40))),
        Event::Slice(slice(100, Some((40, 50, Cause::Lock)), (50, 60))),
        // Nobody has told its stack: it goes with the last one.
        Event::Slice(slice(100, Some((60, 65, Cause::Lock)), (65, 66))),
        Event::Slice(slice(100, Some((66, 69, Cause::Io)), (69, 70))),
        account(100, 70, ThreadState::Running, 70),
        tick(70),
    ]);
    let want = [
        ("io", String::new(), 3),
        ("lock", "outer;other".into(), 15),
        ("lock", "outer;wait".into(), 20),
        ("on_cpu", "outer;inner".into(), 30),
        ("runnable", "outer;wait".into(), 2),
    ];
    assert_eq!(weighed(&intervals), want);
}

/// Activity, stack and ms.
fn weighed(intervals: &Intervals) -> Vec<(&'static str, String, u64)> {
    let flames = intervals.flames();
    let weights = flames.weights();
    let mut told: Vec<_> = weights
        .map(|(_, activity, node, ns)| {
            let stack: Vec<&str> = flames.stack(node).iter().map(|f| &*f.function).collect();
            (activity.name(), stack.join(";"), ns / MS)
        })
        .collect();
    told.sort();
    told
}

/// A look that begins at `at` meets each thread with a stack.
fn looked(at: u64, threads: &[(u32, &[&str])]) -> PythonFact {
    let mut fact = look(100, START + at * MS);
    let frame = |function: &&str| PyFrame {
        function: (*function).into(),
        file: "app.py".into(),
        line: 1,
    };
    fact.threads = threads
        .iter()
        .map(|(tid, functions)| PyThread {
            stack: functions.iter().map(frame).collect(),
            ..py_thread(*tid, "worker")
        })
        .collect();
    fact
}

/// What began before the watch, or had no token, has the stack that a look meets in it.
#[test]
fn a_wait_without_a_sample_has_the_stack_of_a_look() {
    let lock = ThreadState::Blocked(Cause::Lock);
    let (intervals, kept) = run(&[
        account(100, 0, lock, 50),
        account(101, 45, lock, 50),
        account(102, 0, lock, 50),
        // At the look, 101 did not wait yet; the others did, and still do when their accounts are read.
        Event::Python(Arc::new(looked(
            40,
            &[
                (100, &["get", "consume"]),
                (101, &["compute"]),
                (102, &["acquire", "work"]),
            ],
        ))),
        tick(50),
        // A wait of its own has a stack of its own, whatever a look says later.
        sample(102, 60, SampleKind::Block(Cause::Lock), &["other", "work"]),
        Event::Slice(slice(102, Some((0, 55, Cause::Lock)), (56, 60))),
        account(100, 0, lock, 100),
        account(101, 45, lock, 100),
        account(102, 60, lock, 100),
        tick(100),
    ]);
    let want = [
        ("lock", String::new(), 55),
        ("lock", "consume;get".into(), 100),
        ("lock", "work;acquire".into(), 55),
        ("lock", "work;other".into(), 40),
        ("on_cpu", String::new(), 4),
        ("runnable", "work;acquire".into(), 1),
    ];
    assert_eq!(weighed(&intervals), want);
    let mut places = kept.1;
    places.sort();
    let at = |ms: u64, function: &str| (START + ms * MS, function.to_owned());
    assert_eq!(places, [at(0, "acquire"), at(0, "get"), at(60, "other")]);
}

/// A loop in its own selector is idle; one in a step that waits for a socket is not.
#[test]
fn selectors_of_idle_loops_are_told_apart() {
    for (state, idle) in [(TaskState::Pending, true), (TaskState::Running, false)] {
        let mut seen = looked(40, &[(100, &["select", "run"])]);
        seen.loops = vec![py_loop(100, 7)];
        seen.tasks = vec![py_task(9, 7, "Task-1")];
        seen.tasks[0].state = state;
        let poll = ThreadState::Blocked(Cause::Poll);
        let (intervals, _) = run(&[
            account(100, 0, poll, 50),
            Event::Python(Arc::new(seen)),
            account(100, 0, poll, 100),
            tick(100),
        ]);
        assert_eq!(weighed(&intervals), [("poll", "run;select".into(), 100)]);
        let flames = intervals.flames();
        let (thread, _, node, _) = flames.weights().next().expect("it has weight");
        assert_eq!(flames.is_idle(thread, node), idle);
    }
}

#[test]
fn bins_are_bounded_and_lose_nothing() {
    let mut bins = Bins::new(START);
    let mut random = Random::new(3);
    let mut whole = 0;
    let mut pos = [START; 200];
    for _ in 0..40_000 {
        let thread = random.below(200) as usize;
        let ns = random.below(3_000) * MS;
        let interval = Interval {
            thread,
            from_ns: pos[thread],
            to_ns: pos[thread] + ns,
            activity: if random.chance(50) {
                Activity::OnCpu
            } else {
                Activity::Runnable
            },
            on_cpu_ns: ns / 2,
            cpu: None,
            wakeup: None,
            futex: 0,
        };
        pos[thread] += ns;
        whole += ns;
        bins.add(&interval);
    }
    let rows = (0..200).filter_map(|thread| bins.row(thread));
    let cells: Vec<&[u64; ACTIVITIES]> = rows.flat_map(|row| &row.cells).collect();
    assert!(cells.len() <= 240_000, "{}", cells.len());
    assert_eq!(cells.iter().copied().flatten().sum::<u64>(), whole);
    for cell in cells {
        assert!(cell.iter().sum::<u64>() <= bins.width_ns());
    }
}

/// Whatever comes in, intervals fit together: [`Kept`] checks it.
#[test]
fn nonsense_fits_together() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let mut events = Vec::new();
        for _ in 0..200 {
            let near = |random: &mut Random| match random.chance(90) {
                true => START + random.below(1_000) * MS,
                false => random.nasty(),
            };
            let tid = Tid(random.below(4) as u32);
            events.push(match random.below(4) {
                0 => {
                    let mut fact = ledger(random.below(3) as u32, tid.0);
                    (fact.since_ns, fact.read_ns) = (near(&mut random), near(&mut random));
                    fact.start_ns = near(&mut random);
                    fact.start_boottime_ns = random.below(3) * 20 * MS;
                    fact.state = random_state(&mut random);
                    Event::Ledger(Box::new(fact))
                }
                1 => sample(tid.0, random.below(1_000), SampleKind::OnCpu, &["f", "g"]),
                _ => {
                    let cause = Cause::ALL[random.below(9) as usize];
                    let wait = Wait {
                        off_ns: near(&mut random),
                        wake_ns: random.chance(80).then(|| near(&mut random)),
                        cause: random.chance(80).then_some(cause),
                        queue: true,
                        arg0: 0,
                        waker: random.chance(50).then_some(Tid(1)),
                    };
                    Event::Slice(Slice {
                        tid,
                        cpu: 0,
                        wait: random.chance(80).then_some(wait),
                        in_ns: near(&mut random),
                        out_ns: near(&mut random),
                        on_cpu_ns: random.nasty(),
                        voluntary: false,
                    })
                }
            });
        }
        run(&events);
    }
}

/// Of a part of a watch, threads are known from before, and nothing is told from before.
#[test]
fn a_part_begins_at_a_tick() {
    let (mut intervals, mut kept) = (Intervals::new(&info()), Kept::default());
    for event in [
        account(100, 5, ThreadState::Blocked(Cause::Poll), 60),
        account(101, 5, ThreadState::Dead, 60),
        tick(60),
        account(100, 5, ThreadState::Blocked(Cause::Poll), 100),
        tick(100),
    ] {
        intervals.before(&event);
    }
    for event in [
        Event::Slice(slice(100, Some((90, 120, Cause::Poll)), (120, 130))),
        account(100, 130, ThreadState::Blocked(Cause::Sleep), 150),
        tick(150),
    ] {
        intervals.apply(&event, &mut kept);
    }
    intervals.finish(&mut kept);
    let want = [
        (100, 120, "poll"),
        (120, 130, "on_cpu"),
        (130, 150, "sleep"),
    ];
    assert_eq!(kept.told(), want);
    assert_eq!((intervals.start_ns() - START) / MS, 100);
}

/// Blamed threads by id, what they had, their stack, and ms.
fn blamed(events: &[Event]) -> Vec<(u32, blame::Held, String, u64)> {
    let (mut intervals, mut sink) = (Intervals::new(&info()).with_blame(), NoSink);
    for event in events {
        intervals.apply(event, &mut sink);
    }
    intervals.finish(&mut sink);
    let blame = intervals.blame().expect("it was asked for");
    let weights = blame.weights().map(|(one, ns)| {
        let thread = intervals.threads().get(one.thread).expect("it is known");
        let stack = intervals.flames().stack(one.stack);
        let stack: Vec<&str> = stack.iter().map(|frame| &*frame.function).collect();
        (thread.tid.0, one.held, stack.join(";"), ns / MS)
    });
    weights.collect()
}

/// From the wait on in which a look meets the owner of a lock, what that one ends is its doing.
#[test]
fn waits_for_a_lock_are_charged_to_its_owner() {
    let lock = ThreadState::Blocked(Cause::Lock);
    let wait = |from, to| Some((from, to, Cause::Lock));
    let events = [
        account(100, 0, ThreadState::Blocked(Cause::Sleep), 5),
        account(101, 0, lock, 5),
        // Nobody knows yet whose lock it was.
        Event::Slice(slice(101, wait(0, 20), (21, 22))),
        met(40, WaitKind::RLock, Some(Tid(100)), 0),
        Event::Slice(slice(101, wait(22, 52), (54, 56))),
        Event::Slice(slice(101, wait(56, 66), (67, 68))),
        // Another cause has another owner.
        Event::Slice(slice(101, Some((68, 90, Cause::Sleep)), (91, 92))),
        tick(100),
    ];
    let want = [(100, blame::Held::Lock, "hold;sleep".to_owned(), 40)];
    assert_eq!(blamed(&events), want);
}

/// A look at `at` ms, in which 101 waits for what 100 has, if it has it, on a futex.
fn met(at: u64, kind: WaitKind, owner: Option<Tid>, futex: u64) -> Event {
    let mut met = looked(
        at,
        &[(100, &["sleep", "hold"]), (101, &["acquire", "want"])],
    );
    met.threads[1].waiting_for = Some(PyWait {
        kind,
        purpose: WaitPurpose::Contended,
        object: Some(7),
        owner,
        futex,
        inferred: false,
        owner_gone: false,
        at_statement: false,
        holders: Vec::new(),
    });
    Event::Python(Arc::new(met))
}

/// 101 waits on a futex, and is woken by 100.
fn futex_wait(from: u64, to: u64, futex: u64) -> Event {
    let mut slice = slice(101, Some((from, to, Cause::Lock)), (to + 1, to + 2));
    slice.wait.as_mut().expect("it waited").arg0 = futex;
    Event::Slice(slice)
}

/// Conditions, queues and events are futexes, too, and mostly it is the same threads that give what is waited for.
#[test]
fn idle_waits_are_not_charged_to_who_had_a_lock_before() {
    let lock = ThreadState::Blocked(Cause::Lock);
    let events = [
        account(100, 0, ThreadState::Blocked(Cause::Sleep), 5),
        account(101, 0, lock, 5),
        met(40, WaitKind::Lock, Some(Tid(100)), 0x10),
        futex_wait(10, 50, 0x10),
        // A look says what it is, whatever the futex.
        met(70, WaitKind::Condition, None, 0x10),
        futex_wait(52, 90, 0x10),
        // Nobody has the lock: it is used as a signal.
        met(100, WaitKind::Lock, None, 0x10),
        futex_wait(92, 110, 0x10),
        // It is another one.
        futex_wait(112, 130, 0x20),
        futex_wait(132, 142, 0x10),
        // What a look says is of another wait.
        met(145, WaitKind::Condition, None, 0x20),
        futex_wait(144, 150, 0x10),
        // A look would have met it.
        futex_wait(152, 2_160, 0x10),
        tick(3_000),
    ];
    let want = [(100, blame::Held::Lock, "hold;sleep".to_owned(), 56)];
    assert_eq!(blamed(&events), want);
}

/// Threads that are stuck for good are looked at for ever.
#[test]
fn what_was_met_is_bounded_by_thread() {
    let lock = ThreadState::Blocked(Cause::Lock);
    let mut events = vec![
        account(100, 0, ThreadState::Blocked(Cause::Sleep), 5),
        account(101, 0, lock, 5),
    ];
    events.extend((1..=20_000).map(|at| met(at * 1_000, WaitKind::RLock, Some(Tid(100)), 0)));
    events.push(futex_wait(10, 20_000_001, 0));
    events.push(tick(20_000_010));
    let want = [(100, blame::Held::Lock, "hold;sleep".to_owned(), 19_999_991)];
    assert_eq!(blamed(&events), want);
}

/// Who wakes a waiter has held the GIL since it began to run.
#[test]
fn waits_for_the_gil_are_charged_to_the_stacks_of_who_held_it() {
    let events = [
        account(100, 0, ThreadState::Running, 1),
        account(101, 0, ThreadState::Running, 1),
        Event::Slice(slice(101, None, (0, 10))),
        sample(100, 15, SampleKind::OnCpu, &["first", "burn"]),
        sample(100, 25, SampleKind::OnCpu, &["second", "burn"]),
        Event::Slice(slice(100, Some((0, 8, Cause::Sleep)), (9, 31))),
        Event::Slice(slice(101, Some((10, 30, Cause::Gil)), (32, 40))),
        Event::Slice(slice(101, Some((40, 50, Cause::Sleep)), (51, 60))),
        tick(100),
        tick(3_000),
    ];
    let told = blamed(&events);
    assert!(
        told.iter()
            .all(|one| (one.0, one.1) == (100, blame::Held::Gil)),
        "{told:?}"
    );
    let of = |stack: &str| told.iter().find(|one| one.2 == stack).map(|one| one.3);
    let (first, second) = (of("burn;first"), of("burn;second"));
    let sum = first.zip(second).map(|(one, other)| one + other);
    assert!(sum.is_some_and(|ms| (18..=20).contains(&ms)), "{told:?}");
}

/// An id that two threads had one after the other has a row of the second, and the first has ended.
#[test]
fn each_holder_of_an_id_is_made_to_fit_its_own_row() {
    let mut events = vec![
        account(101, 0, ThreadState::Running, 1),
        Event::Slice(slice(101, None, (0, 10))),
        Event::Fork(Fork {
            at_ns: START + 20 * MS,
            parent: Tid(100),
            pid: Pid(100),
            tid: Tid(101),
            start_boottime_ns: boot(START + 20 * MS),
            comm: "second".into(),
        }),
        Event::Slice(slice(101, None, (20, 50))),
        tick(100),
    ];
    let (mut intervals, _) = run(&events);
    let mut model = crate::model::Model::new(info());
    events.truncate(1);
    events.push(tick(100));
    for event in events {
        model.apply(&event);
    }
    let mut summary = model.summary();
    let process = &mut summary.processes[0];
    let row = process.threads.iter().position(|row| row.tid == 101);
    let mut row = process.threads.swap_remove(row.expect("it has one"));
    row.ledger = LedgerSum::default();
    process.threads.clear();
    process.ended.ledger = LedgerSum::default();
    // The first has 4 ms, the second 33.
    process.ended.ledger.on_cpu_ns = 4 * MS;
    row.started_unix_ns = START_UNIX + 20 * MS;
    row.ledger.on_cpu_ns = 33 * MS;
    process.threads.push(row);
    intervals.settle(&summary);
    let mut told = vec![0; intervals.threads().len()];
    for (thread, activity, _, ns) in intervals.flames().weights() {
        assert_eq!(activity, Activity::OnCpu);
        told[thread] += ns / MS;
    }
    assert_eq!(told, [4, 33]);
}

/// Instants that no clock has make sums beyond 64 bits.
#[test]
fn sums_beyond_all_measure_are_taken_back() {
    let (mut intervals, _) = run(&[tick(1)]);
    for thread in 0..4 {
        let cpu = Interval {
            thread,
            from_ns: 0,
            to_ns: u64::MAX,
            activity: Activity::Blocked(Cause::Lock),
            on_cpu_ns: 0,
            cpu: None,
            wakeup: None,
            futex: 0,
        };
        intervals.flames.interval(&cpu, 0);
    }
    intervals.flames.finish();
    for tid in 1..=4 {
        intervals.threads.of_sample(Pid(100), Tid(tid));
    }
    let summary = crate::model::Model::new(info()).summary();
    let corrections = intervals.settle(&summary);
    assert!(
        corrections.iter().all(|one| one.ns == i64::MIN),
        "{corrections:?}"
    );
    assert_eq!(
        intervals.flames().weights().map(|one| one.3).sum::<u64>(),
        0
    );
}
