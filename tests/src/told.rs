//! What programs tell about their own stalls, beside what the tool found.

use anyhow::Result;
use serde::Deserialize;

use crate::report::Stall;

/// From what length on a step is a stall, where neither the loop nor the test says otherwise, ns.
pub const THRESHOLD_NS: u64 = 100_000_000;

/// A stall as the program tells it, by CLOCK_MONOTONIC.
#[derive(Clone, Debug, Deserialize)]
pub struct Told {
    pub kind: String,
    pub task: Option<String>,
    pub coroutine: Option<String>,
    pub request_id: Option<String>,
    pub begin_ns: u64,
    pub end_ns: u64,
    pub function: String,
    pub line: Option<u32>,
    /// The thread that kept the GIL.
    pub hog: Option<u32>,
    /// The thread whose loop stood still.
    pub tid: Option<u32>,
}

impl Told {
    pub fn length_ns(&self) -> u64 {
        self.end_ns - self.begin_ns
    }

    /// The stall that covers most of it.
    pub fn found<'a>(&self, stalls: &'a [Stall]) -> Option<&'a Stall> {
        let offset = clock_offset();
        let overlap = |stall: &&Stall| {
            let begin = i128::from(stall.at_unix_ns) - offset;
            let end = begin + i128::from(stall.duration_ns);
            end.min(self.end_ns.into()) - begin.max(self.begin_ns.into())
        };
        let ours = stalls
            .iter()
            .filter(|stall| self.tid.is_none_or(|tid| tid == stall.tid));
        let best = ours.max_by_key(overlap)?;
        (overlap(&best) > i128::from(self.length_ns() / 2)).then_some(best)
    }

    /// By how much the stall is longer or shorter, ns. What its thread waited for a CPU before the program
    /// looked at its clock, or after, is in one of the two only.
    pub fn off_ns(&self, stall: &Stall) -> u64 {
        let off = stall.duration_ns.abs_diff(self.length_ns());
        off.saturating_sub(stall.runnable_ns)
    }
}

impl Stall {
    /// Whether the host made it: without the time in which its thread waited for a CPU it is none.
    pub fn is_hosts(&self, threshold_ns: u64) -> bool {
        self.duration_ns.saturating_sub(self.runnable_ns) < threshold_ns
    }

    /// Whether it is called so, or after the wait for a CPU, where that took more than all else did.
    pub fn is_called(&self, kind: &str) -> bool {
        let host_took_most = self.runnable_ns > self.duration_ns - self.runnable_ns;
        self.culprit.kind == kind || (self.culprit.kind == "runnable" && host_took_most)
    }
}

/// The stalls that the program does not tell and that the host did not make either.
pub fn made_up<'a>(told: &[Told], stalls: &'a [Stall], threshold_ns: u64) -> Vec<&'a Stall> {
    let is_told = |stall: &Stall| {
        let mut found = told.iter().filter_map(|one| one.found(stalls));
        found.any(|found| std::ptr::eq(found, stall))
    };
    stalls
        .iter()
        .filter(|stall| !is_told(stall) && !stall.is_hosts(threshold_ns))
        .collect()
}

/// Reads stalls from a program's account.
///
/// # Errors
/// When they are not.
pub fn told(value: &serde_json::Value) -> Result<Vec<Told>> {
    Ok(serde_json::from_value(value.clone())?)
}

/// `CLOCK_REALTIME` minus `CLOCK_MONOTONIC`, ns.
pub fn clock_offset() -> i128 {
    let now = |clock| {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: a valid pointer.
        unsafe { libc::clock_gettime(clock, &raw mut time) };
        i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
    };
    now(libc::CLOCK_REALTIME) - now(libc::CLOCK_MONOTONIC)
}
