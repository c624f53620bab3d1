//! Where a Python interpreter's frames are.

/// Where a Python interpreter's frames are: a value of the hash map `PYTHONS`, keyed by the
/// kernel's process id. Offsets in bytes; [`NO_OFFSET`] where there is no such field.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Python {
    /// From a thread's TLS base to a pointer to its thread state.
    pub tls_offset: i64,
    /// Address of the collector's `int` that is not 0 while it works; 0: none.
    pub collecting: u64,
    /// Address of the code object of the function that is one turn of an event loop; 0: none.
    pub turn_code: u64,
    /// A step this old is told at once, ns.
    pub long_ns: u64,
    /// Clears the tag of a frame's reference to its code.
    pub executable_mask: u64,
    /// In the thread state: the TLS base of the thread whose it is.
    pub thread_ident: u32,
    /// In the thread state: a pointer into the C stack of whoever runs code by it.
    pub loop_place: u32,
    /// In the thread state: the pointer to the current context; its version is behind it.
    pub thread_context: u32,
    /// In the thread state: the pointer to the innermost frame, or to what has it.
    pub thread_frame: u32,
    /// In what the thread state points to: the pointer to the innermost frame.
    pub root_frame: u32,
    /// How much of each frame is read, at most [`FRAME_BYTES`].
    pub frame_bytes: u32,
    /// In a frame: its code, its caller, its instruction; all of 8 bytes and aligned.
    pub executable: u32,
    pub previous: u32,
    pub instruction: u32,
    /// In a frame: the byte that says what it belongs to.
    pub owner: u32,
    /// In a generator: its frame.
    pub generator_frame: u32,
    /// In a frame: the generator that it belongs to.
    pub frame_generator: u32,
    /// In a frame: the first local variable.
    pub locals: u32,
    /// Which local variables of the turn are: the float that tells when it began, the index of the
    /// callback that runs, and how many there are (the first again, where there are none of these).
    pub turn_start: u32,
    pub turn_index: u32,
    pub turn_count: u32,
    /// In a float and in an int: the value.
    pub float_value: u32,
    pub int_value: u32,
    /// Address of an event loop's count of its turns, and the thread state of the thread that runs it; 0: none.
    pub turns: u64,
    pub turns_thread: u64,
}

/// There is no such field.
pub const NO_OFFSET: u32 = u32::MAX;

/// Owners of frames from this number on are no Python code (`enum _frameowner`, Include/internal/
/// pycore_frame.h and pycore_interpframe_structs.h), and the one of generators.
pub const OWNER_NO_CODE: u8 = 3;

pub const OWNER_GENERATOR: u8 = 1;

/// The most bytes of a frame that are read; a power of two.
pub const FRAME_BYTES: usize = 128;

const _: () = assert!(size_of::<Python>() == 128);
