//! Plausible watches, at random: snapshots add up to the summary, and to what the kernel said.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::event::*;
use crate::model::testing::*;
use crate::schema::Snapshot;

/// Windows of a watch.
const WINDOWS: u64 = 12;

/// Sums of everything that counts, by a path such as `100.tid101@17.blocked_ns.gil`.
#[derive(Default)]
struct Sums(BTreeMap<String, u64>);

impl Sums {
    fn add(&mut self, path: String, value: u64) {
        if value > 0 {
            *self.0.entry(path).or_default() += value;
        }
    }

    /// Adds all numbers of an object whose keys are `fields`.
    fn add_fields(&mut self, path: &str, object: &Value, fields: &[&str]) {
        for field in fields {
            match &object[field] {
                Value::Number(number) => {
                    self.add(format!("{path}.{field}"), number.as_u64().expect("a count"));
                }
                Value::Object(inner) => {
                    let keys: Vec<_> = inner.keys().map(String::as_str).collect();
                    self.add_fields(&format!("{path}.{field}"), &object[field], &keys);
                }
                Value::Null => {}
                other => panic!("{path}.{field}: {other}"),
            }
        }
    }

    fn add_histogram(&mut self, path: &str, histogram: &Value) {
        self.add_fields(path, histogram, &["count", "sum_ns"]);
        for bucket in histogram["buckets"].as_array().expect("buckets") {
            self.add(
                format!("{path}.le{}", bucket[0]),
                bucket[1].as_u64().expect("a count"),
            );
        }
    }

    fn add_snapshot(&mut self, snapshot: &Snapshot) {
        let json = serde_json::to_value(snapshot).expect("a snapshot is JSON");
        let counters = [
            "cpu_ns",
            "kernel_run_ns",
            "events",
            "events_lost",
            "reads_failed",
            "faults",
        ];
        self.add_fields("monitor", &json["monitor"], &counters);
        self.add_fields("window", &json["window"], &["duration_ns"]);
        for process in json["processes"].as_array().expect("processes") {
            let path = format!("{}@{}", process["pid"], process["start_unix_ns"]);
            self.add_fields(&path, process, &["cpu_ns", "context_switches"]);
            self.add_fields(&path, &process["ended"], &["threads", "ledger"]);
            for thread in process["threads"].as_array().expect("threads") {
                let path = format!("{path}.tid{}@{}", thread["tid"], thread["started_unix_ns"]);
                self.add_fields(
                    &path,
                    thread,
                    &[
                        "wall_ns",
                        "on_cpu_ns",
                        "cpu_user_ns",
                        "cpu_system_ns",
                        "runnable_ns",
                        "preempted_ns",
                        "stolen_ns",
                        "blocked_ns",
                        "unknown_ns",
                        "lock_ns",
                        "switches",
                        "migrations",
                    ],
                );
                self.add_histogram(&format!("{path}.latency"), &thread["wakeup_latency"]);
                self.add_histogram(&format!("{path}.slice"), &thread["slice"]);
                for (cause, histogram) in thread["off_cpu"].as_object().expect("by cause") {
                    self.add_histogram(&format!("{path}.{cause}"), histogram);
                }
                for waker in thread["wakers"].as_array().expect("wakers") {
                    let path = format!("{path}.waker{}{}", waker["tid"], waker["cause"]);
                    self.add_fields(&path, waker, &["count", "blocked_ns"]);
                }
            }
            for row in process["loops"].as_array().expect("loops") {
                let path = format!("{path}.loop{}", row["tid"]);
                self.add_fields(&path, row, &["wall_ns", "idle_ns", "busy_ns"]);
            }
        }
        for group in json["groups"].as_array().expect("groups") {
            let path = format!("group {}", group["name"]);
            let counters = [
                "processes_started",
                "processes_ended",
                "exits",
                "cpu_ns",
                "cpu_user_ns",
                "cpu_system_ns",
                "threads_started",
                "context_switches",
                "lock_ns",
                "by_role",
            ];
            self.add_fields(&path, group, &counters);
            self.add_histogram(&format!("{path}.latency"), &group["wakeup_latency"]);
            if group["gil"].is_object() {
                self.add_fields(&path, &group["gil"], &["wait_ns", "held_ns"]);
                self.add_histogram(&format!("{path}.gil"), &group["gil"]["waits"]);
            }
            for row in group["loops"].as_array().expect("loops") {
                let path = format!("{path}.loops{}", row["kind"]);
                self.add_fields(&path, row, &["idle_ns", "busy_ns", "stalls_count"]);
            }
        }
    }
}

/// A thread as a kernel would account for it, with late corrections.
struct Simulated {
    fact: LedgerFact,
    durations: [Vec<u64>; 2],
    parent: u32,
}

impl Simulated {
    /// Lives on until `now`, switching a few times.
    fn run(&mut self, now: u64, random: &mut Random) -> Vec<Event> {
        let mut slices = Vec::new();
        for _ in 0..random.below(4) {
            let fact = &mut self.fact;
            let at = fact.since_ns + random.below((now - fact.since_ns) / 2 + 1);
            let mut stretch = at - fact.since_ns;
            match fact.state {
                ThreadState::Running => {
                    let stolen = random.below(stretch / 4 + 1);
                    fact.stolen_ns += stolen;
                    stretch -= stolen;
                    fact.on_cpu_ns += stretch;
                    self.durations[0].push(stretch);
                    fact.voluntary += 1;
                }
                ThreadState::Woken => {
                    // The kernel stamped earlier than the program: the slice begins before.
                    let early = random.below(stretch / 8 + 1);
                    fact.on_cpu_ns += early;
                    fact.woken_ns += stretch - early;
                    self.durations[1].push(stretch);
                }
                ThreadState::Preempted => fact.preempted_ns += stretch,
                ThreadState::Blocked(cause) => {
                    fact.blocked_ns[cause as usize] += stretch;
                    slices.push(Event::Slice(Slice {
                        tid: fact.tid,
                        cpu: 0,
                        wait: Some(Wait {
                            off_ns: fact.since_ns,
                            wake_ns: Some(at),
                            cause: Some(cause),
                            queue: true,
                            arg0: random.below(3),
                            waker: random.chance(50).then_some(Tid(100)),
                        }),
                        in_ns: at,
                        out_ns: at,
                        on_cpu_ns: 0,
                        voluntary: true,
                    }));
                }
                ThreadState::Dead => break,
            }
            fact.since_ns = at;
            fact.state = match random_state(random) {
                ThreadState::Dead => ThreadState::Running,
                state => state,
            };
        }
        self.fact.read_ns = now;
        self.fact.slice = hist(&self.durations[0]);
        self.fact.wakeup_latency = hist(&self.durations[1]);
        self.fact.off_cpu[0] = hist(&self.durations[0]);
        slices
    }
}

/// The events of a plausible watch.
fn watch_events(seed: u64) -> Vec<Event> {
    let mut random = Random::new(seed);
    let mut events = Vec::new();
    let mut threads: Vec<Simulated> = vec![Simulated {
        fact: LedgerFact {
            state: ThreadState::Running,
            ..ledger(100, 100)
        },
        durations: Default::default(),
        parent: 1,
    }];
    let mut monitor = MonitorFact::default();
    let mut now = START;
    let mut next_tid = 101;
    for window in 0..WINDOWS {
        now += 100 * MS + random.below(SECOND);
        for _ in 0..random.below(4) {
            let at_ns = now - random.below(90 * MS);
            let is_process = random.chance(30);
            let pid = if is_process { next_tid } else { 100 };
            events.push(Event::Fork(Fork {
                at_ns,
                parent: Tid(100),
                pid: Pid(pid),
                tid: Tid(next_tid),
                start_boottime_ns: boot(at_ns),
                comm: "new".into(),
            }));
            threads.push(Simulated {
                fact: LedgerFact {
                    start_boottime_ns: boot(at_ns),
                    seeded: false,
                    start_ns: at_ns,
                    since_ns: at_ns,
                    state: ThreadState::Woken,
                    ..ledger(pid, next_tid)
                },
                durations: Default::default(),
                parent: 100,
            });
            next_tid += 1;
        }
        for thread in &mut threads {
            events.extend(thread.run(now, &mut random));
            if thread.fact.tid != Tid(100) && random.chance(20) {
                let fact = &mut thread.fact;
                fact.blocked_ns[0] += now - fact.since_ns;
                (fact.since_ns, fact.state) = (now, ThreadState::Dead);
                events.push(Event::Exit(Exit {
                    at_ns: now,
                    pid: fact.pid,
                    tid: fact.tid,
                    start_boottime_ns: fact.start_boottime_ns,
                    status: 0,
                    last: fact.pid.0 == fact.tid.0,
                    group: false,
                }));
            }
        }
        for thread in &threads {
            events.push(Event::Ledger(Box::new(thread.fact.clone())));
            if thread.fact.pid.0 == thread.fact.tid.0 {
                events.push(proc_event(thread, &threads, window));
            }
        }
        threads.retain(|thread| thread.fact.state != ThreadState::Dead);
        let mut seen = look(100, now);
        seen.loops = vec![py_loop(100, 7)];
        seen.threads = vec![py_thread(100, "MainThread")];
        seen.threads[0].waiting_for = random.chance(50).then(|| random_wait(&mut random));
        events.push(Event::Python(Arc::new(seen)));
        if random.chance(10) {
            events.push(Event::Loss(Loss {
                cpu: 0,
                records: 3,
                from_ns: now,
                to_ns: now,
            }));
            monitor.events_lost += 3;
        }
        monitor.cpu_ns += random.below(MS);
        monitor.events += random.below(1_000);
        monitor.kernel_run_ns = Some(monitor.cpu_ns / 2);
        *monitor.faults.entry("no-slot".into()).or_default() += random.below(2);
        events.push(Event::Monitor(Box::new(monitor.clone())));
        if window == WINDOWS - 1 {
            events.push(Event::End);
        }
        let unix_ns = START_UNIX + now - START;
        events.push(Event::Tick(Tick {
            at_ns: now,
            unix_ns,
        }));
    }
    events
}

fn random_wait(random: &mut Random) -> PyWait {
    use WaitPurpose::{Contended, Join, Other, Work};
    PyWait {
        kind: WaitKind::Lock,
        purpose: [Contended, Join, Other, Work][random.below(4) as usize],
        object: None,
        owner: None,
        futex: random.below(3),
        inferred: random.chance(10),
        owner_gone: random.chance(10),
        at_statement: random.chance(10),
        holders: Vec::new(),
    }
}

fn proc_event(leader: &Simulated, threads: &[Simulated], window: u64) -> Event {
    let tick = |ns: u64| ns / (10 * MS) * (10 * MS);
    let fact = &leader.fact;
    let of_process = threads.iter().filter(|thread| thread.fact.pid == fact.pid);
    Event::Process(Box::new(ProcessFact {
        read_ns: fact.read_ns,
        pid: fact.pid.0,
        ppid: leader.parent,
        start_boottime_ns: tick(fact.start_boottime_ns),
        thread_stats: of_process
            .map(|thread| ThreadStat {
                tid: thread.fact.tid,
                comm: String::new(),
                start_boottime_ns: tick(thread.fact.start_boottime_ns),
                cpu_user_ns: window * 30 * MS,
                cpu_system_ns: window * 10 * MS,
            })
            .collect(),
        ..ProcessFact::default()
    }))
}

#[test]
fn the_summary_is_the_sum_of_the_snapshots() {
    for seed in 0..60 {
        let mut model = Fixture::new().model;
        let mut sums = Sums::default();
        let mut whole_walls = BTreeMap::new();
        for event in watch_events(seed) {
            model.apply(&event);
            if let Event::Ledger(fact) = &event {
                let end = match fact.state {
                    ThreadState::Dead => fact.since_ns,
                    _ => fact.read_ns,
                };
                whole_walls.insert(fact.tid.0, end - fact.start_ns);
            }
            if matches!(event, Event::Tick(_)) {
                let snapshot = model.snapshot();
                assert_lawful(&snapshot);
                sums.add_snapshot(&snapshot);
            }
        }
        let summary = model.summary();
        assert_lawful(&summary);
        let mut whole = Sums::default();
        whole.add_snapshot(&summary);
        for (path, value) in &whole.0 {
            assert_eq!(sums.0.get(path), Some(value), "{path}, seed {seed}");
        }
        assert_eq!(whole.0.len(), sums.0.len());
        assert!(whole.0.len() > 100, "nothing was compared");
        // Services have all of it, each nanosecond once.
        let of_groups = summary.groups.iter().map(|group| group.cpu_ns);
        let of_processes = summary.processes.iter().map(|process| process.cpu_ns);
        assert_eq!(of_groups.sum::<u64>(), of_processes.sum::<u64>());
        // And it is what the kernel said, to the nanosecond.
        let threads = summary
            .processes
            .iter()
            .flat_map(|process| &process.threads);
        let walls = threads
            .map(|thread| (thread.tid, thread.ledger.wall_ns))
            .collect();
        assert_eq!(whole_walls, walls);
    }
}

#[test]
fn equal_events_give_equal_bytes() {
    for seed in 0..5 {
        let run = || {
            let mut model = Fixture::new().model;
            let mut bytes = String::new();
            for event in watch_events(seed) {
                model.apply(&event);
                if matches!(event, Event::Tick(_)) {
                    bytes += &serde_json::to_string(&model.snapshot()).expect("JSON");
                }
            }
            bytes + &serde_json::to_string(&model.summary()).expect("JSON")
        };
        assert_eq!(run(), run());
    }
}
