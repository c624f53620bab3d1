//! Bounds on a CPU clock at an instant, from readings that a workload took around it.

use crate::harness::Inconclusive;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::json;

use crate::workload::Workload;

/// A reading: monotonic ns, CPU ns.
type Reading = (i64, i64);

/// What a workload knows of its CPU clocks around the instants it was asked for.
#[derive(Debug, Deserialize)]
pub struct Answer {
    skew_ns: i64,
    pub threads: Vec<ThreadClock>,
    process: ProcessClock,
}

#[derive(Debug, Deserialize)]
pub struct ThreadClock {
    pub tid: u32,
    pub name: String,
    around: Vec<(Option<Reading>, Option<Reading>)>,
}

#[derive(Debug, Deserialize)]
struct ProcessClock {
    around: Vec<(Option<Reading>, Option<Reading>)>,
}

/// The true value lies between the two, in ns.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub low: i64,
    pub high: i64,
}

impl Bounds {
    /// How far a value is outside; 0 inside.
    pub fn miss(&self, value: i64) -> i64 {
        (self.low - value).max(value - self.high).max(0)
    }

    pub fn middle(&self) -> i64 {
        (self.low + self.high) / 2
    }

    pub fn width(&self) -> i64 {
        self.high - self.low
    }
}

/// `CLOCK_REALTIME - CLOCK_MONOTONIC` now, in ns.
pub fn unix_minus_monotonic() -> i64 {
    // The pair that took least time is the best of them.
    (0..10)
        .map(|_| {
            let before = read(libc::CLOCK_MONOTONIC);
            let unix = read(libc::CLOCK_REALTIME);
            let after = read(libc::CLOCK_MONOTONIC);
            (after - before, unix - (before + after) / 2)
        })
        .min()
        .map_or(0, |(_, offset)| offset)
}

fn read(clock: libc::clockid_t) -> i64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a timespec that lives through the call.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// Asks the workload for its clocks around instants of the wall clock (unix ns).
///
/// # Errors
/// When it does not answer.
pub fn ask(workload: &mut Workload, instants_unix_ns: &[u64]) -> Result<Answer> {
    let offset = unix_minus_monotonic();
    let instants: Vec<i64> = instants_unix_ns
        .iter()
        .map(|unix| *unix as i64 - offset)
        .collect();
    let answer = workload.ask(&json!({ "clocks": instants }), "clocks")?;
    let mut answer: Answer = serde_json::from_value(answer)?;
    for around in answer
        .threads
        .iter_mut()
        .map(|thread| &mut thread.around)
        .chain([&mut answer.process.around])
    {
        ensure!(around.len() == instants.len(), "an instant is missing");
        // From here on, times are relative to the instant.
        for ((before, after), instant) in around.iter_mut().zip(&instants) {
            for reading in [before, after].into_iter().flatten() {
                reading.0 -= instant;
            }
        }
    }
    Ok(answer)
}

impl Answer {
    /// Bounds on how much a thread's clock grew from instant number `from` to number `to`.
    ///
    /// # Errors
    /// When the readings do not cover both instants.
    pub fn thread(&self, thread: &ThreadClock, from: usize, to: usize) -> Result<Bounds> {
        let at = |i: usize| -> Result<Bounds> {
            let (before, after) = covering(&thread.around, i)
                .with_context(|| format!("thread {} ({})", thread.tid, thread.name))?;
            // A thread's clock never falls, and grows no faster than time.
            Ok(Bounds {
                low: before.1.max(after.1 - after.0 - self.skew_ns),
                high: after.1.min(before.1 - before.0 + self.skew_ns),
            })
        };
        Ok(between(at(from)?, at(to)?))
    }

    /// Bounds on how much the process's clock grew from instant number `from` to number `to`.
    ///
    /// # Errors
    /// When the readings do not cover both instants.
    pub fn process(&self, from: usize, to: usize) -> Result<Bounds> {
        let at = |i: usize| -> Result<Bounds> {
            let (before, after) = covering(&self.process.around, i).context("process clock")?;
            Ok(Bounds {
                low: before.1,
                high: after.1,
            })
        };
        Ok(between(at(from)?, at(to)?))
    }
}

fn covering(around: &[(Option<Reading>, Option<Reading>)], i: usize) -> Result<(Reading, Reading)> {
    let (before, after) = around.get(i).context("not asked for")?;
    Ok((
        before.ok_or_else(|| Inconclusive("no reading before the instant".to_owned()))?,
        after.ok_or_else(|| Inconclusive("no reading after the instant".to_owned()))?,
    ))
}

fn between(from: Bounds, to: Bounds) -> Bounds {
    Bounds {
        low: to.low - from.high,
        high: to.high - from.low,
    }
}
