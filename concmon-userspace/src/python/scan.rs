//! One scan of one interpreter of a process: its threads, their loops, all tasks.

use std::collections::{HashMap, HashSet};

use super::detect;
use super::interpreter::ScanOptions;
use super::layout::Layout;
use super::memory::addresses::AddressSet;
use super::memory::process::ProcessView;
use super::memory::{Memory, ReadError, at};
use super::objects::code::CodeCache;
use super::objects::object::Reader;
use super::walk::executors::{self, Worker, Workers};
use super::walk::gil;
use super::walk::loops;
use super::walk::stacks::{self, Stack};
use super::walk::task_lists::{self, ListHead};
use super::walk::tasks::{self, Listed};
use super::walk::thread_states::{self, ThreadRecord};
use super::walk::threads::{self, ThreadAccount};
use super::walk::trio;
use super::walk::waits::{self, Blocked};
use crate::event::{LoopKind, PyThread, PythonFact, Tid};

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
];
const THREADING: usize = 0;
const ASYNCIO_TASKS: usize = 1;
const TRIO: usize = 2;
const GEVENT: usize = 3;
const GREENLET: usize = 4;
const ASYNCIO_NATIVE: usize = 5;
const THREAD_POOLS: usize = 6;
const PROCESS_POOLS: usize = 7;

/// What is remembered of an interpreter between scans.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The state of `sys.modules` that `dicts` is good for.
    fingerprint: Option<[u64; 4]>,
    /// The dicts of the modules in the order of [`MODULES`].
    dicts: Vec<Option<u64>>,
    /// asyncio's C module.
    asyncio_module: Option<u64>,
    /// Thread states, so that they can be read together.
    threads: Vec<u64>,
    /// Tasks in lists: those that have left them may have failed.
    tasks: Vec<u64>,
    /// Tasks that failed, and left the lists.
    failed: Vec<u64>,
}

impl Known {
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
        self.asyncio_module = found[ASYNCIO_NATIVE];
        self.dicts = found
            .into_iter()
            .map(|module| reader.module_dict(module?))
            .collect();
        self.fingerprint = Some(fingerprint);
    }

    fn module(&self, module: usize) -> Option<u64> {
        *self.dicts.get(module)?
    }

    pub(super) fn has_asyncio(&self) -> bool {
        self.module(ASYNCIO_TASKS).is_some()
    }
}

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
    pub(super) process: &'a mut ProcessView,
    pub(super) codes: &'a mut CodeCache,
    pub(super) known: &'a mut Known,
    pub(super) options: &'a ScanOptions,
}

impl Scan<'_> {
    /// Adds what is found to `fact`.
    pub(super) fn run(mut self, reader: &mut Reader<'_>, fact: &mut PythonFact) {
        let records = match thread_states::threads(
            self.memory,
            self.interpreter,
            self.layout.interpreter.threads_head,
            &reader.walk.thread,
            &self.known.threads,
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
        self.known.threads = records.iter().map(|record| record.address).collect();
        // What there is little of comes first: a scan that has to end early has it.
        let tids = self.add_threads(reader, &records, fact);
        // Before 3.11, what could not be read of a thread may be who it is.
        reader.note_cut("threads");
        reader.note_cut("threads.name");
        self.add_gil(reader, &records, &tids, fact);
        let stacks = self.add_stacks(reader, &records, &tids, fact);
        reader.note_cut("threads.stack");
        self.add_waits(reader, &records, &tids, &stacks, fact);
        reader.note_cut("threads.waiting_for");
        if self.known.has_asyncio() {
            self.add_loops(reader, &records, &tids, fact);
            self.add_counter(reader, fact);
        }
        reader.note_cut("loops");
        self.add_executors(reader, &records, &tids, fact);
        reader.note_cut("executors");
        if self.known.has_asyncio() {
            self.add_tasks(reader, &records, &stacks, fact);
        }
        self.add_trio(reader, &records, &tids, &stacks, fact);
        reader.note_cut("tasks");
        self.limit_greenlets(reader);
    }

    fn add_trio(
        &mut self,
        reader: &mut Reader<'_>,
        records: &[ThreadRecord],
        tids: &[Option<Tid>],
        stacks: &[Stack],
        fact: &mut PythonFact,
    ) {
        if let Some(module) = self.known.module(TRIO) {
            let scan = trio::TrioScan {
                module,
                threads: records,
                tids,
                stacks,
                options: self.options,
            };
            scan.add(reader, self.codes, fact);
        }
    }

    /// Greenlets are kept in private structures, and their stacks are moved about: only the one
    /// that runs can be seen, as its thread.
    fn limit_greenlets(&self, reader: &mut Reader<'_>) {
        if self.known.module(GEVENT).is_some() {
            let reason = "greenlets of gevent cannot be read: kernel and thread tiers work";
            reader.limits.insert("tasks".to_owned(), reason.to_owned());
        } else if self.known.module(GREENLET).is_some() {
            let reason = "greenlets that do not run right now cannot be read";
            reader
                .limits
                .insert("greenlets".to_owned(), reason.to_owned());
        }
    }

    /// Gives the stack of each record's thread.
    fn add_stacks(
        &mut self,
        reader: &mut Reader<'_>,
        records: &[ThreadRecord],
        tids: &[Option<Tid>],
        fact: &mut PythonFact,
    ) -> Vec<Stack> {
        if self.options.stack == 0 {
            return Vec::new();
        }
        let stacks = stacks::stacks(reader, self.codes, records, self.options.stack);
        let slots: HashMap<Tid, usize> = fact
            .threads
            .iter()
            .enumerate()
            .map(|(slot, thread)| (thread.tid, slot))
            .collect();
        for (stack, tid) in stacks.iter().zip(tids) {
            if reader.is_over() {
                break;
            }
            let slot = tid.and_then(|tid| slots.get(&tid));
            let Some(thread) = slot.and_then(|slot| fact.threads.get_mut(*slot)) else {
                continue;
            };
            // A thread that has gone from one interpreter to another has a part of its stack in
            // each; the one it went to was made later, and comes later here.
            let outer = std::mem::take(&mut thread.stack);
            thread.stack_torn |= stack.torn;
            if !thread.stack_torn {
                thread.stack = stack.places(reader, self.codes).unwrap_or_default();
                thread.stack.extend(outer);
            }
        }
        if stacks.iter().any(|stack| stack.cut) {
            reader.limits.insert(
                "threads.stack".to_owned(),
                format!(
                    "only the innermost {} frames of a stack are read",
                    self.options.stack
                ),
            );
        }
        stacks
    }

    /// Says what blocked threads wait for, by their stacks and the futexes that they are blocked on.
    fn add_waits(
        &self,
        reader: &mut Reader<'_>,
        records: &[ThreadRecord],
        tids: &[Option<Tid>],
        stacks: &[Stack],
        fact: &mut PythonFact,
    ) {
        let ident = reader.walk.thread.ident;
        let by_ident: HashMap<u64, Tid> = records
            .iter()
            .zip(tids)
            .filter_map(|(record, tid)| Some((record.field(ident), (*tid)?)))
            .collect();
        let of_tid: HashMap<Tid, &Stack> = tids
            .iter()
            .zip(stacks)
            .filter_map(|(tid, stack)| Some(((*tid)?, stack)))
            .collect();
        let mut blocked = Vec::new();
        let mut slots = Vec::new();
        for (slot, thread) in fact.threads.iter().enumerate() {
            let Some(stack) = of_tid.get(&thread.tid) else {
                continue;
            };
            // A thread that has entered several interpreters is shown with the stack of one.
            if stack.torn || stack.frames.len() != thread.stack.len() {
                continue;
            }
            if reader.is_over() {
                break;
            }
            match self.process.blocking_futex(thread.tid) {
                Ok(Some(futex)) => {
                    slots.push(slot);
                    blocked.push(Blocked {
                        tid: thread.tid,
                        futex,
                        frames: &stack.frames,
                        places: &thread.stack,
                    });
                }
                Ok(None) => {}
                Err(error) => {
                    let is_gone = matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH));
                    if !is_gone {
                        let reason = format!("/proc does not say where threads wait: {error}");
                        reader
                            .limits
                            .insert("threads.waiting_for".to_owned(), reason);
                    }
                }
            }
        }
        let waits = waits::waits(reader, &blocked, &by_ident);
        let stand_still: HashSet<Tid> = stacks::stand_still(reader, records, stacks)
            .into_iter()
            .zip(tids)
            .filter_map(|(stands, tid)| tid.filter(|_| stands))
            .collect();
        for (slot, wait) in slots.into_iter().zip(waits) {
            let thread = &mut fact.threads[slot];
            // What was read in between is about a thread that stood still.
            thread.waiting_for = wait.filter(|wait| {
                let still = self.process.blocking_futex(thread.tid);
                stand_still.contains(&thread.tid)
                    && still.is_ok_and(|futex| futex == Some(wait.futex))
            });
        }
    }

    fn add_gil(
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
        match fact.gils.iter_mut().find(|gil| gil.address == address) {
            Some(known) => known.last_holder = known.last_holder.or(last_holder),
            None => fact.gils.push(state.fact(address, last_holder)),
        }
    }

    fn accounts(&self, reader: &mut Reader<'_>) -> HashMap<u64, ThreadAccount> {
        let Some(threading) = self.known.module(THREADING) else {
            reader.limits.insert(
                "threads.name".to_owned(),
                "the program has not imported threading".to_owned(),
            );
            return HashMap::new();
        };
        let accounts = reader
            .dict_values(threading, &["_active"])
            .and_then(|found| threads::accounts(reader, found[0]?));
        accounts.unwrap_or_else(|| {
            reader.failed += 1;
            reader.limits.insert(
                "threads.name".to_owned(),
                "threading._active could not be read".to_owned(),
            );
            HashMap::new()
        })
    }

    /// How many tasks asyncio has named, where its module's state tells.
    fn add_counter(&self, reader: &mut Reader<'_>, fact: &mut PythonFact) {
        let limit = match (reader.walk.task.counter, self.known.asyncio_module) {
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

    /// Gives our id of each record's thread.
    fn add_threads(
        &mut self,
        reader: &mut Reader<'_>,
        records: &[ThreadRecord],
        fact: &mut PythonFact,
    ) -> Vec<Option<Tid>> {
        let fields = reader.walk.thread;
        let mut accounts = self.accounts(reader);
        let idents = records.iter().map(|record| record.field(fields.ident));
        self.process.find_stacks(self.memory, idents);
        let mut tids = Vec::with_capacity(records.len());
        for record in records {
            let ident = record.field(fields.ident);
            // A state whose thread has not begun yet has no ids.
            if ident == 0 || fields.native_id.is_some_and(|id| record.field(id) == 0) {
                tids.push(None);
                continue;
            }
            let account = accounts.remove(&ident).unwrap_or_default();
            let native = match fields.native_id {
                Some(offset) => Some(record.field(offset)),
                // After a fork, what `threading` has may still be the parent's.
                None => self.process.described_id(ident).or(account.native_id),
            };
            let tid = native.and_then(|native| self.process.tid(native));
            tids.push(tid);
            let Some(tid) = tid else {
                reader.failed += 1;
                continue;
            };
            let main = self.process.is_main(tid);
            let thread = PyThread {
                tid,
                ident,
                name: account.name,
                daemon: account.daemon,
                entry: account.entry,
                stack_size_bytes: self.process.stack_size(ident, main),
                main,
                pool: account.pool,
                stack: Vec::new(),
                stack_torn: false,
                waiting_for: None,
            };
            // A thread that has entered several interpreters has a state in each.
            match fact.threads.iter_mut().find(|known| known.tid == tid) {
                None => fact.threads.push(thread),
                Some(known) if known.name.is_none() && thread.name.is_some() => *known = thread,
                Some(_) => {}
            }
        }
        tids
    }

    /// The threads that `threading` knows, by their objects.
    fn living_threads(
        &self,
        reader: &mut Reader<'_>,
        records: &[ThreadRecord],
        tids: &[Option<Tid>],
    ) -> Workers {
        let active = self
            .known
            .module(THREADING)
            .and_then(|module| reader.dict_values(module, &["_active"]))
            .and_then(|found| reader.dict(found[0]?))
            .unwrap_or_default();
        let idents: Vec<u64> = active.iter().map(|(ident, _)| *ident).collect();
        let idents = reader.integers(&idents);
        let field = reader.walk.thread.ident;
        let states: HashMap<u64, Worker> = records
            .iter()
            .zip(tids)
            .filter_map(|(record, tid)| {
                let state = record.address;
                Some((
                    record.field(field),
                    Worker {
                        state,
                        tid: (*tid)?,
                    },
                ))
            })
            .collect();
        active
            .iter()
            .zip(idents)
            .filter_map(|((_, thread), ident)| Some((*thread, *states.get(&(ident? as u64))?)))
            .collect()
    }

    fn add_executors(
        &mut self,
        reader: &mut Reader<'_>,
        records: &[ThreadRecord],
        tids: &[Option<Tid>],
        fact: &mut PythonFact,
    ) {
        let (threads, processes) = (
            self.known.module(THREAD_POOLS),
            self.known.module(PROCESS_POOLS),
        );
        if threads.is_none() && processes.is_none() {
            return;
        }
        let workers = self.living_threads(reader, records, tids);
        let found = executors::read(reader, self.codes, threads, processes, &workers);
        fact.executors.extend(found);
    }

    fn add_loops(
        &mut self,
        reader: &mut Reader<'_>,
        records: &[ThreadRecord],
        tids: &[Option<Tid>],
        fact: &mut PythonFact,
    ) {
        let running = loops::running(reader, records);
        for (tid, id) in tids.iter().zip(running) {
            if let (Some(id), Some(tid)) = (id, tid) {
                fact.loops.push(loops::read(reader, id, *tid));
            }
        }
    }

    /// The tasks that threads say they run right now.
    fn running_tasks(
        &self,
        reader: &mut Reader<'_>,
        records: &[ThreadRecord],
        current_tasks: Option<u64>,
    ) -> HashSet<u64> {
        match reader.walk.thread.running_task {
            Some(offset) => records
                .iter()
                .map(|record| record.field(offset))
                .filter(|task| *task != 0)
                .collect(),
            None => current_tasks
                .and_then(|tasks| reader.dict(tasks))
                .map(|entries| entries.into_iter().map(|(_, task)| task).collect())
                .unwrap_or_default(),
        }
    }

    fn add_tasks(
        &mut self,
        reader: &mut Reader<'_>,
        records: &[ThreadRecord],
        stacks: &[Stack],
        fact: &mut PythonFact,
    ) {
        let fields = reader.walk.task;
        let names: Vec<&str> = ["_current_tasks"]
            .iter()
            .chain(fields.weak_sets)
            .chain(fields.sets)
            .copied()
            .collect();
        let found = self
            .known
            .module(ASYNCIO_TASKS)
            .and_then(|module| reader.dict_values(module, &names));
        let Some(found) = found else {
            // While asyncio is being imported, its names are not there yet.
            reader.limits.insert(
                "tasks".to_owned(),
                "asyncio.tasks could not be read".to_owned(),
            );
            return;
        };
        let mut addresses = self.listed_tasks(reader, records);
        for (index, set) in found.iter().enumerate().skip(1) {
            let weak = index <= fields.weak_sets.len();
            let members =
                set.and_then(|set| task_lists::in_set(reader, set, weak, self.options.tasks));
            match members {
                Some(members) => addresses.extend(members),
                None => {
                    reader.failed += 1;
                    let reason = format!("asyncio.tasks.{} could not be read", names[index]);
                    reader.limits.insert("tasks".to_owned(), reason);
                }
            }
        }
        let running = self.running_tasks(reader, records, found[0]);
        // A task that runs its first step eagerly may be in no list yet.
        addresses.extend(&running);
        let mut seen = AddressSet::default();
        addresses.retain(|address| seen.insert(*address));
        let limit = self.options.tasks.saturating_sub(fact.tasks.len());
        let listed = match addresses.len() {
            count if count > limit || reader.cut().is_some() => Listed::AtLeast(count),
            count => Listed::All(count),
        };
        if addresses.len() > limit {
            addresses.truncate(limit);
            reader.limits.insert(
                "tasks".to_owned(),
                format!(
                    "there are more than the {} that are read",
                    self.options.tasks
                ),
            );
        }
        let found = tasks::read(
            reader,
            self.codes,
            &addresses,
            &running,
            stacks,
            self.options,
        );
        tasks::note_cut(reader, found.len(), &listed);
        fact.tasks.extend(found);
    }

    fn listed_tasks(&mut self, reader: &mut Reader<'_>, records: &[ThreadRecord]) -> Vec<u64> {
        let of_threads = reader.walk.thread.tasks_head;
        let of_ended = self.layout.interpreter.tasks_head;
        let heads: Vec<ListHead> = records
            .iter()
            .filter_map(|record| Some(ListHead(at(record.address, of_threads?))))
            .chain(of_ended.map(|head| ListHead(at(self.interpreter, head))))
            .collect();
        let before = std::mem::take(&mut self.known.tasks);
        self.known.tasks = task_lists::linked(reader, self.memory, &heads, self.options.tasks);
        if heads.is_empty() {
            return Vec::new();
        }
        // Tasks leave the lists when they are done; those that failed are of interest as long as
        // somebody keeps them.
        let listed: AddressSet = self.known.tasks.iter().copied().collect();
        let failed = std::mem::take(&mut self.known.failed);
        let gone: Vec<u64> = before
            .into_iter()
            .chain(failed)
            .filter(|task| !listed.contains(task))
            .collect();
        self.known.failed = tasks::failed(reader, &gone);
        if reader.is_over() {
            // The next scan finds out which of them have failed.
            self.known.failed = gone;
            self.known.failed.truncate(self.options.tasks);
            return self.known.tasks.clone();
        }
        let failed = self.known.failed.iter();
        self.known.tasks.iter().chain(failed).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::{Version, row};
    use super::super::walk::chain::Link;
    use super::super::walk::stacks::StackFrame;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::memory::{IsOver, UntilOver};
    use super::super::objects::synthetic::Noise;
    use super::*;
    use crate::event::{Pid, PyFrame, PythonInfo};

    /// Threads that are blocked somewhere, in functions that rules know.
    fn scan_waits(reader: &mut Reader<'_>, address: &impl Fn(u64) -> u64) {
        let places: Vec<PyFrame> = ["wait", "get", "join", "_worker"]
            .iter()
            .zip(["threading.py", "queue.py", "threading.py", "x.py"])
            .map(|(function, file)| PyFrame {
                function: (*function).into(),
                file: format!("/lib/{file}").into(),
                line: 1,
            })
            .collect();
        let frames: Vec<StackFrame> = (0..400)
            .map(|index| StackFrame {
                address: address(index),
                link: Link {
                    code: address(index + 1),
                    offset: 0,
                },
            })
            .collect();
        let blocked: Vec<Blocked<'_>> = (0..100)
            .map(|slot| Blocked {
                tid: Tid(8),
                futex: address(slot as u64),
                frames: &frames[4 * slot..4 * slot + 4],
                places: &places[slot % 4..],
            })
            .collect();
        let tids = (0..9).map(|ident| (ident, Tid(7))).collect();
        let found = waits::waits(reader, &blocked, &tids);
        assert_eq!(found.len(), blocked.len());
    }

    /// Looks at noise at everything there is, until it is over. Gives how many reads failed.
    fn scan_noise(
        minor: u8,
        noise: &Noise,
        options: &ScanOptions,
        is_over: &IsOver<'_>,
    ) -> (u64, PythonFact) {
        let layout = row(Version { major: 3, minor }).unwrap();
        let memory = UntilOver {
            memory: noise,
            is_over,
        };
        let pid = Pid(std::process::id());
        let mut reader = Reader::new(&memory, layout.walk, options.bytes);
        let mut fact = PythonFact {
            read_ns: 0,
            pid,
            info: PythonInfo {
                implementation: String::new(),
                version: None,
                free_threaded: false,
                supported: true,
                reason: None,
            },
            threads: Vec::new(),
            loops: Vec::new(),
            tasks: Vec::new(),
            gils: Vec::new(),
            gc: None,
            executors: Vec::new(),
            heap: None,
            reads_failed: 0,
            limits: std::collections::BTreeMap::new(),
        };
        let address = |index: u64| noise.address(index);
        let mut known = Known::default();
        known.find_modules(&mut reader, address(0), &layout);
        known.dicts = vec![Some(address(1)), Some(address(2))];
        known.tasks = (0..50).map(address).collect();
        let mut scan = Scan {
            memory: &memory,
            runtime: address(3),
            layout: &layout,
            interpreter: address(3),
            process: &mut ProcessView::new(pid),
            codes: &mut CodeCache::default(),
            known: &mut known,
            options,
        };
        let records: Vec<ThreadRecord> = (0..20)
            .map(|index| ThreadRecord::read(noise, address(index), &reader.walk.thread))
            .collect::<Result<_, _>>()
            .unwrap();
        let tids = scan.add_threads(&mut reader, &records, &mut fact);
        scan.add_loops(&mut reader, &records, &tids, &mut fact);
        let stacks = scan.add_stacks(&mut reader, &records, &tids, &mut fact);
        scan.add_tasks(&mut reader, &records, &stacks, &mut fact);
        let objects: Vec<u64> = (0..200).map(address).collect();
        tasks::read(
            &mut reader,
            scan.codes,
            &objects,
            &HashSet::new(),
            &stacks,
            scan.options,
        );
        scan_waits(&mut reader, &address);
        for object in objects {
            if reader.is_over() {
                break;
            }
            reader.callable_name(object);
            threads::accounts(&mut reader, object);
            let _ = reader.set(object);
        }
        scan.run(&mut reader, &mut fact);
        fact.limits = reader.limits;
        (reader.failed, fact)
    }

    /// Whatever memory holds, a scan comes to an end, and says what it could not read.
    #[test]
    fn a_scan_of_noise_ends() {
        let options = ScanOptions {
            tasks: 100,
            chain: 16,
            bytes: 1 << 20,
            ..ScanOptions::default()
        };
        let mut failed = 0;
        for seed in 0..200 {
            let minor = 8 + (seed % 8) as u8;
            let noise = Noise::new(minor, seed);
            failed += scan_noise(minor, &noise, &options, &|| None).0;
        }
        assert!(failed > 200, "{failed}");
    }

    /// However large everything is that a target has made up, a scan ends soon when it has to.
    #[test]
    fn a_scan_of_huge_noise_ends_when_it_has_to() {
        /// Each part of the scan, and what the test adds to them, may find out for itself.
        const MOST_AFTER: usize = 3000;
        let options = ScanOptions {
            bytes: 1 << 24,
            ..ScanOptions::default()
        };
        for seed in 0..8 {
            let minor = 8 + seed as u8;
            let noise = Noise::huge(minor, seed);
            for most in [0, 1, 3, 10, 30, 100, 300, 1000] {
                let asked = AtomicUsize::new(0);
                let is_over = || {
                    let before = asked.fetch_add(1, Ordering::Relaxed);
                    (before >= most).then(|| "time is up".to_owned())
                };
                let (_, fact) = scan_noise(minor, &noise, &options, &is_over);
                let asked = asked.load(Ordering::Relaxed);
                assert!(asked <= most + MOST_AFTER, "{seed}: {asked} after {most}");
                let is_said = fact.limits.contains_key("tasks");
                assert!(asked <= most || is_said, "{seed}: {:?}", fact.limits);
            }
        }
    }
}
