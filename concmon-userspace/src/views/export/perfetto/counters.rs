//! Counters of a trace: one value for each window, from its beginning.

use super::proto::{COUNTER, CounterDescriptor, TrackDescriptor, TrackEvent};
use super::{Perfetto, Track};
use crate::schema::Snapshot;

/// Counters that are told apart.
const MAX_COUNTERS: usize = 8_192;

pub(super) fn write(perfetto: &mut Perfetto<'_>, snapshot: &Snapshot) {
    let window = snapshot.window;
    let at_ns = perfetto.monotonic_ns(window.start_unix_ns);
    let ms = |ns: Option<u64>| ns.map(|ns| ns as f64 / 1e6);
    for process in &snapshot.processes {
        let pid = process.pid;
        perfetto.counter(
            (pid, None, "CPU"),
            "% of a core",
            at_ns,
            Some(process.cpu_percent),
        );
        if let Some(gil) = &process.gil {
            let held = gil.utilization.map(|part| part * 100.0);
            perfetto.counter((pid, None, "GIL held (sampled)"), "%", at_ns, held);
            let waiting = gil
                .wait_ns
                .map(|ns| ns as f64 / window.duration_ns.max(1) as f64);
            perfetto.counter((pid, None, "GIL waiters"), "threads", at_ns, waiting);
        }
        for one in process.loops.iter().filter(|one| one.wall_ns > 0) {
            let tid = Some(one.tid);
            let lag = one.timing.as_ref().and_then(|timing| timing.lag.as_ref());
            for (name, unit, value) in [
                ("lag p99", "ms", ms(lag.and_then(|lag| lag.p99_ns))),
                ("lag max", "ms", ms(lag.and_then(|lag| lag.max_ns))),
                ("busy", "%", Some(one.utilization * 100.0)),
                (
                    "pending tasks",
                    "tasks",
                    one.pending_tasks.map(|n| n as f64),
                ),
            ] {
                perfetto.counter((pid, tid, name), unit, at_ns, value);
            }
        }
    }
}

impl Perfetto<'_> {
    /// A value of a process's counter, or of one of its loops'.
    fn counter(
        &mut self,
        key: (u32, Option<u32>, &'static str),
        unit: &str,
        at_ns: u64,
        value: Option<f64>,
    ) {
        let Some(value) = value.filter(|value| value.is_finite()) else {
            return;
        };
        let next = self.counters.len();
        if next >= MAX_COUNTERS && !self.counters.contains_key(&key) {
            return;
        }
        let track = Track::Counter(*self.counters.entry(key).or_insert(next));
        let uuid = track.uuid();
        if self.described.insert(uuid) {
            let (pid, tid, name) = key;
            self.describe(TrackDescriptor {
                uuid,
                name: Some(match tid {
                    Some(tid) => format!("loop {tid} {name}"),
                    None => name.to_owned(),
                }),
                parent_uuid: Some(Track::Process(pid).uuid()),
                counter: Some(CounterDescriptor {
                    unit_name: unit.to_owned(),
                }),
                ..TrackDescriptor::default()
            });
        }
        let event = TrackEvent {
            kind: COUNTER,
            track_uuid: uuid,
            double_counter_value: Some(value),
            ..TrackEvent::default()
        };
        self.event(at_ns, event);
    }
}
