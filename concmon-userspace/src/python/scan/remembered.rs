//! What is remembered of an interpreter between scans: its modules, thread states, tasks.

use crate::python::layout::Layout;
use crate::python::memory::at;
use crate::python::objects::{KnownEntries, Reader};
use crate::python::walk::{routes, trio};

/// The modules that walkers look into.
const MODULES: &[&str] = &[
    "threading",
    "asyncio.tasks",
    trio::MODULE,
    "gevent",
    "greenlet",
    "_asyncio",
    "concurrent.futures.thread",
    "concurrent.futures.process",
    "multiprocessing.process",
    "billiard.process",
    "anyio.lowlevel",
    "waitress.task",
    "cheroot.workers.threadpool",
    "distributed.threadpoolexecutor",
    "celery.worker.state",
    "multiprocessing.pool",
    "aiohttp.web_server",
];
pub(super) const THREADING: usize = 0;
pub(super) const ASYNCIO_TASKS: usize = 1;
pub(super) const TRIO: usize = 2;
pub(super) const GEVENT: usize = 3;
pub(super) const GREENLET: usize = 4;
pub(super) const ASYNCIO_NATIVE: usize = 5;
pub(super) const THREAD_POOLS: usize = 6;
pub(super) const PROCESS_POOLS: usize = 7;
pub(super) const MULTIPROCESSING: usize = 8;
pub(super) const BILLIARD: usize = 9;
pub(super) const ANYIO: usize = 10;
pub(super) const WAITRESS: usize = 11;
pub(super) const CHEROOT: usize = 12;
pub(super) const DASK: usize = 13;
pub(super) const CELERY: usize = 14;
pub(super) const POOLS_OF_MULTIPROCESSING: usize = 15;
pub(super) const AIOHTTP_SERVERS: usize = 16;

/// What is remembered of an interpreter between scans.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    /// The state of `sys.modules` that `dicts` is good for.
    fingerprint: Option<[u64; 4]>,
    /// The dicts of the modules in the order of [`MODULES`].
    pub(super) dicts: Vec<Option<u64>>,
    /// Where `threading` and `asyncio.tasks` have what is asked for by each scan.
    pub(super) of_threading: Option<KnownEntries>,
    pub(super) of_asyncio: Option<KnownEntries>,
    /// asyncio's C module.
    pub(super) asyncio_module: Option<u64>,
    /// Thread states, so that they can be read together.
    pub(super) threads: Vec<u64>,
    /// Tasks in lists: those that have left them may have failed.
    pub(super) tasks: Vec<u64>,
    /// Tasks that failed, and left the lists.
    pub(super) failed: Vec<u64>,
    /// The routes of the application.
    pub(super) routes: Option<routes::Known>,
}

impl Remembered {
    /// Finds the modules, unless they are known.
    pub(super) fn find_modules(
        &mut self,
        reader: &mut Reader<'_>,
        interpreter: u64,
        layout: &Layout,
    ) {
        let found = reader
            .pointer(at(interpreter, layout.interpreter.modules))
            .ok()
            .and_then(|modules| Some((modules, reader.dict_fingerprint(modules)?)));
        let Some((modules, fingerprint)) = found else {
            reader.failed += 1;
            return;
        };
        if self.fingerprint == Some(fingerprint) {
            return;
        }
        let Some(found) = reader.dict_values(modules, MODULES) else {
            reader.failed += 1;
            return;
        };
        (self.of_threading, self.of_asyncio) = (None, None);
        self.asyncio_module = found[ASYNCIO_NATIVE];
        self.dicts = found
            .into_iter()
            .map(|module| reader.module_dict(module?))
            .collect();
        self.fingerprint = Some(fingerprint);
    }

    pub(super) fn module(&self, module: usize) -> Option<u64> {
        *self.dicts.get(module)?
    }

    pub(super) fn has_asyncio(&self) -> bool {
        self.module(ASYNCIO_TASKS).is_some()
    }
}
