//! Shares of a loop's time sum to it, and windows to the watch.

use super::simulator::*;
use crate::event::*;
use crate::model::testing::*;
use crate::schema::Snapshot;

#[test]
fn tasks_get_the_time_that_is_theirs() {
    let mut sim = Simulator::new();
    sim.tasks = vec![
        py_task(1 ^ 0xc0, LOOP, "Task-1"),
        py_task(2 ^ 0xc0, LOOP, "worker-2"),
    ];
    sim.tasks[0].coroutine = "app.one".into();
    sim.tasks[1].coroutine = "app.two".into();
    (sim.tasks[0].coroutine_id, sim.tasks[1].coroutine_id) = (1, 2);
    sim.run(MS);
    // Of each 100 ms: 30 for one, 10 for the other, 6 for a callback, 20 blocked.
    for _ in 0..200 {
        sim.idle(34 * MS);
        sim.step(task(1, "one"), |sim| {
            sim.run(30 * MS);
        });
        sim.step(task(2, "two"), |sim| {
            sim.run(10 * MS).block(Cause::Sleep, 20 * MS, None);
        });
        sim.step(callback("called"), |sim| {
            sim.run(6 * MS);
        });
    }
    let wall = sim.now;
    let summary = sim.end();
    let timing = timing(&summary);
    let percent = |ns: u64| ns as f64 / wall as f64 * 100.0;
    let near = |ns: u64, want: f64| (percent(ns) - want).abs() < 1.0;
    let row = |name: &str| {
        let row = timing.by_name.iter().find(|row| row.name == name);
        row.unwrap_or_else(|| panic!("no {name} in {:?}", timing.by_name))
    };
    assert!(near(row("app.one").cost.on_cpu_ns, 30.0));
    assert!(near(row("worker-#").cost.on_cpu_ns, 10.0));
    assert!(near(row("worker-#").cost.blocked_ns.sleep, 20.0));
    assert_eq!(row("app.one").cost.blocked_ns.sleep, 0);
    assert!(near(timing.callbacks_ns, 6.0));
    assert!(near(timing.unknown_ns, 0.0));
    assert_eq!(row("app.one").pending, 1);
    for field in [
        "started",
        "finished",
        "failed",
        "cancelled",
        "gone",
        "duration",
    ] {
        assert!(has_limit(&row("app.one").limits, field), "{field}");
    }
    let costs = summary.processes[0].loops[0].tasks.iter();
    let costs: Vec<_> = costs.map(|task| task.cost.expect("sampled")).collect();
    assert!(near(costs[0].cost.on_cpu_ns, 30.0) && near(costs[1].cost.on_cpu_ns, 10.0));
}

#[test]
fn names_are_bounded_and_none_is_lost() {
    let mut sim = Simulator::new();
    let tasks = (1..=400).map(|number| {
        let letters = format!("{number:b}").replace('0', "o").replace('1', "l");
        let mut task = py_task(number, LOOP, &letters);
        (task.coroutine_id, task.coroutine) = (number, "many".into());
        task
    });
    sim.tasks = tasks.collect();
    sim.run(MS);
    for number in 1..=400 {
        sim.idle(10 * MS).step(task(number, "many"), |sim| {
            sim.run(11 * MS);
        });
    }
    let summary = sim.end();
    let rows = &timing(&summary).by_name;
    assert!(rows.len() <= 257, "{}", rows.len());
    let other = rows
        .iter()
        .find(|row| row.name == "other")
        .expect("a row for the others");
    assert!(other.samples > 100 && other.pending > 100);
    let samples: u64 = rows.iter().map(|row| row.samples).sum();
    assert!(samples >= 400, "{samples}");
}

/// Counts, not estimates.
fn counted(snapshot: &Snapshot) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    for row in &snapshot.processes[0].loops {
        let Some(timing) = &row.timing else { continue };
        let mut add = |name: String, value| found.push((name, value));
        add("busy".into(), row.busy_ns);
        add(
            "split".into(),
            timing.tasks_ns + timing.callbacks_ns + timing.unknown_ns,
        );
        add("stalls".into(), timing.stalls_count);
        add("stalls_ns".into(), timing.stalls_ns);
        add("saturations".into(), timing.saturation.count);
        add("saturated".into(), timing.saturation.busy_ns);
        for (name, histogram) in [("lag", &timing.lag), ("step", &timing.step)] {
            let Some(histogram) = histogram else { continue };
            add(format!("{name}.count"), histogram.count);
            add(format!("{name}.sum"), histogram.sum_ns);
            for (bound, count) in &histogram.buckets {
                add(format!("{name}.{bound}"), *count);
            }
        }
        for row in &timing.by_name {
            add(format!("samples.{}", row.name), row.samples);
        }
    }
    found
}

/// Up to 268 ms; the short ones are more.
fn length(random: &mut Random) -> u64 {
    let bits = random.below(28);
    random.below(1 << bits)
}

#[test]
fn windows_add_up_to_the_watch() {
    let mut told = 0;
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let mut sim = Simulator::new();
        sim.run(MS);
        for _ in 0..random.below(300) {
            if random.chance(70) {
                sim.idle(random.below(40 * MS));
            } else if random.chance(50) {
                sim.turn();
            }
            let number = random.below(5);
            let who = match random.chance(70) {
                true => task(number + 1, ["a", "b", "c", "d", "e"][number as usize]),
                false => callback("called"),
            };
            sim.step(who, |sim| {
                for _ in 0..random.below(4) {
                    sim.run(length(&mut random));
                    if random.chance(30) {
                        let cause = Cause::ALL[random.below(9) as usize];
                        sim.block(cause, length(&mut random), None);
                    }
                }
                if random.chance(10) {
                    sim.fact("Task-1", "r");
                }
            });
        }
        let summary = sim.end();
        let mut sums = std::collections::BTreeMap::new();
        for (name, value) in sim.snapshots.iter().flat_map(counted) {
            *sums.entry(name).or_insert(0) += value;
        }
        sums.retain(|_, value| *value > 0);
        let mut whole: std::collections::BTreeMap<_, _> = counted(&summary).into_iter().collect();
        whole.retain(|_, value| *value > 0);
        assert_eq!(whole, sums, "seed {seed}");
        let Some(timing) = &summary.processes[0].loops[0].timing else {
            continue;
        };
        told += timing.stalls_count;
        assert_eq!(sim.stalls.len() as u64, timing.stalls_count);
        for stall in &timing.stalls {
            assert_eq!(
                stall.cost.total_ns(),
                stall.duration_ns,
                "seed {seed}: {stall:#?}"
            );
        }
        let stalled_or_not = timing.stalls_ns + timing.saturation.busy_ns;
        assert!(
            stalled_or_not <= summary.processes[0].loops[0].busy_ns,
            "seed {seed}"
        );
    }
    assert!(told > 100, "{told} stalls were compared");
}
