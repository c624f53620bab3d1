//! Test support: events with sensible defaults, random ones, and the laws of a snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;

use concmon_ebpf::cause;

use super::{Model, WatchInfo};
use crate::event::*;
use crate::schema::{LedgerSum, Loop, Snapshot, Timing};
use crate::testing::Rng;

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000 * MS;
/// `CLOCK_MONOTONIC`, wall clock and `CLOCK_BOOTTIME` at the start of the watch.
pub(crate) const START: u64 = 1_000 * SECOND;
pub(crate) const START_UNIX: u64 = 1_700_000_000 * SECOND;
pub(crate) const START_BOOT: u64 = 1_500 * SECOND;

/// Numbers, the same ones for the same seed.
pub(crate) struct Random(Rng);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(Rng::new(seed))
    }

    pub(crate) fn any(&mut self) -> u64 {
        self.0.next()
    }

    /// A number from 0 to `limit` - 1.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.any() % limit.max(1)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A number as a hostile or broken source gives it.
    pub(crate) fn nasty(&mut self) -> u64 {
        match self.below(6) {
            0 => 0,
            1 => u64::MAX,
            2 => u64::MAX - self.below(100),
            3 => self.any(),
            4 => START + self.below(10 * SECOND),
            _ => self.below(1_000),
        }
    }
}

/// The kernel's histogram of these durations.
pub(crate) fn hist(durations: &[u64]) -> HistFact {
    let mut hist = HistFact::default();
    durations.iter().for_each(|&ns| hist.record(ns));
    hist
}

pub(crate) fn boot(ns: u64) -> u64 {
    ns - START + START_BOOT
}

/// A thread that has lived since the start of the watch, dead at once.
pub(crate) fn ledger(pid: u32, tid: u32) -> LedgerFact {
    LedgerFact {
        read_ns: START,
        pid: Pid(pid),
        tid: Tid(tid),
        start_boottime_ns: START_BOOT - 5 * SECOND,
        seeded: true,
        folded: false,
        start_ns: START,
        since_ns: START,
        state: ThreadState::Dead,
        sum_exec_ns: 0,
        on_cpu_ns: 0,
        woken_ns: 0,
        preempted_ns: 0,
        stolen_ns: 0,
        unknown_ns: 0,
        unobserved_ns: 0,
        unobserved_run_ns: 0,
        blocked_ns: [0; cause::COUNT],
        voluntary: 0,
        involuntary: 0,
        migrations: 0,
        hists_since_ns: 0,
        wakeup_latency: hist(&[]),
        slice: hist(&[]),
        off_cpu: vec![hist(&[]); cause::COUNT],
    }
}

pub(crate) fn random_state(random: &mut Random) -> ThreadState {
    match random.below(5) {
        0 => ThreadState::Running,
        1 => ThreadState::Woken,
        2 => ThreadState::Preempted,
        3 => ThreadState::Dead,
        _ => ThreadState::Blocked(Cause::ALL[random.below(9) as usize]),
    }
}

/// A reading of a thread in which nothing need fit together.
pub(crate) fn random_ledger(random: &mut Random) -> LedgerFact {
    let mut broken = hist(&[]);
    broken.count = random.nasty();
    broken.sum_ns = random.nasty();
    broken.min_ns = random.nasty();
    broken.max_ns = random.nasty();
    for bucket in [0, 50, 80] {
        let bucket = bucket + random.below(30) as u8;
        broken.buckets.push((bucket, random.any() as u32));
    }
    LedgerFact {
        read_ns: random.nasty(),
        start_boottime_ns: random.nasty(),
        seeded: random.chance(50),
        folded: random.chance(20),
        start_ns: random.nasty(),
        since_ns: random.nasty(),
        state: random_state(random),
        sum_exec_ns: random.nasty(),
        on_cpu_ns: random.nasty(),
        woken_ns: random.nasty(),
        preempted_ns: random.nasty(),
        stolen_ns: random.nasty(),
        unknown_ns: random.nasty(),
        unobserved_ns: random.nasty(),
        unobserved_run_ns: random.nasty(),
        blocked_ns: std::array::from_fn(|_| random.nasty()),
        voluntary: random.nasty(),
        involuntary: random.nasty(),
        migrations: random.nasty(),
        hists_since_ns: random.nasty(),
        wakeup_latency: broken.clone(),
        slice: broken.clone(),
        off_cpu: vec![broken; random.below(12) as usize],
        ..ledger(random.below(4) as u32, random.below(6) as u32)
    }
}

/// The law: `wall = on_cpu + runnable + Σ blocked + unknown + unobserved`.
pub(crate) fn assert_closed(sum: &LedgerSum) {
    let b = &sum.blocked_ns;
    let blocked = [
        b.gil, b.lock, b.poll, b.sleep, b.io, b.child, b.disk, b.stopped, b.other,
    ];
    let rest = sum.unknown_ns + sum.unobserved_ns;
    let columns = blocked.iter().sum::<u64>() + sum.on_cpu_ns + sum.runnable_ns + rest;
    assert_eq!(sum.wall_ns, columns, "{sum:?}");
    assert!(
        sum.preempted_ns + sum.stolen_ns <= sum.runnable_ns,
        "{sum:?}"
    );
    assert!(sum.unobserved_on_cpu_ns <= sum.unobserved_ns, "{sum:?}");
}

/// What must hold in every snapshot, whatever came in.
pub(crate) fn assert_lawful(snapshot: &Snapshot) {
    for process in &snapshot.processes {
        assert!(process.cpu_percent.is_finite());
        assert!(process.start_unix_ns == 0 || !has_limit(&process.limits, "start_unix_ns"));
        for (field, null) in [
            ("rss_bytes", process.rss_bytes.is_none()),
            ("threads_count", process.threads_count.is_none()),
            ("children_count", process.children_count.is_none()),
            ("fds_count", process.fds_count.is_none()),
            ("python", process.python.is_none()),
            ("gil", process.gil.is_none()),
            ("entry", process.entry.is_none()),
        ] {
            assert_eq!(null, has_limit(&process.limits, field), "{field}");
        }
        for thread in &process.threads {
            assert_closed(&thread.ledger);
            let lock = thread.lock_ns;
            let parts = [lock.contended, lock.waiting_for_work, lock.join, lock.other];
            let sum: u128 = parts.map(u128::from).iter().sum();
            assert_eq!(sum, thread.ledger.blocked_ns.lock.into());
            let cpu = thread.cpu_user_ns.zip(thread.cpu_system_ns);
            if let Some((user, system)) = cpu {
                assert_eq!(user + system, thread.ledger.on_cpu_ns);
            }
            assert_eq!(cpu.is_none(), has_limit(&thread.limits, "cpu_user_ns"));
            for (field, null) in [
                ("name", thread.name.is_none()),
                ("ident", thread.ident.is_none()),
                ("role", thread.role.is_none()),
                ("daemon", thread.daemon.is_none()),
                ("entry", thread.entry.is_none()),
                ("stack_size_bytes", thread.stack_size_bytes.is_none()),
            ] {
                assert_eq!(null, has_limit(&thread.limits, field), "{field}");
            }
            for histogram in [&thread.wakeup_latency, &thread.slice]
                .into_iter()
                .chain(thread.off_cpu.values())
            {
                assert!(histogram.min_ns <= histogram.max_ns);
                assert!(histogram.p50_ns <= histogram.p99_ns);
            }
            assert!(thread.wakers.len() <= 32);
        }
        if let Some(gil) = &process.gil {
            for (field, null) in [
                ("held_ns", gil.held_ns.is_none()),
                ("free_ns", gil.free_ns.is_none()),
                ("utilization", gil.utilization.is_none()),
                ("switches", gil.switches.is_none()),
            ] {
                assert!(!null || has_limit(&gil.limits, field), "{field}");
            }
            let used = gil.utilization.unwrap_or(0.0);
            assert!((0.0..=1.0).contains(&used), "{used}");
        }
        for running in &process.loops {
            assert_eq!(running.wall_ns, running.idle_ns + running.busy_ns);
            assert!((0.0..=1.0).contains(&running.utilization));
            match &running.timing {
                Some(timing) => assert_timing(timing, running),
                None => assert!(has_limit(&running.limits, "stalls")),
            }
        }
    }
}

/// What must hold of a loop's time, whatever was sampled.
fn assert_timing(timing: &Timing, row: &Loop) {
    let split = [
        (timing.tasks_ns, timing.busy.tasks),
        (timing.callbacks_ns, timing.busy.callbacks),
        (timing.unknown_ns, timing.busy.unknown),
    ];
    for (ns, cost) in split {
        assert_eq!(ns, cost.total_ns());
    }
    let sum: u128 = split.iter().map(|(ns, _)| u128::from(*ns)).sum();
    assert_eq!(sum, row.busy_ns.into(), "{timing:?}");
    let names = timing.by_name.iter();
    let named: u128 = names.map(|row| u128::from(row.cost.total_ns())).sum();
    assert!(named <= timing.tasks_ns.into(), "{timing:?}");
    let called = timing.callbacks.iter();
    let called: u128 = called.map(|row| u128::from(row.cost.total_ns())).sum();
    assert!(called <= timing.callbacks_ns.into(), "{timing:?}");
    for (field, null) in [
        ("iterations", timing.iterations.is_none()),
        ("lag", timing.lag.is_none()),
        ("step", timing.step.is_none()),
    ] {
        assert_eq!(null, has_limit(&row.limits, field), "{field}");
    }
    assert!(timing.stalls.len() as u64 <= timing.stalls_count);
    let longest = timing.stalls.windows(2);
    assert!(
        longest
            .into_iter()
            .all(|two| two[0].duration_ns >= two[1].duration_ns)
    );
    for stall in &timing.stalls {
        assert!(stall.collecting_ns <= stall.cost.on_cpu_ns);
        for (field, null) in [
            ("culprit.frame", stall.culprit.frame.is_none()),
            ("waiting", stall.waiting.is_none()),
        ] {
            assert_eq!(null, has_limit(&stall.limits, field), "{field}");
        }
        assert!(stall.task.is_none() || !has_limit(&stall.limits, "task"));
    }
}

pub(crate) fn has_limit(limits: &[crate::schema::Limit], field: &str) -> bool {
    limits.iter().any(|limit| limit.field == field)
}

/// A watch of process 100 under test. Instants are ns after its start.
pub(crate) struct Fixture {
    pub(crate) model: Model,
    ledgers: BTreeMap<u32, LedgerFact>,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Fixture {
            model: Model::new(WatchInfo {
                version: "0.0.0".into(),
                start_ns: START,
                start_unix_ns: START_UNIX,
                start_boottime_ns: START_BOOT,
                targets: vec![Pid(100)],
                stall_threshold_ns: None,
                knows_causes: true,
                place: PlaceFact::default(),
                http: Default::default(),
            }),
            ledgers: BTreeMap::new(),
        }
    }

    pub(crate) fn apply(&mut self, event: Event) -> &mut Self {
        self.model.apply(&event);
        self
    }

    /// Reads the ledger of a thread after `change`d it; it is blocked on a lock at first.
    pub(crate) fn read(
        &mut self,
        pid: u32,
        tid: u32,
        at: u64,
        change: impl FnOnce(&mut LedgerFact),
    ) -> &mut Self {
        let fact = self.ledgers.entry(tid).or_insert_with(|| LedgerFact {
            state: ThreadState::Blocked(Cause::Lock),
            ..ledger(pid, tid)
        });
        fact.read_ns = START + at;
        change(fact);
        let fact = fact.clone();
        self.apply(Event::Ledger(Box::new(fact)))
    }

    pub(crate) fn fork(&mut self, parent: u32, pid: u32, tid: u32, at: u64) -> &mut Self {
        let at_ns = START + at;
        self.ledgers.insert(
            tid,
            LedgerFact {
                seeded: false,
                start_boottime_ns: boot(at_ns),
                start_ns: at_ns,
                since_ns: at_ns,
                state: ThreadState::Running,
                ..ledger(pid, tid)
            },
        );
        self.apply(Event::Fork(Fork {
            at_ns,
            parent: Tid(parent),
            pid: Pid(pid),
            tid: Tid(tid),
            start_boottime_ns: boot(at_ns),
            comm: "worker".into(),
        }))
    }

    /// The thread ends; all its time since its last closed column was on the CPU.
    pub(crate) fn die(&mut self, pid: u32, tid: u32, at: u64) -> &mut Self {
        self.read(pid, tid, at, |fact| {
            let end = fact.read_ns;
            fact.on_cpu_ns += end - fact.since_ns;
            fact.since_ns = end;
            fact.state = ThreadState::Dead;
        })
    }

    /// `change`s a plain exit with code 0 of a thread that is not the last.
    pub(crate) fn exit(
        &mut self,
        pid: u32,
        tid: u32,
        at: u64,
        change: impl FnOnce(&mut Exit),
    ) -> &mut Self {
        let known = self.ledgers.get(&tid);
        let mut exit = Exit {
            at_ns: START + at,
            pid: Pid(pid),
            tid: Tid(tid),
            start_boottime_ns: known.map_or(START_BOOT - 5 * SECOND, |fact| fact.start_boottime_ns),
            status: 0,
            last: false,
            group: false,
        };
        change(&mut exit);
        self.apply(Event::Exit(exit))
    }

    pub(crate) fn proc(
        &mut self,
        pid: u32,
        at: u64,
        change: impl FnOnce(&mut ProcessFact),
    ) -> &mut Self {
        let start = self.ledgers.get(&pid).map(|fact| fact.start_boottime_ns);
        let start = start.unwrap_or(START_BOOT - 5 * SECOND) / (10 * MS) * (10 * MS);
        let mut fact = ProcessFact {
            read_ns: START + at,
            pid,
            ppid: 1,
            start_boottime_ns: start,
            start_unix_ns: start + START_UNIX - START_BOOT,
            name: "python3".into(),
            cmdline: vec!["python3".into(), "app.py".into()],
            entry: Some("app.py".into()),
            rss_bytes: Some(1 << 20),
            threads: Some(1),
            fds: Some(3),
            fds_limit: Some(1024),
            ..ProcessFact::default()
        };
        change(&mut fact);
        self.apply(Event::Process(Box::new(fact)))
    }

    pub(crate) fn look(
        &mut self,
        pid: u32,
        at: u64,
        change: impl FnOnce(&mut PythonFact),
    ) -> &mut Self {
        let mut fact = look(pid, START + at);
        change(&mut fact);
        self.apply(Event::Python(Arc::new(fact)))
    }

    pub(crate) fn tick(&mut self, at: u64) -> Snapshot {
        self.apply(Event::Tick(Tick {
            at_ns: START + at,
            unix_ns: START_UNIX + at,
        }));
        let snapshot = self.model.snapshot();
        assert_lawful(&snapshot);
        snapshot
    }
}

/// A look into a supported interpreter with nothing in it.
pub(crate) fn look(pid: u32, read_ns: u64) -> PythonFact {
    let info = PythonInfo {
        implementation: "cpython".into(),
        version: Some("3.13.0".into()),
        free_threaded: false,
        supported: true,
        reason: None,
    };
    PythonFact::new(Pid(pid), read_ns, info)
}

pub(crate) fn py_thread(tid: u32, name: &str) -> PyThread {
    PyThread {
        tid: Tid(tid),
        ident: u64::from(tid) << 32,
        name: Some(name.into()),
        daemon: Some(false),
        entry: Some("app.work".into()),
        stack_size_bytes: Some(8 << 20),
        main: false,
        pool: false,
        stack: Vec::new(),
        stack_torn: false,
        waiting_for: None,
    }
}

pub(crate) fn py_loop(tid: u32, id: u64) -> PyLoop {
    PyLoop {
        tid: Tid(tid),
        id,
        kind: LoopKind::Asyncio,
        ready: Some(1),
        scheduled: Some(2),
        stall_threshold_ns: Some(100 * MS),
        debug: Some(false),
        tasks_created: Some(5),
        queue: None,
    }
}

pub(crate) fn py_task(id: u64, loop_id: u64, name: &str) -> PyTask {
    PyTask {
        id,
        loop_id,
        name: name.into(),
        coroutine: "app.serve".into(),
        coroutine_id: id ^ 0xc0,
        state: TaskState::Pending,
        awaiting: vec![PyFrame {
            function: "serve".into(),
            file: "app.py".into(),
            line: 7,
        }],
        waits_for: None,
        timeout_ns: None,
        in_timeout: false,
        client_port: None,
        hosts: Vec::new(),
        holds: Vec::new(),
        awaited_by: Vec::new(),
        cancel_requested: false,
        exception: None,
        retrieved: None,
        context: BTreeMap::new(),
    }
}
