//! Hostile events: no sequence of them panics, or breaks a law.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::event::*;
use crate::model::testing::*;
use crate::schema::Snapshot;

/// Any event at all, about few ids, so that they collide.
fn nasty_event(random: &mut Random) -> Event {
    let pid = Pid(random.below(4) as u32);
    let tid = Tid(random.below(6) as u32);
    match random.below(12) {
        0 => Event::Fork(Fork {
            at_ns: random.nasty(),
            parent: Tid(random.below(6) as u32),
            pid,
            tid,
            start_boottime_ns: random.nasty(),
            comm: "x".into(),
        }),
        1 => Event::Exit(Exit {
            at_ns: random.nasty(),
            pid,
            tid,
            start_boottime_ns: random.nasty(),
            status: random.any() as u32,
            last: random.chance(30),
            group: random.chance(50),
        }),
        2 => Event::Exec(Exec {
            at_ns: random.nasty(),
            pid,
            comm: "y".into(),
        }),
        3 => Event::Loss(Loss {
            cpu: 0,
            records: random.nasty(),
            from_ns: random.nasty(),
            to_ns: random.nasty(),
        }),
        4 => Event::Slice(Slice {
            tid,
            cpu: random.any() as u32,
            wait: random.chance(80).then(|| Wait {
                off_ns: random.nasty(),
                wake_ns: random.chance(50).then(|| random.nasty()),
                cause: Cause::from_wire(random.below(12) as u8),
                queue: true,
                arg0: random.any(),
                waker: Some(Tid(random.below(99) as u32)),
            }),
            in_ns: random.nasty(),
            out_ns: random.nasty(),
            on_cpu_ns: random.nasty(),
            voluntary: random.chance(50),
        }),
        5 => Event::Process(Box::new(ProcessFact {
            read_ns: random.nasty(),
            pid: pid.0,
            ppid: random.below(4) as u32,
            start_boottime_ns: random.nasty(),
            start_unix_ns: random.nasty(),
            zombie: random.chance(30),
            rss_bytes: random.chance(50).then(|| random.nasty()),
            thread_stats: (0..random.below(4))
                .map(|_| ThreadStat {
                    tid,
                    comm: String::new(),
                    start_boottime_ns: random.nasty(),
                    cpu_user_ns: random.nasty(),
                    cpu_system_ns: random.nasty(),
                })
                .collect(),
            ..ProcessFact::default()
        })),
        6 => {
            let mut seen = look(pid.0, random.nasty());
            seen.info.supported = random.chance(80);
            seen.threads = vec![py_thread(tid.0, "a"), py_thread(tid.0, "b")];
            seen.loops = vec![py_loop(tid.0, random.below(3)), py_loop(77, random.any())];
            seen.tasks = vec![py_task(random.below(3), random.below(3), "t"); 2];
            seen.gils = vec![PyGil {
                read_ns: random.nasty(),
                address: random.below(3),
                cond: random.nasty(),
                locked: random.chance(50),
                last_holder: random.chance(50).then_some(tid),
                switches: random.nasty(),
                samples: random.nasty(),
                locked_samples: random.nasty(),
            }];
            Event::Python(Arc::new(seen))
        }
        7 => Event::Monitor(Box::new(MonitorFact {
            cpu_ns: random.nasty(),
            wall_clock_ahead_ns: random.nasty().cast_signed(),
            passes: None,
            events_lost: random.nasty(),
            faults: [("f".to_owned(), random.nasty())].into(),
            ..MonitorFact::default()
        })),
        8 => Event::Tick(Tick {
            at_ns: random.nasty(),
            unix_ns: random.nasty(),
        }),
        _ => {
            let mut fact = random_ledger(random);
            (fact.pid, fact.tid) = (pid, tid);
            if random.chance(60) {
                // The same thread again.
                fact.start_boottime_ns = START_BOOT;
            }
            Event::Ledger(Box::new(fact))
        }
    }
}

/// By thread, every column and every bucket. A thread is known by its start: with an exec it may take over another id.
fn thread_sums(snapshot: &Snapshot, sums: &mut BTreeMap<String, u128>) {
    for thread in snapshot
        .processes
        .iter()
        .flat_map(|process| &process.threads)
    {
        let mut add = |path: &str, value: u64| {
            let path = format!("{}.{path}", thread.started_unix_ns);
            *sums.entry(path).or_default() += u128::from(value);
        };
        let columns = serde_json::to_value(thread.ledger).expect("JSON");
        for (name, value) in columns.as_object().expect("columns") {
            match value.as_object() {
                Some(causes) => causes
                    .iter()
                    .for_each(|(cause, ns)| add(cause, ns.as_u64().expect("ns"))),
                None => add(name, value.as_u64().expect("ns")),
            }
        }
        add("count", thread.slice.count);
        for &(bound, count) in &thread.slice.buckets {
            add(&bound.to_string(), count);
        }
    }
}

#[test]
fn no_sequence_of_events_panics_or_breaks_the_law() {
    for seed in 0..150 {
        let mut random = Random::new(seed);
        let mut model = Fixture::new().model;
        let mut windows = BTreeMap::new();
        for step in 0..150 {
            let event = match random.chance(20) || step == 149 {
                true => Event::Tick(Tick {
                    at_ns: random.nasty(),
                    unix_ns: random.nasty(),
                }),
                false => nasty_event(&mut random),
            };
            model.apply(&event);
            // Out of turn, too: a snapshot may be asked for at any time.
            let snapshot = model.snapshot();
            let summary = model.summary();
            if matches!(event, Event::Tick(_)) {
                assert_lawful(&snapshot);
                assert_lawful(&summary);
                thread_sums(&snapshot, &mut windows);
                // Nothing ever falls, and windows add up, whatever came in.
                let mut whole = BTreeMap::new();
                thread_sums(&summary, &mut whole);
                assert_eq!(whole, windows, "seed {seed}");
            }
        }
        assert!(windows.len() > 10, "nothing was checked");
    }
}
