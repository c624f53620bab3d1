//! Tasks that probes have counted one by one.

use std::collections::BTreeMap;

use super::gone::{Gone, Totals};
use crate::event::{ExactFact, PythonFact, TaskCounts, Tid};
use crate::model::add::Add;
use crate::model::delta::TaskDelta;
use crate::model::histogram::Tally;
use crate::model::window::{Clock, Cumulative, Growth, Scope, limit};
use crate::schema::{self, CountedTasks};

/// Rows that are kept; the kernel programs keep as many for all processes together.
const MAX_ROWS: usize = 8_192;

/// How long a process may have lived before its tasks are counted, ns.
const GRACE_NS: u64 = 50_000_000;

/// What became of tasks.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) started: u64,
    pub(super) finished: u64,
    pub(super) failed: u64,
    pub(super) cancelled: u64,
    /// Are there no more; filled in for a report.
    pub(super) gone: u64,
    duration: Tally,
}

impl Counts {
    fn update(&mut self, fact: &TaskCounts) {
        self.started = self.started.max(fact.started);
        self.finished = self.finished.max(fact.finished);
        self.failed = self.failed.max(fact.failed);
        self.cancelled = self.cancelled.max(fact.cancelled);
        self.duration.update(&fact.duration);
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.started = self.started.saturating_add(other.started);
        self.finished = self.finished.saturating_add(other.finished);
        self.failed = self.failed.saturating_add(other.failed);
        self.cancelled = self.cancelled.saturating_add(other.cancelled);
        self.gone = self.gone.saturating_add(other.gone);
        self.duration.add(&other.duration);
    }

    pub(super) fn is_empty(&self) -> bool {
        let all = [self.started, self.finished, self.failed, self.cancelled];
        all.iter().chain([&self.gone]).all(|count| *count == 0)
    }

    pub(super) fn duration(&self) -> schema::Histogram {
        self.duration.report()
    }
}

impl Growth for Counts {
    fn since(&self, base: &Self) -> Self {
        Counts {
            started: self.started - base.started,
            finished: self.finished - base.finished,
            failed: self.failed - base.failed,
            cancelled: self.cancelled - base.cancelled,
            gone: self.gone.saturating_sub(base.gone),
            duration: self.duration.since(&base.duration),
        }
    }
}

/// The counted tasks of one process.
#[derive(Clone, Debug, Default)]
pub(super) struct Exact {
    /// Since when they are, or why they are not; `None`: not asked for.
    since: Option<Result<u64, String>>,
    /// By thread, loop and name.
    rows: BTreeMap<(Tid, u64), BTreeMap<String, Cumulative<Counts>>>,
    known: usize,
    /// Steps that were missed, by now.
    missed: u64,
    gone: Gone,
    /// What the program before this one in the process had counted.
    old: Totals,
}

impl Exact {
    pub(super) fn take(&mut self, fact: &ExactFact) {
        self.since = Some(fact.since.clone());
        self.missed = self.missed.max(fact.missed);
        for counts in &fact.tasks {
            let names = self.rows.entry((counts.tid, counts.loop_id)).or_default();
            if !names.contains_key(&counts.name) {
                if self.known >= MAX_ROWS {
                    continue;
                }
                self.known += 1;
            }
            let known = names.entry(counts.name.clone()).or_default();
            known.now.update(counts);
        }
        if let Ok(since_ns) = fact.since {
            let mut totals = self.totals();
            for (id, names) in &self.old {
                for (name, old) in names {
                    let total = totals.get_mut(id).and_then(|names| names.get_mut(name));
                    if let Some(total) = total {
                        total.0 = total.0.saturating_sub(old.0);
                        total.1 = total.1.saturating_sub(old.1);
                    }
                }
            }
            self.gone.count(since_ns, fact.read_ns, totals);
        }
    }

    /// Which tasks there are, so that it shows which are gone.
    pub(super) fn look(&mut self, look: &PythonFact) {
        if matches!(self.since, Some(Ok(_))) {
            self.gone.look(look);
        }
    }

    fn totals(&self) -> Totals {
        let mut totals = Totals::new();
        for ((_, loop_id), names) in &self.rows {
            let of_loop = totals.entry(*loop_id).or_default();
            for (name, counts) in names {
                let Counts {
                    started,
                    finished,
                    failed,
                    cancelled,
                    ..
                } = counts.now;
                let total = of_loop.entry(name.clone()).or_default();
                total.0 = total.0.saturating_add(started);
                total.1 = [finished, failed, cancelled]
                    .into_iter()
                    .fold(total.1, u64::saturating_add);
            }
        }
        totals
    }

    /// Another program runs in the process. Counts go on, but what had begun before is no task of it.
    pub(super) fn replaced(&mut self) {
        self.old = self.totals();
        self.gone.replaced();
    }

    /// What was counted under a name, with what is gone of it.
    fn over(&self, loop_id: u64, name: &str, counts: &Cumulative<Counts>, scope: Scope) -> Counts {
        Counts {
            gone: self.gone.over(loop_id, name, scope),
            ..counts.over(scope)
        }
    }

    pub(super) fn roll(&mut self) {
        for row in self.rows.values_mut().flat_map(BTreeMap::values_mut) {
            row.roll();
        }
        self.gone.roll();
    }

    /// What was counted in a loop, by name.
    ///
    /// # Errors
    /// Why nothing is counted.
    pub(super) fn names(
        &self,
        tid: Tid,
        loop_id: u64,
        scope: Scope,
    ) -> Result<BTreeMap<String, Counts>, String> {
        const UNCOUNTED: &str =
            "tasks that live between two looks are not seen; --exact tasks counts";
        match &self.since {
            None => Err(UNCOUNTED.to_owned()),
            Some(Err(reason)) => Err(format!("not counted exactly: {reason}")),
            Some(Ok(_)) => Ok(self
                .rows
                .get(&(tid, loop_id))
                .into_iter()
                .flatten()
                .map(|(name, counts)| (name.clone(), self.over(loop_id, name, counts, scope)))
                .collect()),
        }
    }

    /// They have been counted since about then: an interpreter takes as long to begin.
    pub(super) fn is_counted_since(&self, began_ns: u64) -> bool {
        let since = self.since.as_ref().and_then(|since| since.as_ref().ok());
        since.is_some_and(|since_ns| *since_ns <= began_ns.saturating_add(GRACE_NS))
    }

    /// Adds what was counted in the window.
    pub(super) fn add_to(&self, delta: &mut TaskDelta) {
        delta.counted |= self.known > 0 || matches!(self.since, Some(Ok(_)));
        for counts in self.rows.values().flat_map(BTreeMap::values) {
            let counts = counts.over(Scope::Window);
            delta.started.add(&counts.started);
            delta.finished.add(&counts.finished);
            delta.failed.add(&counts.failed);
            delta.cancelled.add(&counts.cancelled);
            delta.duration.add(&counts.duration);
        }
    }

    /// Nothing was missed: what has not ended can be told.
    fn is_sure(&self) -> bool {
        self.missed == 0
    }

    /// Why counts may be too low; `None`: they are not.
    pub(super) fn doubt(&self) -> Option<String> {
        let missed = self.missed;
        (missed > 0).then(|| {
            format!("{missed} steps of tasks were not seen, in this process or another: counts may be too low")
        })
    }

    /// Everything that was counted in the process, whether or not a look has met the loop.
    pub(super) fn row(&self, scope: Scope, clock: &Clock) -> Option<schema::Exact> {
        let since = self.since.as_ref()?;
        let mut tasks: Vec<CountedTasks> = self
            .rows
            .iter()
            .flat_map(|(key, names)| names.iter().map(move |row| (key, row)))
            .map(|(&(tid, id), (name, counts))| (tid, name, self.over(id, name, counts, scope)))
            .filter(|(_, _, counts)| !counts.is_empty())
            .map(|(tid, name, counts)| CountedTasks {
                tid: tid.0,
                name: name.clone(),
                started: counts.started,
                finished: counts.finished,
                failed: counts.failed,
                cancelled: counts.cancelled,
                gone: self.is_sure().then_some(counts.gone),
                duration: counts.duration(),
            })
            .collect();
        tasks.sort_by(|one, other| {
            (other.started, &one.name, one.tid).cmp(&(one.started, &other.name, other.tid))
        });
        let mut limits = match since {
            Ok(_) => Vec::new(),
            Err(reason) => ["since_unix_ns", "tasks"]
                .map(|field| limit(field, reason.to_owned()))
                .into(),
        };
        limits.extend(self.doubt().map(|reason| limit("tasks", reason.to_owned())));
        let was_counted = since.is_ok() || self.known > 0;
        Some(schema::Exact {
            since_unix_ns: since.as_ref().ok().map(|ns| clock.unix_of(*ns)),
            tasks: was_counted.then_some(tasks),
            pools: None,
            limits,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Pid;
    use crate::model::testing::{hist, look, py_loop};

    const LOOP: u64 = 7;

    fn fact(read_ns: u64, tasks: &[(u32, u64, u64)]) -> ExactFact {
        let tasks = tasks.iter().map(|(tid, started, ended)| TaskCounts {
            tid: Tid(*tid),
            loop_id: LOOP,
            name: "job".into(),
            started: *started,
            finished: *ended,
            failed: *ended,
            cancelled: 0,
            duration: hist(&[]),
        });
        ExactFact {
            start_boottime_ns: 0,
            read_ns,
            pid: Pid(100),
            since: Ok(100),
            tasks: tasks.collect(),
            missed: 0,
        }
    }

    fn gone(exact: &Exact) -> u64 {
        let names = exact.names(Tid(100), LOOP, Scope::Whole).expect("counted");
        names["job"].gone
    }

    #[test]
    fn counts_that_nothing_reaches_do_not_overflow() {
        let mut exact = Exact::default();
        for (read_ns, ended) in [(1_000, 0), (2_000, u64::MAX)] {
            exact.look(&look(100, read_ns));
            exact.take(&fact(
                read_ns + 10,
                &[(100, u64::MAX, ended), (101, u64::MAX, ended)],
            ));
        }
        let names = exact.names(Tid(100), LOOP, Scope::Whole).expect("counted");
        let mut all = names["job"].clone();
        all.add(&names["job"]);
        assert!(all.started == u64::MAX && !all.is_empty());
    }

    /// The tasks of a program that runs no more have not vanished.
    #[test]
    fn another_program_starts_anew() {
        let mut exact = Exact::default();
        let counts = [(100, 15, 1)];
        exact.take(&fact(500, &counts));
        exact.replaced();
        let step = |exact: &mut Exact, read_ns: u64, counts: &[(u32, u64, u64)]| {
            let mut seen = look(100, read_ns);
            seen.loops = vec![py_loop(100, LOOP)];
            exact.look(&seen);
            exact.take(&fact(read_ns + 10, counts));
        };
        for read_ns in [1_000, 2_000, 3_000, 4_000] {
            step(&mut exact, read_ns, &counts);
        }
        assert_eq!(gone(&exact), 0);
        for read_ns in [5_000, 6_000, 7_000, 8_000] {
            step(&mut exact, read_ns, &[(100, 18, 1)]);
        }
        assert_eq!(gone(&exact), 3);
    }
}
