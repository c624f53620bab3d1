//! A living process, as `/proc` and its files have it.

use std::collections::HashMap;
use std::io;

use crate::event::{Pid, Tid};
use crate::procfs::{
    maps::{self, Mapping},
    namespaces, now,
};
use crate::python::memory::process_source::ProcessSource;

#[derive(Debug)]
pub(crate) struct LiveProcess(pub(crate) Pid);

impl ProcessSource for LiveProcess {
    fn pid(&self) -> Pid {
        self.0
    }

    fn has_foreign_ids(&self) -> bool {
        namespaces::has_foreign_ids(self.0)
    }

    fn stack_limit(&self) -> Option<u64> {
        now::stack_limit(self.0)
    }

    fn native_tids(&self) -> HashMap<u32, Tid> {
        now::native_tids(self.0)
    }

    fn is_thread(&self, tid: Tid) -> bool {
        now::has_thread(self.0, tid)
    }

    fn is_fork(&self) -> bool {
        now::is_fork(self.0)
    }

    fn blocking_futex(&self, tid: Tid) -> io::Result<Option<u64>> {
        now::blocking_futex(self.0, tid)
    }

    fn waits_for_ever(&self, tid: Tid, futex: u64) -> bool {
        now::waits_for_ever(self.0, tid, futex)
    }

    fn mappings(&self) -> Vec<Mapping> {
        maps::mappings(self.0).unwrap_or_default()
    }

    fn asyncio_table(&self) -> Option<u64> {
        super::asyncio_table(self.0)
    }
}
