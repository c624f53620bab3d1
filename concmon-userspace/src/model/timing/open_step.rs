//! A step that looks have met, and that nothing says is over.

use std::sync::Arc;

use crate::event::{Cause, StepFact, StepSeen, ThreadState};
use crate::model::step_id::StepId;

/// What was told of a hang.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Told {
    Nothing,
    Hangs,
    StillHangs,
}

/// A step that looks have met.
#[derive(Clone, Debug)]
pub(super) struct OpenStep {
    pub(super) id: StepId,
    pub(super) begin_ns: u64,
    /// It began before the watch, so that this is the latest that it can have begun.
    pub(super) before_watch: bool,
    /// Up to here it is known to last.
    pub(super) until_ns: u64,
    /// It is known at the end of the window.
    pub(super) lasts: bool,
    pub(super) told: Told,
    /// The latest look, which has seen its thread.
    pub(super) fact: Arc<StepFact>,
}

impl OpenStep {
    pub(super) fn length_ns(&self) -> u64 {
        self.until_ns.saturating_sub(self.begin_ns)
    }
}

/// What a look has seen; `None`: the thread is in no step of a loop, for that waits in its selector, or there is none.
pub(super) fn busy(fact: &StepFact) -> Option<&StepSeen> {
    let seen = fact.seen.as_ref()?;
    let stack = &seen.sample.stack;
    if seen.idle || !stack.in_loop && !stack.truncated {
        return None;
    }
    let waits = seen.state == ThreadState::Blocked(Cause::Poll);
    (!waits || stack.step_frames > 0 || !stack.in_loop).then_some(seen)
}
