//! A watched process runs another program.

use super::RecordHead;

/// [`record_kind::EXEC`](super::record_kind::EXEC)
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExecRecord {
    pub head: RecordHead,
    pub reserved: [u64; 2],
    pub comm: [u64; 2],
    pub reserved2: u64,
    pub reserved3: u32,
    /// The process id.
    pub tgid: i32,
}
