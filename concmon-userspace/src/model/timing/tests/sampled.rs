//! What comes of samples that are missing, late, or out of order, and of loops that come and go.

use super::simulator::*;
use crate::event::*;
use crate::model::testing::*;

const SLOW: Who = task(1, "slow");

#[test]
fn without_samples_nothing_is_told_and_the_limits_say_so() {
    let mut sim = Simulator::sampling(false);
    sim.run(MS).idle(300 * MS).step(SLOW, |sim| {
        sim.run(SECOND);
    });
    let summary = sim.end();
    let row = &summary.processes[0].loops[0];
    assert!(row.timing.is_none());
    for field in ["iterations", "lag", "step", "stalls", "by_name"] {
        assert!(has_limit(&row.limits, field), "{field}");
    }
    // What is known without samples is there all the same.
    assert_eq!((row.busy_ns, row.wall_ns), (SECOND + MS + US, sim.now));
}

/// A loop that seldom runs may be met by none: its lag is known all the same, from slices.
#[test]
fn a_loop_that_no_sample_has_met_has_its_lag() {
    let mut sim = Simulator::new();
    sim.sampled = false;
    for _ in 0..5 {
        sim.run(MS / 10).idle(400 * MS);
    }
    let summary = sim.end();
    let timing = timing(&summary);
    assert!(timing.lag.is_some() && timing.stalls_count == 0);
}

/// A step that no sample has met, off the CPU: that it was one step is sure, whose it was is not.
#[test]
fn an_unseen_block_is_a_stall_of_nobody() {
    let mut sim = Simulator::new();
    sim.run(20 * MS).idle(300 * MS);
    sim.sampled = false;
    sim.step(SLOW, |sim| {
        sim.run(MS).block(Cause::Sleep, 300 * MS, None);
    });
    let summary = sim.end();
    let stall = only_stall(&summary);
    assert_eq!((stall.duration_ns, stall.samples), (301 * MS, 0));
    assert!(stall.coroutine.is_none() && stall.task.is_none() && stall.stack.is_empty());
    for field in ["coroutine", "task", "context", "waiting", "culprit.frame"] {
        assert!(has_limit(&stall.limits, field), "{field}");
    }
    // On a CPU it may have been many steps.
    let mut sim = Simulator::new();
    sim.run(20 * MS).idle(300 * MS);
    sim.sampled = false;
    sim.step(SLOW, |sim| {
        sim.run(300 * MS);
    });
    assert_eq!(timing(&sim.end()).stalls_count, 0);
}

/// Whether slices of the middle were lost, or samples came late: no stall that was none.
#[test]
fn lost_slices_make_no_stall() {
    let mut sim = Simulator::new();
    sim.run(MS);
    for _ in 0..50 {
        sim.idle(20 * MS).step(SLOW, |sim| {
            sim.run(20 * MS);
        });
    }
    let mut number = 0;
    sim.queue.retain(|(_, event)| {
        number += 1;
        !matches!(event, Event::Slice(_)) || number % 7 != 0
    });
    let summary = sim.end();
    assert_eq!(
        timing(&summary).stalls_count,
        0,
        "{:#?}",
        timing(&summary).stalls
    );
    // And one that is whole is found behind the gap.
    let mut sim = Simulator::new();
    sim.run(MS).idle(20 * MS).step(SLOW, |sim| {
        sim.run(20 * MS);
    });
    sim.idle(100 * MS).step(SLOW, |sim| {
        sim.run(20 * MS);
    });
    sim.queue.retain(
        |(_, event)| !matches!(event, Event::Slice(slice) if slice.out_ns > START + 50 * MS),
    );
    sim.idle(100 * MS).step(SLOW, |sim| {
        sim.run(200 * MS);
    });
    let summary = sim.end();
    assert_eq!(only_stall(&summary).duration_ns, 200 * MS);
}

#[test]
fn samples_out_of_order_or_late_harm_nothing() {
    let story = |mix: fn(&mut Vec<(u64, Event)>)| {
        let mut sim = Simulator::new();
        sim.run(MS);
        for length in [30, 200, 10, 150] {
            sim.idle(40 * MS).step(SLOW, |sim| {
                sim.run(length * MS);
            });
        }
        mix(&mut sim.queue);
        let summary = sim.end();
        let timing = timing(&summary).clone();
        (timing.stalls_count, timing.stalls_ns)
    };
    assert_eq!(story(|_| {}), (2, 350 * MS));
    // Samples of one CPU before those of another.
    assert_eq!(
        story(|queue| queue.sort_by_key(|(_, event)| match event {
            Event::Sample(sample) => u64::MAX / 2 - sample.at_ns,
            _ => u64::MAX,
        })),
        (2, 350 * MS)
    );
    // All after their slices: they prove nothing any more, so only the last, whose slice is still
    // to come, is a stall.
    let late = |queue: &mut Vec<(u64, Event)>| {
        queue.sort_by_key(|(_, event)| matches!(event, Event::Sample(_)));
    };
    assert_eq!(story(late), (1, 150 * MS));
}

#[test]
fn a_loop_in_the_same_thread_begins_at_nothing() {
    let mut sim = Simulator::new();
    sim.run(MS);
    for (loop_id, stalls) in [(LOOP, 1), (8, 2), (9, 0)] {
        sim.loop_id = loop_id;
        for _ in 0..stalls {
            sim.idle(100 * MS).step(SLOW, |sim| {
                sim.run(200 * MS);
            });
        }
        sim.idle(3 * SECOND).run(20 * MS);
    }
    let summary = sim.end();
    let mut rows: Vec<_> = summary.processes[0]
        .loops
        .iter()
        .map(|row| row.timing.as_ref().map(|timing| timing.stalls_count))
        .collect();
    rows.sort();
    assert_eq!(rows, [Some(0), Some(1), Some(2)]);
}

#[test]
fn the_newest_of_many_loops_are_known() {
    let mut sim = Simulator::new();
    sim.run(20 * MS);
    for loop_id in 1..=100 {
        sim.loop_id = loop_id;
        sim.idle(3 * SECOND).step(SLOW, |sim| {
            sim.run(200 * MS);
        });
    }
    let summary = sim.end();
    let rows = &summary.processes[0].loops;
    assert!(rows.len() >= 64);
    assert!(rows.iter().all(|row| row.timing.is_some()));
}

/// Threads that come and go do not use up the room of those that stay.
#[test]
fn threads_without_number_leave_room_for_loops() {
    let mut sim = Simulator::new();
    sim.run(MS).idle(20 * MS).step(SLOW, |sim| {
        sim.run(20 * MS);
    });
    for tid in 1_000..4_000 {
        let mut sample = match sim
            .queue
            .iter()
            .rev()
            .find(|(_, e)| matches!(e, Event::Sample(_)))
        {
            Some((_, Event::Sample(sample))) => sample.clone(),
            _ => unreachable!("a step of 20 ms is sampled"),
        };
        sample.tid = Tid(tid);
        sample.stack = Default::default();
        sim.watch.apply(Event::Sample(sample));
    }
    sim.idle(SECOND).step(SLOW, |sim| {
        sim.run(200 * MS);
    });
    assert_eq!(only_stall(&sim.end()).duration_ns, 200 * MS);
}
