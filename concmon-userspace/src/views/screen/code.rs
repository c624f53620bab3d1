//! Hot functions: whose the time on CPUs, on the GIL and on locks was, in a window and in the whole watch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::event::Cause;
use crate::model::intervals::flames::{NodeId, ROOT};
use crate::model::intervals::{Activity, Intervals};

/// A function and its file.
pub(super) type Function = (Arc<str>, Arc<str>);

/// Times of a function, ns: in itself on a CPU, with what it called, blocked on the GIL, on locks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) own: u64,
    pub(super) all: u64,
    pub(super) gil: u64,
    pub(super) lock: u64,
}

impl Times {
    /// Adds what counts for who did it itself.
    fn add(&mut self, activity: Activity, ns: u64) {
        match activity {
            Activity::OnCpu => self.own += ns,
            Activity::Blocked(Cause::Gil) => self.gil += ns,
            Activity::Blocked(Cause::Lock) => self.lock += ns,
            _ => {}
        }
    }

    fn since(self, base: Self) -> Self {
        Self {
            own: self.own.saturating_sub(base.own),
            all: self.all.saturating_sub(base.all),
            gil: self.gil.saturating_sub(base.gil),
            lock: self.lock.saturating_sub(base.lock),
        }
    }
}

/// Times of all functions, and of all threads together: also what no stack is known of.
#[derive(Clone, Debug, Default)]
struct Sums {
    functions: BTreeMap<Function, Times>,
    total: Times,
}

impl Sums {
    fn of(intervals: &Intervals) -> Self {
        let flames = intervals.flames();
        let mut sums = Self::default();
        // Threads have stacks in common.
        let mut nodes: BTreeMap<NodeId, Times> = BTreeMap::new();
        for (_, activity, node, ns) in flames.weights() {
            sums.total.add(activity, ns);
            nodes.entry(node).or_default().add(activity, ns);
        }
        sums.total.all = sums.total.own;
        for (node, times) in nodes {
            if node == ROOT || times == Times::default() {
                continue;
            }
            let mut stack = flames.stack(node).into_iter().rev();
            let function =
                |frame: &crate::event::PyFrame| (frame.function.clone(), frame.file.clone());
            let Some(innermost) = stack.next().map(function) else {
                continue;
            };
            let itself = sums.functions.entry(innermost.clone()).or_default();
            itself.own += times.own;
            itself.gil += times.gil;
            itself.lock += times.lock;
            if times.own > 0 {
                // One that calls itself counts once.
                let mut called: BTreeSet<Function> = stack.map(function).collect();
                called.insert(innermost);
                for one in called {
                    sums.functions.entry(one).or_default().all += times.own;
                }
            }
        }
        sums
    }
}

/// A function with its times.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) function: Function,
    /// `None`: a whole window has not passed since somebody looks.
    pub(super) window: Option<Times>,
    pub(super) watch: Times,
}

/// What was counted at the end of the latest window, and of the one before.
#[derive(Clone, Debug, Default)]
pub(super) struct Code {
    window_unix_ns: u64,
    now: Sums,
    base: Option<Sums>,
}

impl Code {
    /// At the end of a window, which is known by its beginning; the same one again changes nothing.
    pub(super) fn take(&mut self, window_unix_ns: u64, intervals: &Intervals) {
        if self.window_unix_ns == window_unix_ns {
            return;
        }
        let before = std::mem::replace(&mut self.now, Sums::of(intervals));
        self.base = (self.window_unix_ns != 0).then_some(before);
        self.window_unix_ns = window_unix_ns;
    }

    /// Of all functions together: in the window, in the watch.
    pub(super) fn totals(&self) -> (Option<Times>, Times) {
        let base = self.base.as_ref();
        let window = base.map(|base| self.now.total.since(base.total));
        (window, self.now.total)
    }

    /// All functions, in the order of their names.
    pub(super) fn rows(&self) -> impl Iterator<Item = Row> {
        self.now.functions.iter().map(|(function, watch)| Row {
            function: function.clone(),
            window: self.base.as_ref().map(|base| {
                let before = base.functions.get(function).copied();
                watch.since(before.unwrap_or_default())
            }),
            watch: *watch,
        })
    }
}
