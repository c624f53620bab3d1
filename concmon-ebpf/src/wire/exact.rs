//! Tasks that are counted one by one.

use super::Hist;

/// How tasks of a process are read when they are counted exactly: a value of the hash map `EXACT`,
/// keyed by the kernel's process id. Offsets in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exact {
    /// Address of the type `str`; names of other types are numbers that nobody has chosen.
    pub text_type: u64,
    /// Types of coroutines that have a qualified name: coroutines and generators.
    pub coroutine_types: [u64; 2],
    /// In a task: its state (an `int`, 0 while it is pending), and the others, all pointers.
    pub state: u32,
    pub exception: u32,
    pub loop_object: u32,
    pub name: u32,
    pub coroutine: u32,
    /// In a coroutine: its qualified name.
    pub qualname: u32,
    /// In a type: its name, a C string.
    pub type_name: u32,
    /// In a string: its length, its state, and its characters, when they are ASCII and when not.
    pub text_length: u32,
    pub text_state: u32,
    pub text_ascii: u32,
    pub text_compact: u32,
    /// In a tuple: the first item.
    pub tuple_items: u32,
    /// Tasks may run within their own initialization.
    pub eager: u32,
    pub reserved: u32,
}

/// Bytes of a name that are kept, a power of two, and of one whose digits are to be folded.
pub const NAME_BYTES: usize = 128;

pub const FOLDED_BYTES: usize = NAME_BYTES / 2;

/// A name, zeros behind it. Words, so that it is moved by words.
pub type ExactName = [u64; NAME_BYTES / 8];

/// What tasks are counted under: a key of the hash map `EXACT_ROWS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExactKey {
    pub tgid: u32,
    /// The thread that runs their steps: so one thread alone writes a row.
    pub tid: u32,
    /// Address of the loop.
    pub loop_object: u64,
    /// A hash of the name.
    pub name: u64,
}

/// A task of which the end is still to come: a key of the hash map `EXACT_TASKS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExactTaskKey {
    pub task: u64,
    pub tgid: u32,
    pub reserved: u32,
}

/// What is known of it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ExactTask {
    /// When it was made; 0: before it could be seen.
    pub made_ns: u64,
    /// Its coroutine, as it was made with.
    pub coroutine: u64,
    pub row: ExactKey,
    /// 1 once `row` is known: from its first step on.
    pub named: u32,
    /// Bytes of each character of the name: 1, 2 or 4.
    pub width: u32,
    /// In names of one byte per character, runs of digits are folded to one `#`, unless it is a
    /// coroutine's.
    pub name: ExactName,
}

/// How many values [`ExactPlace`] can have for one instruction.
pub const PLACE_DEPTHS: u32 = 4;

/// An instruction that calls pass at their beginning or end: a key of the hash map `EXACT_PLACES`. The
/// value is what a call has on the stack there, bytes. Where functions share code, that differs: indices
/// count up from 0, and are below [`PLACE_DEPTHS`]. The beginning of a function is at 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExactPlace {
    pub address: u64,
    pub tgid: u32,
    pub index: u32,
}

/// A probed function that has been entered: a key of the map `EXACT_CALLS`, whose value is the task.
/// `stack` is its stack pointer at the entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExactCall {
    pub stack: u64,
    pub tid: u32,
    pub reserved: u32,
}

/// What is counted of tasks: a value of the hash map `EXACT_ROWS`. Only the thread of its key writes
/// it; `seq` is odd meanwhile.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ExactRow {
    pub seq: u64,
    /// Tasks that were made while they could be seen, and have begun to run.
    pub started: u64,
    pub finished: u64,
    pub failed: u64,
    pub cancelled: u64,
    /// From the making to the end, of those in `started`.
    pub duration: Hist,
    /// As [`ExactTask::width`], 0 until there is a name, and its name.
    pub width: u32,
    pub reserved: u32,
    pub name: ExactName,
}

const _: () = {
    assert!(size_of::<Exact>() == 24 + 14 * 4);
    assert!(size_of::<ExactKey>() == 24);
    assert!(size_of::<ExactTaskKey>() == 16);
    assert!(size_of::<ExactTask>() == 48 + NAME_BYTES);
    assert!(size_of::<ExactCall>() == 16);
    assert!(size_of::<ExactPlace>() == 16);
    assert!(size_of::<ExactRow>() == 40 + 544 + 8 + NAME_BYTES);
};
