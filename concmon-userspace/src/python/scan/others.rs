//! What is known of threads beside the blocked ones.

use crate::python::walk::stacks::StackFrame;

/// Threads whose stacks are searched for locks that they have: in programs that have more, nobody is.
pub(super) const MAX_SEARCHED: usize = 512;

/// What is known beside the blocked threads, for those whose locks do not say who has them.
pub(super) struct Others<'a> {
    /// The stacks of all other threads that could be read.
    pub(super) stacks: Vec<&'a [StackFrame]>,
    /// With those of the blocked threads, they are the stacks of all threads.
    pub(super) all: bool,
    /// No frame of a stack is left out.
    pub(super) whole: bool,
}
