//! Executors: the latest look at them, and since when their work has been seen.

use std::collections::BTreeMap;

use super::pools::WorkCounts;
use super::window::Clock;
use crate::event::{PyExecutor, PyWork, PythonFact, Tid};
use crate::schema::Executor;

/// A piece of work, by executor, item and worker. (A later item may get the address of an earlier one.)
type WorkId = (u64, u64, Option<Tid>);

fn work_id(executor: &PyExecutor, work: &PyWork) -> WorkId {
    (executor.id, work.item, work.tid)
}

/// The executors of one process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Executors {
    /// When work was first seen to run.
    since: BTreeMap<WorkId, u64>,
}

impl Executors {
    pub(crate) fn look(&mut self, look: &PythonFact) {
        let running = look.executors.iter().flat_map(|executor| {
            let works = executor.running.iter();
            works.map(|work| work_id(executor, work))
        });
        let since = running.map(|id| {
            let known = self.since.get(&id).copied();
            (id, known.unwrap_or(look.read_ns))
        });
        self.since = since.collect();
    }

    /// `counts` tells what was counted of the pool with a queue.
    pub(crate) fn rows(
        &self,
        look: Option<&PythonFact>,
        clock: &Clock,
        counts: impl Fn(u64) -> Option<WorkCounts>,
    ) -> Vec<Executor> {
        let executors = look.into_iter().flat_map(|look| &look.executors);
        executors
            .map(|executor| {
                let row = Executor::of(executor, |work| {
                    let since = self.since.get(&work_id(executor, work))?;
                    Some(clock.unix_of(*since))
                });
                match counts(executor.queue).filter(|_| executor.queue != 0) {
                    Some(known) => row.counted(known),
                    None => row,
                }
            })
            .collect()
    }
}
