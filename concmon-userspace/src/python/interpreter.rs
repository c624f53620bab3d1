//! The interpreter of a living process: attached once, then scanned again and again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::detect::{self, DetectError, Found};
use super::layout::described::ASYNCIO_TABLE_BYTES;
use super::layout::{Layout, described};
use super::memory::process::ProcessView;
use super::memory::{IsOver, Memory, ProcessMemory, ReadCost, ReadError, UntilOver, at};
use super::objects::code::CodeCache;
use super::objects::object::{KEPT_ALL, Reader, kept_of};
use super::scan::{self, Known, Scan};
use super::unwind::Unwinder;
use super::walk::collector;
use super::walk::heap;
use super::walk::thread_states;
use crate::event::{Pid, PyHeapScan, PythonFact, PythonInfo};

/// A GIL struct: a thread that waits on a futex inside it waits for the GIL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GilRange {
    pub address: u64,
    pub size_bytes: u64,
}

/// What one scan covers, and how much of it.
#[derive(Clone, Debug)]
pub struct ScanOptions {
    /// Tasks that are read.
    pub tasks: usize,
    /// Frames of one await chain; 0: chains are not read.
    pub chain: usize,
    /// Frames of one thread's stack; 0: stacks are not read.
    pub stack: usize,
    /// Bytes of the process's memory that are read; a task with a chain of five takes about
    /// 1,500. What is kept of it, and the frames that are given, take an eighth of it each at most.
    pub bytes: usize,
    /// Names of the context variables whose values are read.
    pub context_vars: Vec<String>,
    /// Whether the heap is searched for futures that failed.
    pub heap_scan: bool,
}

/// Tasks that are read in one scan, unless less is asked for.
pub const MOST_TASKS: usize = 10_000;

impl Default for ScanOptions {
    fn default() -> Self {
        Self {
            tasks: MOST_TASKS,
            chain: 64,
            stack: 256,
            bytes: 256 << 20,
            context_vars: ["request_id", "correlation_id", "trace_id"]
                .map(str::to_owned)
                .to_vec(),
            heap_scan: false,
        }
    }
}

/// An interpreter in a living process.
#[derive(Debug)]
pub struct Interpreter {
    pub(super) pid: Pid,
    info: PythonInfo,
    pub(super) memory: Arc<dyn Memory>,
    pub(super) runtime: Option<(u64, Layout)>,
    asyncio: AsyncioTable,
    process: ProcessView,
    pub(super) codes: CodeCache,
    pub(super) unwinder: Unwinder,
    /// What looks found out about each interpreter of the process, by address.
    known: HashMap<u64, Known>,
}

/// Whether asyncio has been asked for its own offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AsyncioTable {
    /// It has none, or they are in the layout.
    Settled,
    /// It will have one when it is imported.
    Expected,
}

impl Interpreter {
    /// Says what the process runs. A Python that cannot be read is an interpreter too, whose
    /// [`info`](Self::info) says why.
    pub fn attach(pid: Pid) -> Result<Self, DetectError> {
        let memory = ProcessMemory::new(pid);
        let found = detect::detect(pid, &memory)?;
        Ok(Self::of(
            pid,
            found,
            Arc::new(memory),
            ProcessView::new(pid),
        ))
    }

    /// An interpreter that was found, with the memory and the process that it is read from.
    pub(super) fn of(
        pid: Pid,
        found: Found,
        memory: Arc<dyn Memory>,
        process: ProcessView,
    ) -> Self {
        let Found { info, runtime } = found;
        // Whoever keeps tasks in lists says where: the table came together with the lists.
        let has_lists = runtime
            .as_ref()
            .is_some_and(|(_, layout)| layout.walk.task.node.is_some());
        Self {
            pid,
            info,
            memory,
            runtime,
            asyncio: if has_lists {
                AsyncioTable::Expected
            } else {
                AsyncioTable::Settled
            },
            process,
            codes: CodeCache::default(),
            unwinder: Unwinder::default(),
            known: HashMap::new(),
        }
    }

    pub fn info(&self) -> &PythonInfo {
        &self.info
    }

    /// What reading the process took since it was attached to.
    pub fn cost(&self) -> ReadCost {
        self.memory.cost()
    }

    /// The GILs in the process, the main interpreter's first. Empty where none is known.
    pub fn gils(&self) -> Result<Vec<GilRange>, ReadError> {
        let Some((runtime, layout)) = &self.runtime else {
            return Ok(Vec::new());
        };
        let mut gils: Vec<GilRange> = Vec::new();
        for interpreter in thread_states::interpreters(&*self.memory, *runtime, layout)? {
            let address = detect::gil_of(&*self.memory, *runtime, interpreter, layout)?;
            let is_known = gils.iter().any(|gil| gil.address == address);
            if !is_known && detect::check_gil(&*self.memory, address).is_ok() {
                gils.push(GilRange {
                    address,
                    size_bytes: concmon_ebpf::GIL_SIZE,
                });
            }
        }
        Ok(gils)
    }

    /// One scan. It never fails as a whole: what could not be read is counted in `reads_failed`,
    /// and what is not covered is in `limits`. `read_ns` is the instant it is made at.
    pub fn scan(&mut self, read_ns: u64, options: &ScanOptions) -> PythonFact {
        self.scan_until(read_ns, options, &|| None)
    }

    /// As [`scan`](Self::scan), but it ends when `is_over` gives a reason, and has what was read by
    /// then. It is asked before each read, from the thread that calls this.
    pub fn scan_until(
        &mut self,
        read_ns: u64,
        options: &ScanOptions,
        is_over: &IsOver<'_>,
    ) -> PythonFact {
        let mut fact = PythonFact {
            read_ns,
            pid: self.pid,
            info: self.info.clone(),
            threads: Vec::new(),
            loops: Vec::new(),
            tasks: Vec::new(),
            gils: Vec::new(),
            gc: None,
            executors: Vec::new(),
            heap: None,
            reads_failed: 0,
            limits: BTreeMap::new(),
        };
        let Some((runtime, walk)) = self
            .runtime
            .as_ref()
            .map(|(runtime, layout)| (*runtime, layout.walk))
        else {
            return fact;
        };
        self.codes.begin(kept_of(options.bytes));
        self.process.begin();
        let memory = Arc::clone(&self.memory);
        let until = UntilOver {
            memory: &*memory,
            is_over,
        };
        let mut reader = Reader::new(&until, walk, options.bytes);
        let scanned = self.scan_all(&until, runtime, &mut reader, options, &mut fact);
        if let Err(error) = scanned {
            scan::note_over(&mut reader, error);
        }
        if options.heap_scan {
            fact.heap = self.scan_heap(runtime, &mut reader);
        }
        // What a walker could not read may be absent or gone: this says which.
        let is_there = memory.read_u64(runtime);
        if let Err(error) = scanned.and(is_there.map(drop))
            && error != ReadError::Over
        {
            reader.failed += 1;
            reader.limits.insert("python".to_owned(), error.to_string());
        }
        if self.codes.is_exhausted() {
            for field in ["python", "tasks"] {
                let reason = reader.limits.entry(field.to_owned());
                reason.or_insert_with(|| KEPT_ALL.to_owned());
            }
        }
        fact.reads_failed = reader.failed;
        fact.limits = reader.limits;
        fact
    }

    fn scan_heap(&self, runtime: u64, reader: &mut Reader<'_>) -> Option<PyHeapScan> {
        let (_, layout) = self.runtime?;
        let interpreters = thread_states::interpreters(&*self.memory, runtime, &layout).ok()?;
        let modules = at(*interpreters.first()?, layout.interpreter.modules);
        let modules = self.memory.read_u64(modules).ok()?;
        heap::scan(reader, self.pid, &self.process.all_mappings(), modules)
    }

    fn scan_all(
        &mut self,
        memory: &dyn Memory,
        runtime: u64,
        reader: &mut Reader<'_>,
        options: &ScanOptions,
        fact: &mut PythonFact,
    ) -> Result<(), ReadError> {
        let Some((_, mut layout)) = self.runtime else {
            return Ok(());
        };
        let interpreters = thread_states::interpreters(memory, runtime, &layout)?;
        self.known
            .retain(|address, _| interpreters.contains(address));
        for interpreter in &interpreters {
            let known = self.known.entry(*interpreter).or_default();
            known.find_modules(reader, *interpreter, &layout);
        }
        if self.asyncio == AsyncioTable::Expected && self.known.values().any(Known::has_asyncio) {
            self.asyncio = AsyncioTable::Settled;
            self.describe_asyncio(reader);
            if let Some((_, described)) = &self.runtime {
                layout = *described;
            }
        }
        if let Some(main) = interpreters.first() {
            match collector::read(reader, runtime, *main, &layout.collector) {
                Ok(collector) => fact.gc = Some(collector),
                Err(error) => {
                    reader.failed += 1;
                    reader.limits.insert("gc".to_owned(), error.to_string());
                }
            }
        }
        for interpreter in interpreters {
            let known = self.known.entry(interpreter).or_default();
            Scan {
                memory,
                runtime,
                layout: &layout,
                interpreter,
                process: &mut self.process,
                codes: &mut self.codes,
                known,
                options,
            }
            .run(reader, fact);
        }
        Ok(())
    }

    /// Takes asyncio's own offsets over. Without them the layout's row stays, and is used only as
    /// long as the size of tasks fits.
    fn describe_asyncio(&mut self, reader: &mut Reader<'_>) {
        let Some((_, layout)) = &mut self.runtime else {
            return;
        };
        let Some(address) = self.process.asyncio_table() else {
            return;
        };
        let mut table = [0; ASYNCIO_TABLE_BYTES];
        let mut described = *layout;
        if self.memory.read(address, &mut table).is_ok()
            && described::apply_asyncio(&mut described, &table).is_ok()
        {
            *layout = described;
            reader.set_layout(layout.walk);
        }
    }
}
