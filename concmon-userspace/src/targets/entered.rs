//! Threads that are in other interpreters than the main one.

use std::collections::BTreeSet;

use crate::event::{PyEntered, Tid};

/// Threads that looks have seen in other interpreters than the main one, as the kernel side was told.
#[derive(Debug, Default)]
pub(super) struct Entered(BTreeSet<Tid>);

impl Entered {
    /// A look has seen these. Gives those that are there no more, as far as a `whole` one tells.
    pub(super) fn look(&mut self, seen: &[PyEntered], whole: bool) -> Vec<Tid> {
        let mut left = Vec::new();
        if whole {
            self.0.retain(|tid| {
                let stays = seen.iter().any(|one| one.tid == *tid);
                left.extend((!stays).then_some(*tid));
                stays
            });
        }
        self.0.extend(seen.iter().map(|one| one.tid));
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_leave_interpreters_as_far_as_whole_looks_tell() {
        let seen = |tids: &[u32]| -> Vec<PyEntered> {
            let seen = tids.iter().map(|tid| PyEntered {
                tid: Tid(*tid),
                thread_state: 7,
                gil: 8,
            });
            seen.collect()
        };
        let mut entered = Entered::default();
        assert_eq!(entered.look(&seen(&[1, 2, 2]), true), []);
        assert_eq!(entered.look(&seen(&[3]), false), []);
        assert_eq!(entered.look(&seen(&[2, 3]), true), [Tid(1)]);
        assert_eq!(entered.look(&[], true), [Tid(2), Tid(3)]);
        assert_eq!(entered.look(&[], true), []);
    }
}
