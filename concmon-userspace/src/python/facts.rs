//! From what the walkers find to one fact: a bounded look at an interpreter.

use std::collections::{BTreeMap, HashMap};

use super::code::CodeCache;
use super::detect::{self, DetectError, Found};
use super::layout::{Layout, WalkLayout};
use super::memory::{Memory, ProcessMemory, ReadError, at};
use super::object::Reader;
use super::process::ProcessView;
use super::states::{self, ThreadRecord};
use super::threads::{self, ThreadAccount};
use crate::event::{Pid, PyThread, PythonFact, PythonInfo};

/// A GIL struct: a thread that waits on a futex inside it waits for the GIL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GilRange {
    pub address: u64,
    pub size_bytes: u64,
}

/// How much one look may cover.
#[derive(Clone, Copy, Debug)]
pub struct LookBudget {
    /// Tasks whose await chains are read.
    pub tasks: usize,
    /// Frames of one await chain.
    pub chain: usize,
}

impl Default for LookBudget {
    fn default() -> Self {
        Self {
            tasks: 10_000,
            chain: 64,
        }
    }
}

/// An interpreter in a living process.
#[derive(Debug)]
pub struct Interpreter {
    pid: Pid,
    info: PythonInfo,
    memory: ProcessMemory,
    runtime: Option<(u64, Layout)>,
    process: ProcessView,
    codes: CodeCache,
    modules: HashMap<u64, ModuleCache>,
    /// Thread states of the look before, by interpreter.
    known_threads: HashMap<u64, Vec<u64>>,
}

/// Modules found in an interpreter's `sys.modules`, good as long as that has not changed.
#[derive(Debug, Default)]
struct ModuleCache {
    fingerprint: Option<[u64; 4]>,
    /// The dicts of the modules in the order of [`MODULES`].
    dicts: Vec<Option<u64>>,
}

/// The modules that walkers look into.
const MODULES: &[&str] = &["threading"];
const THREADING: usize = 0;

impl Interpreter {
    /// Says what the process runs. A Python that cannot be read is an interpreter too, whose
    /// [`info`](Self::info) says why.
    pub fn attach(pid: Pid) -> Result<Self, DetectError> {
        let memory = ProcessMemory::new(pid);
        let Found { info, runtime } = detect::detect(pid, &memory)?;
        Ok(Self {
            pid,
            info,
            memory,
            runtime,
            process: ProcessView::new(pid),
            codes: CodeCache::default(),
            modules: HashMap::new(),
            known_threads: HashMap::new(),
        })
    }

    pub fn info(&self) -> &PythonInfo {
        &self.info
    }

    /// The GILs in the process, the main interpreter's first. Empty where none is known.
    pub fn gils(&self) -> Result<Vec<GilRange>, ReadError> {
        let Some((runtime, layout)) = &self.runtime else {
            return Ok(Vec::new());
        };
        let mut gils: Vec<GilRange> = Vec::new();
        for interpreter in states::interpreters(&self.memory, *runtime, layout)? {
            let address = detect::gil_of(&self.memory, *runtime, interpreter, layout)?;
            let known = gils.iter().any(|gil| gil.address == address);
            if !known && detect::check_gil(&self.memory, address).is_ok() {
                gils.push(GilRange {
                    address,
                    size_bytes: concmon_ebpf::GIL_SIZE,
                });
            }
        }
        Ok(gils)
    }

    /// One look. It never fails as a whole: what could not be read is counted in `reads_failed`,
    /// and what is not covered is in `limits`. `read_ns` is the instant it is made at.
    pub fn look(&mut self, read_ns: u64, budget: LookBudget) -> PythonFact {
        let mut fact = PythonFact {
            read_ns,
            pid: self.pid,
            info: self.info.clone(),
            threads: Vec::new(),
            loops: Vec::new(),
            tasks: Vec::new(),
            reads_failed: 0,
            limits: BTreeMap::new(),
        };
        let Some((runtime, layout)) = self.runtime.clone() else {
            return fact;
        };
        let Some(walk) = layout.walk else {
            return fact;
        };
        self.codes.begin();
        self.process.begin();
        let mut reader = Reader::new(&self.memory, &walk);
        match states::interpreters(&self.memory, runtime, &layout) {
            Ok(interpreters) => {
                self.modules
                    .retain(|address, _| interpreters.contains(address));
                self.known_threads
                    .retain(|address, _| interpreters.contains(address));
                for interpreter in interpreters {
                    let mut look = InterpreterLook {
                        memory: &self.memory,
                        process: &mut self.process,
                        modules: self.modules.entry(interpreter).or_default(),
                        known_threads: self.known_threads.entry(interpreter).or_default(),
                        layout: &layout,
                        walk: &walk,
                        address: interpreter,
                    };
                    look.run(&mut reader, budget, &mut fact);
                }
            }
            Err(error) => {
                reader.failed += 1;
                reader.limits.insert("python".to_owned(), error.to_string());
            }
        }
        fact.reads_failed = reader.failed;
        fact.limits = reader.limits;
        fact
    }
}

/// One interpreter's part of a look.
struct InterpreterLook<'a> {
    memory: &'a dyn Memory,
    process: &'a mut ProcessView,
    modules: &'a mut ModuleCache,
    known_threads: &'a mut Vec<u64>,
    layout: &'a Layout,
    walk: &'a WalkLayout,
    address: u64,
}

impl InterpreterLook<'_> {
    fn run(&mut self, reader: &mut Reader<'_>, _budget: LookBudget, fact: &mut PythonFact) {
        let records = match states::threads(
            self.memory,
            self.address,
            self.layout.interpreter.threads_head,
            &self.walk.thread,
            self.known_threads,
        ) {
            Ok(records) => records,
            Err(error) => {
                reader.failed += 1;
                reader
                    .limits
                    .insert("threads".to_owned(), error.to_string());
                return;
            }
        };
        *self.known_threads = records.iter().map(|record| record.address).collect();
        self.find_modules(reader);
        self.add_threads(reader, &records, fact);
    }

    fn find_modules(&mut self, reader: &mut Reader<'_>) {
        let place = at(self.address, self.layout.interpreter.modules);
        let found = reader
            .pointer(place)
            .ok()
            .and_then(|modules| Some((modules, reader.dict_fingerprint(modules)?)));
        let Some((modules, fingerprint)) = found else {
            reader.failed += 1;
            return;
        };
        if self.modules.fingerprint == Some(fingerprint) {
            return;
        }
        let Some(found) = reader.dict_values(modules, MODULES) else {
            reader.failed += 1;
            return;
        };
        self.modules.dicts = found
            .into_iter()
            .map(|module| reader.module_dict(module?))
            .collect();
        self.modules.fingerprint = Some(fingerprint);
    }

    /// The attributes `names` of one of [`MODULES`]; `None` when it is not imported.
    fn module_attributes(
        &self,
        reader: &mut Reader<'_>,
        module: usize,
        names: &[&str],
    ) -> Option<Vec<Option<u64>>> {
        let dict = (*self.modules.dicts.get(module)?)?;
        reader.dict_values(dict, names)
    }

    fn accounts(&self, reader: &mut Reader<'_>) -> HashMap<u64, ThreadAccount> {
        let Some(found) = self.module_attributes(reader, THREADING, &["_active"]) else {
            reader
                .limits
                .entry("threads.name".to_owned())
                .or_insert_with(|| "the program has not imported threading".to_owned());
            return HashMap::new();
        };
        let accounts = found[0].and_then(|active| threads::accounts(reader, active));
        accounts.unwrap_or_else(|| {
            reader.failed += 1;
            let reason = "threading._active could not be read".to_owned();
            reader.limits.insert("threads.name".to_owned(), reason);
            HashMap::new()
        })
    }

    fn add_threads(
        &mut self,
        reader: &mut Reader<'_>,
        records: &[ThreadRecord],
        fact: &mut PythonFact,
    ) {
        let mut accounts = self.accounts(reader);
        let idents = records
            .iter()
            .map(|record| record.field(self.walk.thread.ident));
        self.process.find_stacks(self.memory, idents);
        for record in records {
            let ident = record.field(self.walk.thread.ident);
            let native = record.field(self.walk.thread.native_id);
            // A state whose thread has not begun yet has no ids.
            if ident == 0 || native == 0 {
                continue;
            }
            let Some(tid) = self.process.tid(native) else {
                continue;
            };
            let account = accounts.remove(&ident).unwrap_or_default();
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
            };
            // A thread that has entered several interpreters has a state in each.
            match fact.threads.iter_mut().find(|known| known.tid == tid) {
                None => fact.threads.push(thread),
                Some(known) if known.name.is_none() && thread.name.is_some() => *known = thread,
                Some(_) => {}
            }
        }
    }
}
