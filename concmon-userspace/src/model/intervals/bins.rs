//! The time axis in equal bins: how much of each bin a thread spent on what.
//!
//! A bin's width doubles whenever there would be too many, so memory is bounded however long the watch.

use super::{ACTIVITIES, Activity, Interval};

/// Width of a bin at first, ns.
const FIRST_WIDTH_NS: u64 = 1_000_000;
/// Bins of the time axis at most.
const MAX_BINS: u64 = 6_000;
/// Bins of all threads together at most, with about 100 bytes each.
const MAX_CELLS: usize = 240_000;

/// Nanoseconds by the [number](Activity::number) of the activity.
pub type Cell = [u64; ACTIVITIES];

/// One thread's bins.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// The bin of the axis that `cells` begin with.
    pub first: u64,
    pub cells: Vec<Cell>,
}

/// The bins of all threads.
#[derive(Clone, Debug)]
pub struct Bins {
    start_ns: u64,
    width_ns: u64,
    rows: Vec<Row>,
    cells: usize,
}

impl Bins {
    pub(super) fn new(start_ns: u64) -> Self {
        Bins {
            start_ns,
            width_ns: FIRST_WIDTH_NS,
            rows: Vec::new(),
            cells: 0,
        }
    }

    /// Width of each bin, ns.
    pub const fn width_ns(&self) -> u64 {
        self.width_ns
    }

    /// The bins of a thread; `None`: it has none.
    pub fn row(&self, thread: usize) -> Option<&Row> {
        self.rows.get(thread).filter(|row| !row.cells.is_empty())
    }

    pub(super) fn add(&mut self, interval: &Interval) {
        let from_ns = interval.from_ns.saturating_sub(self.start_ns);
        let to_ns = interval.to_ns.saturating_sub(self.start_ns);
        if to_ns <= from_ns {
            return;
        }
        while to_ns.div_ceil(self.width_ns) > MAX_BINS {
            self.widen();
        }
        if self.rows.len() <= interval.thread {
            self.rows.resize_with(interval.thread + 1, Row::default);
        }
        loop {
            let (first, last) = (from_ns / self.width_ns, (to_ns - 1) / self.width_ns);
            let row = &mut self.rows[interval.thread];
            let before = row.cells.len();
            row.reach(first, last);
            self.cells += row.cells.len() - before;
            if self.cells <= MAX_CELLS || self.width_ns > u64::MAX / 4 || last == 0 {
                break;
            }
            self.widen();
        }
        let row = &mut self.rows[interval.thread];
        let whole = to_ns - from_ns;
        let (mut at_ns, mut told) = (from_ns, 0);
        while at_ns < to_ns {
            let bin = at_ns / self.width_ns;
            let until_ns = (bin + 1).saturating_mul(self.width_ns).min(to_ns);
            let cell = &mut row.cells[(bin - row.first) as usize];
            let ns = until_ns - at_ns;
            if interval.activity == Activity::OnCpu {
                // Shares of the whole, so that they add up to it.
                let until = share(interval.on_cpu_ns, until_ns - from_ns, whole);
                let on_cpu_ns = (until - told).min(ns);
                told += on_cpu_ns;
                cell[Activity::OnCpu.number()] += on_cpu_ns;
                cell[Activity::Runnable.number()] += ns - on_cpu_ns;
            } else {
                cell[interval.activity.number()] += ns;
            }
            at_ns = until_ns;
        }
    }

    /// Doubles the width of bins.
    fn widen(&mut self) {
        self.width_ns = self.width_ns.saturating_mul(2);
        self.cells = 0;
        for row in &mut self.rows {
            let first = row.first / 2;
            let mut cells: Vec<Cell> = Vec::with_capacity(row.cells.len() / 2 + 1);
            for (at, cell) in row.cells.iter().enumerate() {
                let bin = ((row.first + at as u64) / 2 - first) as usize;
                if bin == cells.len() {
                    cells.push(*cell);
                } else {
                    for (sum, ns) in cells[bin].iter_mut().zip(cell) {
                        *sum += ns;
                    }
                }
            }
            (row.first, row.cells) = (first, cells);
            self.cells += row.cells.len();
        }
    }
}

impl Row {
    /// Makes room for the bins from `first` to `last`.
    fn reach(&mut self, first: u64, last: u64) {
        if self.cells.is_empty() {
            self.first = first;
        }
        if first < self.first {
            let missing = (self.first - first) as usize;
            self.cells
                .splice(0..0, std::iter::repeat_n([0; ACTIVITIES], missing));
            self.first = first;
        }
        let needed = (last - self.first + 1) as usize;
        if self.cells.len() < needed {
            self.cells.resize(needed, [0; ACTIVITIES]);
        }
    }
}

/// `part` of `whole` of `ns`.
fn share(ns: u64, part: u64, whole: u64) -> u64 {
    (u128::from(ns) * u128::from(part))
        .checked_div(u128::from(whole))
        .unwrap_or(0) as u64
}
