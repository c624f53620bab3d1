//! What a process has to do with a group.

use super::delta::Delta;

/// A group of this watch, in the order in which they became known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GroupId(pub(super) usize);

/// What a process has to do with a group.
#[derive(Clone, Debug, Default)]
pub(crate) struct Member {
    /// The group, and when the program was started that it was decided for.
    pub(super) of: Option<(GroupId, u64)>,
    /// It began another program in this window: what the window has added is this group's, where it was before.
    pub(super) replaced: Option<GroupId>,
    /// What is to go to it.
    pub(super) pending: Option<Box<Delta>>,
    /// It has been counted as begun, and as ended.
    pub(super) began: bool,
    pub(super) ended: bool,
}

impl Member {
    /// The group, unless another program has begun since that was decided.
    pub(super) fn group(&self, exec_ns: u64) -> Option<GroupId> {
        let of = self.of.filter(|(_, decided_ns)| *decided_ns == exec_ns);
        of.map(|(group, _)| group)
    }
}
