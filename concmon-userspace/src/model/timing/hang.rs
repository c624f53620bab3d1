//! A step that has lasted past its threshold and still lasts.
//!
//! Looks tell: each says which step its thread is in (by the version of the thread's current context), since when
//! that one is shown, and what the thread does. It is over with the first look, or the first slice, that shows
//! something else. While a thread stays in the block that a look has met it in, its account alone shows that it lasts.

use std::sync::Arc;

use super::busy::Busy;
use super::busy_tracker::StallCandidate;
use super::lag::Lag;
use super::open_step::{OpenStep, Told, busy};
use super::run::Run;
use super::{DEFAULT_THRESHOLD_NS, Fine, LoopThread, LoopTimes, Notice};
use crate::event::{SampleKind, StepFact, StepSeen, ThreadState, Tid, own_frame};
use crate::model::http::Http;
use crate::model::rows;
use crate::model::step_id::StepId;
use crate::model::timing::cost::column;
use crate::model::window::Clock;
use crate::schema::{self, Cost, CulpritKind, Hang, Stall};

/// How old a look may be at the end of a window to be about that, ns: one is made right before.
const FRESH_NS: u64 = 250_000_000;
/// A look is owed so long after a hang has passed its threshold, ns: what lasts that long is more than a stall.
pub(crate) const MOMENT_NS: u64 = 600_000_000;
/// The look may take the step to have begun a little later than who owed it.
const EARLY_NS: u64 = 100_000_000;

/// A hang that has just become known.
#[derive(Clone, Debug)]
pub struct NewHang {
    pub pid: u32,
    pub tid: u32,
    pub kind: schema::LoopKind,
    pub hang: Hang,
    /// Python's name of the thread that has the GIL, where that is the culprit.
    pub holder: Option<String>,
}

impl LoopThread {
    /// Takes over what a look says of the step that it has met.
    pub(super) fn look_at_step(&mut self, fact: &StepFact) {
        if fact.seen.is_none() {
            return;
        }
        let before = self.open_step.take();
        let Some(seen) = busy(fact) else {
            return;
        };
        if let SampleKind::Block(_) = seen.sample.kind {
            // Where the kernel side gave no stack of this block, it is one.
            self.tracker.sample(&seen.sample);
        }
        let Some(id) = StepId::of(&seen.sample) else {
            return;
        };
        let same = before.and_then(|mut open| open.id.shows(&seen.sample).then_some(open));
        let begin_ns = match &same {
            Some(open) => open.begin_ns,
            None => self.begin_of(&id, fact, seen),
        };
        let is_first = |start_ns: u64| begin_ns <= start_ns.saturating_add(DEFAULT_THRESHOLD_NS);
        self.open_step = Some(OpenStep {
            begin_ns,
            before_watch: seen.busy_from_ns.is_some_and(is_first),
            until_ns: fact.read_ns,
            lasts: true,
            told: same.as_ref().map_or(Told::Nothing, |open| open.told),
            id: same.map_or(id, |open| open.id),
            fact: Arc::new(fact.clone()),
        });
    }

    /// When the step of a look began.
    fn begin_of(&self, id: &StepId, fact: &StepFact, seen: &StepSeen) -> u64 {
        let mut begin_ns = seen.step_since_ns.min(fact.read_ns);
        if let ThreadState::Blocked(_) = seen.state {
            begin_ns = begin_ns.min(seen.since_ns);
        }
        let run = self.tracker.run();
        if let Some(run) = run.filter(|run| run.is(id)) {
            begin_ns = begin_ns.min(run.begin_ns);
        }
        // Not before the loop was idle last, nor before the watch, whatever the program's clock says.
        let earliest_ns = self.tracker.busy_since_ns().or(seen.busy_from_ns);
        let turn = seen.sample.iteration.filter(|turn| turn.index == Some(0));
        let turn_ns = turn.map(|turn| turn.start_ns);
        match (earliest_ns, turn_ns) {
            (Some(earliest_ns), Some(turn_ns)) if (earliest_ns..=begin_ns).contains(&turn_ns) => {
                turn_ns
            }
            (Some(earliest_ns), _) => begin_ns.max(earliest_ns.min(fact.read_ns)),
            (None, _) => begin_ns,
        }
    }

    /// A step has ended that began then; or the loop's thread was idle at `idle_ns`.
    pub(super) fn step_ended(&mut self, stall: Option<&StallCandidate>, idle_ns: Option<u64>) {
        let Some(open) = &self.open_step else {
            return;
        };
        let is_it = |stall: &StallCandidate| {
            let run = stall.run.as_ref();
            run.is_some_and(|run| run.is(&open.id)) || stall.end_ns >= open.until_ns
        };
        if stall.is_some_and(is_it) || idle_ns.is_some_and(|ns| ns > open.fact.read_ns) {
            self.open_step = None;
        }
    }

    /// A window ends.
    pub(super) fn settle_step(&mut self, at_ns: u64) {
        if self.ended {
            self.open_step = None;
        }
        let account = self.tracker.account();
        let Some(open) = &mut self.open_step else {
            return;
        };
        let seen = open.fact.seen.as_ref();
        let same_block = seen.is_some_and(|seen| {
            matches!(seen.state, ThreadState::Blocked(_))
                && account == Some((seen.since_ns, seen.state))
        });
        if same_block {
            open.until_ns = open.until_ns.max(at_ns);
        }
        open.lasts = same_block || at_ns.saturating_sub(open.fact.read_ns) <= FRESH_NS;
    }

    /// The step that hangs.
    pub(super) fn hanging(&self) -> Option<&OpenStep> {
        let open = self.open_step.as_ref()?;
        (open.lasts && open.length_ns() >= self.tracker.threshold_ns).then_some(open)
    }

    /// What there is to tell of this step, which hangs.
    fn to_tell(&self, open: &OpenStep) -> Told {
        let still_ns = self
            .tracker
            .threshold_ns
            .saturating_add(MOMENT_NS - EARLY_NS);
        match open.length_ns() >= still_ns {
            true => Told::StillHangs,
            false => Told::Hangs,
        }
    }

    /// Adds to what is known of lag and steps what waits for the step that hangs, with its age so far.
    pub(super) fn add_hang(&self, lag: &mut Fine, step: &mut Fine) {
        let Some(open) = self.hanging() else {
            return;
        };
        let booked_ns = self.tracker.booked_ns().unwrap_or(open.begin_ns);
        let mut busy = Busy::new(booked_ns.max(open.begin_ns));
        busy.to_ns = Some(open.until_ns);
        Lag::default().book(self.tracker.kind, &mut busy, open.until_ns, 0, lag);
        // Whatever was due when it began.
        lag.record(open.length_ns(), 1);
        step.record(open.length_ns(), 1);
    }
}

impl LoopTimes {
    /// Hangs that have become known since this was asked last.
    pub(super) fn take_hangs(
        &mut self,
        pid: u32,
        clock: &Clock,
        http: &Http,
        name: impl Fn(Tid) -> Option<String>,
    ) -> Vec<Notice> {
        let mut notices = Vec::new();
        for tid in std::mem::take(&mut self.looked) {
            let Some(thread) = self.threads.get(&tid) else {
                continue;
            };
            let Some(open) = thread.hanging() else {
                continue;
            };
            let (told, to_tell) = (open.told, thread.to_tell(open));
            if to_tell <= told {
                continue;
            }
            let hang = self.describe(tid, thread, open, clock, http);
            let new = NewHang {
                pid,
                tid: tid.0,
                kind: rows::loop_kind(thread.tracker.kind),
                holder: hang.holder_tid.and_then(|tid| name(Tid(tid))),
                hang,
            };
            if told < Told::Hangs {
                notices.push(Notice::Hang(new.clone()));
            }
            if to_tell == Told::StillHangs {
                notices.push(Notice::StillHangs(new));
            }
            if let Some(open) = self
                .threads
                .get_mut(&tid)
                .and_then(|thread| thread.open_step.as_mut())
            {
                open.told = to_tell;
            }
        }
        notices
    }

    /// The hang of a loop at the end of a window.
    pub(crate) fn hang(&self, tid: Tid, loop_id: u64, clock: &Clock, http: &Http) -> Option<Hang> {
        let thread = self.threads.get(&tid)?;
        let open = thread.hanging().filter(|_| thread.runs(loop_id))?;
        Some(self.describe(tid, thread, open, clock, http))
    }

    fn describe(
        &self,
        tid: Tid,
        thread: &LoopThread,
        open: &OpenStep,
        clock: &Clock,
        http: &Http,
    ) -> Hang {
        let mut candidate = candidate(thread, open);
        let cost = &mut candidate.cost;
        // Without what the host took it is a hang as well: then that is not what it hangs by.
        if cost.total_ns().saturating_sub(cost.runnable_ns) >= thread.tracker.threshold_ns {
            cost.runnable_ns = 0;
        }
        let stall = self.stall(tid, &candidate, clock, http);
        let Stall {
            at_unix_ns,
            culprit,
            task,
            coroutine,
            creator,
            stack,
            context,
            trace,
            waiting,
            delayed,
            mut limits,
            ..
        } = stall;
        for limit in &mut limits {
            if let Some(own) = limit.field.strip_prefix("culprit.") {
                limit.field = own.to_owned().into();
            }
        }
        let mut estimated = vec!["since_unix_ns", "lasting_ns", "cause"];
        estimated.extend(delayed.map(|_| "delayed"));
        let user = own_frame(&stack, |frame| &frame.file).cloned();
        Hang {
            since_unix_ns: at_unix_ns,
            lasting_ns: open.length_ns(),
            before_watch: open.before_watch,
            cause: culprit.kind,
            frame: match culprit.kind {
                CulpritKind::Gil => culprit.frame,
                _ => user.or(culprit.frame),
            },
            holder_tid: culprit.holder_tid,
            task,
            coroutine,
            creator,
            stack,
            context,
            trace,
            waiting,
            delayed,
            estimated,
            limits,
        }
    }
}

/// The step as a stall that ends now.
fn candidate(thread: &LoopThread, open: &OpenStep) -> StallCandidate {
    let fact = &*open.fact;
    let known = thread.tracker.run().filter(|run| run.is(&open.id));
    let mut cost = thread.tracker.cost(open.begin_ns, open.until_ns);
    let mut run = known.cloned();
    if let Some(seen) = &fact.seen {
        let run = run.get_or_insert_with(|| Run::new(&seen.sample, open.begin_ns));
        let from_ns = open.begin_ns.max(seen.since_ns);
        run.add(&seen.sample, open.until_ns.saturating_sub(from_ns));
        add_open(&mut cost, seen, open);
    }
    StallCandidate {
        begin_ns: open.begin_ns,
        end_ns: open.until_ns,
        cost,
        run,
        gil_wakers: thread.tracker.gil_wakers(open.begin_ns, open.until_ns),
        fact: Some(fact.clone()),
    }
}

/// Adds the time that no slice has told of yet: as the look has met its thread, and what that waited for before. What
/// is not known of is spent like what is; who was preempted was on a CPU before.
fn add_open(cost: &mut Cost, seen: &StepSeen, open: &OpenStep) {
    let is_told = cost.total_ns() > 0;
    let mut untold_ns = open.length_ns().saturating_sub(cost.total_ns());
    let mut take = |from_ns: u64, to_ns: u64| {
        let from_ns = from_ns.max(open.begin_ns);
        let ns = untold_ns.min(to_ns.min(open.until_ns).saturating_sub(from_ns));
        untold_ns -= ns;
        ns
    };
    let mut since_ns = seen.since_ns;
    if let Some(wait) = seen.wait {
        *column(&mut cost.blocked_ns, wait.cause) += take(wait.from_ns, wait.to_ns);
        cost.runnable_ns += take(wait.to_ns, since_ns);
        since_ns = since_ns.max(wait.to_ns);
    }
    let met_ns = take(since_ns, open.until_ns);
    *match seen.state {
        ThreadState::Blocked(cause) => column(&mut cost.blocked_ns, cause),
        ThreadState::Woken | ThreadState::Preempted => &mut cost.runnable_ns,
        ThreadState::Running | ThreadState::Dead => &mut cost.on_cpu_ns,
    } += met_ns;
    let was_running = seen.state == ThreadState::Preempted && !is_told;
    if was_running || !cost.grow(untold_ns) {
        cost.on_cpu_ns += untold_ns;
    }
}
