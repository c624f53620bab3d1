//! An eye on a loop's thread, by its account: whether it may be in a step that has lasted past its threshold, so that a
//! look at it is owed, whatever samples say.

use crate::{
    event::{Cause, Sample},
    source::live::LedgerHead,
};

/// Between two looks at a step that lasts, ns.
const PAUSE_NS: u64 = 1_000_000_000;
/// A look just before the end of a window is good for its end, ns.
const FRESH_NS: u64 = 20_000_000;

/// What is known of one thread.
#[derive(Debug, Default)]
pub(super) struct Eye {
    /// Since when it was never seen to be idle, ns; `None`: it is idle.
    busy_ns: Option<u64>,
    /// Its time in selectors as of the last check; `None`: there was none.
    polled_ns: Option<u64>,
    /// When it was looked at last, ns, and in which block, by its beginning.
    looked_ns: u64,
    looked_block_ns: Option<u64>,
    /// That look met a step which has lasted past the threshold.
    lasts: bool,
    /// A wait that looks like any other, and was seen to be its loop's selector: when it began, ns.
    selector_ns: Option<u64>,
}

impl Eye {
    /// Whether a look is owed at `now_ns`. `shown_ns`: since when samples show the same step. `all`: at
    /// whatever lasts, but for what its account alone shows to go on.
    pub(super) fn owes(
        &mut self,
        head: &LedgerHead,
        now_ns: u64,
        shown_ns: u64,
        threshold_ns: u64,
        all: bool,
    ) -> bool {
        let block_ns = head.blocked().map(|_| head.off_ns);
        let is_idle = head.is_idle() || block_ns.is_some() && block_ns == self.selector_ns;
        let polled_ns = self.polled_ns.replace(head.polled_ns);
        let has_polled = polled_ns.is_some_and(|before| before != head.polled_ns);
        if is_idle || has_polled {
            self.busy_ns = None;
            if self.lasts {
                // It is over, which only a look can tell.
                self.lasts = false;
                self.looked_ns = now_ns;
                return true;
            }
        }
        if is_idle {
            return false;
        }
        let since_ns = match block_ns {
            Some(block_ns) => block_ns.min(now_ns),
            None => now_ns,
        };
        let busy_ns = *self.busy_ns.get_or_insert(since_ns);
        let age_ns = now_ns.saturating_sub(busy_ns.max(shown_ns.min(since_ns)));
        let unseen_ns = now_ns.saturating_sub(self.looked_ns);
        let goes_on = block_ns.is_some() && block_ns == self.looked_block_ns;
        if self.lasts && all {
            return !goes_on && unseen_ns >= FRESH_NS;
        }
        let passed_ns = now_ns.saturating_sub(age_ns).saturating_add(threshold_ns);
        age_ns >= threshold_ns && (unseen_ns >= PAUSE_NS || self.looked_ns < passed_ns)
    }

    /// A look has met the thread, whose account was this. Gives the beginning of its account, if it was busy
    /// then and ever since.
    pub(super) fn looked(
        &mut self,
        head: &LedgerHead,
        sample: &Sample,
        now_ns: u64,
    ) -> Option<u64> {
        self.looked_ns = now_ns;
        self.looked_block_ns = head.blocked().map(|_| head.off_ns);
        let waits = head.blocked() == Some(Cause::Poll);
        let is_selector = waits && sample.stack.step_frames == 0 && !sample.stack.truncated;
        self.selector_ns = is_selector.then_some(head.off_ns);
        if is_selector || head.is_idle() {
            (self.busy_ns, self.lasts) = (None, false);
            return None;
        }
        head.seeded_ns.filter(|_| head.polled_ns == 0)
    }

    /// The step that a look has met has lasted past the threshold, or has not.
    pub(super) fn lasts(&mut self, lasts: bool) {
        self.lasts = lasts;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use concmon_ebpf::{cause, slice_flags, state};

    use super::*;
    use crate::event::{Pid, SampleKind, SampledStack, Tid};

    const MS: u64 = 1_000_000;
    const THRESHOLD_NS: u64 = 100 * MS;

    fn blocked(cause: u8, since_ns: u64) -> LedgerHead {
        LedgerHead {
            state: state::BLOCKED,
            cause,
            since_ns,
            off_ns: since_ns,
            ..LedgerHead::default()
        }
    }

    fn sample(step_frames: usize) -> Sample {
        Sample {
            at_ns: 0,
            pid: Pid(7),
            tid: Tid(7),
            kind: SampleKind::OnCpu,
            context_version: Some(1),
            iteration: None,
            collecting: false,
            code: None,
            coroutine: None,
            turns: None,
            creator: None,
            stack: Arc::new(SampledStack {
                step_frames,
                in_loop: true,
                ..SampledStack::default()
            }),
        }
    }

    /// One that met the step while it was young is not enough.
    #[test]
    fn a_look_is_owed_when_the_threshold_is_passed() {
        let mut eye = Eye::default();
        let head = blocked(cause::LOCK, 1_000 * MS);
        assert!(!eye.owes(&head, 1_040 * MS, 0, THRESHOLD_NS, false));
        eye.looked(&head, &sample(1), 1_045 * MS);
        assert!(!eye.owes(&head, 1_090 * MS, 0, THRESHOLD_NS, false));
        assert!(eye.owes(&head, 1_140 * MS, 0, THRESHOLD_NS, false));
    }

    /// The instants, ms, at which a look is owed in five seconds of checks, each 50 ms; it meets `step_frames`.
    fn looks(head: impl Fn(u64) -> LedgerHead, step_frames: usize) -> Vec<u64> {
        let mut eye = Eye::default();
        let mut owed = Vec::new();
        for ms in (1_000..6_000).step_by(50) {
            let now_ns = ms * MS;
            if eye.owes(&head(now_ns), now_ns, 0, THRESHOLD_NS, false) {
                owed.push(ms);
                eye.lasts(true);
                eye.looked(&head(now_ns), &sample(step_frames), now_ns);
            }
        }
        owed
    }

    #[test]
    fn what_lasts_is_looked_at_once_a_second() {
        let owed = looks(|_| blocked(cause::LOCK, 1_000 * MS), 1);
        assert_eq!(owed, [1_100, 2_100, 3_100, 4_100, 5_100]);
        let running = LedgerHead {
            state: state::RUNNING,
            ..LedgerHead::default()
        };
        assert_eq!(looks(|_| running, 1), [1_100, 2_100, 3_100, 4_100, 5_100]);
    }

    #[test]
    fn a_queue_of_events_is_never_looked_at_and_other_selectors_once() {
        let idle = LedgerHead {
            wait_flags: slice_flags::QUEUE,
            ..blocked(cause::POLL, 1_000 * MS)
        };
        assert!(looks(|_| idle, 0).is_empty());
        assert_eq!(looks(|_| blocked(cause::POLL, 1_000 * MS), 0), [1_100]);
        assert_eq!(looks(|_| blocked(cause::POLL, 1_000 * MS), 1).len(), 5);
    }

    #[test]
    fn the_end_of_what_lasted_is_looked_at_too() {
        let head = |now_ns| match now_ns < 2_000 * MS {
            true => blocked(cause::SLEEP, 1_000 * MS),
            false => LedgerHead {
                wait_flags: slice_flags::QUEUE,
                ..blocked(cause::POLL, 2_000 * MS)
            },
        };
        assert_eq!(looks(head, 1), [1_100, 2_000]);
    }
}
