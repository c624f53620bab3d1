//! What one process adds to the sums in one window, and what such additions come to.
//!
//! Each field is a sum, or the worst few under a total order: adding is associative and does not ask in
//! which order, so the sums of a service are those of its processes, whenever each of them came and went.
//! What becomes known late belongs to the window in which it becomes known.

use std::cmp::Reverse;

use super::add::{Add, ByKey};
use super::fine::Fine;
use super::histogram::Tally;
use super::http::HttpDelta;
use super::ledger::Totals;
use super::peers::PeersDelta;
use crate::schema::{CulpritKind, Delayed, LockNs, LoopKind, Role, Stall};

/// Stalls that are kept, the longest.
const MAX_STALLS: usize = 16;

/// Adds field by field.
macro_rules! sums {
    ($(#[$meta:meta])* struct $name:ident { $($(#[$doc:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default)]
        pub(crate) struct $name {
            $($(#[$doc])* pub(crate) $field: $kind,)*
        }

        impl Add for $name {
            fn add(&mut self, other: &Self) {
                $(Add::add(&mut self.$field, &other.$field);)*
            }
        }
    };
}

sums! {
    /// Everything that is summed up of a process.
    struct Delta {
        /// Processes that began and that ended.
        started: u64,
        exits: Exits,
        /// Threads that began.
        threads_started: u64,
        /// Columns and switches, by what the threads are for; `None`: not known.
        threads: ByKey<Option<Role>, Totals>,
        lock_ns: LockNs,
        cpu_user_ns: u64,
        cpu_system_ns: u64,
        wakeup_latency: Tally,
        gil: GilDelta,
        gc: GcDelta,
        loops: ByKey<LoopKind, LoopDelta>,
        tasks: TaskDelta,
        /// Work of thread pools, where it is counted.
        work: WorkDelta,
        stalls: Worst,
        http: HttpDelta,
        peers: PeersDelta,
    }
}

sums! {
    /// How processes ended.
    struct Exits {
        ok: u64,
        error: u64,
        signal: u64,
        /// That was not seen.
        unknown: u64,
    }
}

sums! {
    /// Waits for the GIL, and its use.
    struct GilDelta {
        seen: bool,
        wait_ns: u64,
        waits: Tally,
        held_ns: u64,
    }
}

sums! {
    /// What garbage collectors did, the youngest generation first.
    struct GcDelta {
        seen: bool,
        collections: Generations,
        collected: Generations,
    }
}

sums! {
    /// Time of event loops of one kind.
    struct LoopDelta {
        busy_ns: u64,
        idle_ns: u64,
        lag: Fine,
        step: Fine,
        stalls: ByKey<CulpritKind, u64>,
        stalls_ns: u64,
        delayed: Delayed,
    }
}

sums! {
    /// Tasks: what loops count themselves, and what probes do.
    struct TaskDelta {
        /// Some loop counts them.
        seen: bool,
        created: u64,
        /// Probes count them.
        counted: bool,
        /// Processes that ended, and were not counted from their beginning on.
        uncounted: u64,
        started: u64,
        finished: u64,
        failed: u64,
        cancelled: u64,
        duration: Tally,
    }
}

sums! {
    /// Work that was given to thread pools, and what became of it.
    struct WorkDelta {
        counted: bool,
        submitted: u64,
        failed: u64,
        silent: u64,
    }
}

/// Counts by generation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Generations(pub(crate) Vec<u64>);

impl Add for Generations {
    fn add(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (sum, count) in self.0.iter_mut().zip(&other.0) {
            sum.add(count);
        }
    }
}

/// A stall, and whose it was.
#[derive(Clone, Debug)]
pub(crate) struct StallOf {
    pub(crate) pid: u32,
    pub(crate) tid: u32,
    pub(crate) stall: Stall,
}

impl StallOf {
    /// The longest first; of two alike the earlier.
    fn order(&self) -> (Reverse<u64>, u64, u32, u32) {
        let Stall {
            duration_ns,
            at_unix_ns,
            ..
        } = self.stall;
        (Reverse(duration_ns), at_unix_ns, self.pid, self.tid)
    }
}

/// The longest stalls, the longest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Worst(pub(crate) Vec<StallOf>);

impl Add for Worst {
    fn add(&mut self, other: &Self) {
        if other.0.is_empty() {
            return;
        }
        self.0.extend(other.0.iter().cloned());
        self.0.sort_by_key(StallOf::order);
        self.0.truncate(MAX_STALLS);
    }
}

impl Delta {
    /// Columns and switches of all threads.
    pub(crate) fn totals(&self) -> Totals {
        let all = self.threads.0.values();
        all.fold(Totals::default(), |sum, totals| sum.plus(totals))
    }
}
