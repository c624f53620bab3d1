//! The tasks of a loop by their names: what they cost, how many there are, and what probes have counted.

use std::collections::BTreeMap;

use super::exact::{Counts, Exact};
use super::names::folded;
use super::sums::Sums;
use crate::event::{PythonFact, TaskState, Tid};
use crate::model::window::{Scope, limit};
use crate::schema::{ByName, Callback, Cost};

/// Rows of names in one report, and the name of the row that has the others' tasks.
const MAX_ROWS: usize = 256;
const OTHER: &str = "other";

/// Tasks of one name.
#[derive(Clone, Debug, Default)]
struct Named {
    pending: u64,
    cost: Cost,
    samples: u64,
    counts: Counts,
}

impl Named {
    fn add(&mut self, other: &Self) {
        self.pending = self.pending.saturating_add(other.pending);
        self.cost.add(&other.cost);
        self.samples = self.samples.saturating_add(other.samples);
        self.counts.add(&other.counts);
    }

    /// The row; `uncounted` says why nothing was counted, `doubt` why counts may be too low.
    fn report(&self, name: String, uncounted: Option<&str>, doubt: Option<&str>) -> ByName {
        let counted = |count: u64| uncounted.is_none().then_some(count);
        let reasons = uncounted.or(doubt).into_iter().flat_map(|reason| {
            [
                "started",
                "finished",
                "failed",
                "cancelled",
                "gone",
                "duration",
            ]
            .map(|field| limit(field, reason.to_owned()))
        });
        ByName {
            name,
            pending: self.pending,
            started: counted(self.counts.started),
            finished: counted(self.counts.finished),
            failed: counted(self.counts.failed),
            cancelled: counted(self.counts.cancelled),
            gone: counted(self.counts.gone).filter(|_| doubt.is_none()),
            duration: uncounted.is_none().then(|| self.counts.duration()),
            cost: self.cost,
            samples: self.samples,
            estimated: vec!["on_cpu_ns", "runnable_ns", "blocked_ns"],
            limits: reasons.collect(),
        }
    }
}

/// The callbacks of a loop that are no task's.
pub(super) fn callbacks(sums: &Sums, scope: Scope) -> Vec<Callback> {
    let callbacks = sums.callbacks(scope).into_iter();
    callbacks
        .map(|(name, cost, samples)| Callback {
            name: name.to_string(),
            cost,
            samples,
        })
        .collect()
}

/// The rows of a loop, which is named by its thread and its address.
pub(super) fn rows(
    sums: &Sums,
    exact: &Exact,
    (tid, loop_id): (Tid, u64),
    scope: Scope,
    look: Option<&PythonFact>,
) -> Vec<ByName> {
    let mut pending: BTreeMap<String, u64> = BTreeMap::new();
    let tasks = look.into_iter().flat_map(|look| &look.tasks);
    for task in tasks.filter(|task| task.loop_id == loop_id) {
        if task.state != TaskState::Done {
            *pending
                .entry(folded(&task.name, &task.coroutine))
                .or_default() += 1;
        }
    }
    let (counted, uncounted) = match exact.names(tid, loop_id, scope) {
        Ok(names) => (names, None),
        Err(reason) => (BTreeMap::new(), Some(reason)),
    };
    let mut rows: BTreeMap<String, Named> = BTreeMap::new();
    for (name, cost, samples) in sums.names(scope) {
        let row = rows.entry(name.to_string()).or_default();
        (row.cost, row.samples) = (cost, samples);
    }
    for (name, count) in pending {
        rows.entry(name).or_default().pending = count;
    }
    for (name, counts) in counted {
        if !counts.is_empty() || rows.contains_key(&name) {
            rows.entry(name).or_default().counts = counts;
        }
    }
    let mut rows: Vec<(String, Named)> = rows.into_iter().collect();
    rows.sort_by(|(one_name, one), (other_name, other)| {
        let key = |row: &Named| (row.cost.total_ns(), row.pending, row.counts.started);
        key(other)
            .cmp(&key(one))
            .then_with(|| one_name.cmp(other_name))
    });
    if rows.len() > MAX_ROWS {
        let rest = rows.split_off(MAX_ROWS - 1);
        let at = rows.iter().position(|(name, _)| name == OTHER);
        let at = at.unwrap_or_else(|| {
            rows.push((OTHER.to_owned(), Named::default()));
            rows.len() - 1
        });
        for (_, row) in rest {
            rows[at].1.add(&row);
        }
    }
    let doubt = exact.doubt().filter(|_| uncounted.is_none());
    rows.into_iter()
        .map(|(name, row)| row.report(name, uncounted.as_deref(), doubt.as_deref()))
        .collect()
}
