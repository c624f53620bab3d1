//! Which PID namespace the tool is in.

/// The PID namespace whose ids user space knows: the value of the array `NAMESPACE`. The self-test program fills it
/// in, from the task that runs it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Namespace {
    /// The kernel's `pid_namespace`; 0: not known.
    pub object: u64,
    /// How deep it lies.
    pub level: u64,
}

const _: () = assert!(size_of::<Namespace>() == 16);
