//! What the kernel programs take, where this process may not have the kernel measure that: the switches of the host,
//! times what the hooks add to one. That is tried out once, when they are attached.

use std::{
    io::{self, Read, Write, pipe},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

use crate::procfs::{clocks, host::context_switches};

/// Batches of which the quickest counts, for whatever else runs only makes one longer; and round trips in each.
const BATCHES: usize = 40;
const ROUND_TRIPS: usize = 50;
/// What hooks add to a switch of somebody who is not watched is between these, wherever it was measured, ns: what is
/// tried out on a busy machine may be anything.
const COST_NS: (f64, f64) = (60.0, 400.0);
/// What is taken for it where that was not tried out, ns.
const ASSUMED_NS: f64 = 120.0;
/// How long it is tried out at most, and waited for: else it is assumed.
const MOST_NS: u64 = 100_000_000;
const PATIENCE: Duration = Duration::from_secs(1);
/// A switch of a watched thread takes so many times as much more: it is booked, and told of.
const WATCHED: f64 = 3.0;

/// How things are now is said of so much time, ns.
const LATELY_NS: u64 = 5_000_000_000;

/// Parts of a CPU's time, while switches are told.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Takes {
    /// Of programs that are taken away where switches are not told.
    pub switches: f64,
    pub others: f64,
}

/// The time of the kernel programs, by counts.
#[derive(Debug)]
pub(super) struct CountedTime {
    /// Of a switch of anybody, ns.
    cost_ns: f64,
    /// When was counted last, and the switches of the host until then.
    counted: (u64, u64),
    /// Records of watched switches until then; `None`: not told yet.
    records: Option<u64>,
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
    /// That of `attach`. Where it cannot be tried out, it is assumed.
    pub(super) fn around<T, E>(
        attach: impl FnOnce() -> Result<T, E>,
    ) -> Result<(T, Option<Self>), E> {
        let (attached, added_ns) = added_by(attach)?;
        let added_ns = added_ns.unwrap_or_else(|error| {
            log::debug!("what hooks add to a switch is assumed: {error}");
            ASSUMED_NS
        });
        let counted = context_switches().ok();
        let counted = counted.map(|switches| Self::new(added_ns, clocks::monotonic_ns(), switches));
        Ok((attached, counted))
    }

    /// Goes on from here, where the kernel has measured `sum_ns` and does so no more.
    pub(super) fn assumed(sum_ns: u64, now_ns: u64, is_detached: bool) -> Option<Self> {
        let switches = context_switches().ok()?;
        Some(Self {
            sum_ns: sum_ns as f64,
            // Those that came before are in the sum.
            records: None,
            is_detached,
            ..Self::new(ASSUMED_NS, now_ns, switches)
        })
    }

    fn new(added_ns: f64, now_ns: u64, switches: u64) -> Self {
        let cost_ns = added_ns.clamp(COST_NS.0, COST_NS.1);
        log::debug!("hooks add {added_ns:.0} ns to a switch, counted as {cost_ns:.0}");
        Self {
            cost_ns,
            counted: (now_ns, switches),
            records: Some(0),
            is_detached: false,
            sum_ns: 0.0,
            lately: (0.0, 0),
        }
    }

    /// The time up to now, ns, when so many records of watched switches have come.
    pub(super) fn until_now_ns(&mut self, now_ns: u64, records: u64) -> u64 {
        if let Ok(switches) = context_switches() {
            self.add(now_ns, switches, Some(records));
        }
        // Saturates.
        self.sum_ns as u64
    }

    /// What it was since this was asked last, while hooks were attached; `None`: for too short a time. Of other programs
    /// than those of switches nothing is known.
    pub(super) fn lately(&mut self) -> Option<Takes> {
        let (ns, in_ns) = self.lately;
        (in_ns >= LATELY_NS).then(|| {
            self.lately = (0.0, 0);
            Takes {
                switches: ns / in_ns as f64,
                others: 0.0,
            }
        })
    }

    /// `records`: `None` where they are not known now.
    fn add(&mut self, now_ns: u64, switches: u64, records: Option<u64>) {
        let (before_ns, before) = std::mem::replace(&mut self.counted, (now_ns, switches));
        let before_them = self.records;
        self.records = records.or(before_them);
        let told = self.records.zip(before_them);
        let told = told.map_or(0, |(now, before)| now.saturating_sub(before)) as f64;
        // Some are of the time before hooks were taken away, and come after.
        let mut ns = told * WATCHED * self.cost_ns;
        if !self.is_detached {
            ns += switches.saturating_sub(before) as f64 * self.cost_ns;
            self.lately.1 += now_ns.saturating_sub(before_ns);
        }
        self.sum_ns += ns;
        self.lately.0 += ns;
    }

    /// Hooks are taken away, or are there again.
    pub(super) fn turn(&mut self, is_detached: bool, now_ns: u64) {
        if let Ok(switches) = context_switches() {
            self.add(now_ns, switches, None);
        }
        self.is_detached = is_detached;
    }
}

/// What `attach` adds to a switch from one thread to another, ns: the same two take turns before it and after it.
fn added_by<T, E>(attach: impl FnOnce() -> Result<T, E>) -> Result<(T, io::Result<f64>), E> {
    let turns = Turns::begin();
    let before = turns.as_ref().ok().and_then(Turns::switch_ns);
    let attached = attach()?;
    let added = turns.and_then(|turns| {
        let added = before.and_then(|before| Some(turns.switch_ns()? - before));
        turns.end(added.is_some());
        added.ok_or_else(|| io::Error::other("threads that take turns do not answer"))
    });
    Ok((attached, added))
}

/// Two threads on one CPU, which take turns when they are asked to, and end with this.
struct Turns {
    asks: mpsc::Sender<()>,
    answers: mpsc::Receiver<f64>,
    threads: [JoinHandle<()>; 2],
}

impl Turns {
    fn begin() -> io::Result<Self> {
        let ((mut from_us, to_us), (mut from_them, to_them)) = (pipe()?, pipe()?);
        let number = sched_getcpu();
        let mut cpu = CpuSet::new();
        if number >= CpuSet::MAX_CPU {
            return Err(io::Error::other("too many CPUs"));
        }
        cpu.set(number);
        let (asks, asked) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        let named = |name: &str| thread::Builder::new().name(name.to_owned());
        let answering = named("turns-1").spawn(move || {
            let mut to_them = to_them;
            let mut byte = [0];
            if sched_setaffinity(None, &cpu).is_ok() {
                while from_us.read_exact(&mut byte).is_ok() && to_them.write_all(&byte).is_ok() {}
            }
        })?;
        let asking = named("turns-2").spawn(move || {
            let mut to_us = to_us;
            if sched_setaffinity(None, &cpu).is_ok() {
                while asked.recv().is_ok()
                    && let Ok(ns) = least_ns(&mut to_us, &mut from_them)
                    && answer.send(ns).is_ok()
                {}
            }
        })?;
        Ok(Self {
            asks,
            answers,
            threads: [answering, asking],
        })
    }

    /// How long a switch takes now, ns; `None`: they do not answer.
    fn switch_ns(&self) -> Option<f64> {
        self.asks.send(()).ok()?;
        self.answers.recv_timeout(PATIENCE).ok()
    }

    /// Waits until they have ended, if they answer.
    fn end(self, answers: bool) {
        let Self { asks, threads, .. } = self;
        drop(asks);
        if answers {
            for thread in threads {
                let _ = thread.join();
            }
        }
    }
}

/// The CPU time of this thread, which has half of each round trip, whatever else runs meanwhile.
fn least_ns(to: &mut impl Write, from: &mut impl Read) -> io::Result<f64> {
    let mut least_ns = f64::INFINITY;
    let ends_ns = clocks::monotonic_ns() + MOST_NS;
    for _ in 0..BATCHES {
        if clocks::monotonic_ns() > ends_ns && least_ns.is_finite() {
            break;
        }
        let begin_ns = clocks::thread_cpu_ns();
        for _ in 0..ROUND_TRIPS {
            to.write_all(&[0])?;
            from.read_exact(&mut [0])?;
        }
        let ns = clocks::thread_cpu_ns().saturating_sub(begin_ns) as f64;
        least_ns = least_ns.min(ns / ROUND_TRIPS as f64);
    }
    Ok(least_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_a_time() {
        let mut attached = 0;
        let (told, added_ns) = added_by(|| {
            attached += 1;
            Ok::<_, io::Error>(attached)
        })
        .expect("nothing fails");
        let added_ns = added_ns.expect("pipes and threads");
        assert!(told == 1 && added_ns.is_finite(), "{told}: {added_ns}");
        // What is asked for fails, and nobody waits for ever.
        assert!(added_by(|| Err::<(), _>("refused")).is_err());
    }

    #[test]
    fn switches_count_while_hooks_are_attached() {
        const S: u64 = 1_000_000_000;
        let mut counted = CountedTime::new(100.0, 0, 1_000);
        counted.add(S, 2_000, Some(0));
        assert_eq!((counted.sum_ns, counted.lately()), (100_000.0, None));
        // Ten of these were of watched threads.
        counted.add(5 * S, 2_100, Some(10));
        assert_eq!(counted.sum_ns, 113_000.0);
        let takes = counted.lately().expect("five seconds");
        assert_eq!(takes.switches, 113_000.0 / (5 * S) as f64);
        counted.is_detached = true;
        counted.add(50 * S, 1_000_000, Some(10));
        assert_eq!((counted.sum_ns, counted.lately()), (113_000.0, None));
        counted.is_detached = false;
        // A count that falls is none.
        counted.add(51 * S, 0, Some(0));
        assert_eq!(counted.sum_ns, 113_000.0);
        // Where the kernel has measured until now, what came before is no more counted.
        let mut after = CountedTime {
            records: None,
            ..CountedTime::new(100.0, 0, 0)
        };
        after.add(S, 0, Some(1_000));
        assert_eq!(after.sum_ns, 0.0);
        after.add(2 * S, 0, Some(1_001));
        assert_eq!(after.sum_ns, 300.0);
        assert_eq!(CountedTime::new(-20.0, 0, 0).cost_ns, COST_NS.0);
        assert_eq!(CountedTime::new(f64::INFINITY, 0, 0).cost_ns, COST_NS.1);
    }
}
