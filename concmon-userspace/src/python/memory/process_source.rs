//! What a scan needs of a process beside its memory: from `/proc`, or as it was recorded.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::event::{Pid, Tid};
use crate::procfs::{
    maps::{self, Mapping},
    namespaces, now,
};

/// A process, without its memory.
#[derive(Debug)]
pub(crate) enum ProcessSource {
    Live(Pid),
    Recorded(RecordedProcess),
}

/// What was recorded of a process. Its mappings are not kept: where stacks end, their threads'
/// descriptors say.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RecordedProcess {
    pub pid: u32,
    /// Soft limit of the main thread's stack, bytes.
    pub stack_limit: Option<u64>,
    /// Thread ids: the process's own, and ours.
    pub tids: BTreeMap<u32, u32>,
    /// The two differ.
    pub foreign_ids: bool,
    /// Address of asyncio's own offset table.
    pub asyncio_table: Option<u64>,
    /// The futexes that threads are blocked on, by our thread ids.
    pub futexes: BTreeMap<u32, u64>,
}

impl RecordedProcess {
    /// `asyncio_table`: address of asyncio's own offset table.
    pub(crate) fn of(pid: Pid, asyncio_table: Option<u64>) -> Self {
        let tids = namespaces::native_tids(pid);
        let futex = |tid: &Tid| Some((tid.0, now::blocking_futex(pid, *tid).ok()??));
        Self {
            futexes: tids.values().filter_map(futex).collect(),
            pid: pid.0,
            stack_limit: now::stack_limit(pid),
            tids: tids
                .into_iter()
                .map(|(native, tid)| (native, tid.0))
                .collect(),
            foreign_ids: namespaces::has_foreign_ids(pid),
            asyncio_table,
        }
    }
}

impl ProcessSource {
    pub(crate) fn pid(&self) -> Pid {
        match self {
            Self::Live(pid) => *pid,
            Self::Recorded(process) => Pid(process.pid),
        }
    }

    /// Whether the process has other thread ids for itself than we have.
    pub(crate) fn has_foreign_ids(&self) -> bool {
        match self {
            Self::Live(pid) => namespaces::has_foreign_ids(*pid),
            Self::Recorded(process) => process.foreign_ids,
        }
    }

    pub(crate) fn stack_limit(&self) -> Option<u64> {
        match self {
            Self::Live(pid) => now::stack_limit(*pid),
            Self::Recorded(process) => process.stack_limit,
        }
    }

    /// From the thread ids that the process itself uses to ours.
    pub(crate) fn namespace_tids(&self) -> HashMap<u32, Tid> {
        match self {
            Self::Live(pid) => namespaces::native_tids(*pid),
            Self::Recorded(process) => process
                .tids
                .iter()
                .map(|(native, tid)| (*native, Tid(*tid)))
                .collect(),
        }
    }

    pub(crate) fn is_thread(&self, tid: Tid) -> bool {
        match self {
            Self::Live(pid) => now::has_thread(*pid, tid),
            Self::Recorded(process) => process.tids.values().any(|known| *known == tid.0),
        }
    }

    /// The futex that a thread is blocked on.
    pub(crate) fn blocking_futex(&self, tid: Tid) -> std::io::Result<Option<u64>> {
        match self {
            Self::Live(pid) => now::blocking_futex(*pid, tid),
            Self::Recorded(process) => Ok(process.futexes.get(&tid.0).copied()),
        }
    }

    pub(crate) fn mappings(&self) -> Vec<Mapping> {
        match self {
            Self::Live(pid) => maps::mappings(*pid).unwrap_or_default(),
            Self::Recorded(_) => Vec::new(),
        }
    }
}
