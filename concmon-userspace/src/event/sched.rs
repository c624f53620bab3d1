//! What the kernel tells of threads as it happens: slices, births, ends, and what was lost.

use concmon_ebpf::cause;
use serde::{Deserialize, Serialize};

use super::{Pid, Tid};

/// Why a thread was off the CPU without waiting for one; the numbers are [`concmon_ebpf::cause`]'s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Cause {
    Gil = cause::GIL,
    Lock = cause::LOCK,
    Poll = cause::POLL,
    Sleep = cause::SLEEP,
    Io = cause::IO,
    Child = cause::CHILD,
    Disk = cause::DISK,
    Stopped = cause::STOPPED,
    Other = cause::OTHER,
}

impl Cause {
    pub const ALL: [Cause; cause::COUNT] = [
        Cause::Gil,
        Cause::Lock,
        Cause::Poll,
        Cause::Sleep,
        Cause::Io,
        Cause::Child,
        Cause::Disk,
        Cause::Stopped,
        Cause::Other,
    ];

    /// The cause with this wire number; `None` for a number that is none.
    pub fn from_wire(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The name in JSON, metrics and on the screen.
    pub const fn name(self) -> &'static str {
        match self {
            Cause::Gil => "gil",
            Cause::Lock => "lock",
            Cause::Poll => "poll",
            Cause::Sleep => "sleep",
            Cause::Io => "io",
            Cause::Child => "child",
            Cause::Disk => "disk",
            Cause::Stopped => "stopped",
            Cause::Other => "other",
        }
    }
}

/// How a thread's wait before a slice began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    pub off_ns: u64,
    /// `None`: preempted, or a block whose wakeup was not seen.
    pub wake_ns: Option<u64>,
    /// `None`: preempted.
    pub cause: Option<Cause>,
    /// On a queue of events, as loops wait when they are idle; also where nothing tells.
    #[serde(default)]
    pub queue: bool,
    pub arg0: u64,
    /// `None`: a timer, or it cannot be told.
    pub waker: Option<Tid>,
}

/// One cycle of a thread: waiting, then on a CPU from `in_ns` to `out_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    pub tid: Tid,
    pub cpu: u32,
    /// `None`: the beginning was not seen.
    pub wait: Option<Wait>,
    pub in_ns: u64,
    pub out_ns: u64,
    /// The kernel's own account of the slice.
    pub on_cpu_ns: u64,
    /// It ended by a block, not by a preemption.
    pub voluntary: bool,
}

/// A watched process made a thread or a process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fork {
    pub at_ns: u64,
    pub parent: Tid,
    pub pid: Pid,
    pub tid: Tid,
    pub start_boottime_ns: u64,
    pub comm: String,
}

/// A watched process runs another program from now on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exec {
    pub at_ns: u64,
    pub pid: Pid,
    pub comm: String,
}

/// A watched thread ended.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Exit {
    pub at_ns: u64,
    pub pid: Pid,
    pub tid: Tid,
    pub start_boottime_ns: u64,
    /// Status word as `wait` gives it: the low 7 bits are a signal, bits 8 to 15 a code.
    pub status: u32,
    /// No thread of the process is left.
    pub last: bool,
    /// The status is the whole process's.
    pub group: bool,
}

/// Records that never arrived.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Loss {
    pub cpu: u32,
    pub records: u64,
    pub from_ns: u64,
    pub to_ns: u64,
}
