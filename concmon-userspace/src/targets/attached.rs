//! The interpreter of a watched process: what is known of it for as long as it can be read.

use std::collections::HashMap;

use super::{pace::Pace, shape::Shape};
use crate::{
    escape::escape,
    event::{Pid, PythonFact, PythonInfo},
    python::{GilSampler, Interpreter, ReadError},
};

/// The first and the last pause after a look at a program that has just begun, ns; each is twice the one before.
const EARLY_PAUSE_NS: u64 = 20_000_000;
const LAST_EARLY_PAUSE_NS: u64 = 640_000_000;
/// Between two searches for a GIL: such a part of the time for which it is looked for, and the longest, ns.
const GIL_PAUSES: u64 = 16;
const GIL_PAUSE_NS: u64 = 10_000_000_000;
/// For so long a program counts as one that has just begun, ns.
const EARLY_NS: u64 = 2_000_000_000;

#[derive(Debug)]
pub(super) struct Attached {
    pub(super) interpreter: Interpreter,
    pub(super) gils: Vec<u64>,
    /// When the program began to run under watch, ns.
    pub(super) began_ns: Option<u64>,
    /// When its GIL became known, ns; `None`: from the start on.
    pub(super) gil_known_ns: Option<u64>,
    /// Since when its GIL is looked for, and when that is to be done next, ns.
    pub(super) gil_search_ns: Option<(u64, u64)>,
    pub(super) pace: Pace,
    /// When a program that has begun under watch is looked at before its first window ends.
    pub(super) early: Early,
    /// Why its stacks cannot be sampled.
    pub(super) no_samples: Option<String>,
    /// Kernel programs know how to walk its stacks, as of a look that was like this; else when to try again, ns.
    pub(super) walkable: Option<Shape>,
    /// When that was found out, ns.
    pub(super) unwound_ns: u64,
    pub(super) next_unwind_ns: u64,
}

/// Looks at a program that has just begun, for it may end before a window does: at growing pauses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Early {
    next_ns: u64,
    pause_ns: u64,
}

impl Early {
    /// Whether there is to be one now.
    pub(super) fn take(&mut self, now_ns: u64) -> bool {
        let is_due = self.pause_ns <= LAST_EARLY_PAUSE_NS && now_ns >= self.next_ns;
        if is_due {
            self.next_ns = now_ns.saturating_add(self.pause_ns);
            self.pause_ns *= 2;
        }
        is_due
    }
}

impl Attached {
    pub(super) fn new(pid: Pid, interpreter: Interpreter, began_ns: Option<u64>) -> Self {
        if let Some(message) = unsupported(pid, interpreter.info()) {
            log::warn!("{message}; what the kernel knows is complete");
        }
        Self {
            interpreter,
            gils: Vec::new(),
            began_ns,
            gil_known_ns: None,
            gil_search_ns: None,
            pace: Pace::default(),
            early: Early {
                next_ns: 0,
                pause_ns: EARLY_PAUSE_NS,
            },
            no_samples: None,
            walkable: None,
            unwound_ns: 0,
            next_unwind_ns: 0,
        }
    }

    /// Whether it is time to find out where its GILs are: in each turn at first, and at growing pauses, for there may be
    /// none.
    pub(super) fn is_gil_due(&mut self, now_ns: u64) -> bool {
        let (since_ns, next_ns) = *self.gil_search_ns.get_or_insert((now_ns, now_ns));
        let is_due = now_ns >= next_ns;
        if is_due {
            let pause_ns = now_ns.saturating_sub(since_ns) / GIL_PAUSES;
            let next_ns = now_ns + pause_ns.min(GIL_PAUSE_NS);
            self.gil_search_ns = Some((since_ns, next_ns));
        }
        is_due
    }

    /// Finds out where its GILs are; `now_ns`: the watch has begun.
    pub(super) fn learn_gils(&mut self, pid: Pid, now_ns: Option<u64>, sampler: &mut GilSampler) {
        let gils = self.interpreter.gils().unwrap_or_default();
        self.gils = gils.iter().map(|gil| gil.address).collect();
        if self.gils.is_empty() {
            return;
        }
        self.gil_known_ns = now_ns;
        // Without samples there is no estimate of how much a GIL is held, and the report says so.
        if let Err(error) = sampler.watch(pid, &self.gils) {
            log::debug!("process {pid}: its GIL is not sampled: {error}");
        }
    }

    /// The program has just begun under watch.
    pub(super) fn is_early(&self, now_ns: u64) -> bool {
        let began_ns = self.began_ns.filter(|_| !self.gils.is_empty());
        began_ns.is_some_and(|began_ns| now_ns.saturating_sub(began_ns) < EARLY_NS)
    }

    /// What a look cannot tell will not be known soon.
    pub(super) fn is_settled(&self) -> bool {
        let has_gil = !self.interpreter.info().free_threaded;
        self.no_samples.is_none() && (!has_gil || !self.gils.is_empty())
    }

    /// Says what a look cannot tell.
    pub(super) fn add_limits(&self, fact: &mut PythonFact) {
        if let Some(reason) = &self.no_samples {
            fact.limits.insert("samples".to_owned(), reason.clone());
        }
        if fact.info.free_threaded {
            return;
        }
        if self.gils.is_empty() {
            let reason = "the address of its GIL is not known; waits for it count as lock";
            fact.limits
                .insert("blocked_ns.gil".to_owned(), reason.to_owned());
        } else if let (Some(began_ns), Some(known_ns)) = (self.began_ns, self.gil_known_ns) {
            let reason = format!(
                "GIL waits are told from lock waits since {} ms after the program began",
                known_ns.saturating_sub(began_ns) / 1_000_000
            );
            fact.limits.insert("blocked_ns".to_owned(), reason);
        }
    }
}

/// A process that is gone tells nothing any more.
pub(super) fn is_gone(fact: &PythonFact) -> bool {
    let reason = fact.limits.get("python");
    reason.is_some_and(|reason| *reason == ReadError::Gone.to_string())
}

/// An interpreter that ends takes its modules apart before its threads: the names that were known before stay.
pub(super) fn keep_names(before: Option<&PythonFact>, now: &mut PythonFact) {
    let is_named = |fact: &PythonFact| fact.threads.iter().any(|thread| thread.name.is_some());
    let Some(before) = before.filter(|before| is_named(before) && !is_named(now)) else {
        return;
    };
    let known: HashMap<_, _> = before
        .threads
        .iter()
        .map(|thread| ((thread.tid, thread.ident), thread))
        .collect();
    for thread in &mut now.threads {
        if let Some(known) = known.get(&(thread.tid, thread.ident)) {
            thread.name.clone_from(&known.name);
            thread.entry.clone_from(&known.entry);
            thread.daemon = known.daemon;
        }
    }
}

/// That a process cannot be read, and why; `None` when it can.
pub(crate) fn unsupported(pid: Pid, info: &PythonInfo) -> Option<String> {
    let version = info.version.as_deref().unwrap_or("of unknown version");
    let reason = info.reason.as_deref().unwrap_or("no reason known");
    (!info.supported).then(|| {
        format!(
            "process {pid}: {} {} cannot be read ({})",
            info.implementation,
            escape(version),
            escape(reason)
        )
    })
}
