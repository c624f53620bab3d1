//! An interpreter that was attached to: what it is, and how its memory is read.

use std::sync::Arc;

use super::layout::Layout;
use super::memory::Memory;
use super::walk::thread_states;
use crate::event::{Pid, PythonInfo};

/// What scans, samples and probes share.
#[derive(Clone, Debug)]
pub(super) struct Attached {
    pub(super) pid: Pid,
    pub(super) info: PythonInfo,
    pub(super) memory: Arc<dyn Memory>,
    /// Address of the runtime and what is known about it; `None` where nothing can be read.
    pub(super) runtime: Option<(u64, Layout)>,
}

impl Attached {
    /// The runtime, what is known about it, and its main interpreter.
    pub(super) fn main(&self) -> Option<(u64, Layout, u64)> {
        let (runtime, layout) = self.runtime?;
        let interpreters = thread_states::interpreters(&*self.memory, runtime, &layout).ok()?;
        Some((runtime, layout, *interpreters.first()?))
    }
}
