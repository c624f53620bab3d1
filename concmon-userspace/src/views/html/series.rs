//! Numbers of each window, for charts: bounded, however long the watch.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::schema::{Loop, Process, Snapshot};

/// Windows kept; beyond, two become one.
const MAX_POINTS: usize = 1_200;
/// Processes, and loops of each, that are followed.
const MAX_PROCESSES: usize = 256;
const MAX_LOOPS: usize = 64;

/// Charts of a watch: one point for each window.
#[derive(Clone, Debug, Serialize)]
pub struct Series {
    /// When each window began and ended, ms after the start of the watch.
    windows_ms: Vec<(f64, f64)>,
    processes: BTreeMap<u32, ProcessSeries>,
    #[serde(skip)]
    start_unix_ns: Option<u64>,
    /// How many windows one point stands for.
    windows_per_point: usize,
    #[serde(skip)]
    pending: usize,
}

type Points = Vec<Option<f32>>;

#[derive(Clone, Debug, Default, Serialize)]
struct ProcessSeries {
    /// 100 = one core.
    cpu_percent: Points,
    /// 0 to 1.
    gil: Points,
    /// Threads that waited for the GIL, on average.
    gil_waiting: Points,
    loops: BTreeMap<u32, LoopSeries>,
}

#[derive(Clone, Debug, Default, Serialize)]
struct LoopSeries {
    /// 0 to 1.
    utilization: Points,
    lag_p50_ms: Points,
    lag_p99_ms: Points,
    lag_max_ms: Points,
    pending: Points,
}

/// How two windows become one point.
#[derive(Clone, Copy)]
enum Merge {
    Mean,
    Worst,
}

impl Default for Series {
    fn default() -> Self {
        Series {
            windows_ms: Vec::new(),
            processes: BTreeMap::new(),
            start_unix_ns: None,
            windows_per_point: 1,
            pending: 0,
        }
    }
}

impl Series {
    /// Takes the next window.
    pub fn add(&mut self, snapshot: &Snapshot) {
        let window = snapshot.window;
        let start_unix_ns = *self.start_unix_ns.get_or_insert(window.start_unix_ns);
        let from_ms = window.start_unix_ns.saturating_sub(start_unix_ns) as f64 / 1e6;
        let to_ms = from_ms + window.duration_ns as f64 / 1e6;
        let new = self.pending == 0;
        match self.windows_ms.last_mut() {
            Some(last) if !new => last.1 = to_ms,
            _ => self.windows_ms.push((from_ms, to_ms)),
        }
        self.pending = (self.pending + 1) % self.windows_per_point;
        let at = self.windows_ms.len() - 1;
        for process in &snapshot.processes {
            if self.processes.len() >= MAX_PROCESSES && !self.processes.contains_key(&process.pid) {
                continue;
            }
            let series = self.processes.entry(process.pid).or_default();
            series.add(at, process, window.duration_ns);
        }
        if self.windows_ms.len() > MAX_POINTS && self.pending == 0 {
            self.halve();
        }
    }

    fn halve(&mut self) {
        let pairs = self.windows_ms.chunks(2);
        self.windows_ms = pairs
            .map(|pair| (pair[0].0, pair[pair.len() - 1].1))
            .collect();
        // An odd one is half of the next point.
        self.windows_per_point *= 2;
        for process in self.processes.values_mut() {
            process.each(|points, merge| {
                *points = points.chunks(2).map(|pair| merge.of(pair)).collect();
            });
        }
    }
}

impl ProcessSeries {
    fn add(&mut self, at: usize, process: &Process, duration_ns: u64) {
        put(
            &mut self.cpu_percent,
            at,
            Some(process.cpu_percent),
            Merge::Mean,
        );
        let gil = process.gil.as_ref();
        put(
            &mut self.gil,
            at,
            gil.and_then(|gil| gil.utilization),
            Merge::Mean,
        );
        let waiting = gil.and_then(|gil| gil.wait_ns);
        let waiting = waiting.map(|ns| ns as f64 / duration_ns.max(1) as f64);
        put(&mut self.gil_waiting, at, waiting, Merge::Mean);
        for one in process.loops.iter().filter(|one| one.wall_ns > 0) {
            if self.loops.len() < MAX_LOOPS || self.loops.contains_key(&one.tid) {
                self.loops.entry(one.tid).or_default().add(at, one);
            }
        }
    }

    fn each(&mut self, mut change: impl FnMut(&mut Points, Merge)) {
        for points in [&mut self.cpu_percent, &mut self.gil, &mut self.gil_waiting] {
            change(points, Merge::Mean);
        }
        for one in self.loops.values_mut() {
            change(&mut one.utilization, Merge::Mean);
            for points in [
                &mut one.lag_p50_ms,
                &mut one.lag_p99_ms,
                &mut one.lag_max_ms,
                &mut one.pending,
            ] {
                change(points, Merge::Worst);
            }
        }
    }
}

impl LoopSeries {
    fn add(&mut self, at: usize, one: &Loop) {
        put(
            &mut self.utilization,
            at,
            Some(one.utilization),
            Merge::Mean,
        );
        let lag = one.timing.as_ref().and_then(|timing| timing.lag.as_ref());
        let ms = |ns: Option<u64>| ns.map(|ns| ns as f64 / 1e6);
        for (points, value) in [
            (&mut self.lag_p50_ms, ms(lag.and_then(|lag| lag.p50_ns))),
            (&mut self.lag_p99_ms, ms(lag.and_then(|lag| lag.p99_ns))),
            (&mut self.lag_max_ms, ms(lag.and_then(|lag| lag.max_ns))),
            (&mut self.pending, one.pending_tasks.map(|n| n as f64)),
        ] {
            put(points, at, value, Merge::Worst);
        }
    }
}

impl Merge {
    fn of(self, values: &[Option<f32>]) -> Option<f32> {
        let known = values.iter().flatten();
        let count = known.clone().count();
        match self {
            _ if count == 0 => None,
            Merge::Mean => Some(known.sum::<f32>() / count as f32),
            Merge::Worst => known.copied().reduce(f32::max),
        }
    }
}

/// Sets the point `at`, or merges it with what is there; what is missing before it is not known.
fn put(points: &mut Points, at: usize, value: Option<f64>, merge: Merge) {
    let value = value.filter(|value| value.is_finite());
    // Three digits are more than a chart shows.
    let value = value.map(|value| ((value * 1000.0).round() / 1000.0) as f32);
    match points.get_mut(at) {
        Some(known) => *known = merge.of(&[*known, value]),
        None => {
            points.resize(at, None);
            points.push(value);
        }
    }
}
