//! What is told of the time of loops.

use super::{LoopTimes, by_name};
use crate::event::{LoopKind, PythonFact, Tid};
use crate::model::delta::Delta;
use crate::model::window::{Scope, limit};
use crate::schema::{CodeSamples, Limit, TaskCost, Timing};

impl LoopTimes {
    /// What is known of a loop's time; `None`: nothing is sampled.
    pub(crate) fn row(
        &self,
        tid: Tid,
        loop_id: u64,
        scope: Scope,
        look: Option<&PythonFact>,
        limits: &mut Vec<Limit>,
    ) -> Option<Timing> {
        let thread = self.threads.get(&tid);
        let sums = thread.and_then(|thread| thread.sums(loop_id));
        let Some(sums) = sums.filter(|_| self.sampled) else {
            let known = look.and_then(|look| look.limits.get("samples"));
            let reason = known.map_or("nothing was sampled", String::as_str);
            let fields = ["iterations", "lag", "step", "stalls", "by_name"];
            limits.extend(fields.map(|field| limit(field, reason.to_owned())));
            return None;
        };
        let busy = sums.split(scope);
        let (stalls_count, stalls_ns, stalls) = sums.stalls(scope);
        let turns = sums.iterations_milli.over(scope) / 1000;
        let (mut lag, mut step) = (sums.lag.over(scope), sums.step.over(scope));
        if let Some(thread) = thread.filter(|thread| thread.runs(loop_id)) {
            thread.add_hang(&mut lag, &mut step);
        }
        let (lag, step) = (lag.report(), step.report());
        let little = "too little was sampled";
        let is_trio = thread.is_some_and(|thread| thread.tracker.kind == LoopKind::Trio);
        let no_turns = if is_trio {
            "trio does not count its turns"
        } else {
            little
        };
        for (field, missing, reason) in [
            ("iterations", turns == 0, no_turns),
            ("lag", lag.is_none(), little),
            ("step", step.is_none(), little),
        ] {
            if missing {
                limits.push(limit(field, reason.to_owned()));
            }
        }
        Some(Timing {
            iterations: (turns > 0).then_some(turns),
            lag,
            step,
            tasks_ns: busy.tasks.total_ns(),
            callbacks_ns: busy.callbacks.total_ns(),
            unknown_ns: busy.unknown.total_ns(),
            busy,
            stalls_count,
            stalls_ns,
            delayed: sums.delayed(scope),
            stalls,
            saturation: sums.saturation(scope),
            by_name: by_name::rows(sums, &self.exact, (tid, loop_id), scope, look),
            callbacks: by_name::callbacks(sums, scope),
            estimated: vec![
                "iterations",
                "lag",
                "step",
                "tasks_ns",
                "callbacks_ns",
                "unknown_ns",
                "busy",
                "saturation",
                "callbacks",
            ],
        })
    }

    /// Its tasks have been counted by probes since about then.
    pub(crate) fn is_counted_since(&self, began_ns: u64) -> bool {
        self.exact.is_counted_since(began_ns)
    }

    /// Adds what is new in the window.
    pub(crate) fn add_to(&self, delta: &mut Delta, pid: u32) {
        for (tid, thread) in &self.threads {
            let kind = crate::model::rows::loop_kind(thread.tracker.kind);
            for sums in thread.all_sums().filter(|sums| sums.has_grown()) {
                sums.add_to(delta.loops.of(kind), &mut delta.stalls, pid, tid.0);
            }
        }
        self.exact.add_to(&mut delta.tasks);
    }

    /// What code a thread ran when it was sampled; `None`: nothing is sampled.
    pub(crate) fn code(&self, tid: Tid, scope: Scope) -> Option<CodeSamples> {
        self.sampled.then(|| self.code.of(tid, scope))
    }

    /// The part of `cpu_ns` that the collector took, by samples; `None`: too little was sampled.
    pub(crate) fn collecting_ns(&self, cpu_ns: u64, scope: Scope) -> Option<u64> {
        self.code.collecting_ns(cpu_ns, scope)
    }

    /// How many samples have met a task of the latest look.
    pub(crate) fn task_samples(&self, loop_id: u64, task: u64) -> u64 {
        let known = self.costs.get(&(loop_id, task));
        known.map_or(0, |(_, share)| share.now.samples)
    }

    /// What a task of the latest look cost; `None`: nothing is sampled.
    pub(crate) fn task_cost(
        &self,
        tid: Tid,
        loop_id: u64,
        task: u64,
        scope: Scope,
    ) -> Option<TaskCost> {
        if !self.sampled {
            return None;
        }
        let sums = self.threads.get(&tid)?.sums(loop_id)?;
        let (_, share) = self.costs.get(&(loop_id, task))?;
        let share = share.over(scope);
        Some(TaskCost {
            cost: sums.cost(scope, &share),
            samples: share.samples,
        })
    }
}
