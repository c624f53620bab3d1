//! Hangs: steps that have not ended are told while they last, and are one stall when they have.

use super::simulator::*;
use crate::event::*;
use crate::model::testing::*;
use crate::schema::{Hang, Snapshot};

const STUCK: Who = task(0xbeef ^ 0xc0, "stuck");

fn hang(snapshot: &Snapshot) -> Option<&Hang> {
    snapshot.processes[0].loops[0].hang.as_ref()
}

fn eyed() -> Simulator {
    let mut sim = Simulator::new();
    sim.eyed = true;
    sim.tasks = vec![py_task(0xbeef, LOOP, "Task-9")];
    sim.tasks[0].coroutine = "app.stuck".into();
    sim
}

#[test]
fn a_step_that_lasts_is_told_while_it_does() {
    let mut sim = eyed();
    sim.run(MS).idle(300 * MS).step(STUCK, |sim| {
        sim.inner = "waits";
        sim.block(Cause::Lock, 4_000 * MS, None);
    });
    // Once, soon after the threshold.
    assert_eq!(sim.hangs.len(), 1);
    let told = &sim.hangs[0].hang;
    assert_eq!(told.lasting_ns, 110 * MS);
    assert_eq!((told.cause.name(), told.before_watch), ("lock", false));
    assert_eq!(told.since_unix_ns, START_UNIX + 301 * MS);
    // In each window, with its age.
    for (second, snapshot) in (1..=4).zip(&sim.snapshots) {
        let hang = hang(snapshot).expect("it lasts");
        assert_eq!(hang.lasting_ns, (second * 1000 - 301) * MS);
        let timing = timing(snapshot);
        let max = |of: &Option<crate::schema::Histogram>| of.as_ref().and_then(|of| of.max_ns);
        assert_eq!(max(&timing.lag), Some(hang.lasting_ns));
        assert_eq!(max(&timing.step), Some(hang.lasting_ns));
        assert_eq!(timing.stalls_count, 0);
    }
    let last = hang(&sim.snapshots[3]).expect("it lasts").clone();
    assert_eq!(last.coroutine.as_deref(), Some("app.stuck"));
    assert_eq!(
        last.task.as_ref().map(|task| task.name.as_str()),
        Some("Task-9")
    );
    assert_eq!(
        last.frame.as_ref().map(|frame| &*frame.function),
        Some("waits")
    );
    assert_eq!(last.context["request_id"], "r-1");
    assert!(last.trace.is_some());
    sim.idle(2_000 * MS);
    let summary = sim.end();
    let stall = only_stall(&summary);
    assert_eq!(stall.duration_ns, 4_000 * MS);
    assert_eq!(stall.culprit.kind.name(), "lock");
    assert_eq!((sim.stalls.len(), sim.hangs.len()), (1, 1));
    assert!(hang(&summary).is_none());
}

#[test]
fn that_it_still_does_is_told_once_and_not_of_short_ones() {
    let mut sim = eyed();
    for ms in [300, 650, 3_000, 400] {
        sim.run(MS).idle(500 * MS).step(STUCK, |sim| {
            sim.block(Cause::Sleep, ms * MS, None);
        });
    }
    sim.idle(2_000 * MS).end();
    assert_eq!((sim.hangs.len(), sim.stalls.len()), (4, 4));
    let still: Vec<u64> = sim
        .still_hangs
        .iter()
        .map(|new| new.hang.lasting_ns)
        .collect();
    assert_eq!(still, [710 * MS]);
    let mut sim = eyed();
    sim.step(STUCK, |sim| {
        sim.block(Cause::Sleep, 3_000 * MS, None);
    });
    assert_eq!((sim.hangs.len(), sim.still_hangs.len()), (1, 1));
}

/// Each context that a step enters has a version of its own, as each step has.
#[test]
fn a_step_that_enters_contexts_hangs_once() {
    let mut sim = eyed();
    sim.run(MS).idle(300 * MS).step(STUCK, |sim| {
        sim.run(20 * MS);
        for _ in 0..12 {
            sim.step(STUCK, |sim| {
                sim.block(Cause::Sleep, 250 * MS, None);
                sim.run(MS);
            });
        }
        sim.run(20 * MS);
    });
    let summary = sim.idle(2_000 * MS).end();
    assert_eq!(sim.hangs.len(), 1);
    // No stack has come by then, but that of the look.
    let since_ns = START_UNIX + 321 * MS;
    assert_eq!(sim.hangs[0].hang.since_unix_ns, since_ns);
    for (second, snapshot) in (1..=3).zip(&sim.snapshots) {
        let hang = hang(snapshot).expect("it lasts");
        assert_eq!(hang.since_unix_ns, since_ns);
        assert_eq!(hang.lasting_ns, (second * 1000 - 321) * MS);
        assert_eq!(timing(snapshot).stalls_count, 0);
    }
    let stall = only_stall(&summary);
    assert_eq!(stall.duration_ns, 3_052 * MS);
    let step = timing(&summary).step.as_ref().expect("steps");
    assert!(step.count < 10, "{} steps", step.count);
}

/// No slice has come yet: what the thread does at the moment of the look is not what it did before.
#[test]
fn what_hangs_by_short_waits_is_not_called_after_the_moment_of_a_look() {
    let mut sim = eyed();
    sim.run(MS).idle(300 * MS).step(STUCK, |sim| {
        for _ in 0..6 {
            sim.block(Cause::Sleep, 20 * MS, None).run(MS);
        }
        sim.see(ThreadState::Running, sim.now - MS, sim.now - 126 * MS);
        sim.block(Cause::Sleep, 20 * MS, None);
    });
    let told = &sim.hangs[0].hang;
    assert_eq!((told.cause.name(), told.lasting_ns), ("sleep", 126 * MS));
}

#[test]
fn who_computes_and_is_met_while_preempted_hangs_by_computing() {
    let mut sim = eyed();
    sim.run(MS).idle(300 * MS).step(STUCK, |sim| {
        sim.run(120 * MS);
        sim.see(ThreadState::Preempted, sim.now - MS, sim.now - 120 * MS);
        sim.run(MS);
    });
    assert_eq!(sim.hangs[0].hang.cause.name(), "cpu");
}

#[test]
fn one_that_began_before_the_watch_is_told_as_such() {
    let mut sim = eyed();
    sim.step(STUCK, |sim| {
        sim.block(Cause::Sleep, 3_500 * MS, None);
    });
    assert_eq!(sim.hangs.len(), 1);
    assert!(sim.hangs[0].hang.before_watch);
    let seen = hang(&sim.snapshots[2]).expect("it lasts");
    assert!(seen.before_watch);
    assert_eq!(seen.lasting_ns, 3_000 * MS);
    sim.run(MS).idle(2_000 * MS);
    let summary = sim.end();
    let stall = only_stall(&summary);
    assert!(stall.duration_ns >= 3_500 * MS, "{}", stall.duration_ns);
    assert_eq!(stall.coroutine.as_deref(), Some("app.stuck"));
}

/// A loop that waits in its selector for long hangs in nothing.
#[test]
fn idle_loops_do_not_hang() {
    let mut sim = eyed();
    for _ in 0..3 {
        sim.run(MS).idle(2_500 * MS);
    }
    let summary = sim.end();
    assert!(sim.hangs.is_empty() && hang(&summary).is_none());
    assert!(
        sim.snapshots
            .iter()
            .all(|snapshot| hang(snapshot).is_none())
    );
}
