//! Which threads are inside `with` statements of plain locks, and what follows from that.

use crate::python::walk::holders::Inside;

/// The blocked threads come first, with what each of them waits for, then all others.
pub(super) struct Statements {
    /// The plain lock that each blocked thread waits for.
    pub(super) waits_for: Vec<Option<u64>>,
    pub(super) inside: Vec<Inside>,
}

impl Statements {
    pub(super) fn waits_to_enter(&self, slot: usize) -> bool {
        self.inside.get(slot).is_some_and(|one| one.waits_to_enter)
    }

    /// The threads that may have it.
    fn owners(&self, lock: u64) -> Vec<usize> {
        let inside = self.inside.iter().enumerate();
        let inside = inside.filter(|(_, inside)| inside.locks.contains(&lock));
        inside.map(|(slot, _)| slot).collect()
    }

    /// The thread that has it, if there is one that may, and that is blocked itself.
    pub(super) fn owner(&self, lock: u64) -> Option<usize> {
        match self.owners(lock)[..] {
            [owner] if owner < self.waits_for.len() => Some(owner),
            _ => None,
        }
    }

    /// The only one that wants its lock does so by a call, and nobody is in a statement of it: others may give it, who
    /// have never taken it.
    pub(super) fn is_signal(&self, slot: usize) -> bool {
        let lock = self.waits_for.get(slot).copied().flatten();
        let wants = |one: &&Option<u64>| **one == lock;
        let is_alone = self.waits_for.iter().filter(wants).count() == 1;
        let is_call = self.inside.get(slot).is_some_and(|one| one.waits_in_call);
        is_alone && is_call && lock.is_some_and(|lock| self.is_nobodys(lock))
    }

    pub(super) fn is_nobodys(&self, lock: u64) -> bool {
        self.owners(lock).is_empty()
    }

    /// Every thread waits at a statement of a plain lock, which has no time limit: none of them will release one.
    pub(super) fn all_wait(&self) -> bool {
        self.inside.len() == self.waits_for.len()
            && self.inside.iter().all(|inside| inside.waits_to_enter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: u64 = 0x10;
    const OTHER: u64 = 0x20;

    fn inside(locks: &[u64], waits_to_enter: bool) -> Inside {
        Inside {
            locks: locks.to_vec(),
            waits_to_enter,
            waits_in_call: !waits_to_enter,
        }
    }

    #[test]
    fn the_owner_is_the_only_one_that_is_inside_and_waits() {
        let owner = |inside: &[Inside]| {
            let waits_for = vec![Some(LOCK), Some(OTHER)];
            Statements {
                waits_for,
                inside: inside.to_vec(),
            }
            .owner(LOCK)
        };
        let (none, one) = (inside(&[], true), inside(&[LOCK], true));
        assert_eq!(owner(&[none.clone(), one.clone()]), Some(1));
        // It waits for what it has, at a statement or not.
        assert_eq!(owner(&[one.clone(), none.clone()]), Some(0));
        assert_eq!(owner(&[inside(&[LOCK], false), none.clone()]), Some(0));
        // Nobody, one of two, or one that goes on.
        assert_eq!(owner(&[none.clone(), none.clone()]), None);
        assert_eq!(owner(&[one.clone(), one.clone()]), None);
        assert_eq!(owner(&[none.clone(), none, inside(&[LOCK], false)]), None);
    }

    /// Where any thread does something else, that may end, and release a lock that no statement shows.
    #[test]
    fn a_lock_is_nobodys_where_all_threads_wait_at_statements() {
        let nobodys = |waits: &[Option<u64>], inside: &[Inside]| {
            let found = Statements {
                waits_for: waits.to_vec(),
                inside: inside.to_vec(),
            };
            found.all_wait() && found.is_nobodys(LOCK)
        };
        let none = inside(&[], true);
        assert!(nobodys(&[Some(LOCK)], std::slice::from_ref(&none)));
        assert!(nobodys(
            &[Some(LOCK), Some(OTHER)],
            &[none.clone(), none.clone()]
        ));
        assert!(!nobodys(&[Some(LOCK)], &[inside(&[LOCK], true)]));
        // It waits for it with `acquire`, for something else, or not at all.
        let other = inside(&[], false);
        assert!(!nobodys(
            &[Some(LOCK), Some(LOCK)],
            &[none.clone(), other.clone()]
        ));
        assert!(!nobodys(
            &[Some(LOCK), None],
            &[none.clone(), other.clone()]
        ));
        assert!(!nobodys(&[Some(LOCK)], &[none.clone(), other]));
        assert!(!nobodys(
            &[Some(LOCK), Some(OTHER)],
            &[none, inside(&[LOCK], true)]
        ));
    }
}
