//! One pass over one interpreter of a process: its threads, their loops, all tasks.

use std::collections::HashMap;

use super::remembered::{
    AIOHTTP_SERVERS, ANYIO, BILLIARD, CELERY, CHEROOT, DASK, GEVENT, GREENLET, MULTIPROCESSING,
    POOLS_OF_MULTIPROCESSING, PROCESS_POOLS, Remembered, THREAD_POOLS, TRIO, WAITRESS,
};
use crate::event::{LoopKind, PyEntered, PyFrame, PythonFact, Tid, WaitKind};
use crate::python::detect;
use crate::python::layout::Layout;
use crate::python::memory::process::ProcessView;
use crate::python::memory::{Memory, ReadError, at};
use crate::python::objects::Reader;
use crate::python::objects::code::CodeCache;
use crate::python::options::ScanOptions;
use crate::python::walk::limiters::{self, Limiter};
use crate::python::walk::stacks::Stack;
use crate::python::walk::thread_states::{self, ThreadRecord};
use crate::python::walk::{celery, executors, gil, loops, processes, routes, thread_servers, trio};

/// GILs that are told of one process.
const MAX_GILS: usize = 64;

/// Says what a scan lacks whose time was up before it had read anything.
pub(super) fn note_over(reader: &mut Reader<'_>, error: ReadError) {
    if error == ReadError::Over && reader.is_over() {
        for part in ["threads", "loops", "executors", "tasks"] {
            reader.note_cut(part);
        }
    }
}

/// What a scan works with.
pub(super) struct Scan<'a> {
    pub(super) memory: &'a dyn Memory,
    pub(super) runtime: u64,
    pub(super) layout: &'a Layout,
    pub(super) interpreter: u64,
    /// It is not the main one.
    pub(super) is_entered: bool,
    pub(super) process: &'a mut ProcessView,
    pub(super) codes: &'a mut CodeCache,
    pub(super) remembered: &'a mut Remembered,
    pub(super) options: &'a ScanOptions,
}

impl Scan<'_> {
    /// Adds what is found to `fact`.
    pub(super) fn run(mut self, reader: &mut Reader<'_>, fact: &mut PythonFact) {
        let mut records = match thread_states::threads(
            self.memory,
            self.interpreter,
            self.layout.interpreter.threads_head,
            &reader.walk.thread,
            &self.remembered.threads,
        ) {
            Ok(records) => records,
            Err(error) => {
                reader.failed += 1;
                note_over(reader, error);
                let limit = reader.limits.entry("threads".to_owned());
                limit.or_insert_with(|| error.to_string());
                return;
            }
        };
        if self.process.is_fork() {
            let is_thread = |native| self.process.is_thread(native);
            thread_states::drop_replaced(&mut records, &reader.walk.thread, is_thread);
        }
        if fact.process.is_none() {
            let modules = [MULTIPROCESSING, BILLIARD].map(|module| self.remembered.module(module));
            fact.process = processes::read(reader, modules);
        }
        self.remembered.threads = records.iter().map(|record| record.address).collect();
        // What there is little of comes first: a scan that has to end early has it.
        let tids = self.add_threads(reader, &records, fact);
        // Before 3.11, what could not be read of a thread may be who it is.
        reader.note_cut("threads");
        reader.note_cut("threads.name");
        self.add_gil(reader, &records, &tids, fact);
        if self.is_entered {
            self.add_entered(&records, &tids, fact);
        }
        let stacks = self.add_stacks(reader, &records, &tids, fact);
        reader.note_cut("threads.stack");
        self.add_waits(reader, &records, &tids, &stacks, fact);
        self.add_timed(fact);
        reader.note_cut("threads.waiting_for");
        if self.remembered.has_asyncio() {
            self.add_loops(reader, &records, &tids, fact);
            self.add_counter(reader, fact);
        }
        reader.note_cut("loops");
        self.add_executors(reader, &records, &tids, fact);
        reader.note_cut("executors");
        if self.remembered.has_asyncio() {
            self.add_tasks(reader, &records, &stacks, fact);
        }
        let limiters = self.add_trio(reader, &records, &tids, &stacks, fact);
        reader.note_cut("tasks");
        self.add_limiters(reader, limiters, fact);
        if self.options.routes {
            self.add_routes(reader, &tids, &stacks, fact);
        }
        self.limit_greenlets(reader);
    }

    /// Adds the routes of the application that is served.
    fn add_routes(
        &mut self,
        reader: &mut Reader<'_>,
        tids: &[Option<Tid>],
        stacks: &[Stack],
        fact: &mut PythonFact,
    ) {
        let modules = at(self.interpreter, self.layout.interpreter.modules);
        let Ok(modules) = reader.pointer(modules) else {
            reader.failed += 1;
            return;
        };
        let places = fact.threads.iter();
        let places: HashMap<Tid, &[PyFrame]> =
            places.map(|thread| (thread.tid, &*thread.stack)).collect();
        let stacks = tids.iter().zip(stacks).filter_map(|(tid, stack)| {
            let places = *places.get(&(*tid)?)?;
            // A thread that has entered several interpreters is shown with the stack of one.
            (stack.frames.len() == places.len()).then_some((&*stack.frames, places))
        });
        // Of servers, loops know only those of aiohttp.
        let has_servers = self.remembered.module(AIOHTTP_SERVERS).is_some();
        let loops = fact.loops.iter().filter(|_| has_servers);
        let running = routes::Running {
            tasks: &fact.tasks,
            loops: loops.map(|found| found.id).collect(),
            stacks: stacks.collect(),
        };
        if fact.routes.is_none() {
            let known = &mut self.remembered.routes;
            fact.routes = routes::read(reader, &running, modules, known);
        }
    }

    /// Says which waits for others end by themselves.
    fn add_timed(&self, fact: &mut PythonFact) {
        let waits = fact.threads.iter();
        let waits = waits.filter_map(|thread| Some((thread.tid, thread.waiting_for.as_ref()?)));
        let timed = waits.filter(|(tid, wait)| {
            let is_for_another =
                wait.owner.is_some() || wait.kind == WaitKind::Future || !wait.holders.is_empty();
            is_for_another && !self.process.waits_for_ever(*tid, wait.futex)
        });
        fact.timed = timed.map(|(tid, _)| tid).collect();
    }

    pub(super) fn add_trio(
        &mut self,
        reader: &mut Reader<'_>,
        records: &[ThreadRecord],
        tids: &[Option<Tid>],
        stacks: &[Stack],
        fact: &mut PythonFact,
    ) -> Vec<Limiter> {
        let Some(module) = self.remembered.module(TRIO) else {
            return Vec::new();
        };
        let scan = trio::TrioScan {
            module,
            threads: records,
            tids,
            stacks,
            options: self.options,
        };
        scan.add(reader, self.codes, fact)
    }

    /// Adds the limiters of loops' own threads, of trio's the ones that were found, and all that tasks wait for.
    fn add_limiters(&self, reader: &mut Reader<'_>, of_trio: Vec<Limiter>, fact: &mut PythonFact) {
        let of_anyio = match self.remembered.module(ANYIO) {
            Some(module) => limiters::of_anyio(reader, module),
            None => Vec::new(),
        };
        let met = of_anyio.into_iter().chain(of_trio);
        let found = limiters::read(reader, met.chain(limiters::waited_for(&fact.tasks)));
        fact.executors.extend(found);
    }

    /// Greenlets are kept in private structures, and their stacks are moved about: only the one
    /// that runs can be seen, as its thread.
    fn limit_greenlets(&self, reader: &mut Reader<'_>) {
        if self.remembered.module(GEVENT).is_some() {
            let reason = "greenlets of gevent cannot be read: kernel and thread tiers work";
            reader.limits.insert("tasks".to_owned(), reason.to_owned());
        } else if self.remembered.module(GREENLET).is_some() {
            let reason = "greenlets that do not run right now cannot be read";
            reader
                .limits
                .insert("greenlets".to_owned(), reason.to_owned());
        }
    }

    pub(super) fn add_gil(
        &self,
        reader: &mut Reader<'_>,
        records: &[ThreadRecord],
        tids: &[Option<Tid>],
        fact: &mut PythonFact,
    ) {
        let found = detect::gil_of(self.memory, self.runtime, self.interpreter, self.layout)
            .and_then(|address| Ok((address, gil::read(self.memory, address)?)));
        let (address, state) = match found {
            Ok((0, _)) => return,
            Ok(found) => found,
            Err(error) => {
                reader.failed += 1;
                reader.limits.insert("gil".to_owned(), error.to_string());
                return;
            }
        };
        let record = records.iter().position(|r| r.address == state.last_holder);
        let last_holder = record.and_then(|index| *tids.get(index)?);
        // Several interpreters may share one; its last holder is in one of them.
        let is_full = fact.gils.len() >= MAX_GILS;
        match fact.gils.iter_mut().find(|gil| gil.address == address) {
            Some(known) => known.last_holder = known.last_holder.or(last_holder),
            None if !is_full => fact.gils.push(state.fact(address, last_holder)),
            None => {
                let reason = format!("only {MAX_GILS} GILs are told");
                reader.limits.insert("gil".to_owned(), reason);
            }
        }
    }

    /// Notes whose thread states are in this interpreter.
    fn add_entered(&self, records: &[ThreadRecord], tids: &[Option<Tid>], fact: &mut PythonFact) {
        let gil = detect::gil_of(self.memory, self.runtime, self.interpreter, self.layout);
        let gil = gil.unwrap_or(0);
        let entered = records.iter().zip(tids).filter_map(|(record, tid)| {
            Some(PyEntered {
                tid: (*tid)?,
                thread_state: record.address,
                gil,
            })
        });
        fact.entered.extend(entered);
    }

    /// How many tasks asyncio has named, where its module's state tells.
    pub(super) fn add_counter(&self, reader: &mut Reader<'_>, fact: &mut PythonFact) {
        let limit = match (reader.walk.task.counter, self.remembered.asyncio_module) {
            (Some(counter), Some(module)) => {
                let count = reader
                    .pointer(at(module, counter.module_state))
                    .and_then(|state| reader.pointer(at(state, counter.count)));
                for found in &mut fact.loops {
                    if found.kind != LoopKind::Trio {
                        found.tasks_created = count.ok();
                    }
                }
                match (counter.counts_named, fact.loops.len()) {
                    (false, _) => "tasks that were given a name are not counted",
                    (true, 0 | 1) => return,
                    (true, _) => "tasks of all loops together",
                }
            }
            _ => "this interpreter keeps no count that can be found",
        };
        reader
            .limits
            .insert("loops.tasks_created".to_owned(), limit.to_owned());
    }

    pub(super) fn add_loops(
        &mut self,
        reader: &mut Reader<'_>,
        records: &[ThreadRecord],
        tids: &[Option<Tid>],
        fact: &mut PythonFact,
    ) {
        let running = loops::running(reader, records);
        for (tid, id) in tids.iter().zip(running) {
            if let (Some(id), Some(tid)) = (id, tid) {
                let found = loops::read_whole(reader, fact.pid, id, *tid);
                fact.loops.push(found);
            }
        }
    }

    pub(super) fn add_executors(
        &mut self,
        reader: &mut Reader<'_>,
        records: &[ThreadRecord],
        tids: &[Option<Tid>],
        fact: &mut PythonFact,
    ) {
        let (threads, processes) = (
            self.remembered.module(THREAD_POOLS),
            self.remembered.module(PROCESS_POOLS),
        );
        let modules = [CELERY, BILLIARD].map(|module| self.remembered.module(module));
        if let [Some(state), Some(billiard)] = modules {
            fact.executors.extend(celery::read(reader, state, billiard));
        }
        let has_crews = [WAITRESS, CHEROOT, DASK, POOLS_OF_MULTIPROCESSING]
            .iter()
            .any(|module| self.remembered.module(*module).is_some());
        if threads.is_none() && processes.is_none() && !has_crews {
            return;
        }
        let workers = self.living_threads(reader, records, tids);
        let found = executors::read(reader, self.codes, threads, processes, &workers);
        fact.executors.extend(found);
        if has_crews {
            let crews = thread_servers::crews(reader, &workers);
            fact.executors
                .extend(executors::crew_pools(reader, self.codes, &crews));
            let servers = crews
                .iter()
                .filter_map(|crew| thread_servers::server(reader, crew));
            fact.executors.extend(servers);
        }
    }
}
