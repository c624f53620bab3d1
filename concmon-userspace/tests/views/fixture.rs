//! Handmade snapshots: what views are shown with, built so that every ledger is closed.

use std::collections::BTreeMap;

use concmon::schema::*;

pub(crate) const MS: u64 = 1_000_000;
/// 2026-01-02T03:04:05Z.
pub(crate) const START: u64 = 1_767_323_045 * 1_000_000_000;

/// A window of one second.
pub(crate) fn snapshot(processes: Vec<Process>) -> Snapshot {
    Snapshot {
        schema: SCHEMA,
        kind: Kind::Snapshot,
        window: Window {
            start_unix_ns: START,
            duration_ns: 1000 * MS,
        },
        monitor: Monitor {
            version: "0.0.0".into(),
            cpu_ns: 4_200_000,
            rss_bytes: 25_270_000,
            kernel_run_ns: Some(1_900_000),
            unobserved_ns: 0,
            events: 12_345,
            events_lost: 0,
            reads_failed: 0,
            shed: Vec::new(),
            budget: Some(concmon::schema::Budget {
                cpu_percent: 1.0,
                cpu_percent_used: Some(0.4),
                memory_bytes: 128_000_000,
            }),
            passes: None,
            estimated: vec!["kernel_run_ns"],
            faults: BTreeMap::new(),
            limits: Vec::new(),
        },
        processes,
        groups: Vec::new(),
        limits: Vec::new(),
    }
}

pub(crate) fn as_summary(mut snapshot: Snapshot) -> Snapshot {
    snapshot.kind = Kind::Summary;
    snapshot
}

pub(crate) fn limit(field: &str, reason: &str) -> Limit {
    Limit {
        field: field.to_owned().into(),
        reason: reason.to_owned().into(),
    }
}

pub(crate) fn process(pid: u32, entry: &str, threads: Vec<Thread>) -> Process {
    let cpu_ns = threads.iter().map(|t| t.ledger.on_cpu_ns).sum::<u64>();
    let switches = |get: fn(&Switches) -> u64| threads.iter().map(|t| get(&t.switches)).sum();
    Process {
        pid,
        ppid: 1,
        group: Some("app.py".to_owned()),
        start_unix_ns: START - 3_600_000 * MS,
        name: "python3".to_owned(),
        cmdline: vec![
            "python3".to_owned(),
            entry.to_owned(),
            "--port".to_owned(),
            "80".to_owned(),
        ],
        entry: Some(entry.to_owned()),
        title: Some(entry.to_owned()),
        role: Some(ProcessRole::Main),
        place: Default::default(),
        exited: None,
        python: Some(Python {
            implementation: "cpython".to_owned(),
            version: Some("3.13.0".to_owned()),
            free_threaded: false,
            supported: true,
            reason: None,
        }),
        cpu_ns,
        cpu_percent: cpu_ns as f64 / 1e7,
        rss_bytes: Some(46_240_000),
        vms_bytes: Some(312_000_000),
        threads_count: Some(threads.len() as u64),
        children_count: Some(0),
        descendants_count: Some(0),
        zombies_count: Some(0),
        fds_count: Some(34),
        fds_limit: Some(1024),
        throttled: None,
        context_switches: Switches {
            voluntary: switches(|s| s.voluntary),
            involuntary: switches(|s| s.involuntary),
        },
        ended: Ended::default(),
        gc: None,
        gil: Some(quiet_gil()),
        threads,
        loops: Vec::new(),
        exact: None,
        peers: None,
        http: None,
        executors: Vec::new(),
        deadlocks: Vec::new(),
        findings: Vec::new(),
        limits: Vec::new(),
    }
}

/// A GIL that nobody waits for.
fn quiet_gil() -> Gil {
    Gil {
        wait_ns: Some(0),
        waits: Some(Histogram::default()),
        waiters_max: Some(0),
        held_ns: Some(0),
        free_ns: Some(1000 * MS),
        utilization: Some(0.0),
        estimated: vec!["held_ns", "free_ns", "utilization"],
        switches: Some(3),
        pairs: Vec::new(),
        hog: None,
        limits: Vec::new(),
    }
}

/// A thread by its columns in ms, `[on_cpu, runnable, gil, lock, poll, sleep, io, disk, other]`.
pub(crate) fn thread(tid: u32, name: &str, ms: [u64; 9]) -> Thread {
    let [on_cpu, runnable, gil, lock, poll, sleep, io, disk, other] = ms.map(|ms| ms * MS);
    let waits = 40 + 3 * ms[0];
    Thread {
        tid,
        ident: Some(0x7f00_0000_0000 + u64::from(tid) * 4096),
        name: Some(name.into()),
        comm: Some("python3".into()),
        role: Some(if name == "MainThread" {
            Role::Main
        } else {
            Role::Other
        }),
        daemon: Some(false),
        alive: true,
        entry: None,
        started_unix_ns: START - 3_600_000 * MS,
        ended_unix_ns: None,
        stack_size_bytes: Some(8 << 20),
        ledger: LedgerSum {
            wall_ns: ms.iter().sum::<u64>() * MS,
            on_cpu_ns: on_cpu,
            runnable_ns: runnable,
            preempted_ns: runnable / 3,
            stolen_ns: 0,
            blocked_ns: Blocked {
                gil,
                lock,
                poll,
                sleep,
                io,
                child: 0,
                disk,
                stopped: 0,
                other,
            },
            ..LedgerSum::default()
        },
        lock_ns: LockNs {
            waiting_for_work: lock,
            ..LockNs::default()
        },
        cpu_user_ns: Some(on_cpu * 9 / 10),
        cpu_system_ns: Some(on_cpu / 10),
        estimated: &["cpu_user_ns", "cpu_system_ns", "lock_ns"],
        code: None,
        switches: Switches {
            voluntary: waits,
            involuntary: ms[1],
        },
        migrations: ms[1] / 2,
        histograms_since_unix_ns: None,
        wakeup_latency: histogram(waits, 42_000),
        slice: histogram(waits, 5_100_000),
        off_cpu: BTreeMap::from([("gil", histogram(waits, 5_000_000))]),
        wakers: Vec::new(),
        wait: None,
        waiting_for: None,
        stack: [].into(),
        limits: Vec::new(),
    }
}

pub(crate) fn histogram(count: u64, typical_ns: u64) -> Histogram {
    Histogram {
        count,
        sum_ns: count * typical_ns,
        min_ns: Some(typical_ns / 8),
        max_ns: Some(typical_ns * 90),
        p50_ns: Some(typical_ns),
        p90_ns: Some(typical_ns * 3),
        p99_ns: Some(typical_ns * 20),
        buckets: vec![
            (typical_ns, count / 2),
            (typical_ns * 90, count - count / 2),
        ],
    }
}

pub(crate) fn event_loop(tid: u32, busy_ms: u64, tasks: Vec<Task>) -> Loop {
    Loop {
        tid,
        kind: LoopKind::Asyncio,
        running: true,
        wall_ns: 1000 * MS,
        idle_ns: (1000 - busy_ms) * MS,
        busy_ns: busy_ms * MS,
        utilization: busy_ms as f64 / 1000.0,
        stall_threshold_ns: Some(100 * MS),
        ready: Some(3),
        scheduled: Some(1),
        pending_tasks: Some(tasks.len() as u64),
        tasks_created: Some(tasks.len() as u64),
        queue: Vec::new(),
        queue_read_unix_ns: None,
        watched: Vec::new(),
        missed_wakeup: None,
        tasks,
        tasks_unchanged: 0,
        tasks_gone: Vec::new(),
        timing: None,
        hang: None,
        limits: Vec::new(),
    }
}

/// A task that waits in a chain of `function` at `file:line`.
pub(crate) fn task(
    number: u64,
    state: TaskState,
    age_ms: u64,
    chain: &[(&str, &str, u32)],
) -> Task {
    let frame = |(function, file, line): &(&str, &str, u32)| Frame {
        function: (*function).into(),
        file: (*file).into(),
        line: *line,
    };
    Task {
        id: Address(0x7f3a_0000_0000 + number * 0x100),
        name: format!("Task-{number}"),
        coroutine: chain[0].0.to_owned(),
        state,
        awaiting: chain.iter().map(frame).collect(),
        waits_for: None,
        timeout_ns: None,
        awaited_by: Vec::new(),
        cancel_requested: false,
        exception: None,
        retrieved: None,
        context: BTreeMap::new(),
        cost: None,
        seen: Some(Seen {
            first_seen_unix_ns: START - age_ms * MS,
            age_ns: age_ms * MS,
        }),
    }
}

/// A handler calls `time.sleep` in the loop's thread, and everything else waits.
pub(crate) fn blocked_loop() -> Snapshot {
    let mut main = thread(4242, "MainThread", [12, 3, 0, 0, 25, 960, 0, 0, 0]);
    main.role = Some(Role::Loop);
    let mut pool = thread(4250, "asyncio_0", [1, 0, 2, 997, 0, 0, 0, 0, 0]);
    pool.role = Some(Role::Pool);
    pool.wakers = vec![
        Waker {
            tid: None,
            process: None,
            cause: Cause::Lock,
            count: 3,
            blocked_ns: 20 * MS,
        },
        Waker {
            tid: Some(4242),
            process: None,
            cause: Cause::Lock,
            count: 12,
            blocked_ns: 900 * MS,
        },
    ];
    let mut server = process(4242, "app.py", vec![main, pool]);
    let serve = ("main", "/srv/app/app.py", 88);
    let handle = ("handle_request", "/srv/app/app.py", 41);
    server.loops = vec![event_loop(
        4242,
        975,
        vec![
            task(
                1,
                TaskState::Pending,
                3_600_000,
                &[
                    serve,
                    (
                        "Server.serve_forever",
                        "/usr/lib/python3.13/asyncio/base_events.py",
                        372,
                    ),
                ],
            ),
            task(
                101,
                TaskState::Pending,
                480,
                &[
                    handle,
                    ("Database.fetch_user", "/srv/app/database.py", 120),
                    ("Connection.execute", "/srv/app/database.py", 57),
                    (
                        "StreamReader.readexactly",
                        "/usr/lib/python3.13/asyncio/streams.py",
                        737,
                    ),
                ],
            ),
            task(
                102,
                TaskState::Running,
                310,
                &[handle, ("legacy_rate_limit", "/srv/app/limits.py", 19)],
            ),
            task(103, TaskState::Pending, 12, &[handle]),
        ],
    )];
    snapshot(vec![server])
}

/// Four threads compute in Python: one runs, three wait for the GIL.
pub(crate) fn gil_fight() -> Snapshot {
    let main = thread(5000, "MainThread", [0, 0, 0, 1000, 0, 0, 0, 0, 0]);
    let mut threads = vec![main];
    for n in 0..4 {
        let mut worker = thread(
            5001 + n,
            &format!("worker-{n}"),
            [250, 2, 745, 0, 0, 0, 3, 0, 0],
        );
        worker.wakers = vec![Waker {
            tid: Some(5001 + (n + 1) % 4),
            process: None,
            cause: Cause::Gil,
            count: 149,
            blocked_ns: 700 * MS,
        }];
        threads.push(worker);
    }
    let last = threads.last_mut().expect("a thread");
    last.ledger.blocked_ns.gil += 30 * MS;
    last.ledger.on_cpu_ns -= 30 * MS;
    let mut process = process(5000, "crunch.py", threads);
    process.gil = Some(fought_gil());
    snapshot(vec![process])
}

pub(crate) fn fought_gil() -> Gil {
    let pair = |holder_tid, victim_tid, ms, count| GilPair {
        holder_tid,
        victim_tid,
        wait_ns: ms * MS,
        count,
    };
    Gil {
        wait_ns: Some(3010 * MS),
        waits: Some(histogram(596, 5_050_000)),
        waiters_max: Some(3),
        held_ns: Some(960 * MS),
        free_ns: Some(40 * MS),
        utilization: Some(0.96),
        switches: Some(598),
        pairs: vec![
            pair(Some(5001), 5004, 700, 139),
            pair(Some(5002), 5001, 690, 138),
            pair(Some(5003), 5002, 670, 134),
            pair(Some(5004), 5003, 660, 131),
            pair(Some(5001), 5002, 170, 40),
            pair(None, 5004, 120, 14),
        ],
        hog: None,
        ..quiet_gil()
    }
}

/// The kernel's columns work, the interpreter cannot be read.
pub(crate) fn unsupported() -> Snapshot {
    let reason = "CPython 3.99 is not supported";
    let mut only = thread(6000, "", [400, 10, 0, 90, 0, 0, 480, 20, 0]);
    (only.name, only.ident, only.role, only.daemon) = (None, None, None, None);
    (only.cpu_user_ns, only.cpu_system_ns, only.stack_size_bytes) = (None, None, None);
    only.limits = vec![
        limit("name", reason),
        limit(
            "blocked_ns.gil",
            "GIL waits count as lock: CPython 3.99 is not supported",
        ),
    ];
    let mut process = process(6000, "job.py", vec![only]);
    process.python = Some(Python {
        implementation: "cpython".to_owned(),
        version: Some("3.99.0a1".to_owned()),
        free_threaded: true,
        supported: false,
        reason: Some(format!(
            "{reason}: processes and threads are shown, names and tasks are not"
        )),
    });
    (process.fds_count, process.fds_limit) = (None, None);
    process.gil = None;
    process.limits = vec![
        limit("fds_count", "permission denied"),
        limit("gil", reason),
        limit("loops", reason),
    ];
    let mut snapshot = snapshot(vec![process]);
    snapshot.monitor.kernel_run_ns = None;
    snapshot.monitor.estimated.clear();
    snapshot.monitor.limits = vec![limit(
        "kernel_run_ns",
        "the kernel keeps no run time (kernel.bpf_stats_enabled)",
    )];
    snapshot
}

/// A killed worker, one that ended by itself, the parent that lives on; records were lost.
pub(crate) fn dead_worker() -> Snapshot {
    let mut parent = process(
        7000,
        "-m gunicorn",
        vec![thread(7000, "MainThread", [1, 0, 0, 0, 0, 0, 0, 0, 999])],
    );
    (
        parent.children_count,
        parent.descendants_count,
        parent.zombies_count,
    ) = (Some(1), Some(1), Some(1));
    parent.ended = Ended {
        threads: 3,
        processes: 1,
        ledger: LedgerSum {
            wall_ns: 90 * MS,
            on_cpu_ns: 60 * MS,
            runnable_ns: 30 * MS,
            ..LedgerSum::default()
        },
    };
    let mut processes = vec![parent];
    for (pid, exited) in [
        (
            7011,
            Exited {
                code: None,
                signal: Some(9),
            },
        ),
        (
            7012,
            Exited {
                code: Some(3),
                signal: None,
            },
        ),
    ] {
        let mut main = thread(pid, "MainThread", [350, 120, 0, 0, 0, 0, 0, 30, 0]);
        (main.alive, main.ended_unix_ns) = (false, Some(START + 500 * MS));
        let mut worker = process(pid, "-m gunicorn", vec![main]);
        (worker.ppid, worker.exited) = (7000, Some(exited));
        processes.push(worker);
    }
    let mut snapshot = snapshot(processes);
    snapshot.monitor.events_lost = 1312;
    snapshot.monitor.reads_failed = 2;
    snapshot.monitor.faults = BTreeMap::from([("output-failed".to_owned(), 4)]);
    snapshot.monitor.shed = vec!["tasks".to_owned()];
    snapshot
}

/// A target that tries to draw on the terminal of who watches it.
pub(crate) fn hostile() -> Snapshot {
    let evil = "\x1b[2J\x1b]0;owned\x07\r\n\u{202e}txt.exe\u{9b}31m\u{200b}";
    let mut main = thread(8000, evil, [500, 0, 0, 0, 500, 0, 0, 0, 0]);
    main.limits = vec![limit(evil, evil)];
    let wide = thread(
        8001,
        "线程池工作者之一二三四五六七八九十",
        [10, 0, 0, 990, 0, 0, 0, 0, 0],
    );
    let mut process = process(8000, evil, vec![main, wide]);
    process.name = evil.to_owned();
    process.cmdline = vec![
        "python3".to_owned(),
        "-c".to_owned(),
        format!("print(r'\\d')\n{evil}"),
    ];
    let python = process.python.as_mut().expect("it is Python");
    (python.implementation, python.version) = (evil.to_owned(), Some(evil.to_owned()));
    python.reason = Some(evil.to_owned());
    process.limits = vec![limit(evil, evil)];
    let mut bad = task(
        1,
        TaskState::Running,
        5,
        &[(evil, evil, 1), ("plain", evil, 2)],
    );
    (bad.name, bad.coroutine) = (evil.to_owned(), evil.to_owned());
    let mut bare = bad.clone();
    bare.awaiting.clear();
    process.loops = vec![event_loop(8000, 600, vec![bad, bare])];
    process.loops[0].limits = vec![limit(evil, evil)];
    process.loops[0].timing = stalls().processes[0].loops[0].timing.clone();
    process.loops[0].hang = hang().processes[0].loops[0].hang.clone();
    if let Some(hang) = &mut process.loops[0].hang {
        (hang.frame, hang.stack) = (Some(frame(evil, evil, 7)), vec![frame(evil, evil, 7)]);
        hang.coroutine = Some(evil.to_owned());
        hang.context = BTreeMap::from([(evil.to_owned(), evil.to_owned())]);
        if let Some(task) = &mut hang.task {
            task.name = evil.to_owned();
        }
    }
    if let Some(timing) = &mut process.loops[0].timing {
        for stall in &mut timing.stalls {
            stall.culprit.frame = Some(frame(evil, evil, 7));
            stall.coroutine = Some(evil.to_owned());
            stall.stack = vec![frame(evil, evil, 7)];
            stall.context = BTreeMap::from([(evil.to_owned(), evil.to_owned())]);
            if let Some(task) = &mut stall.task {
                task.name = evil.to_owned();
            }
        }
        for one in &mut timing.saturation.top {
            one.name = evil.to_owned();
        }
        for row in &mut timing.by_name {
            row.name = evil.to_owned();
        }
    }
    process.findings = vec![finding("loop-blocked", Severity::Critical, evil, evil)];
    let mut snapshot = snapshot(vec![process]);
    snapshot.limits = vec![limit(evil, evil)];
    snapshot.monitor.faults = BTreeMap::from([(evil.to_owned(), 1)]);
    snapshot.monitor.shed = vec![evil.to_owned()];
    snapshot
}

fn frame(function: &str, file: &str, line: u32) -> Frame {
    Frame {
        function: function.into(),
        file: file.into(),
        line,
    }
}

/// A step that kept a loop for `ms`, blocked or on a CPU, `late_ms` into the window.
pub(crate) fn stall(kind: CulpritKind, late_ms: u64, ms: u64, function: &str) -> Stall {
    let mut cost = Cost::default();
    match kind {
        CulpritKind::Sleep => cost.blocked_ns.sleep = ms * MS,
        CulpritKind::Gil => cost.blocked_ns.gil = ms * MS,
        _ => cost.on_cpu_ns = ms * MS,
    }
    Stall {
        at_unix_ns: START + late_ms * MS,
        duration_ns: ms * MS,
        cost,
        collecting_ns: 0,
        culprit: Culprit {
            kind,
            frame: Some(frame(function, "/srv/app/limits.py", 19)),
            holder_tid: None,
        },
        task: Some(StallTask {
            id: Address(0x7f3a_0000_6600),
            name: "Task-102".to_owned(),
        }),
        coroutine: Some("handle_request".to_owned()),
        creator: None,
        stack: vec![
            frame(function, "/srv/app/limits.py", 19),
            frame("handle_request", "/srv/app/app.py", 41),
        ],
        context: BTreeMap::from([("request_id".to_owned(), "r-8812".to_owned())]),
        trace: None,
        waiting: Some(Waiting {
            ready: Some(12),
            overdue: Some(3),
        }),
        delayed: None,
        samples: 4,
        estimated: vec!["duration_ns", "collecting_ns", "stack"],
        limits: Vec::new(),
    }
}

fn by_name(name: &str, pending: u64, on_cpu_ms: u64, sleep_ms: u64) -> ByName {
    const REASON: &str = "tasks that live between two looks are not seen; --exact tasks counts";
    let mut cost = Cost {
        on_cpu_ns: on_cpu_ms * MS,
        ..Cost::default()
    };
    cost.blocked_ns.sleep = sleep_ms * MS;
    ByName {
        name: name.to_owned(),
        pending,
        started: None,
        finished: None,
        failed: None,
        cancelled: None,
        gone: None,
        duration: None,
        cost,
        samples: on_cpu_ms / 10,
        estimated: vec!["on_cpu_ns", "runnable_ns", "blocked_ns"],
        limits: [
            "started",
            "finished",
            "failed",
            "cancelled",
            "gone",
            "duration",
        ]
        .map(|field| limit(field, REASON))
        .into(),
    }
}

pub(crate) fn finding(
    rule: &'static str,
    severity: Severity,
    summary: &str,
    advice: &str,
) -> Finding {
    Finding {
        rule,
        severity,
        summary: summary.to_owned(),
        evidence: BTreeMap::from([("tid", serde_json::Value::from(4242))]),
        advice: advice.to_owned(),
        since_unix_ns: START - 7_000 * MS,
        active_ns: 8_000 * MS,
    }
}

/// Stalls of several kinds, many short steps between them, and what follows from it.
pub(crate) fn stalls() -> Snapshot {
    let mut snapshot = blocked_loop();
    let process = &mut snapshot.processes[0];
    let mut of_gil = stall(CulpritKind::Gil, 700, 110, "crunch");
    of_gil.culprit.holder_tid = Some(4250);
    let mut of_callback = stall(CulpritKind::Cpu, 420, 130, "parse");
    (of_callback.task, of_callback.waiting) = (None, None);
    of_callback.coroutine = Some("Protocol.data_received".to_owned());
    of_callback.context.clear();
    of_callback.limits = vec![
        limit("context", "the step was over before it could be looked at"),
        limit("waiting", "the step was over before it could be looked at"),
    ];
    let blocked = stall(CulpritKind::Sleep, 80, 310, "legacy_rate_limit");
    let (mut tasks, mut callbacks) = (Cost::default(), Cost::default());
    (tasks.on_cpu_ns, tasks.blocked_ns.sleep) = (300 * MS, 310 * MS);
    callbacks.on_cpu_ns = 180 * MS;
    let unknown = Cost {
        runnable_ns: 185 * MS,
        ..Cost::default()
    };
    process.loops[0].timing = Some(Timing {
        iterations: Some(5_120),
        lag: Some(histogram(1_000, 5_400_000)),
        step: Some(histogram(5_300, 150_000)),
        tasks_ns: tasks.total_ns(),
        callbacks_ns: callbacks.total_ns(),
        unknown_ns: unknown.total_ns(),
        busy: BusySplit {
            tasks,
            callbacks,
            unknown,
        },
        stalls_count: 3,
        stalls_ns: 550 * MS,
        delayed: None,
        stalls: vec![blocked, of_callback, of_gil],
        saturation: Saturation {
            count: 1,
            busy_ns: 260 * MS,
            longest_ns: 260 * MS,
            top: [
                ("handle_request", 180, 18),
                ("Protocol.data_received", 80, 8),
            ]
            .map(|(name, ms, samples)| Contributor {
                name: name.to_owned(),
                busy_ns: ms * MS,
                samples,
            })
            .into(),
        },
        by_name: vec![
            by_name("handle_request", 3, 290, 310),
            by_name("main", 1, 10, 0),
            by_name("worker-#", 40, 0, 0),
        ],
        callbacks: vec![Callback {
            name: "Protocol.data_received".to_owned(),
            cost: callbacks,
            samples: 18,
        }],
        estimated: vec!["iterations", "lag", "step", "busy"],
    });
    process.loops[0].tasks[2].cost = Some(TaskCost {
        cost: Cost {
            on_cpu_ns: 40 * MS,
            ..Cost::default()
        },
        samples: 4,
    });
    process.threads[0].code = Some(CodeSamples {
        interpreter: 40,
        native: 3,
        kernel: 5,
    });
    process.findings = vec![
        finding(
            "loop-blocked",
            Severity::Critical,
            "the event loop stood still for 310 ms in task Task-102 (handle_request): sleep, \
             legacy_rate_limit (limits.py:19); sustained",
            "await asyncio.sleep() instead of time.sleep()",
        ),
        finding(
            "task-exception-never-retrieved",
            Severity::Warning,
            "3 tasks have failed and nobody looked: ValueError in refresh_cache",
            "await the task, or look at task.exception() in a done callback",
        ),
    ];
    snapshot
}

/// A loop that stands still since before the watch.
pub(crate) fn hang() -> Snapshot {
    let mut snapshot = stalls();
    let process = &mut snapshot.processes[0];
    let stall = stall(CulpritKind::Lock, 0, 1_000, "acquire");
    process.loops[0].hang = Some(Hang {
        since_unix_ns: START - 11_000 * MS,
        lasting_ns: 12_000 * MS,
        before_watch: true,
        cause: CulpritKind::Lock,
        frame: stall.culprit.frame,
        holder_tid: None,
        task: stall.task,
        coroutine: stall.coroutine,
        creator: None,
        stack: stall.stack,
        context: stall.context,
        trace: stall.trace,
        waiting: stall.waiting,
        delayed: stall.delayed,
        estimated: vec!["since_unix_ns", "lasting_ns", "cause"],
        limits: Vec::new(),
    });
    snapshot
}

/// More of everything than fits anywhere.
pub(crate) fn crowd() -> Snapshot {
    let mut processes: Vec<Process> = (0..12)
        .map(|n| {
            let pid = 9000 + n * 100;
            let threads = (0..60u32).map(|t| {
                let on_cpu = u64::from((t * 7 + n) % 60);
                thread(
                    pid + t,
                    &format!("ThreadPoolExecutor-{n}_{t}"),
                    [on_cpu, 5, 40, 955 - on_cpu, 0, 0, 0, 0, 0],
                )
            });
            let mut process = process(pid, "-m gunicorn", threads.collect());
            process.ppid = if n == 0 { 1 } else { 9000 };
            process
        })
        .collect();
    let chain = [("handle", "/srv/app.py", 10), ("query", "/srv/db.py", 99)];
    let tasks = (0..200).map(|n| {
        task(
            n,
            TaskState::Pending,
            10 * n,
            if n % 3 == 0 { &chain } else { &chain[..1] },
        )
    });
    processes[0].loops = vec![event_loop(9000, 200, tasks.collect())];
    snapshot(processes)
}

/// A server with requests that were answered, one that is under way, and peers that sent something else.
pub(crate) fn requests() -> Snapshot {
    let mut server = process(
        4242,
        "/srv/app/serve.py",
        vec![thread(4242, "MainThread", [400, 10, 0, 0, 590, 0, 0, 0, 0])],
    );
    let row = |method: &str, path: Option<&str>, status, count, ns, unread_ns| HttpRequests {
        method: method.to_owned(),
        route: None,
        learned_path: path.map(str::to_owned),
        status,
        count,
        duration: histogram(count, ns),
        queue: histogram(count, unread_ns),
        estimated: vec!["learned_path"],
        limits: vec![limit("route", "the routes of frameworks are not read")],
    };
    server.peers = Some(vec![Peer {
        address: Some("::1".to_owned()),
        port: Some(5432),
        direction: Some(Direction::Out),
        wait_ns: 1_900_000_000,
        in_requests_ns: 1_020_000_000,
        waits: histogram(340, 5_600_000),
    }]);
    server.http = Some(Http {
        requests: vec![
            row("GET", Some("/items/{number}"), 200, 812, 1_300_000, 90_000),
            row(
                "POST",
                Some("/orders\u{1b}[31m"),
                503,
                3,
                205_000_000,
                161_000_000,
            ),
            row("_OTHER", None, 405, 1, 200_000, 40_000),
        ],
        active: vec![HttpActive {
            method: "GET".to_owned(),
            route: None,
            learned_path: Some("/reports".to_owned()),
            age_ns: 1_400_000_000,
            queue_ns: Some(161_000_000),
            tid: 4242,
            task: Some(HttpTask {
                id: Address(0x7f00_1234_5678),
                name: "Task-\u{1b}[31m7".to_owned(),
            }),
            place: Some(Frame {
                function: "report".into(),
                file: "/srv/app/reports.py".into(),
                line: 41,
            }),
            waits_for: Some("Lock".to_owned()),
            ids: BTreeMap::from([("x-request-id".to_owned(), "7f3c".to_owned())]),
            limits: Vec::new(),
        }],
        active_count: 1,
        active_by_method: BTreeMap::from([("GET".to_owned(), 1)]),
        abandoned: 2,
        unparsed: BTreeMap::from([("tls".to_owned(), 4)]),
        limits: vec![limit("requests", "12 records of sockets were lost")],
    });
    snapshot(vec![server])
}

pub(crate) fn nothing() -> Snapshot {
    let mut snapshot = snapshot(Vec::new());
    snapshot.window.duration_ns = 0;
    snapshot
}

/// All of them, by name.
pub(crate) fn all() -> Vec<(&'static str, Snapshot)> {
    vec![
        ("blocked_loop", blocked_loop()),
        ("stalls", stalls()),
        ("hang", hang()),
        ("gil_fight", gil_fight()),
        ("unsupported", unsupported()),
        ("dead_worker", dead_worker()),
        ("hostile", hostile()),
        ("crowd", crowd()),
        ("requests", requests()),
        ("nothing", nothing()),
    ]
}
