//! Requests that are over, for as long as it may turn out that a loop stood still for them.

use std::collections::VecDeque;
use std::ops::Range;

use crate::event::Tid;
use crate::schema::Delayed;

/// Requests that are kept. They are needed until the step that kept them waiting is known.
const MAX_PAST: usize = 8_192;

/// The time of one request: unread from `ready_ns` to `read_ns`, under way from then on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    /// Who read it.
    pub(super) tid: Tid,
    pub(super) ready_ns: u64,
    pub(super) read_ns: u64,
    pub(super) end_ns: u64,
}

/// The latest requests that are over, in the order of their ends.
#[derive(Clone, Debug, Default)]
pub(super) struct Past {
    requests: VecDeque<Stretch>,
    /// When the latest of those ended that are not kept any more.
    forgotten_ns: u64,
}

impl Past {
    pub(super) fn push(&mut self, request: Stretch) {
        if self.requests.len() >= MAX_PAST
            && let Some(oldest) = self.requests.pop_front()
        {
            self.forgotten_ns = self.forgotten_ns.max(oldest.end_ns);
        }
        self.requests.push_back(request);
    }

    /// Whether all are kept that ended after this.
    pub(super) const fn reaches(&self, at_ns: u64) -> bool {
        self.forgotten_ns <= at_ns
    }

    /// How long a step of this thread kept requests waiting, of these and of those that are over. One that was under way
    /// for nearly all of it may be what the step was for: one such counts as not delayed.
    pub(super) fn delayed(
        &self,
        active: impl Iterator<Item = Stretch>,
        tid: Tid,
        step: &Range<u64>,
    ) -> Delayed {
        let over = self.requests.iter().rev();
        let over = over.take_while(|request| request.end_ns > step.start);
        let mut delayed = Delayed::default();
        let mut longest = (0, 0);
        for request in active
            .chain(over.copied())
            .filter(|request| request.tid == tid)
        {
            let unread_ns = overlap(step, &(request.ready_ns..request.read_ns));
            let under_way_ns = overlap(step, &(request.read_ns..request.end_ns));
            delayed.requests += u64::from(unread_ns + under_way_ns > 0);
            let both_ns = unread_ns.saturating_add(under_way_ns);
            delayed.unread_ns = delayed.unread_ns.saturating_add(unread_ns);
            delayed.delay_ns = delayed.delay_ns.saturating_add(both_ns);
            longest = longest.max((under_way_ns, unread_ns));
        }
        let length_ns = step.end.saturating_sub(step.start);
        let (under_way_ns, unread_ns) = longest;
        if under_way_ns > length_ns - length_ns / 10 {
            delayed.requests = delayed.requests.saturating_sub(1);
            let both_ns = unread_ns.saturating_add(under_way_ns);
            delayed.unread_ns = delayed.unread_ns.saturating_sub(unread_ns);
            delayed.delay_ns = delayed.delay_ns.saturating_sub(both_ns);
        }
        delayed
    }
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> u64 {
    let end = one.end.min(other.end);
    end.saturating_sub(one.start.max(other.start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(tid: u32, ready_ns: u64, read_ns: u64, end_ns: u64) -> Stretch {
        Stretch {
            tid: Tid(tid),
            ready_ns,
            read_ns,
            end_ns,
        }
    }

    #[test]
    fn what_lies_in_the_step_is_its_delay() {
        let mut past = Past::default();
        for request in [
            // Over before; another thread's.
            stretch(1, 0, 50, 100),
            stretch(2, 100, 150, 300),
            // The one that the step was for.
            stretch(1, 90, 101, 301),
            // Came in its midst.
            stretch(1, 200, 302, 310),
            // Began before, and ended in it: another thread may have answered.
            stretch(1, 20, 30, 310),
        ] {
            past.push(request);
        }
        let active = [stretch(1, 290, 303, u64::MAX)];
        let delayed = past.delayed(active.into_iter(), Tid(1), &(100..300));
        let expected = Delayed {
            requests: 4 - 1,
            // The one under way for all of the step is left out once.
            delay_ns: 1 + 199 + 100 + 200 + 10 - 200,
            unread_ns: 1 + 100 + 10,
        };
        assert_eq!(delayed, expected);
    }

    #[test]
    fn no_more_are_kept_than_may_be() {
        let mut past = Past::default();
        for at in 1..=MAX_PAST as u64 + 5 {
            past.push(stretch(1, at, at, at + 10));
        }
        assert_eq!(past.requests.len(), MAX_PAST);
        assert!(past.reaches(15) && !past.reaches(14));
    }
}
