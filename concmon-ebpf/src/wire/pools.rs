//! Failures in thread pools that are counted one by one.

/// How failures in the thread pools of a process are read: a value of the hash map `EXACT_FUTURES`,
/// keyed by the kernel's process id. Addresses, then offsets in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExactFutures {
    /// Code objects of `_WorkItem.run`, of `Future.__get_result` and of `_worker`.
    pub run: u64,
    pub result: u64,
    pub worker: u64,
    /// The type `_WorkItem`.
    pub item_type: u64,
    /// Types of exceptions that asyncio makes anew, without a trace of the old ones; or 0.
    pub converted: [u64; 2],
    /// Where the address of the thread state is that has the GIL.
    pub holder: u64,
    /// In a frame object: its frame. 0: it is the frame.
    pub object_frame: u32,
    /// In a frame.
    pub executable: u32,
    pub previous: u32,
    /// In a frame of `_worker`: the variable that holds its queue.
    pub worker_queue: u32,
    /// In a thread state: the exception that is being raised; 0: its type and its traceback, below.
    pub raised: u32,
    pub raised_type: u32,
    pub raised_traceback: u32,
    /// In an exception: its traceback; in that: its frame object.
    pub exception_traceback: u32,
    pub traceback_frame: u32,
    /// `Future.set_exception` of asyncio takes its arguments as a vector.
    pub vector: u32,
}

/// The work of one thread pool: a key of the hash map `EXACT_POOLS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PoolKey {
    /// Address of its queue; 0: not known.
    pub queue: u64,
    pub tgid: u32,
    pub reserved: u32,
}

/// What is counted of it. All are only added to, atomically.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolRow {
    pub submitted: u64,
    pub failed: u64,
    /// Of `failed`: in `EXACT_FAILED` when they failed.
    pub kept: u64,
    /// Of `kept`: their exception was asked for.
    pub retrieved: u64,
    /// Of `kept`: the exception is gone, and was not asked for.
    pub dropped: u64,
}

/// A failure whose exception nobody has asked for: a key of the hash map `EXACT_FAILED`; the value is
/// the queue of its pool.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailedKey {
    /// The frame object of `_WorkItem.run` that the exception passed through; it lives as long as
    /// the exception does.
    pub frame: u64,
    pub tgid: u32,
    pub reserved: u32,
}

const _: () = {
    assert!(size_of::<ExactFutures>() == 56 + 10 * 4);
    assert!(size_of::<PoolKey>() == 16);
    assert!(size_of::<PoolRow>() == 40);
    assert!(size_of::<FailedKey>() == 16);
};
