//! Windows and the whole of one process that lives through all of them.

use crate::event::*;
use crate::model::testing::*;
use crate::schema::{Limit, Snapshot, Switches, Thread, Waker};

fn main_thread(snapshot: &Snapshot) -> &Thread {
    &snapshot.processes[0].threads[0]
}

#[test]
fn a_running_thread_has_its_time_before_it_ever_switches() {
    let mut watch = Fixture::new();
    for window in 1..=3 {
        watch.read(100, 100, window * SECOND, |fact| {
            fact.state = ThreadState::Running
        });
        let snapshot = watch.tick(window * SECOND);
        let process = &snapshot.processes[0];
        assert_eq!(main_thread(&snapshot).ledger.on_cpu_ns, SECOND);
        assert_eq!((process.cpu_ns, process.cpu_percent), (SECOND, 100.0));
        assert_eq!(
            snapshot.window.start_unix_ns,
            START_UNIX + (window - 1) * SECOND
        );
        assert_eq!(snapshot.window.duration_ns, SECOND);
    }
    let summary = watch.model.summary();
    assert_eq!(main_thread(&summary).ledger.wall_ns, 3 * SECOND);
    assert_eq!(
        (
            summary.processes[0].cpu_ns,
            summary.processes[0].cpu_percent
        ),
        (3 * SECOND, 100.0)
    );
    assert_eq!(
        (summary.window.start_unix_ns, summary.window.duration_ns),
        (START_UNIX, 3 * SECOND)
    );
}

#[test]
fn cpu_percent_is_over_the_time_the_process_existed() {
    let mut watch = Fixture::new();
    watch.read(100, 100, SECOND, |_| {}).tick(SECOND);
    // A child lives for the last tenth of the window and computes all the time.
    watch.fork(100, 200, 200, SECOND + 900 * MS);
    watch
        .read(100, 100, 2 * SECOND, |_| {})
        .read(200, 200, 2 * SECOND, |_| {});
    let snapshot = watch.tick(2 * SECOND);
    let child = &snapshot.processes[1];
    assert_eq!(
        (child.pid, child.cpu_ns, child.cpu_percent),
        (200, 100 * MS, 100.0)
    );
    assert_eq!(snapshot.processes[0].cpu_percent, 0.0);
}

#[test]
fn a_provisional_slice_that_was_partly_stolen_never_takes_anything_back() {
    let mut watch = Fixture::new();
    watch
        .read(100, 100, SECOND, |fact| fact.state = ThreadState::Running)
        .tick(SECOND);
    // Half of that second turns out to be stolen; 100 ms of waiting follow.
    watch.read(100, 100, SECOND + 100 * MS, |fact| {
        fact.since_ns = START + SECOND;
        (fact.on_cpu_ns, fact.stolen_ns) = (500 * MS, 500 * MS);
        fact.state = ThreadState::Blocked(Cause::Io);
    });
    let ledger = main_thread(&watch.tick(SECOND + 100 * MS)).ledger;
    assert_eq!((ledger.wall_ns, ledger.on_cpu_ns), (100 * MS, 0));
    assert_eq!(ledger.stolen_ns + ledger.blocked_ns.io, 100 * MS);
    // Once it has run for longer than was taken back, all is as the kernel says.
    watch.read(100, 100, 10 * SECOND, |fact| {
        fact.since_ns = fact.read_ns;
        (fact.on_cpu_ns, fact.stolen_ns) = (2 * SECOND, 600 * MS);
        fact.blocked_ns[Cause::Io as usize] = 7_400 * MS;
    });
    watch.tick(10 * SECOND);
    let ledger = main_thread(&watch.model.summary()).ledger;
    assert_eq!(
        (ledger.wall_ns, ledger.on_cpu_ns),
        (10 * SECOND, 2 * SECOND)
    );
    assert_eq!(
        (ledger.stolen_ns, ledger.blocked_ns.io),
        (600 * MS, 7_400 * MS)
    );
}

#[test]
fn cpu_time_is_split_as_proc_says() {
    let stat = |tid, start_boottime_ns, user_ms: u64, system_ms: u64| ThreadStat {
        tid: Tid(tid),
        comm: "python3".into(),
        start_boottime_ns,
        cpu_user_ns: user_ms * MS,
        cpu_system_ns: system_ms * MS,
    };
    let mut watch = Fixture::new();
    // The kernel's start time ends within a tick of /proc's.
    let start = START_BOOT - 4_995_678_901;
    let tick = start / (10 * MS) * (10 * MS);
    for (at, user, system, want) in [
        // No growth within the watch yet: split like its life before.
        (SECOND, 9_000, 1_000, Some((900 * MS, 100 * MS))),
        // From here on like its growth: 250 to 750. The whole is 500 to 1,500.
        (2 * SECOND, 9_250, 1_750, Some((0, SECOND))),
        (6 * SECOND, 9_500, 2_500, Some((600 * MS, 3_400 * MS))),
    ] {
        watch.read(100, 100, at, |fact| {
            fact.start_boottime_ns = start;
            fact.state = ThreadState::Running;
        });
        watch.proc(100, at, |fact| {
            fact.start_boottime_ns = tick;
            fact.thread_stats = vec![
                stat(100, tick, user, system),
                // A former holder of the id, and a thread nobody accounts for.
                stat(100, tick - SECOND, 77_000, 0),
                stat(101, tick, 5, 5),
            ];
        });
        let snapshot = watch.tick(at);
        let thread = main_thread(&snapshot);
        assert_eq!(thread.cpu_user_ns.zip(thread.cpu_system_ns), want);
        assert_eq!(
            thread.estimated,
            ["cpu_user_ns", "cpu_system_ns", "lock_ns"]
        );
        assert!(has_limit(&snapshot.processes[0].limits, "threads"));
    }
    let summary = watch.model.summary();
    let thread = main_thread(&summary);
    assert_eq!(
        thread.cpu_user_ns.zip(thread.cpu_system_ns),
        Some((1_500 * MS, 4_500 * MS))
    );
}

#[test]
fn histograms_and_counts_are_by_window() {
    let mut watch = Fixture::new();
    for (at, durations) in [(1, vec![1_000, 2_000]), (2, vec![1_000, 2_000, 500_000])] {
        watch.read(100, 100, at * SECOND, |fact| {
            fact.slice = hist(&durations);
            fact.off_cpu[Cause::Gil as usize] = hist(&durations);
            (fact.voluntary, fact.involuntary, fact.migrations) = (at * 10, at, at * 3);
        });
        let snapshot = watch.tick(at * SECOND);
        let thread = main_thread(&snapshot);
        assert_eq!(thread.slice.count, 3 - at);
        assert_eq!(thread.off_cpu["gil"], thread.slice);
        assert_eq!(thread.off_cpu.len(), 1);
        assert_eq!(thread.migrations, 3);
        let switches = Switches {
            voluntary: 10,
            involuntary: 1,
        };
        assert_eq!(
            (thread.switches, snapshot.processes[0].context_switches),
            (switches, switches)
        );
    }
    let snapshot = watch.model.snapshot();
    let slice = &main_thread(&snapshot).slice;
    assert_eq!((slice.sum_ns, slice.max_ns), (500_000, Some(500_000)));
    let summary = watch.model.summary();
    let slice = &main_thread(&summary).slice;
    assert_eq!(
        (slice.count, slice.min_ns, slice.max_ns),
        (3, Some(1_000), Some(500_000))
    );
}

fn slice(tid: u32, waker: Option<u32>, off: u64, wake: u64, cause: Cause) -> Event {
    Event::Slice(Slice {
        tid: Tid(tid),
        cpu: 0,
        wait: Some(Wait {
            off_ns: START + off,
            wake_ns: Some(START + wake),
            cause: Some(cause),
            queue: false,
            arg0: 0,
            waker: waker.map(Tid),
        }),
        in_ns: START + wake + 10,
        out_ns: START + wake + 20,
        on_cpu_ns: 10,
        voluntary: true,
    })
}

#[test]
fn wakers_count_from_the_first_slice_and_say_what_was_lost() {
    let mut watch = Fixture::new();
    // Slices come before the first reading of their thread's ledger.
    watch.apply(slice(100, Some(7), 0, 50, Cause::Gil));
    watch.read(100, 100, SECOND, |_| {});
    let snapshot = watch.tick(SECOND);
    let row = |count, blocked_ns| Waker {
        tid: Some(7),
        process: None,
        cause: crate::schema::Cause::Gil,
        count,
        blocked_ns,
    };
    assert_eq!(main_thread(&snapshot).wakers, [row(1, 50)]);
    assert!(!has_limit(&main_thread(&snapshot).limits, "wakers"));
    assert!(snapshot.limits.is_empty());

    watch.apply(slice(100, Some(7), 100, 130, Cause::Gil));
    watch.apply(Event::Loss(Loss {
        cpu: 0,
        records: 5,
        from_ns: START,
        to_ns: START + 9,
    }));
    watch.apply(Event::Monitor(Box::new(MonitorFact {
        events_lost: 5,
        ..MonitorFact::default()
    })));
    watch.read(100, 100, 2 * SECOND, |_| {});
    let snapshot = watch.tick(2 * SECOND);
    assert_eq!(main_thread(&snapshot).wakers, [row(1, 30)]);
    for limits in [&snapshot.limits, &main_thread(&snapshot).limits] {
        let limit = limits
            .iter()
            .find(|limit| limit.field == "wakers")
            .expect("a limit");
        assert!(
            limit.reason.starts_with("5 records were lost"),
            "{}",
            limit.reason
        );
    }

    watch.read(100, 100, 3 * SECOND, |_| {});
    assert!(watch.tick(3 * SECOND).limits.is_empty());
    let summary = watch.model.summary();
    assert_eq!(main_thread(&summary).wakers, [row(2, 80)]);
    assert!(has_limit(&summary.limits, "wakers"));
}

#[test]
fn slices_after_the_end_of_a_thread_are_of_the_next_one() {
    let mut watch = Fixture::new();
    watch.read(100, 100, MS, |_| {});
    watch.fork(100, 100, 101, 100 * MS).die(100, 101, 200 * MS);
    watch.apply(slice(101, None, 150 * MS, 160 * MS, Cause::Io));
    // The fork of the next holder of the id was lost.
    watch.apply(slice(101, None, 310 * MS, 330 * MS, Cause::Io));
    watch.read(100, 101, SECOND, |fact| {
        (fact.start_boottime_ns, fact.start_ns) = (boot(START + 300 * MS), START + 300 * MS);
        (fact.since_ns, fact.on_cpu_ns) = (START + 300 * MS, 0);
        fact.state = ThreadState::Running;
    });
    let snapshot = watch.tick(SECOND);
    let wakers = snapshot.processes[0].threads[1..].iter();
    let blocked: Vec<_> = wakers
        .map(|thread| thread.wakers[0].blocked_ns / MS)
        .collect();
    assert_eq!(blocked, [10, 20]);
}

#[test]
fn a_reading_that_does_not_add_up_is_marked() {
    let mut watch = Fixture::new();
    watch.read(100, 100, SECOND, |fact| fact.since_ns = START + 300);
    let snapshot = watch.tick(SECOND);
    assert_eq!(main_thread(&snapshot).ledger.unknown_ns, 300);
    assert!(has_limit(&main_thread(&snapshot).limits, "unknown_ns"));
}

/// Times of the day run evenly; that the clock did not is said, corrections of less than a second are not.
#[test]
fn a_wall_clock_that_jumps_is_told() {
    let told = |ahead_ns: i64| {
        let mut watch = Fixture::new();
        watch.apply(Event::Monitor(Box::new(MonitorFact {
            wall_clock_ahead_ns: ahead_ns,
            passes: None,
            ..MonitorFact::default()
        })));
        let limits = watch.tick(SECOND).limits;
        let limit =
            |limit: &Limit| (limit.field == "window.start_unix_ns").then(|| limit.reason.clone());
        limits.iter().find_map(limit)
    };
    assert_eq!(told(0), None);
    assert_eq!(told(999_999_999), None);
    assert_eq!(told(-999_999_999), None);
    assert!(
        told(3_600 * SECOND as i64).is_some_and(|reason| reason.contains("is 3600 s ahead of"))
    );
    assert!(told(-2 * SECOND as i64).is_some_and(|reason| reason.contains("is 2 s behind")));
    assert!(told(i64::MIN).is_some());
}

#[test]
fn the_monitor_accounts_for_itself_by_window() {
    let mut watch = Fixture::new();
    assert!(has_limit(&watch.tick(MS).monitor.limits, "cpu_ns"));
    for window in 1..=2u64 {
        watch.apply(Event::Monitor(Box::new(MonitorFact {
            cpu_ns: window * 7,
            rss_bytes: window * 100,
            kernel_run_ns: (window == 2).then_some(50),
            events: window * 1_000,
            events_lost: 0,
            reads_failed: window,
            faults: [
                ("no-slot".to_owned(), window - 1),
                ("batch-busy".to_owned(), 4),
            ]
            .into(),
            shed: (window == 1)
                .then(|| "samples".to_owned())
                .into_iter()
                .collect(),
            ..MonitorFact::default()
        })));
        let monitor = watch.tick(window * SECOND).monitor;
        assert_eq!(
            (monitor.cpu_ns, monitor.rss_bytes, monitor.events),
            (7, window * 100, 1_000)
        );
        assert_eq!(
            (monitor.version.as_ref(), monitor.reads_failed),
            ("0.0.0", 1)
        );
        assert_eq!(monitor.kernel_run_ns, (window == 2).then_some(50));
        assert_eq!(has_limit(&monitor.limits, "kernel_run_ns"), window == 1);
        let fault = if window == 1 {
            ("batch-busy", 4)
        } else {
            ("no-slot", 1)
        };
        assert_eq!(monitor.faults, [(fault.0.to_owned(), fault.1)].into());
        assert_eq!(monitor.shed.is_empty(), window == 2);
    }
    watch.apply(Event::Monitor(Box::new(MonitorFact {
        kernel_run_ns: Some(70),
        kernel_run_counted: true,
        ..MonitorFact::default()
    })));
    let monitor = watch.tick(3 * SECOND).monitor;
    assert_eq!(monitor.kernel_run_ns, Some(20));
    assert!(has_limit(&monitor.limits, "kernel_run_ns"));
    assert_eq!(watch.model.summary().monitor.shed, ["samples"]);
    assert_eq!(watch.model.summary().monitor.faults.len(), 2);
}

#[test]
fn a_target_that_was_never_seen_is_named() {
    let mut watch = Fixture::new();
    assert!(has_limit(&watch.tick(SECOND).limits, "processes"));
    watch.read(100, 100, 2 * SECOND, |_| {});
    assert!(!has_limit(&watch.tick(2 * SECOND).limits, "processes"));
}
