//! Stalls as they are told: what a long step was, whose, and who is to blame.

use std::collections::BTreeMap;

use super::busy_tracker::StallCandidate;
use super::cost::column;
use super::run::{Owner, Run};
use super::{LoopTimes, Recent, same_function};
use crate::event::{Cause, PyFrame, SampleKind, Tid, own_frame};
use crate::model::http::Http;
use crate::model::rows::{self, frames};
use crate::model::window::{Clock, limit};
use crate::schema::{Address, Cost, Culprit, CulpritKind, Limit, Stall, StallTask, Waiting};

impl LoopTimes {
    /// What is known of a step that was longer than the threshold.
    pub(super) fn stall(
        &self,
        tid: Tid,
        candidate: &StallCandidate,
        clock: &Clock,
        http: &Http,
    ) -> Stall {
        let run = candidate.run.as_ref();
        let (collecting, on_cpu) = run.map_or((0, 0), |run| run.collecting());
        let collecting_ns = match on_cpu {
            0 => 0,
            _ => {
                (u128::from(candidate.cost.on_cpu_ns) * u128::from(collecting) / u128::from(on_cpu))
                    as u64
            }
        };
        let (kind, sampled) = largest(&candidate.cost);
        let kind = match kind {
            CulpritKind::Cpu if collecting_ns > candidate.cost.on_cpu_ns / 2 => CulpritKind::Gc,
            kind => kind,
        };
        // Where none was taken of what took the most, another moment of the step says whose it was, but
        // not what it did.
        let exact = run.and_then(|run| run.stack_of(sampled));
        let has_stack = exact.is_some();
        let stack = exact.or_else(|| run?.any_stack()).unwrap_or_default();
        let holder = (kind == CulpritKind::Gil)
            .then(|| self.holder(tid, candidate))
            .flatten();
        let frame = match (kind, &holder) {
            (CulpritKind::Gil, Some((_, frame))) => frame.clone(),
            (CulpritKind::Gil, None) => None,
            _ => stack.first().filter(|_| has_stack).cloned(),
        };
        let fact = candidate.fact.as_ref();
        let coroutine = run.and_then(|run| run.owner.function());
        let task = fact
            .and_then(|fact| fact.task.as_ref())
            .map(|task| StallTask {
                id: Address(task.id),
                name: task.name.clone(),
            });
        let is_task = matches!(run.map(|run| &run.owner), Some(Owner::Task(..)));
        let task = task.filter(|_| is_task);
        let known = run.and_then(|run| match &run.owner {
            Owner::Task(coroutine, function) => self
                .tasks
                .get(coroutine)
                .filter(|known| same_function(&known.coroutine, function)),
            _ => None,
        });
        let task = task.or_else(|| {
            known.map(|known| StallTask {
                id: Address(known.id),
                name: known.name.clone(),
            })
        });
        let mut limits: Vec<Limit> = Vec::new();
        if run.is_none() {
            for field in ["coroutine", "task"] {
                limits.push(limit(field, "no sample has met this step"));
            }
        }
        if run.is_some() && coroutine.is_none() {
            limits.push(limit("coroutine", "the loop's own code, in no step"));
        }
        if !has_stack && !stack.is_empty() {
            let reason = "of another moment of the step: none was taken of what took the most time";
            limits.push(limit("stack", reason));
        }
        if frame.is_none() {
            let reason = match kind {
                CulpritKind::Gil => "no sample has met who held the GIL",
                _ => "no sample has a stack of it",
            };
            limits.push(limit("culprit.frame", reason));
        }
        if kind == CulpritKind::Gil && holder.is_none() {
            let reason = "nobody was seen to hold the GIL meanwhile";
            limits.push(limit("culprit.holder_tid", reason));
        }
        if fact.is_none() {
            let reason = "the step was over before it could be looked at";
            limits.push(limit("context", reason));
            limits.push(limit("waiting", reason));
            if is_task && task.is_none() {
                limits.push(limit("task", reason));
            }
        }
        let delayed = http.delayed(tid, &(candidate.begin_ns..candidate.end_ns));
        if delayed.is_some() && !http.knows_since(candidate.begin_ns) {
            limits.push(limit("delayed", "there were more requests than are kept"));
        }
        let mut estimated = vec!["duration_ns", "collecting_ns", "stack"];
        estimated.extend(delayed.map(|_| "delayed"));
        Stall {
            at_unix_ns: clock.unix_of(candidate.begin_ns),
            duration_ns: candidate.end_ns.saturating_sub(candidate.begin_ns),
            cost: candidate.cost,
            collecting_ns,
            culprit: Culprit {
                kind,
                frame: frame.as_ref().map(rows::frame),
                holder_tid: holder.map(|(tid, _)| tid.0),
            },
            task,
            coroutine: known
                .map(|known| known.coroutine.clone())
                .or_else(|| coroutine.map(|name| name.to_string())),
            creator: self.creator(run),
            stack: frames(&stack),
            context: fact.map(|fact| fact.context.clone()).unwrap_or_default(),
            trace: fact.and_then(|fact| fact.span.as_ref()).map(rows::trace),
            waiting: fact.map(|fact| Waiting {
                ready: fact.ready,
                overdue: fact.overdue,
            }),
            delayed,
            samples: run.map_or(0, |run| run.samples),
            estimated,
            limits,
        }
    }

    /// The task in whose step an eager one ran.
    fn creator(&self, run: Option<&Run>) -> Option<StallTask> {
        let known = self.tasks.get(&run?.creator?)?;
        Some(StallTask {
            id: Address(known.id),
            name: known.name.clone(),
        })
    }

    /// Who had the GIL while a thread waited for it: whose action ended its waits, else the thread that
    /// samples have met meanwhile; with what it ran.
    fn holder(&self, victim: Tid, candidate: &StallCandidate) -> Option<(Tid, Option<PyFrame>)> {
        let of = |tid: Tid| -> Vec<&Recent> {
            let recent = self.recent.get(&tid).into_iter().flatten();
            recent
                .filter(|recent| (candidate.begin_ns..=candidate.end_ns).contains(&recent.at_ns))
                .collect()
        };
        let met = |tid: Tid| of(tid).iter().filter(|recent| recent.had_gil()).count();
        let by_waker = candidate
            .gil_wakers
            .iter()
            .filter(|(tid, _)| *tid != victim)
            .max_by_key(|(_, ns)| *ns)
            .map(|(tid, _)| *tid);
        let by_samples = self
            .recent
            .keys()
            .copied()
            .filter(|tid| *tid != victim && met(*tid) > 0)
            .max_by_key(|tid| met(*tid));
        let holder = by_waker.or(by_samples)?;
        let frame = of(holder)
            .iter()
            .rev()
            .find(|recent| recent.had_gil())
            .or(of(holder).last())
            .and_then(|recent| {
                let frames = &recent.stack.frames;
                own_frame(frames, |frame| &frame.file)
                    .or(frames.first())
                    .cloned()
            });
        Some((holder, frame))
    }
}

impl LoopTimes {
    /// Where samples have met a thread most lately, while it did not wait for the GIL.
    pub(crate) fn ran_most(&self, tid: Tid) -> Option<PyFrame> {
        let mut met: BTreeMap<(&str, &str, u32), (usize, &PyFrame)> = BTreeMap::new();
        for recent in self
            .recent
            .get(&tid)?
            .iter()
            .filter(|recent| recent.had_gil())
        {
            let frames = &recent.stack.frames;
            let own = own_frame(frames, |frame| &frame.file).or(frames.first());
            if let Some(frame) = own {
                let key = (&*frame.file, &*frame.function, frame.line);
                met.entry(key).or_insert((0, frame)).0 += 1;
            }
        }
        let most = met.into_values().max_by_key(|(count, _)| *count);
        most.map(|(_, frame)| frame.clone())
    }
}

impl Recent {
    /// It may have had the GIL: it did not wait for it.
    fn had_gil(&self) -> bool {
        !matches!(self.kind, SampleKind::Block(Cause::Gil))
    }
}

/// What took the most, and the samples that show it.
fn largest(cost: &Cost) -> (CulpritKind, SampleKind) {
    let mut blocked = cost.blocked_ns;
    let (mut kind, mut sampled, mut most) = (CulpritKind::Cpu, SampleKind::OnCpu, cost.on_cpu_ns);
    if cost.runnable_ns > most {
        (kind, most) = (CulpritKind::Runnable, cost.runnable_ns);
    }
    for cause in Cause::ALL {
        let ns = *column(&mut blocked, cause);
        if ns > most {
            (kind, sampled, most) = (culprit_kind(cause), SampleKind::Block(cause), ns);
        }
    }
    (kind, sampled)
}

const fn culprit_kind(cause: Cause) -> CulpritKind {
    match cause {
        Cause::Gil => CulpritKind::Gil,
        Cause::Lock => CulpritKind::Lock,
        Cause::Poll => CulpritKind::Poll,
        Cause::Sleep => CulpritKind::Sleep,
        Cause::Io => CulpritKind::Io,
        Cause::Child => CulpritKind::Child,
        Cause::Disk => CulpritKind::Disk,
        Cause::Stopped => CulpritKind::Stopped,
        Cause::Other => CulpritKind::Other,
    }
}
