//! A process as it was recorded, beside its memory.

use std::collections::{BTreeMap, HashMap};
use std::io;

use serde::{Deserialize, Serialize};

use super::detect::LiveProcess;
use super::memory::process_source::ProcessSource;
use crate::event::{Pid, Tid};
use crate::procfs::maps::Mapping;

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
    pub(super) fn of(pid: Pid) -> Self {
        let live = LiveProcess(pid);
        let tids = live.native_tids();
        let futex = |tid: &Tid| Some((tid.0, live.blocking_futex(*tid).ok()??));
        Self {
            futexes: tids.values().filter_map(futex).collect(),
            pid: pid.0,
            stack_limit: live.stack_limit(),
            tids: tids
                .into_iter()
                .map(|(native, tid)| (native, tid.0))
                .collect(),
            foreign_ids: live.has_foreign_ids(),
            asyncio_table: live.asyncio_table(),
        }
    }
}

impl ProcessSource for RecordedProcess {
    fn pid(&self) -> Pid {
        Pid(self.pid)
    }

    fn has_foreign_ids(&self) -> bool {
        self.foreign_ids
    }

    fn stack_limit(&self) -> Option<u64> {
        self.stack_limit
    }

    fn native_tids(&self) -> HashMap<u32, Tid> {
        let tids = self.tids.iter();
        tids.map(|(native, tid)| (*native, Tid(*tid))).collect()
    }

    fn is_thread(&self, tid: Tid) -> bool {
        self.tids.values().any(|known| *known == tid.0)
    }

    fn is_fork(&self) -> bool {
        false
    }

    fn blocking_futex(&self, tid: Tid) -> io::Result<Option<u64>> {
        Ok(self.futexes.get(&tid.0).copied())
    }

    fn waits_for_ever(&self, tid: Tid, futex: u64) -> bool {
        self.futexes.get(&tid.0) == Some(&futex)
    }

    fn mappings(&self) -> Vec<Mapping> {
        Vec::new()
    }

    fn asyncio_table(&self) -> Option<u64> {
        self.asyncio_table
    }
}
