//! Lag against what timers of the same loop would have seen: asyncio, uvloop, trio.

use super::simulator::*;
use crate::event::*;
use crate::model::testing::*;
use crate::schema::Histogram;

const KINDS: [LoopKind; 3] = [LoopKind::Asyncio, LoopKind::Uvloop, LoopKind::Trio];
const BUSY: Who = task(1, "busy");
const SLOW: Who = task(2, "slow");

fn sim(kind: LoopKind) -> Simulator {
    let mut sim = Simulator::new();
    sim.kind = kind;
    sim.watch.look(100, 0, |look| {
        look.loops = vec![PyLoop {
            kind,
            ..py_loop(TID, LOOP)
        }];
    });
    sim.run(MS).idle(300 * MS);
    sim
}

fn lag(sim: &mut Simulator) -> Histogram {
    let summary = sim.end();
    timing(&summary).lag.clone().expect("lag")
}

/// Within 10 % and a millisecond.
fn assert_near(kind: LoopKind, what: &str, found: Option<u64>, truth: u64) {
    let found = found.expect("something");
    let off = found.abs_diff(truth);
    assert!(
        off <= MS + truth / 10,
        "{kind:?}: {what} {found}, not {truth}"
    );
}

/// Turns of `steps` steps of 1 ms, one after the other.
fn turns(sim: &mut Simulator, count: u64, steps: u64) {
    sim.ready = Some(steps as u32);
    for _ in 0..count {
        for _ in 0..steps {
            sim.step(BUSY, |sim| {
                sim.run(MS);
            });
        }
        sim.turn();
    }
}

/// The loop is never idle; asyncio's timers wait for one turn more, trio's for a part of one.
#[test]
fn a_loop_that_goes_round_is_as_late_as_its_turns() {
    for kind in KINDS {
        for steps in [1, 5] {
            let mut sim = sim(kind);
            turns(&mut sim, 20_000 / steps, steps);
            let lag = lag(&mut sim);
            let (half, most) = match kind {
                LoopKind::Asyncio => (3, 4),
                LoopKind::Uvloop => (1, 2),
                LoopKind::Trio => (2, 4),
            };
            let turn = steps * MS;
            // Of 22 s, 2 were idle: the middle is a little lower.
            assert_near(kind, "p50", lag.p50_ns, half * turn / 2);
            assert_near(kind, "p99", lag.p99_ns, most * turn / 2);
            // How old turns are says what they are on average: the clock meets these ones in step.
            if kind != LoopKind::Trio {
                assert_near(kind, "max", lag.max_ns, most * turn / 2);
            }
        }
    }
}

/// Steps that block among short ones: what is due meanwhile waits for them, and nothing else does.
#[test]
fn stalls_among_short_turns_do_not_lengthen_these() {
    for kind in KINDS {
        for cause in [None, Some(Cause::Sleep)] {
            let mut sim = sim(kind);
            for _ in 0..20 {
                turns(&mut sim, 600, 1);
                sim.step(SLOW, |sim| {
                    match cause {
                        Some(cause) => sim.block(cause, 200 * MS, None),
                        None => sim.run(200 * MS),
                    };
                });
                sim.turn();
            }
            let summary = sim.end();
            let timing = timing(&summary);
            assert_eq!(timing.stalls_count, 20, "{kind:?}");
            let lag = timing.lag.as_ref().expect("lag");
            let middle = match kind {
                LoopKind::Asyncio => 1_500 * US,
                LoopKind::Uvloop => 600 * US,
                LoopKind::Trio => MS,
            };
            assert_near(kind, "p50", lag.p50_ns, middle);
            assert_near(kind, "p99", lag.p99_ns, 192 * MS);
            assert_near(kind, "max", lag.max_ns, 202 * MS);
        }
    }
}

/// No line of a report is contradicted by another.
#[test]
fn stalls_are_steps_and_delay_what_is_due() {
    for kind in KINDS {
        let mut sim = sim(kind);
        for length in [120, 338, 112, 155] {
            turns(&mut sim, 40, 2);
            sim.step(SLOW, |sim| {
                sim.run(MS).block(Cause::Io, length * MS, None);
            });
            sim.idle(30 * MS);
            // Whom no sample has met, too.
            sim.sampled = false;
            sim.step(SLOW, |sim| {
                sim.block(Cause::Lock, length * MS, None);
            });
            sim.sampled = true;
            sim.idle(30 * MS);
        }
        let summary = sim.end();
        for snapshot in sim.snapshots.iter().chain([&summary]) {
            let timing = timing(snapshot);
            let Some(longest) = timing.stalls.first().map(|stall| stall.duration_ns) else {
                continue;
            };
            let most = |of: &Option<Histogram>| of.as_ref().and_then(|of| of.max_ns);
            let (step, lag) = (most(&timing.step), most(&timing.lag));
            assert!(
                step >= Some(longest),
                "{kind:?}: {step:?}, a stall {longest}"
            );
            assert!(lag >= Some(longest), "{kind:?}: {lag:?}, a stall {longest}");
        }
        let longest = timing(&summary).stalls[0].duration_ns;
        let step = timing(&summary).step.as_ref().and_then(|step| step.max_ns);
        assert_eq!(
            step,
            Some(longest),
            "{kind:?}: no step is longer than the stalls"
        );
        assert_eq!(timing(&summary).stalls_count, 8, "{kind:?}");
    }
}

/// Stretches of 12 short turns, fewer samples than stretches: no timer waits for a whole one.
#[test]
fn turns_of_stretches_without_a_sample_are_told_by_the_next() {
    for kind in KINDS {
        let mut sim = sim(kind);
        for _ in 0..1_000 {
            turns(&mut sim, 12, 1);
            sim.idle(8 * MS);
        }
        let lag = lag(&mut sim);
        let (half, most) = match kind {
            LoopKind::Asyncio => (1_000 * US, 2 * MS),
            LoopKind::Uvloop => (600 * US, MS),
            LoopKind::Trio => (700 * US, 2 * MS),
        };
        assert_near(kind, "p50", lag.p50_ns, half);
        assert_near(kind, "p99", lag.p99_ns, most);
        assert_near(kind, "max", lag.max_ns, most);
    }
}

/// Long turns among short ones are told one by one.
#[test]
fn turns_are_as_long_as_they_are_where_they_are() {
    for kind in KINDS {
        let mut sim = sim(kind);
        for _ in 0..100 {
            turns(&mut sim, 100, 1);
            turns(&mut sim, 3, 30);
        }
        let lag = lag(&mut sim);
        let most = match kind {
            LoopKind::Asyncio => 60 * MS,
            LoopKind::Uvloop => 30 * MS,
            LoopKind::Trio => 54 * MS,
        };
        assert_near(kind, "p99", lag.p99_ns, most);
    }
}

/// What a loop counts itself is told as it is.
#[test]
fn turns_of_uvloop_are_its_own_count() {
    let mut sim = sim(LoopKind::Uvloop);
    turns(&mut sim, 3_000, 1);
    let summary = sim.end();
    let found = timing(&summary).iterations.expect("turns");
    assert!((2_900..=3_010).contains(&found), "{found}");
}
