//! An eye on a loop's thread, by its account: whether it may be in a step that has lasted past its threshold, so that a
//! look at it is owed, whatever samples say.

use crate::{
    event::{Cause, Sample},
    model::timing::MOMENT_NS,
    source::live::LedgerHead,
};

/// Between two looks at a step that lasts, ns.
const PAUSE_NS: u64 = 1_000_000_000;
/// A look just before the end of a window is good for its end, ns.
const FRESH_NS: u64 = 20_000_000;

/// How long ago a sample may be that shows what a thread does, ns.
const RECENT_NS: u64 = 100_000_000;

/// From when to when samples and looks have shown the same step, ns.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shown {
    pub(super) from_ns: u64,
    pub(super) to_ns: u64,
}

impl Shown {
    /// The step has gone on for a good part of the threshold, and still did lately: whatever the thread waits for
    /// in between is that step's.
    fn goes_on(&self, now_ns: u64, threshold_ns: u64) -> bool {
        self.to_ns.saturating_sub(self.from_ns) >= threshold_ns / 5 * 2
            && now_ns.saturating_sub(self.to_ns) <= RECENT_NS
    }
}

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
    /// A wait that looks like any other, and was seen to be its loop's selector, or outside of any loop: when it
    /// began, ns, and when that was seen.
    outside_ns: Option<u64>,
    outside_seen_ns: u64,
    /// No loop ran on it then.
    is_elsewhere: bool,
}

impl Eye {
    /// Whether a look is owed at `now_ns`. `all`: at whatever lasts, but for what its account alone shows to go on.
    pub(super) fn owes(
        &mut self,
        head: &LedgerHead,
        now_ns: u64,
        shown: Shown,
        threshold_ns: u64,
        all: bool,
    ) -> bool {
        let block_ns = head.blocked().map(|_| head.off_ns);
        // Selectors that are no queue are looked at once a second, whatever becomes of them, and so are threads
        // whose loops have ended.
        let is_rested = (self.is_elsewhere || head.blocked() == Some(Cause::Poll))
            && now_ns.saturating_sub(self.outside_seen_ns) < PAUSE_NS;
        let is_outside = block_ns.is_some() && block_ns == self.outside_ns;
        let is_idle = head.is_idle() || is_outside || is_rested;
        let polled_ns = self.polled_ns.replace(head.polled_ns);
        let has_polled = polled_ns.is_some_and(|before| before != head.polled_ns)
            && !shown.goes_on(now_ns, threshold_ns);
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
            // Whatever it does since then, it did not wait.
            None => head.since_ns.min(now_ns),
        };
        let busy_ns = *self.busy_ns.get_or_insert(since_ns);
        let age_ns = now_ns.saturating_sub(busy_ns.max(shown.from_ns.min(since_ns)));
        let unseen_ns = now_ns.saturating_sub(self.looked_ns);
        let goes_on = block_ns.is_some() && block_ns == self.looked_block_ns;
        if self.lasts && all {
            return !goes_on && unseen_ns >= FRESH_NS;
        }
        let passed_ns = now_ns.saturating_sub(age_ns).saturating_add(threshold_ns);
        // A look may have met the step before its samples showed it to be that old: there are some more at first.
        let is_young = !self.lasts && age_ns < threshold_ns.saturating_mul(4);
        let is_early = is_young && unseen_ns >= threshold_ns;
        let moment_ns = passed_ns.saturating_add(MOMENT_NS);
        let is_due = |ns: u64| ns <= now_ns && self.looked_ns < ns;
        age_ns >= threshold_ns
            && (unseen_ns >= PAUSE_NS || is_due(passed_ns) || is_due(moment_ns) || is_early)
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
        let stack = &sample.stack;
        let waits = head.blocked() == Some(Cause::Poll);
        let is_outside = match stack.in_loop {
            true => waits && stack.step_frames == 0,
            false => !stack.truncated,
        };
        self.outside_ns = self.looked_block_ns.filter(|_| is_outside);
        if is_outside || head.is_idle() {
            (self.busy_ns, self.lasts) = (None, false);
            if is_outside {
                (self.outside_seen_ns, self.is_elsewhere) = (now_ns, !stack.in_loop);
            }
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
        assert!(!eye.owes(&head, 1_040 * MS, Shown::default(), THRESHOLD_NS, false));
        eye.looked(&head, &sample(1), 1_045 * MS);
        assert!(!eye.owes(&head, 1_090 * MS, Shown::default(), THRESHOLD_NS, false));
        assert!(eye.owes(&head, 1_140 * MS, Shown::default(), THRESHOLD_NS, false));
    }

    /// The instants, ms, at which a look is owed in five seconds of checks, each 50 ms; it meets `step_frames`.
    fn looks(head: impl Fn(u64) -> LedgerHead, step_frames: usize) -> Vec<u64> {
        let mut eye = Eye::default();
        let mut owed = Vec::new();
        for ms in (1_000..6_000).step_by(50) {
            let now_ns = ms * MS;
            if eye.owes(&head(now_ns), now_ns, Shown::default(), THRESHOLD_NS, false) {
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
        assert_eq!(owed, [1_100, 1_700, 2_700, 3_700, 4_700, 5_700]);
        let running = LedgerHead {
            state: state::RUNNING,
            since_ns: 1_000 * MS,
            ..LedgerHead::default()
        };
        assert_eq!(looks(|_| running, 1), owed);
    }

    #[test]
    fn a_thread_whose_loop_has_ended_is_looked_at_once_a_second() {
        let mut eye = Eye::default();
        let mut owed = Vec::new();
        let mut elsewhere = sample(0);
        Arc::make_mut(&mut elsewhere.stack).in_loop = false;
        for ms in (1_000..4_000).step_by(50) {
            let head = LedgerHead {
                state: state::RUNNING,
                since_ns: 1_000 * MS,
                ..LedgerHead::default()
            };
            if eye.owes(&head, ms * MS, Shown::default(), THRESHOLD_NS, false) {
                owed.push(ms);
                eye.lasts(true);
                eye.looked(&head, &elsewhere, ms * MS);
            }
        }
        assert_eq!(owed, [1_100, 2_100, 3_100]);
    }

    #[test]
    fn a_queue_of_events_is_never_looked_at_and_other_selectors_once() {
        let idle = LedgerHead {
            wait_flags: slice_flags::QUEUE,
            ..blocked(cause::POLL, 1_000 * MS)
        };
        assert!(looks(|_| idle, 0).is_empty());
        assert_eq!(looks(|_| blocked(cause::POLL, 1_000 * MS), 0), [1_100]);
        assert_eq!(looks(|_| blocked(cause::POLL, 1_000 * MS), 1).len(), 6);
    }

    /// A step that asks a server again and again, by a socket with a timeout.
    #[test]
    fn polls_within_one_step_do_not_end_it() {
        let mut eye = Eye::default();
        let mut owed = Vec::new();
        for ms in (1_000..4_000).step_by(50) {
            let now_ns = ms * MS;
            let head = LedgerHead {
                polled_ns: now_ns / 2,
                ..blocked(cause::POLL, now_ns - 3 * MS)
            };
            let shown = Shown {
                from_ns: 1_000 * MS,
                to_ns: now_ns - 5 * MS,
            };
            if eye.owes(&head, now_ns, shown, THRESHOLD_NS, false) {
                owed.push(ms);
                eye.lasts(true);
                eye.looked(&head, &sample(1), now_ns);
            }
        }
        assert_eq!(owed, [1_100, 1_700, 2_700, 3_700]);
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
        assert_eq!(looks(head, 1), [1_100, 1_700, 2_000]);
    }
}
