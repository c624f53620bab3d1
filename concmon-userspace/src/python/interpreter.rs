//! The interpreter of a living process: attached once, then scanned again and again.

use std::sync::Arc;

use concmon_ebpf::Python;

use super::attached::Attached;
use super::detect::{self, DetectError, Found, LiveProcess};
use super::memory::process::ProcessView;
use super::memory::{IsOver, Memory, ProcessMemory, ReadCost, ReadError};
use super::options::ScanOptions;
use super::probes::{self, ExactFutures, ExactTasks, NotExact};
use super::scan::Scanner;
use super::unwind::{StepAt, Unwinder};
use super::walk::thread_states;
use crate::decode::samples::RawSample;
use crate::event::{Pid, PythonFact, PythonInfo, Sample, StepFact};

/// A GIL struct: a thread that waits on a futex inside it waits for the GIL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GilRange {
    pub address: u64,
    pub size_bytes: u64,
}

impl GilRange {
    /// An address is inside it.
    pub const fn contains(&self, address: u64) -> bool {
        address.wrapping_sub(self.address) < self.size_bytes
    }
}

/// An interpreter in a living process.
#[derive(Debug)]
pub struct Interpreter {
    attached: Attached,
    /// `None`: it is lent.
    scanner: Option<Box<Scanner>>,
    unwinder: Unwinder,
}

/// What scans an interpreter while samples of it are resolved elsewhere.
#[derive(Debug)]
pub struct LentScanner {
    attached: Attached,
    scanner: Box<Scanner>,
}

impl LentScanner {
    /// As [`Interpreter::scan_until`].
    pub fn scan_until(
        &mut self,
        read_ns: u64,
        options: &ScanOptions,
        is_over: &IsOver<'_>,
    ) -> PythonFact {
        self.scanner
            .scan(&mut self.attached, read_ns, options, is_over)
    }
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
            ProcessView::of(Box::new(LiveProcess(pid))),
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
        let attached = Attached {
            pid,
            info,
            memory,
            runtime,
        };
        Self {
            scanner: Some(Box::new(Scanner::new(&attached, process))),
            attached,
            unwinder: Unwinder::default(),
        }
    }

    pub fn info(&self) -> &PythonInfo {
        &self.attached.info
    }

    /// What reading the process took since it was attached to.
    pub fn cost(&self) -> ReadCost {
        self.attached.memory.cost()
    }

    /// The GILs in the process, the main interpreter's first. Empty where none is known.
    pub fn gils(&self) -> Result<Vec<GilRange>, ReadError> {
        let Some((runtime, layout)) = &self.attached.runtime else {
            return Ok(Vec::new());
        };
        let memory = &*self.attached.memory;
        let mut gils: Vec<GilRange> = Vec::new();
        for interpreter in thread_states::interpreters(memory, *runtime, layout)? {
            let address = detect::gil_of(memory, *runtime, interpreter, layout)?;
            let is_known = gils.iter().any(|gil| gil.address == address);
            if !is_known && detect::check_gil(memory, address).is_ok() {
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
        let Some(mut lent) = self.lend_scanner() else {
            let mut fact = PythonFact::new(self.attached.pid, read_ns, self.attached.info.clone());
            let reason = "it is being scanned already".to_owned();
            fact.limits.insert("python".to_owned(), reason);
            return fact;
        };
        let fact = lent.scan_until(read_ns, options, is_over);
        self.take_back(lent);
        fact
    }

    /// What scans it is with another thread.
    pub fn is_lent(&self) -> bool {
        self.scanner.is_none()
    }

    /// What scans it, for another thread; `None`: it is lent already.
    pub fn lend_scanner(&mut self) -> Option<LentScanner> {
        let scanner = self.scanner.take()?;
        Some(LentScanner {
            attached: self.attached.clone(),
            scanner,
        })
    }

    /// Takes it back, with what it found out.
    pub fn take_back(&mut self, lent: LentScanner) {
        self.attached = lent.attached;
        self.scanner = Some(lent.scanner);
    }

    /// What kernel programs need to walk this interpreter's stacks. To be asked after each scan, for
    /// it may change when asyncio is imported. A step is told at once when it is `long_ns` old.
    ///
    /// # Errors
    /// Why they cannot, in a sentence.
    pub fn unwind_config(&mut self, long_ns: u64) -> Result<Python, String> {
        self.unwinder.config(&self.attached, long_ns)
    }

    /// It was scanned: what was at an address may be gone.
    pub fn begin_scan(&mut self) {
        self.unwinder.begin_scan(self.attached.pid);
    }

    /// Turns stacks of addresses into stacks of names. Those of other processes are left out.
    pub fn resolve(&mut self, raw: &[RawSample]) -> Vec<Sample> {
        self.unwinder.resolve(&self.attached, raw)
    }

    /// Looks at the step that a thread is in, and at its stack. `None`: the step that was meant is over, or
    /// it could not be read.
    pub fn step(
        &mut self,
        read_ns: u64,
        whose: &StepAt,
        options: &ScanOptions,
    ) -> Option<(StepFact, Sample)> {
        self.unwinder.step(&self.attached, read_ns, whose, options)
    }

    /// Where tasks begin, run and end in this process.
    ///
    /// # Errors
    /// Why that cannot be told, or not yet.
    pub fn exact_tasks(&self) -> Result<ExactTasks, NotExact> {
        probes::tasks(&self.attached)
    }

    /// Where work is submitted to thread pools, fails, and is asked for its exception.
    ///
    /// # Errors
    /// Why that cannot be told, or not yet.
    pub fn exact_futures(&self) -> Result<ExactFutures, NotExact> {
        probes::futures(&self.attached)
    }
}
