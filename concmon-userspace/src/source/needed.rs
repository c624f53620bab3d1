//! Which slices a watch needs that keeps sums only: accounts have all sums, so most slices would be taken in for
//! nothing.
//!
//! Needed are those of threads that run event loops, for lag and stalls; those of processes whose threads wait for
//! the GIL more than a little, for who holds it; and waits for the GIL and for locks themselves, each with what comes
//! after it, which tells that it is over.

use std::collections::{HashMap, HashSet};

use foldhash::fast::FixedState;

use crate::event::{Cause, PythonFact, Slice, Tid};

/// Threads of a kind that are remembered.
const MAX_THREADS: usize = 131_072;
/// Windows after which a wait is not remembered any more: the last slice of a thread comes after its end.
const MAX_AGE: u64 = 64;

/// Threads that run event loops, by what looks have met, and others. What is left out of a watch that is over its budget
/// is left out of other threads first.
#[derive(Clone, Debug, Default)]
pub(super) struct LoopThreads(HashSet<Tid, FixedState>);

impl LoopThreads {
    pub(super) fn look(&mut self, fact: &PythonFact) {
        let threads = fact.loops.iter().map(|seen| seen.tid);
        let room = MAX_THREADS.saturating_sub(self.0.len());
        self.0.extend(threads.take(room));
    }

    /// A thread has ended; its id may be another one's.
    pub(super) fn ended(&mut self, tid: Tid) {
        self.0.remove(&tid);
    }

    pub(super) fn has(&self, tid: Tid) -> bool {
        self.0.contains(&tid)
    }
}

/// Tells needed slices from others.
#[derive(Clone, Debug, Default)]
pub(super) struct NeededSlices {
    /// All slices of these are needed.
    whole: LoopThreads,
    /// Of these the latest slice was a wait that is needed, and in which window.
    waiting: HashMap<Tid, u64, FixedState>,
    window: u64,
}

impl NeededSlices {
    /// At the end of a window: the threads of which all slices are needed.
    pub(super) fn renew(&mut self, whole: impl Iterator<Item = Tid>) {
        self.whole.0.clear();
        self.whole.0.extend(whole.take(MAX_THREADS));
        self.window += 1;
        self.waiting
            .retain(|_, window| self.window - *window < MAX_AGE);
    }

    /// A look may show loops that were not known.
    pub(super) fn look(&mut self, fact: &PythonFact) {
        self.whole.look(fact);
    }

    /// A thread has ended; its id may be another one's.
    pub(super) fn ended(&mut self, tid: Tid) {
        self.whole.ended(tid);
        self.waiting.remove(&tid);
    }

    /// All slices of this thread are needed.
    pub(super) fn is_whole(&self, tid: Tid) -> bool {
        self.whole.has(tid)
    }

    /// Whether a slice is needed. (The kernel side tells the same of threads of which sums are enough: `is_told`.)
    pub(super) fn has(&mut self, slice: &Slice) -> bool {
        let waits = match slice.wait.map(|wait| wait.cause) {
            Some(Some(Cause::Gil | Cause::Lock)) => {
                if self.waiting.len() < MAX_THREADS {
                    self.waiting.insert(slice.tid, self.window);
                }
                true
            }
            // Preempted: what it waited for before may go on.
            Some(None) => self.waiting.contains_key(&slice.tid),
            Some(Some(_)) | None => self.waiting.remove(&slice.tid).is_some(),
        };
        waits || self.whole.has(slice.tid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Wait;

    fn slice(tid: u32, cause: Option<Cause>) -> Slice {
        Slice {
            tid: Tid(tid),
            cpu: 0,
            wait: Some(Wait {
                off_ns: 1,
                wake_ns: None,
                cause,
                queue: false,
                arg0: 0,
                waker: None,
            }),
            in_ns: 2,
            out_ns: 3,
            on_cpu_ns: 1,
            voluntary: true,
        }
    }

    /// Their last slices come after their ends.
    #[test]
    fn threads_that_ended_in_a_wait_do_not_take_all_room() {
        let mut needed = NeededSlices::default();
        for tid in 0..MAX_THREADS as u32 {
            needed.ended(Tid(tid));
            assert!(needed.has(&slice(tid, Some(Cause::Lock))));
        }
        for _ in 0..MAX_AGE {
            needed.renew(std::iter::empty());
        }
        let tid = MAX_THREADS as u32;
        assert!(needed.has(&slice(tid, Some(Cause::Gil))));
        needed.renew(std::iter::empty());
        assert!(needed.has(&slice(tid, Some(Cause::Sleep))), "it is over");
    }

    #[test]
    fn waits_come_with_what_ends_them_and_loops_as_a_whole() {
        let mut needed = NeededSlices::default();
        let mut kept = |of: &[(u32, Option<Cause>)]| -> Vec<bool> {
            let slices = of.iter().map(|(tid, cause)| slice(*tid, *cause));
            slices.map(|slice| needed.has(&slice)).collect()
        };
        let (sleep, gil, lock) = (Some(Cause::Sleep), Some(Cause::Gil), Some(Cause::Lock));
        let of_one = [sleep, gil, None, gil, sleep, sleep, None, lock, sleep, None];
        let of_one = of_one.map(|cause| (1, cause));
        assert_eq!(
            kept(&of_one),
            [
                false, true, true, true, true, false, false, true, true, false
            ]
        );
        // Another thread's wait says nothing of it.
        assert_eq!(
            kept(&[(1, gil), (2, sleep), (1, sleep)]),
            [true, false, true]
        );
        needed.renew([Tid(2)].into_iter());
        assert!(needed.has(&slice(2, sleep)) && !needed.has(&slice(3, sleep)));
        needed.ended(Tid(2));
        assert!(!needed.has(&slice(2, sleep)));
        needed.renew(std::iter::empty());
        assert!(!needed.has(&slice(2, sleep)));
    }
}
