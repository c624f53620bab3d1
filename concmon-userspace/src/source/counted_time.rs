//! What the kernel programs take, where this process may not have the kernel measure that: the switches of the host,
//! times what the hooks add to one. That is tried out once, when they are attached.

use std::{
    io::{self, Read as _, Write as _, pipe},
    thread,
    time::Instant,
};

use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

use crate::procfs::{clocks, host::context_switches};

/// Batches of which the quickest counts, for whatever else runs only makes one longer; and round trips in each.
const BATCHES: usize = 20;
const ROUND_TRIPS: usize = 100;
/// What hooks add to a switch of somebody who is not watched is between these, wherever it was measured, ns.
const COST_NS: (f64, f64) = (30.0, 1_000.0);
/// A switch of a watched thread takes so many times as much more: it is booked, and told of.
const WATCHED: f64 = 3.0;

/// How things are now is said of so much time, ns.
const LATELY_NS: u64 = 5_000_000_000;

/// The time of the kernel programs, by counts.
#[derive(Debug)]
pub(super) struct CountedTime {
    /// Of a switch of anybody, ns.
    cost_ns: f64,
    /// When was counted last, and the switches of the host until then.
    counted: (u64, u64),
    /// Records of watched switches until then.
    records: u64,
    /// Hooks are not attached.
    is_detached: bool,
    sum_ns: f64,
    /// Since somebody asked how it was lately: the time, and in how much time.
    lately: (f64, u64),
}

impl CountedTime {
    /// Two threads take turns before `attach` and after it.
    ///
    /// # Errors
    /// That of `attach`. Where it cannot be tried out, nothing is counted.
    pub(super) fn around<T, E>(
        attach: impl FnOnce() -> Result<T, E>,
    ) -> Result<(T, Option<Self>), E> {
        let before = switch_ns();
        let attached = attach()?;
        let counted =
            before.and_then(|before_ns| Ok((before_ns, switch_ns()?, context_switches()?)));
        let counted = counted
            .inspect_err(|error| log::debug!("what kernel programs take is not counted: {error}"))
            .ok()
            .map(|(before_ns, after_ns, switches)| {
                Self::new(after_ns - before_ns, clocks::monotonic_ns(), switches)
            });
        Ok((attached, counted))
    }

    fn new(added_ns: f64, now_ns: u64, switches: u64) -> Self {
        let cost_ns = added_ns.clamp(COST_NS.0, COST_NS.1);
        log::debug!("hooks add {added_ns:.0} ns to a switch, counted as {cost_ns:.0}");
        Self {
            cost_ns,
            counted: (now_ns, switches),
            records: 0,
            is_detached: false,
            sum_ns: 0.0,
            lately: (0.0, 0),
        }
    }

    /// The time up to now, ns, when so many records of watched switches have come.
    pub(super) fn until_now_ns(&mut self, now_ns: u64, records: u64) -> u64 {
        if let Ok(switches) = context_switches() {
            self.add(now_ns, switches, records);
        }
        // Saturates.
        self.sum_ns as u64
    }

    /// The part of a CPU's time that it was since this was asked last, while hooks were attached; `None`: for too short
    /// a time.
    pub(super) fn lately(&mut self) -> Option<f64> {
        let (ns, in_ns) = self.lately;
        (in_ns >= LATELY_NS).then(|| {
            self.lately = (0.0, 0);
            ns / in_ns as f64
        })
    }

    fn add(&mut self, now_ns: u64, switches: u64, records: u64) {
        let (before_ns, before) = std::mem::replace(&mut self.counted, (now_ns, switches));
        let told = records.saturating_sub(self.records) as f64;
        self.records = records;
        if self.is_detached {
            return;
        }
        let all = switches.saturating_sub(before) as f64;
        let ns = (all + told * WATCHED) * self.cost_ns;
        self.sum_ns += ns;
        self.lately.0 += ns;
        self.lately.1 += now_ns.saturating_sub(before_ns);
    }

    /// Hooks are taken away, or are there again.
    pub(super) fn turn(&mut self, is_detached: bool, now_ns: u64) {
        self.until_now_ns(now_ns, self.records);
        self.is_detached = is_detached;
    }
}

/// How long a switch from one thread to another takes on one CPU, ns.
fn switch_ns() -> io::Result<f64> {
    let (from_us, to_us) = (pipe()?, pipe()?);
    let mut cpu = CpuSet::new();
    cpu.set(sched_getcpu());
    let (other, own) = ((from_us.0, to_us.1), (to_us.0, from_us.1));
    thread::scope(|scope| {
        let answers = scope.spawn(move || {
            let (mut read, mut write) = other;
            sched_setaffinity(None, &cpu)?;
            let mut byte = [0];
            while read.read(&mut byte)? == 1 {
                write.write_all(&byte)?;
            }
            io::Result::Ok(())
        });
        let asks = scope.spawn(move || {
            let (mut read, mut write) = own;
            sched_setaffinity(None, &cpu)?;
            let mut least_ns = f64::INFINITY;
            for _ in 0..BATCHES {
                let begin = Instant::now();
                for _ in 0..ROUND_TRIPS {
                    write.write_all(&[0])?;
                    read.read_exact(&mut [0])?;
                }
                let ns = begin.elapsed().as_nanos() as f64;
                least_ns = least_ns.min(ns / (2 * ROUND_TRIPS) as f64);
            }
            io::Result::Ok(least_ns)
        });
        let ended = || io::Error::other("a thread has ended");
        let least_ns = asks.join().map_err(|_| ended())?;
        answers.join().map_err(|_| ended())??;
        least_ns
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_switch_takes_is_a_time() {
        let ns = switch_ns().expect("pipes");
        assert!(ns.is_finite() && ns > 0.0, "{ns}");
    }

    #[test]
    fn switches_count_while_hooks_are_attached() {
        const S: u64 = 1_000_000_000;
        let mut counted = CountedTime::new(100.0, 0, 1_000);
        counted.add(S, 2_000, 0);
        assert_eq!((counted.sum_ns, counted.lately()), (100_000.0, None));
        // Ten of these were of watched threads.
        counted.add(5 * S, 2_100, 10);
        assert_eq!(counted.sum_ns, 113_000.0);
        assert_eq!(counted.lately(), Some(113_000.0 / (5 * S) as f64));
        counted.is_detached = true;
        counted.add(50 * S, 1_000_000, 10);
        assert_eq!((counted.sum_ns, counted.lately()), (113_000.0, None));
        counted.is_detached = false;
        // A count that falls is none.
        counted.add(51 * S, 0, 0);
        assert_eq!(counted.sum_ns, 113_000.0);
        assert_eq!(CountedTime::new(-20.0, 0, 0).cost_ns, COST_NS.0);
        assert_eq!(CountedTime::new(f64::INFINITY, 0, 0).cost_ns, COST_NS.1);
    }
}
