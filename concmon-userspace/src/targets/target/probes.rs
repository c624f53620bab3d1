//! What is probed in a target: tasks and futures, in its own interpreter or as in its parent's.

use std::sync::Arc;

use super::{Stage, Target};
use crate::{
    procfs::clocks,
    python::{ExactFutures, ExactTasks, NotExact},
    source::{exact::ExactLive, live::Live},
    targets::Wants,
};

/// While the kernel takes more probes away than one or two processes have, none are put anywhere: that would hold
/// the select loop for seconds.
const MANY_LEAVING: usize = 40;
/// A child that is there to run another program does so within this time, ns.
const SPAWN_NS: u64 = 5_000_000;

/// What is probed in a process.
#[derive(Clone, Debug, Default)]
pub(in crate::targets) struct Places {
    tasks: Option<Arc<ExactTasks>>,
    futures: Option<Arc<ExactFutures>>,
}

impl Target {
    /// Probes what has been imported by now of what is to be counted exactly.
    pub(in crate::targets) fn probe(&mut self, now_ns: u64, wants: Wants, live: &mut Live) {
        let Stage::Attached(attached) = &self.stage else {
            return;
        };
        let has_time = |exact: &ExactLive| exact.leaving() <= MANY_LEAVING;
        let Some((exact, ebpf)) = live.exact().filter(|(exact, _)| has_time(exact)) else {
            return;
        };
        let (pid, interpreter) = (self.id.pid, &attached.interpreter);
        let places = &mut self.places;
        if wants.exact_tasks {
            self.tasks.step(now_ns, pid, "tasks", |_| {
                let tasks = interpreter.exact_tasks()?;
                let attached = exact.attach(ebpf, pid, &tasks);
                attached.map_err(NotExact::Refused)?;
                places.tasks = Some(Arc::new(tasks));
                Ok(true)
            });
        }
        if wants.exact_futures {
            self.futures.step(now_ns, pid, "futures", |again| {
                let futures = interpreter.exact_futures()?;
                if again && !futures.asyncio {
                    return Ok(false);
                }
                let attached = exact.attach_futures(ebpf, pid, &futures, again);
                attached.map_err(NotExact::Refused)?;
                let whole = futures.asyncio;
                places.futures = Some(Arc::new(futures));
                Ok(whole)
            });
        }
    }

    /// What is probed in it, for a child that it has just forked.
    pub(in crate::targets) fn places(&self) -> Places {
        self.places.clone()
    }

    /// It was forked by a process with these probes.
    pub(in crate::targets) fn may_inherit(&mut self, places: Places, now_ns: u64) {
        if places.tasks.is_some() || places.futures.is_some() {
            self.inherits = Some((now_ns + SPAWN_NS, places));
        }
    }

    /// Probes it where its parent is probed: it is counted soon, and not only when its own interpreter has
    /// been read.
    pub(in crate::targets) fn inherit(&mut self, now_ns: u64, live: &mut Live) {
        let is_due = |(due_ns, _): &mut (u64, Places)| now_ns >= *due_ns;
        let Some((_, places)) = self.inherits.take_if(is_due) else {
            return;
        };
        let Some((exact, ebpf)) = live.exact().filter(|(exact, _)| exact.leaving() == 0) else {
            return;
        };
        let pid = self.id.pid;
        if let Some(tasks) = &places.tasks {
            match exact.attach(ebpf, pid, tasks) {
                Ok(()) => {
                    self.tasks.inherit(clocks::monotonic_ns(), true);
                    self.places.tasks = places.tasks;
                }
                // It is tried again once its own interpreter has been read.
                Err(error) => log::debug!("process {pid}: probed later: {error}"),
            }
        }
        if let Some(futures) = &places.futures
            && exact.attach_futures(ebpf, pid, futures, false).is_ok()
        {
            self.futures
                .inherit(clocks::monotonic_ns(), futures.asyncio);
            self.places.futures = places.futures;
        }
    }
}
