//! Which threads are inside `with` statements of plain locks, and what follows from that.

/// The blocked threads come first, with what each of them waits for, then all others.
pub(super) struct Statements {
    /// The plain lock that each blocked thread waits for.
    pub(super) waits_for: Vec<Option<u64>>,
    /// The locks that each thread is inside of, once for each statement; who still waits at one is, too.
    pub(super) inside: Vec<Vec<u64>>,
}

impl Statements {
    pub(super) fn count(&self, slot: usize, lock: u64) -> usize {
        let inside = self.inside.get(slot).into_iter().flatten();
        inside.filter(|held| **held == lock).count()
    }

    /// The threads that may have it: who waits for it is in one statement of it by that.
    fn owners(&self, lock: u64) -> Vec<usize> {
        let of = |waiting: bool, least: usize| -> Vec<usize> {
            let waits = |slot: usize| self.waits_for.get(slot) == Some(&Some(lock));
            let slots = 0..self.inside.len();
            slots
                .filter(|slot| waits(*slot) == waiting && self.count(*slot, lock) >= least)
                .collect()
        };
        let others = of(false, 1);
        if others.is_empty() {
            of(true, 2)
        } else {
            others
        }
    }

    /// The thread that has it, if there is one that may, and that is blocked itself.
    pub(super) fn owner(&self, lock: u64) -> Option<usize> {
        match self.owners(lock)[..] {
            [owner] if owner < self.waits_for.len() => Some(owner),
            _ => None,
        }
    }

    pub(super) fn is_nobodys(&self, lock: u64) -> bool {
        self.owners(lock).is_empty()
    }

    /// Every thread waits at a statement of a plain lock, which has no time limit: none of them will release one.
    pub(super) fn all_wait(&self) -> bool {
        let waits = |(slot, lock): (usize, &Option<u64>)| {
            lock.is_some_and(|lock| self.count(slot, lock) > 0)
        };
        self.inside.len() == self.waits_for.len() && self.waits_for.iter().enumerate().all(waits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: u64 = 0x10;
    const OTHER: u64 = 0x20;

    fn statements(waits_for: &[Option<u64>], inside: &[&[u64]]) -> Statements {
        Statements {
            waits_for: waits_for.to_vec(),
            inside: inside.iter().map(|inside| inside.to_vec()).collect(),
        }
    }

    #[test]
    fn the_owner_is_the_one_that_is_inside_and_does_not_wait_for_it() {
        let waits = [Some(LOCK), Some(OTHER)];
        let owner = |inside: &[&[u64]]| statements(&waits, inside).owner(LOCK);
        assert_eq!(owner(&[&[LOCK], &[LOCK, OTHER]]), Some(1));
        // It waits for what it has.
        assert_eq!(owner(&[&[LOCK, LOCK], &[]]), Some(0));
        // Nobody, one of two, or one that goes on.
        assert_eq!(owner(&[&[LOCK], &[]]), None);
        assert_eq!(owner(&[&[LOCK], &[LOCK], &[LOCK]]), None);
        assert_eq!(owner(&[&[LOCK, LOCK], &[], &[LOCK]]), None);
    }

    /// Where any thread does something else, that may end, and release a lock that no statement shows.
    #[test]
    fn a_lock_is_nobodys_where_all_threads_wait_at_statements() {
        let nobodys = |waits: &[Option<u64>], inside: &[&[u64]]| {
            let found = statements(waits, inside);
            found.all_wait() && found.is_nobodys(LOCK)
        };
        assert!(nobodys(&[Some(LOCK)], &[&[LOCK]]));
        assert!(nobodys(&[Some(LOCK), Some(LOCK)], &[&[LOCK], &[LOCK]]));
        assert!(!nobodys(&[Some(LOCK)], &[&[LOCK, LOCK]]));
        // It waits for it with `acquire`, for something else, or not at all.
        assert!(!nobodys(&[Some(LOCK), Some(LOCK)], &[&[LOCK], &[]]));
        assert!(!nobodys(&[Some(LOCK), None], &[&[LOCK], &[]]));
        assert!(!nobodys(&[Some(LOCK)], &[&[LOCK], &[]]));
        assert!(!nobodys(
            &[Some(LOCK), Some(OTHER)],
            &[&[LOCK], &[OTHER, LOCK]]
        ));
    }
}
