//! What programs tell about their own stalls, beside what the tool found.

use anyhow::Result;
use serde::Deserialize;

use crate::report::Stall;

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
