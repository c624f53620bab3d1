//! How many ended rows the summary keeps, and that the others are in `ended`.

use crate::event::*;
use crate::model::testing::*;
use crate::schema::Snapshot;

/// Time on the CPU of everything in a snapshot: rows and what was folded away.
fn on_cpu_ns(snapshot: &Snapshot) -> u64 {
    let of_process = |process: &crate::schema::Process| {
        let rows: u64 = process
            .threads
            .iter()
            .map(|thread| thread.ledger.on_cpu_ns)
            .sum();
        rows + process.ended.ledger.on_cpu_ns
    };
    snapshot.processes.iter().map(of_process).sum()
}

#[test]
fn ended_threads_fold_into_their_process() {
    let mut watch = Fixture::new();
    let mut tid = 1_000;
    let mut windows = 0;
    for window in 1..=3 {
        watch.read(100, 100, window * SECOND, |_| {});
        for _ in 0..2_000 {
            tid += 1;
            watch
                .fork(100, 100, tid, window * SECOND - 2 * MS)
                .die(100, tid, window * SECOND - MS);
        }
        let snapshot = watch.tick(window * SECOND);
        // Whatever ended in the window has a row in it.
        assert_eq!(snapshot.processes[0].threads.len(), 2_001);
        assert_eq!(snapshot.processes[0].ended.threads, 0);
        windows += on_cpu_ns(&snapshot);
        let summary = watch.model.summary();
        let (process, ended) = (&summary.processes[0], window * 2_000);
        assert_eq!(process.threads.len() as u64, 1 + ended.min(4_096));
        assert_eq!(process.ended.threads, ended.saturating_sub(4_096));
        assert_eq!(
            process.ended.ledger.wall_ns,
            ended.saturating_sub(4_096) * MS
        );
        assert_eq!((on_cpu_ns(&summary), process.cpu_ns), (windows, windows));
        assert_closed(&process.ended.ledger);
    }
    // The newest are the ones with a row, now and after the next window has begun.
    watch.read(100, 100, 4 * SECOND, |_| {}).tick(4 * SECOND);
    assert_eq!(watch.model.process_table.by_thread.len(), 4_097);
    let summary = watch.model.summary();
    let process = &summary.processes[0];
    assert_eq!(
        (process.threads.len(), process.ended.threads),
        (4_097, 6_000 - 4_096)
    );
    assert_eq!(process.threads.last().map(|thread| thread.tid), Some(tid));
    assert_eq!((on_cpu_ns(&summary), process.cpu_ns), (windows, windows));
}

#[test]
fn ended_processes_fold_into_their_ancestors() {
    let mut watch = Fixture::new();
    let mut windows = 0;
    let mut pid = 1_000;
    for window in 1..=3 {
        watch.read(100, 100, window * SECOND, |_| {});
        for _ in 0..300 {
            // A child and its own child, which outlives it.
            for (parent, child) in [(100, pid + 1), (pid + 1, pid + 2)] {
                watch.fork(parent, child, child, window * SECOND - 3 * MS);
            }
            for child in [pid + 1, pid + 2] {
                watch.exit(child, child, window * SECOND - MS, |exit| exit.last = true);
                watch.die(child, child, window * SECOND - MS);
            }
            pid += 2;
        }
        let snapshot = watch.tick(window * SECOND);
        assert_eq!(snapshot.processes.len(), 601);
        windows += on_cpu_ns(&snapshot);
        let summary = watch.model.summary();
        let ended = window * 600;
        assert_eq!(summary.processes.len() as u64, 1 + ended.min(1_024));
        let target = &summary.processes[0];
        assert_eq!(target.pid, 100);
        assert_eq!(on_cpu_ns(&summary), windows);
        // One may have gone to a child of the target that still has a row.
        let folded: u64 = summary
            .processes
            .iter()
            .map(|process| process.ended.processes)
            .sum();
        assert_eq!(folded, ended.saturating_sub(1_024));
        assert!(target.ended.processes + 1 >= folded);
        assert_eq!(
            (target.cpu_ns, has_limit(&target.limits, "ended.processes")),
            (0, false)
        );
    }
}

#[test]
fn a_process_without_ancestors_is_kept_by_its_group_and_by_nobody_else() {
    let mut watch = Fixture::new();
    watch
        .read(100, 100, SECOND, |_| {})
        .proc(100, SECOND, |_| {});
    for pid in 1_000..2_100 {
        watch.fork(1, pid, pid, MS).die(pid, pid, 2 * MS);
        watch.exit(pid, pid, 2 * MS, |exit| exit.last = true);
    }
    watch.tick(SECOND);
    for round in 0..2 {
        let summary = watch.model.summary();
        let target = &summary.processes[0];
        assert_eq!((target.pid, target.ended.processes), (100, 0), "{round}");
        assert_eq!(target.group.as_deref(), Some("app.py"));
        let [app, others] = &summary.groups[..] else {
            panic!("{:?}", summary.groups);
        };
        assert_eq!((app.name.as_str(), app.ended.processes), ("app.py", 0));
        assert_eq!(others.name, "worker");
        assert_eq!(others.ended.processes, 1_100 - 1_024);
        assert_eq!((others.processes_ended, others.cpu_ns), (1_100, 1_100 * MS));
        watch.read(100, 100, 2 * SECOND, |_| {}).tick(2 * SECOND);
        assert_eq!(watch.model.process_table.processes.len(), 1_025);
    }
}

#[test]
fn living_threads_are_bounded_against_endless_input() {
    let mut watch = Fixture::new();
    for tid in 0..140_000 {
        watch.apply(Event::Fork(Fork {
            at_ns: START,
            parent: Tid(100),
            pid: Pid(100),
            tid: Tid(tid),
            start_boottime_ns: START_BOOT,
            comm: String::new(),
        }));
    }
    assert!(has_limit(&watch.tick(SECOND).limits, "processes"));
    // What was never accounted for is forgotten.
    for at in 2..5 {
        watch.tick(at * SECOND);
    }
    watch.read(100, 100, 5 * SECOND, |_| {});
    assert_eq!(watch.tick(5 * SECOND).processes[0].threads.len(), 1);
}
