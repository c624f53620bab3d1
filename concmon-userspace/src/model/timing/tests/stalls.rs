//! Stalls: which steps are some, how long they were, and whose.

use std::sync::Arc;

use super::simulator::*;
use crate::event::*;
use crate::model::testing::*;

const SLOW: Who = task(0xbeef ^ 0xc0, "slow");

/// Idle for a while, then one step, then idle again.
fn one_step(what: impl FnOnce(&mut Simulator)) -> Simulator {
    let mut sim = Simulator::new();
    sim.tasks = vec![py_task(0xbeef, LOOP, "Task-9")];
    sim.tasks[0].coroutine = "app.slow".into();
    sim.run(MS).idle(300 * MS).step(SLOW, what);
    sim
}

#[test]
fn a_long_step_on_a_cpu_is_one_stall_to_the_nanosecond() {
    let mut sim = one_step(|sim| {
        sim.run(250 * MS + 17);
    });
    let summary = sim.end();
    let stall = only_stall(&summary);
    assert_eq!(stall.duration_ns, 250 * MS + 17);
    assert_eq!(stall.cost.on_cpu_ns, 250 * MS + 17);
    assert_eq!(stall.cost.total_ns(), stall.duration_ns);
    assert_eq!(stall.at_unix_ns, START_UNIX + 301 * MS);
    assert_eq!(stall.culprit.kind.name(), "cpu");
    let place = stall.culprit.frame.as_ref().expect("a frame");
    assert_eq!((place.function.as_ref(), place.line), ("inner", 20));
    let stack: Vec<&str> = stall.stack.iter().map(|f| f.function.as_ref()).collect();
    assert_eq!(
        stack,
        ["inner", "slow"],
        "down to the step's own, no further"
    );
    assert_eq!(stall.coroutine.as_deref(), Some("app.slow"));
    assert_eq!(
        stall.task.as_ref().map(|task| task.name.as_str()),
        Some("Task-9")
    );
    assert!(has_limit(&stall.limits, "waiting"), "nobody looked in time");
    assert_eq!(timing(&summary).saturation.count, 0);
    // Told once, and at once: within a window and the horizon.
    assert_eq!(sim.stalls.len(), 1);
    assert_eq!(
        (sim.stalls[0].pid, sim.stalls[0].kind.name()),
        (100, "asyncio")
    );
    let told = sim.snapshots[..2].iter();
    assert_eq!(told.map(|s| timing(s).stalls_count).sum::<u64>(), 1);
}

/// Nobody looks for longer than a stall takes, and the loop is idle when somebody does again: it was not busy until then.
#[test]
fn what_nobody_looked_at_is_no_stall() {
    for is_told in [true, false] {
        let mut sim = Simulator::new();
        sim.sampled = false;
        sim.run(MS).idle(300 * MS).run(5 * MS);
        let from_ns = START + sim.now;
        for _ in 0..10 {
            sim.block(Cause::Io, 25 * MS, None).run(5 * MS);
        }
        let to_ns = START + sim.now;
        sim.idle(100 * MS);
        if !is_told {
            let inside = from_ns + 1..=to_ns;
            let at_ns = |event: &Event| event.at_ns().unwrap_or(0);
            sim.queue
                .retain(|(_, event)| !inside.contains(&at_ns(event)));
        }
        sim.run(MS).idle(500 * MS);
        let summary = sim.end();
        assert_eq!(timing(&summary).stalls_count, u64::from(is_told));
    }
}

#[test]
fn what_a_step_is_blocked_in_is_the_culprit() {
    for (cause, kind) in [
        (Cause::Sleep, "sleep"),
        (Cause::Io, "io"),
        (Cause::Lock, "lock"),
        (Cause::Child, "child"),
        (Cause::Disk, "disk"),
    ] {
        let mut sim = one_step(|sim| {
            sim.run(2 * MS);
            sim.inner = "waits";
            sim.block(cause, 400 * MS, None);
            sim.inner = "inner";
            sim.run(3 * MS);
        });
        let summary = sim.end();
        let stall = only_stall(&summary);
        assert_eq!(stall.culprit.kind.name(), kind);
        let place = stall.culprit.frame.as_ref().expect("a frame");
        assert_eq!(*place.function, *"waits");
        assert_eq!(stall.duration_ns, 405 * MS);
        assert_eq!(stall.cost.blocked(cause), 400 * MS);
        assert_eq!(stall.cost.on_cpu_ns, 5 * MS);
    }
}

/// Another moment of the step says whose it is; nothing says where it was blocked.
#[test]
fn no_frame_is_blamed_that_was_not_seen_in_the_cause() {
    let mut sim = one_step(|sim| {
        sim.inner = "starts";
        sim.run(20 * MS).block(Cause::Gil, 20 * MS, None);
        sim.sampled = false;
        sim.block(Cause::Sleep, 400 * MS, None);
        sim.sampled = true;
        sim.run(20 * MS);
    });
    let summary = sim.end();
    let stall = only_stall(&summary);
    assert_eq!(stall.culprit.kind.name(), "sleep");
    assert!(stall.culprit.frame.is_none(), "{:?}", stall.culprit);
    assert_eq!(stall.coroutine.as_deref(), Some("app.slow"));
    assert_eq!(*stall.stack[0].function, *"starts");
    for field in ["culprit.frame", "stack"] {
        assert!(has_limit(&stall.limits, field), "{field}");
    }
}

/// Many short waits are one step's, too.
#[test]
fn a_step_of_many_short_waits_is_a_stall() {
    let mut sim = one_step(|sim| {
        for _ in 0..40 {
            sim.run(MS).block(Cause::Io, 5 * MS, None);
        }
    });
    let summary = sim.end();
    let stall = only_stall(&summary);
    assert_eq!(
        (stall.culprit.kind.name(), stall.duration_ns),
        ("io", 240 * MS)
    );
}

#[test]
fn what_is_read_meanwhile_is_in_the_stall() {
    let mut sim = one_step(|sim| {
        sim.run(50 * MS);
        sim.fact("Task-77", "r-17");
        sim.run(100 * MS);
    });
    let summary = sim.end();
    let stall = only_stall(&summary);
    assert_eq!(stall.context["request_id"], "r-17");
    let trace = stall.trace.as_ref().expect("its span");
    assert_eq!(trace.trace_id, "000000000000000000000000000000ab");
    assert_eq!(trace.span_id.as_deref(), Some("00000000000000cd"));
    assert_eq!(trace.sampled, Some(true));
    let waiting = stall.waiting.expect("it was read");
    assert_eq!((waiting.ready, waiting.overdue), (Some(3), Some(2)));
    assert_eq!(stall.task.as_ref().expect("a task").name, "Task-77");
    assert!(stall.limits.is_empty(), "{:?}", stall.limits);
}

#[test]
fn many_short_steps_are_saturation_without_a_scapegoat() {
    for (count, ns) in [(200, MS), (30, 20 * MS), (9, 90 * MS)] {
        let mut sim = Simulator::new();
        sim.run(MS).idle(300 * MS);
        for number in 0..count {
            let function = if number % 3 == 0 { "one" } else { "other" };
            sim.step(callback(function), |sim| {
                sim.run(ns);
            });
        }
        let summary = sim.end();
        let timing = timing(&summary);
        assert_eq!(
            timing.stalls_count, 0,
            "{count} of {ns}: {:#?}",
            timing.stalls
        );
        assert!(timing.saturation.count >= 1);
        let busy = count * ns;
        assert!(timing.saturation.busy_ns <= busy && timing.saturation.busy_ns >= busy / 2);
        assert_eq!(timing.saturation.top[0].name, "other");
        let steps = timing.step.as_ref().expect("steps");
        // Those between samples are counted: not what comes before the first and behind the last.
        let unseen = count.abs_diff(steps.count);
        assert!(unseen <= 21 * MS / ns + 2, "{count}: {}", steps.count);
    }
}

#[test]
fn a_step_below_the_threshold_is_none_and_the_threshold_is_the_loops() {
    let mut sim = one_step(|sim| {
        sim.run(99 * MS);
    });
    assert_eq!(timing(&sim.end()).stalls_count, 0);
    let mut sim = one_step(|sim| {
        sim.run(101 * MS);
    });
    assert_eq!(timing(&sim.end()).stalls_count, 1);
}

#[test]
fn a_wait_for_the_gil_names_who_held_it() {
    const HOG: u32 = 200;
    for waker in [Some(HOG), None] {
        let mut sim = one_step(|sim| {
            for at in [20, 60, 100] {
                let at = sim.now + at * MS;
                let sample = hog_sample(HOG, at, "hog");
                sim.queue.push((at, Event::Sample(Box::new(sample))));
            }
            sim.run(MS).block(Cause::Gil, 150 * MS, waker).run(MS);
        });
        let summary = sim.end();
        let stall = only_stall(&summary);
        assert_eq!(stall.culprit.kind.name(), "gil");
        assert_eq!(stall.culprit.holder_tid, Some(HOG));
        let frame = stall.culprit.frame.as_ref().expect("a frame");
        assert_eq!(*frame.function, *"hog");
        assert_eq!(stall.cost.blocked(Cause::Gil), 150 * MS);
    }
    // Nobody is blamed where nobody was seen.
    let mut sim = one_step(|sim| {
        sim.run(MS).block(Cause::Gil, 150 * MS, None);
    });
    let summary = sim.end();
    let stall = only_stall(&summary);
    assert_eq!(
        (stall.culprit.holder_tid, stall.culprit.frame.is_none()),
        (None, true)
    );
    assert!(has_limit(&stall.limits, "culprit.holder_tid"));
}

fn hog_sample(tid: u32, at: u64, function: &str) -> Sample {
    Sample {
        at_ns: START + at,
        pid: Pid(100),
        tid: Tid(tid),
        kind: SampleKind::OnCpu,
        context_version: Some(1),
        iteration: None,
        turns: None,
        creator: None,
        collecting: false,
        code: Some(CodeKind::Interpreter),
        coroutine: None,
        stack: Arc::new(SampledStack {
            frames: vec![frame(function, 3)],
            ..SampledStack::default()
        }),
    }
}

#[test]
fn a_collection_is_told_from_other_work() {
    let mut sim = one_step(|sim| {
        sim.run(20 * MS);
        sim.collecting = true;
        sim.run(200 * MS);
        sim.collecting = false;
        sim.run(20 * MS);
    });
    let summary = sim.end();
    let stall = only_stall(&summary);
    assert_eq!(stall.culprit.kind.name(), "gc");
    assert!(stall.collecting_ns.abs_diff(200 * MS) < 25 * MS);
    let gc_after_work = |collecting: u64| {
        let mut sim = one_step(|sim| {
            sim.run((200 - collecting) * MS);
            sim.collecting = true;
            sim.run(collecting * MS);
            sim.collecting = false;
        });
        only_stall(&sim.end()).culprit.kind.name()
    };
    assert_eq!(gc_after_work(60), "cpu");
}

/// The tail is whole when only the worst are kept.
#[test]
fn the_worst_256_are_kept_and_all_are_counted() {
    let mut sim = Simulator::new();
    sim.run(MS);
    let (mut all, mut sum) = (0, 0);
    for number in 0..300 {
        let length = 110 * MS + (number * 37 % 300) * MS / 10;
        sim.idle(50 * MS).step(SLOW, |sim| {
            sim.run(length);
        });
        (all, sum) = (all + 1, sum + length);
    }
    let summary = sim.end();
    let timing = timing(&summary);
    assert_eq!((timing.stalls_count, timing.stalls_ns), (all, sum));
    assert_eq!(timing.stalls.len(), 256);
    assert_eq!(timing.stalls[0].duration_ns, 110 * MS + 299 * MS / 10);
    assert_eq!(timing.stalls[255].duration_ns, 110 * MS + 44 * MS / 10);
    assert_eq!(sim.stalls.len(), 300, "each was told");
}

/// Two stalls in a row, in one stretch, are two.
#[test]
fn stalls_that_follow_each_other_are_told_apart() {
    let mut sim = Simulator::new();
    sim.run(MS).idle(300 * MS);
    sim.step(task(1, "first"), |sim| {
        sim.run(200 * MS);
    });
    sim.step(task(2, "second"), |sim| {
        sim.block(Cause::Sleep, 300 * MS, None);
    });
    let summary = sim.end();
    let timing = timing(&summary);
    let found: Vec<_> = timing
        .stalls
        .iter()
        .map(|stall| (stall.coroutine.as_deref(), stall.culprit.kind.name()))
        .collect();
    assert_eq!(found, [(Some("second"), "sleep"), (Some("first"), "cpu")]);
    assert_eq!(timing.stalls_ns, 500 * MS);
    assert!(timing.stalls[0].duration_ns.abs_diff(300 * MS) < 11 * MS);
}

/// It outlives windows, and is told when it is over, once.
#[test]
fn a_stall_of_many_windows_is_one() {
    let mut sim = one_step(|sim| {
        sim.run(5 * SECOND);
    });
    let summary = sim.end();
    assert_eq!(only_stall(&summary).duration_ns, 5 * SECOND);
    let counts: u64 = sim.snapshots.iter().map(|s| timing(s).stalls_count).sum();
    assert_eq!(counts, 1);
    let mut sim = one_step(|sim| {
        sim.block(Cause::Io, 5 * SECOND, None);
    });
    let summary = sim.end();
    assert_eq!(only_stall(&summary).duration_ns, 5 * SECOND);
}

/// What is due while a step keeps the loop is as late as the step is long, whatever ran before it.
#[test]
fn a_stall_shows_in_the_lag() {
    let mut sim = Simulator::new();
    sim.run(MS);
    for _ in 0..20 {
        sim.idle(300 * MS);
        for _ in 0..3 {
            sim.step(task(2, "short"), |sim| {
                sim.block(Cause::Io, MS, None);
            });
            sim.turn();
        }
        sim.step(SLOW, |sim| {
            sim.block(Cause::Sleep, 300 * MS, None);
        });
        sim.turn().step(task(2, "short"), |sim| {
            sim.block(Cause::Io, MS, None);
        });
    }
    let summary = sim.end();
    let timing = timing(&summary);
    assert_eq!(timing.stalls_count, 20);
    let lag = timing.lag.as_ref().expect("lag");
    // Of 12 s with 2 s of rest at the end, 6 s were stalls.
    assert!(lag.p90_ns.expect("a percentile") > 200 * MS, "{lag:?}");
    assert!(lag.max_ns.expect("a maximum") > 280 * MS, "{lag:?}");
}

/// Two eager tasks in one step of another: two stalls, each with its creator, and what is due waits for both.
#[test]
fn eager_tasks_are_steps_with_a_creator() {
    let mut sim = Simulator::new();
    sim.tasks = vec![py_task(0xacce, LOOP, "acceptor")];
    sim.tasks[0].coroutine_id = 9;
    sim.run(MS);
    for _ in 0..3 {
        sim.idle(300 * MS).step(task(9, "acceptor"), |sim| {
            sim.run(MS);
            sim.creator = Some(9);
            for coroutine in [21, 22] {
                sim.step(task(coroutine, "load"), |sim| {
                    sim.run(150 * MS);
                });
            }
            sim.creator = None;
        });
    }
    let summary = sim.end();
    let timing = timing(&summary);
    assert_eq!(timing.stalls_count, 6, "{:#?}", timing.stalls);
    for stall in &timing.stalls {
        assert!(stall.duration_ns.abs_diff(150 * MS) < 11 * MS, "{stall:?}");
        assert_eq!(stall.coroutine.as_deref(), Some("load"));
        let creator = stall.creator.as_ref().map(|task| task.name.as_str());
        assert_eq!(creator, Some("acceptor"));
    }
    let most = timing.lag.as_ref().and_then(|lag| lag.max_ns);
    assert!(most > Some(295 * MS), "{most:?}");
}
