//! What the self-test program saw.

/// What the self-test program saw of the task that ran it: the value of the array `SELF_TEST`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SelfTest {
    pub pid_by_helper: u32,
    pub tgid_by_helper: u32,
    pub pid_by_offset: u32,
    pub tgid_by_offset: u32,
    pub start_boottime_ns: u64,
    pub sum_exec_ns: u64,
    pub comm: [u8; 16],
    pub syscall: i64,
    pub arg0: u64,
    pub state: u32,
    pub on_cpu: u32,
    /// Threads that the process still has.
    pub live: u32,
    /// 1 when the task counted as queued.
    pub queued: u32,
    /// 1 when the task counted as a kernel thread.
    pub kernel_thread: u32,
    /// Process id, by helper, of whoever walks the tasks.
    pub asker_tgid: u32,
    /// The ids that the other programs will give to user space.
    pub tid_seen: u32,
    pub tgid_seen: u32,
    /// How often the program ran for the process that asked.
    pub runs: u64,
}

const _: () = assert!(size_of::<SelfTest>() == 104);
