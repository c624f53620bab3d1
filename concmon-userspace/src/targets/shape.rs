//! What the way to walk the stacks of an interpreter depends on, as far as looks tell.

use crate::event::{PythonFact, Tid};

/// Looks after which it is found out again how stacks are walked, though they are all alike.
const MOST_ALIKE: u32 = 10;

/// What the way to walk the stacks of an interpreter depends on.
#[derive(Clone, Debug, Default)]
pub(super) struct Shape {
    /// Threads, and loops with their threads.
    threads: Vec<(Tid, u64)>,
    loops: Vec<(Tid, u64)>,
    long_ns: u64,
    /// Looks since that was found out.
    looks: u32,
}

impl Shape {
    pub(super) fn of(look: Option<&PythonFact>, long_ns: u64) -> Self {
        let threads = look.iter().flat_map(|look| &look.threads);
        let loops = look.iter().flat_map(|look| &look.loops);
        Self {
            threads: threads.map(|thread| (thread.tid, thread.ident)).collect(),
            loops: loops.map(|one| (one.tid, one.id)).collect(),
            long_ns,
            looks: 0,
        }
    }

    pub(super) fn same_as(&self, other: &Self) -> bool {
        self.looks < MOST_ALIKE
            && self.long_ns == other.long_ns
            && (&self.threads, &self.loops) == (&other.threads, &other.loops)
    }

    /// Of a process that has not run since: whether another look would find out no more.
    pub(super) fn is_as_good_as(&self, other: &Self) -> bool {
        self.long_ns == other.long_ns && other.loops.is_empty()
    }

    /// One more look was alike.
    pub(super) fn looked(&mut self) {
        self.looks += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::{look, py_loop, py_thread};

    #[test]
    fn loops_and_thresholds_are_to_be_found_out_even_of_who_rests() {
        let mut fact = look(7, 1);
        let unknown = Shape::of(None, 40);
        fact.threads = vec![py_thread(7, "MainThread")];
        assert!(unknown.is_as_good_as(&Shape::of(Some(&fact), 40)));
        assert!(!unknown.is_as_good_as(&Shape::of(Some(&fact), 50)));
        fact.loops.push(py_loop(7, 1));
        assert!(!unknown.is_as_good_as(&Shape::of(Some(&fact), 40)));
    }

    #[test]
    fn what_comes_or_goes_changes_it_and_now_and_then_it_is_doubted() {
        let mut fact = look(7, 1);
        fact.threads = vec![py_thread(7, "MainThread")];
        let mut known = Shape::of(Some(&fact), 40);
        assert!(known.same_as(&Shape::of(Some(&fact), 40)));
        assert!(!known.same_as(&Shape::of(Some(&fact), 50)));
        let mut other = fact.clone();
        other.loops.push(py_loop(7, 1));
        assert!(!known.same_as(&Shape::of(Some(&other), 40)));
        other = fact.clone();
        other.threads.push(py_thread(8, "Thread-1"));
        assert!(!known.same_as(&Shape::of(Some(&other), 40)));
        for _ in 0..MOST_ALIKE {
            assert!(known.same_as(&Shape::of(Some(&fact), 40)));
            known.looked();
        }
        assert!(!known.same_as(&Shape::of(Some(&fact), 40)));
    }
}
