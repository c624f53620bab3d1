//! The live source: loads the kernel programs, and brings what they record and account for.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read as _,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use aya::{
    Btf, Ebpf, EbpfLoader, Pod,
    maps::{
        Array, HashMap, MapData, PerCpuArray, PerfEventArray, Stack,
        perf::{PerfEvent, PerfEventArrayBuffer},
    },
    programs::{
        BtfTracePoint, Iter, PerfEvent as PerfEventProgram,
        perf_event::{
            PerfEventConfig, PerfEventLinkId, PerfEventScope, SamplePolicy, SoftwareEvent,
        },
    },
    util::{nr_cpus, online_cpus},
};
use aya_log::EbpfLogger;
use concmon_ebpf::{
    Batch, Control, KernelConfig, Ledger, MAX_GILS, MAX_SLOTS, Process, Python, SLOTS_PER_PAGE,
    SampleBatch, SelfTest, SlotPage, SyscallEntry, state,
};

pub use super::error::LiveError;
use super::{
    error::{buffers_failed, failed, failing, permission_or},
    exact::{CALLS, ExactLive, FAILED, PLACES, POOLS, ROWS, TASKS},
    host::{highest_tid, kernel_config, lift_memlock},
    run_time::RunTime,
    run_time_switch::Switch,
    shared::SharedArray,
    unsent::Unsent,
};
use crate::{
    event::{Pid, Tid},
    kernel::{
        offsets::{Offsets, btf_path},
        self_test, syscalls,
    },
};

/// A wire type as a map value: `Pod` is a foreign trait, so each gets a transparent wrapper.
macro_rules! wire_values {
    ($($name:ident($inner:ty);)*) => {
        $(
            #[repr(transparent)]
            #[derive(Clone, Copy)]
            struct $name($inner);
            // SAFETY: plain `repr(C)` integers without padding.
            unsafe impl Pod for $name {}
        )*
    };
}

wire_values! {
    ConfigValue(KernelConfig);
    ProcessValue(Process);
    PythonValue(Python);
    SyscallValue(SyscallEntry);
    SelfTestValue(SelfTest);
}

/// The kernel programs, compiled from `concmon-ebpf` and committed beside its source.
const PREBUILT: &[u8] =
    aya::include_bytes_aligned!("../../../concmon-ebpf/prebuilt/concmon-ebpf.o");

/// What the kernel side is sized for.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Threads that can be accounted for at one time.
    pub threads: u32,
    /// Processes that can be watched at one time.
    pub processes: u32,
    /// Tasks can be counted exactly.
    pub exact: bool,
}

impl Sizes {
    /// Room for four times what is there, within bounds; `exact`: tasks can be counted exactly.
    pub fn for_threads(threads: usize, exact: bool) -> Self {
        let threads = u32::try_from(threads).unwrap_or(u32::MAX);
        Self {
            threads: threads
                .saturating_mul(4)
                .clamp(2_048, MAX_SLOTS)
                .next_power_of_two(),
            processes: 4_096,
            exact,
        }
    }
}

/// Batches older than this are sent with the next event or tick.
const BATCH_AGE: Duration = Duration::from_millis(150);
/// Ticks per second and CPU that look for old batches.
const TICKS_PER_SECOND: u64 = 5;
/// Attached in this order: births first, so that no thread of a watched process is missed.
const HOOKS: [&str; 5] = [
    "sched_process_fork",
    "sched_process_exec",
    "sched_process_exit",
    "sched_waking",
    "sched_switch",
];
/// The programs that clocks run: the low-rate one, and the one that samples.
const CLOCKS: [&str; 2] = ["tick", "sample"];
/// Pages of each CPU's buffer of samples.
const SAMPLE_PAGES: usize = 64;
/// Between the two walks that seed: longer than any switch takes.
const SEED_PAUSE: Duration = Duration::from_millis(2);
/// How many never-used slots in a row end the search for used ones.
const UNUSED_RUN: usize = 64;
/// Change an entry that is there, make none (include/uapi/linux/bpf.h).
const BPF_EXIST: u64 = 2;

/// The kernel side of a watch. Dropping it removes everything from the kernel.
pub struct Live {
    ebpf: Ebpf,
    buffers: Vec<PerfEventArrayBuffer<MapData>>,
    sample_buffers: Vec<PerfEventArrayBuffer<MapData>>,
    ledgers: SharedArray<Ledger>,
    control: SharedArray<Control>,
    slots: SharedArray<SlotPage>,
    free: Stack<MapData, u32>,
    processes: HashMap<MapData, u32, ProcessValue>,
    pythons: HashMap<MapData, u32, PythonValue>,
    /// What CPUs that sleep have not sent yet.
    records: Unsent<Batch>,
    samples: Unsent<SampleBatch>,
    /// The clocks that sample.
    sample_links: Vec<PerfEventLinkId>,
    /// Why stacks cannot be sampled on this kernel; `None`: they can.
    no_samples: Option<&'static str>,
    faults: PerCpuArray<MapData, u64>,
    /// The rare warnings of kernel programs, passed on to this program's log.
    warnings: Option<EbpfLogger<&'static dyn log::Log>>,
    /// Tasks that are counted exactly, where that was asked for.
    exact: Option<ExactLive>,
    highest_slot: usize,
    run_time: RunTime,
    /// Accounts that could not be read in one piece.
    pub reads_failed: u64,
    /// What blocked threads wait for is told by their registers; else by their state alone.
    knows_causes: bool,
    healed: BTreeSet<usize>,
}

/// What an account's slot is good for after it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collected {
    /// The thread lives, or its account is a sum that goes on.
    Keep,
    /// The thread is dead and has been accounted for: give the slot back.
    Free,
    /// The thread is gone although its account does not say so: give the slot back.
    Abandon,
}

impl Live {
    /// Loads the kernel programs for this kernel and checks them on this process itself.
    /// Nothing is attached yet.
    pub fn load(sizes: Sizes) -> Result<Self, LiveError> {
        let (offsets, switch_arguments) = Offsets::of_running_kernel()
            .map_err(|error| LiveError::Unsupported(error.to_string()))?;
        let btf = Btf::parse_file(btf_path(), aya::Endianness::default())
            .map_err(failing!("reading the kernel's BTF"))?;

        // It is forked, so it comes before what a child would hold, too.
        let run_time = RunTime::new(Switch::new(sizes.exact));
        let mut last_error = None;
        for has_task_regs in [true, false] {
            let config = KernelConfig {
                has_task_regs: u32::from(has_task_regs),
                has_current_task_btf: u32::from(has_task_regs),
                slots: sizes.threads,
                fold_above: sizes.threads - sizes.threads / 8,
                batch_age_ns: BATCH_AGE.as_nanos() as u32,
                ..kernel_config(&offsets, switch_arguments)
            };
            match Self::load_with(&config, sizes, &btf) {
                Ok(mut live) => {
                    live.run_time = run_time;
                    if let Some(error) = &last_error {
                        log::info!(
                            "loaded without newer kernel features; the first try said: {error}"
                        );
                    }
                    drop(btf);
                    // SAFETY: gives free heap pages back; has no other effect.
                    unsafe { libc::malloc_trim(0) };
                    return Ok(live);
                }
                Err(error @ LiveError::Failed { .. }) => last_error = Some(error),
                Err(error) => return Err(error),
            }
        }
        let error = last_error.map_or(String::new(), |error| format!(": {error}"));
        Err(LiveError::Unsupported(format!(
            "this kernel does not take the kernel programs{error}"
        )))
    }

    fn load_with(config: &KernelConfig, sizes: Sizes, btf: &Btf) -> Result<Self, LiveError> {
        let config = ConfigValue(*config);
        let slot_pages = highest_tid().map_err(failing!("reading the range of thread ids"))?
            / SLOTS_PER_PAGE as u32
            + 1;
        let cpu_count = nr_cpus().map_err(|(_, error)| failed("counting CPUs")(&error))?;
        lift_memlock();
        let mut loader = EbpfLoader::new();
        loader
            .btf(Some(btf))
            .override_global("CONFIG", &config, true)
            .map_max_entries("LEDGERS", sizes.threads)
            .map_max_entries("FREE_SLOTS", sizes.threads)
            .map_max_entries("PROCESSES", sizes.processes)
            .map_max_entries("PYTHONS", sizes.processes)
            .map_max_entries("BATCHES", cpu_count as u32)
            .map_max_entries("SAMPLE_BATCHES", cpu_count as u32)
            .map_max_entries("SLOTS", slot_pages);
        if sizes.exact {
            loader
                .map_max_entries("EXACT", sizes.processes)
                .map_max_entries("EXACT_TASKS", TASKS)
                .map_max_entries("EXACT_ROWS", ROWS)
                .map_max_entries("EXACT_CALLS", CALLS)
                .map_max_entries("EXACT_PLACES", PLACES)
                .map_max_entries("EXACT_FUTURES", sizes.processes)
                .map_max_entries("EXACT_POOLS", POOLS)
                .map_max_entries("EXACT_FAILED", FAILED);
        }
        let mut ebpf = loader
            .load(PREBUILT)
            .map_err(|error| permission_or(&error))?;

        for name in HOOKS {
            let program: &mut BtfTracePoint = program(&mut ebpf, name)?;
            program
                .load(name, btf)
                .map_err(|error| permission_or(&error))?;
        }
        for name in ["seed", "self_test"] {
            let program: &mut Iter = program(&mut ebpf, name)?;
            program
                .load("task", btf)
                .map_err(|error| permission_or(&error))?;
        }
        for name in CLOCKS {
            let clock: &mut PerfEventProgram = program(&mut ebpf, name)?;
            clock.load().map_err(|error| permission_or(&error))?;
        }

        let mut syscalls = Array::<_, SyscallValue>::try_from(map(&mut ebpf, "SYSCALLS")?)
            .map_err(failing!("opening a map"))?;
        for (number, entry) in (0..).zip(syscalls::table()) {
            syscalls
                .set(number, SyscallValue(entry), 0)
                .map_err(failing!("filling a map"))?;
        }
        let mut free = Stack::<_, u32>::try_from(map(&mut ebpf, "FREE_SLOTS")?)
            .map_err(failing!("opening a map"))?;
        for slot in (1..sizes.threads).rev() {
            free.push(slot, 0).map_err(failing!("filling a map"))?;
        }
        let len = sizes.threads as usize;
        let ledgers = map(&mut ebpf, "LEDGERS")?;
        let ledgers =
            SharedArray::new(array_fd(&ledgers)?, len).map_err(failing!("mapping the ledgers"))?;
        let control = map(&mut ebpf, "CONTROL")?;
        let control =
            SharedArray::new(array_fd(&control)?, 1).map_err(failing!("mapping the counters"))?;
        let batches = map(&mut ebpf, "BATCHES")?;
        let records_left = SharedArray::new(array_fd(&batches)?, cpu_count)
            .map_err(failing!("mapping the batches"))?;
        let batches = map(&mut ebpf, "SAMPLE_BATCHES")?;
        let samples_left = SharedArray::new(array_fd(&batches)?, cpu_count)
            .map_err(failing!("mapping the batches of samples"))?;
        let slots = map(&mut ebpf, "SLOTS")?;
        let slots = SharedArray::new(array_fd(&slots)?, slot_pages as usize)
            .map_err(failing!("mapping the slots"))?;
        let mut records = PerfEventArray::try_from(map(&mut ebpf, "RECORDS")?)
            .map_err(failing!("opening a map"))?;
        let cpus = online_cpus().map_err(|(_, error)| failed("listing CPUs")(&error))?;
        let pages = if cpus.len() <= 32 { 256 } else { 128 };
        let open = |records: &mut PerfEventArray<MapData>, pages| {
            cpus.iter()
                .map(|&cpu| records.open(cpu, Some(pages)))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| buffers_failed(&error))
        };
        let buffers = open(&mut records, pages)?;
        let mut samples = PerfEventArray::try_from(map(&mut ebpf, "SAMPLES")?)
            .map_err(failing!("opening a map"))?;
        let sample_buffers = open(&mut samples, SAMPLE_PAGES)?;

        let mut live = Self {
            buffers,
            sample_buffers,
            ledgers,
            control,
            slots,
            free,
            processes: HashMap::try_from(map(&mut ebpf, "PROCESSES")?)
                .map_err(failing!("opening a map"))?,
            pythons: HashMap::try_from(map(&mut ebpf, "PYTHONS")?)
                .map_err(failing!("opening a map"))?,
            records: Unsent::new(records_left),
            samples: Unsent::new(samples_left),
            sample_links: Vec::new(),
            no_samples: match (config.0.has_task_regs, config.0.has_task_tls) {
                (0, _) => Some("this kernel is too old to sample stacks (5.15 is needed)"),
                (_, 0) => Some("stacks cannot be sampled on this processor architecture"),
                _ => None,
            },
            faults: PerCpuArray::try_from(map(&mut ebpf, "FAULTS")?)
                .map_err(failing!("opening a map"))?,
            warnings: EbpfLogger::init(&mut ebpf)
                .inspect_err(|error| log::debug!("no warnings from kernel programs: {error}"))
                .ok(),
            exact: sizes
                .exact
                .then(|| ExactLive::load(&mut ebpf))
                .transpose()?,
            highest_slot: 0,
            run_time: RunTime::new(Switch::Own(None)),
            reads_failed: 0,
            knows_causes: config.0.has_task_regs != 0,
            healed: BTreeSet::new(),
            ebpf,
        };
        live.self_test(&config.0)?;
        Ok(live)
    }

    /// Runs the self-test program over this process, and compares what it read by offsets with
    /// what the kernel says of us elsewhere.
    fn self_test(&mut self, config: &KernelConfig) -> Result<(), LiveError> {
        let expected =
            self_test::Expected::before().map_err(failing!("reading this process's own state"))?;
        let fd = self.run_iterator("self_test")?;
        let results = Array::<_, SelfTestValue>::try_from(map(&mut self.ebpf, "SELF_TEST")?)
            .map_err(failing!("opening a map"))?;
        let SelfTestValue(seen) = results
            .get(&0, 0)
            .map_err(failing!("reading the self-test"))?;
        expected
            .check(&seen, fd, config.has_task_regs != 0)
            .map_err(|error| LiveError::Unsupported(error.to_string()))
    }

    /// Walks all tasks with the iterator program `name`; returns the descriptor it was read by.
    fn run_iterator(&mut self, name: &'static str) -> Result<i32, LiveError> {
        let program: &mut Iter = program(&mut self.ebpf, name)?;
        let link = program.attach().map_err(|error| permission_or(&error))?;
        let link = program
            .take_link(link)
            .map_err(failing!("attaching an iterator"))?;
        let mut file = link.into_file().map_err(failing!("opening an iterator"))?;
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        let mut output = [0; 64];
        while file
            .read(&mut output)
            .map_err(failing!("walking the tasks"))?
            != 0
        {}
        Ok(fd)
    }

    /// From now on, threads of `pid` are accounted for when they are born (and, with `follow`,
    /// those of its children); existing ones are when [`Live::seed`] runs.
    pub fn watch(&mut self, pid: Pid, gils: &[u64], follow: bool) -> Result<(), LiveError> {
        let process = Process {
            gils: first_gils(gils),
            follow: u32::from(follow),
            fold_slot: 0,
        };
        self.processes
            .insert(pid.0, ProcessValue(process), 0)
            .map_err(failing!("adding a process"))
    }

    /// A watched process is gone, or no longer wanted.
    pub fn unwatch(&mut self, pid: Pid) {
        // Missing is what is wanted.
        let _ = self.processes.remove(&pid.0);
        self.forget_python(pid);
    }

    /// Why stacks cannot be sampled on this kernel; `None`: they can.
    pub fn no_samples(&self) -> Option<&'static str> {
        self.no_samples
    }

    /// From now on, stacks of `pid` can be walked.
    pub fn set_python(&mut self, pid: Pid, python: &Python) {
        if self.processes.get(&pid.0, 0).is_err() {
            return;
        }
        if let Err(error) = self.pythons.insert(pid.0, PythonValue(*python), 0) {
            log::debug!("process {pid}: its stacks are not sampled: {error}");
        }
    }

    /// Another program runs in `pid`, or none any more.
    pub fn forget_python(&mut self, pid: Pid) {
        // Missing is what is wanted.
        let _ = self.pythons.remove(&pid.0);
    }

    /// The part that counts tasks exactly, with the programs that it attaches; `None`: not asked for.
    pub fn exact(&mut self) -> Option<(&mut ExactLive, &mut Ebpf)> {
        Some((self.exact.as_mut()?, &mut self.ebpf))
    }

    /// How often thread `tid` gives a stack when it blocks, in the long run.
    pub fn set_stack_interval(&mut self, pid: Pid, tid: Tid, interval: Duration) {
        if let Some(slot) = self.slots.slot_of(tid.0) {
            let interval_ns = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
            self.ledgers.set_stack_interval(slot, pid.0, interval_ns);
        }
    }

    /// The processes watched now, those that joined at fork included.
    pub fn watched(&self) -> Vec<Pid> {
        self.processes
            .keys()
            .filter_map(Result::ok)
            .map(Pid)
            .collect()
    }

    /// The addresses of `pid`'s GILs have become known, or have changed.
    pub fn set_gils(&mut self, pid: Pid, gils: &[u64]) {
        let gils = first_gils(gils);
        if let Ok(ProcessValue(mut process)) = self.processes.get(&pid.0, 0) {
            process.gils = gils;
            // It may have ended meanwhile: its id must not come back, for another one may get it.
            let _ = self
                .processes
                .insert(pid.0, ProcessValue(process), BPF_EXIST);
        }
        for slot in 1..=self.find_highest_slot() {
            if self.ledgers.is_used(slot) {
                self.ledgers.set_gils(slot, pid.0, &gils);
            }
        }
    }

    /// Attaches the hooks, and the sampling clock with `rate` samples per second and CPU; 0: none.
    pub fn attach(&mut self, rate: u32) -> Result<(), LiveError> {
        for name in HOOKS {
            let program: &mut BtfTracePoint = program(&mut self.ebpf, name)?;
            program.attach().map_err(|error| permission_or(&error))?;
        }
        self.attach_clock(CLOCKS[0], TICKS_PER_SECOND)?;
        self.set_sample_rate(rate)
    }

    /// From now on, so many samples per second and CPU; 0: none.
    pub fn set_sample_rate(&mut self, rate: u32) -> Result<(), LiveError> {
        let name = CLOCKS[1];
        let clock: &mut PerfEventProgram = program(&mut self.ebpf, name)?;
        for link in self.sample_links.drain(..) {
            clock.detach(link).map_err(failing!("detaching a clock"))?;
        }
        if self.no_samples.is_none() {
            self.sample_links = self.attach_clock(name, u64::from(rate))?;
        }
        Ok(())
    }

    /// Has a program run `rate` times a second on each CPU; 0: never.
    fn attach_clock(
        &mut self,
        name: &'static str,
        rate: u64,
    ) -> Result<Vec<PerfEventLinkId>, LiveError> {
        let Some(period_ns) = 1_000_000_000u64.checked_div(rate) else {
            return Ok(Vec::new());
        };
        let cpus = online_cpus().map_err(|(_, error)| failed("listing CPUs")(&error))?;
        let clock: &mut PerfEventProgram = program(&mut self.ebpf, name)?;
        cpus.iter()
            .map(|cpu| {
                clock
                    .attach(
                        PerfEventConfig::Software(SoftwareEvent::CpuClock),
                        PerfEventScope::AllProcessesOneCpu { cpu: *cpu },
                        SamplePolicy::Period(period_ns),
                        false,
                    )
                    .map_err(|error| permission_or(&error))
            })
            .collect()
    }

    /// Opens accounts for the threads that watched processes already have. The second walk corrects
    /// those that switched while they were being seeded; by then their switch is long over.
    pub fn seed(&mut self) -> Result<(), LiveError> {
        self.run_iterator("seed")?;
        std::thread::sleep(SEED_PAUSE);
        self.run_iterator("seed")?;
        Ok(())
    }

    /// The probes in watched processes. They are taken away when this is dropped, which takes the kernel
    /// a tenth of a second for each.
    pub fn take_exact(&mut self) -> Option<ExactLive> {
        self.exact.take()
    }

    /// Takes the hooks away, other than probes in watched processes. What is in maps and buffers stays
    /// readable.
    pub fn detach(&mut self) {
        for name in HOOKS {
            if let Ok(program) = program::<BtfTracePoint>(&mut self.ebpf, name) {
                let _ = program.unload();
            }
        }
        for name in CLOCKS {
            if let Ok(program) = program::<PerfEventProgram>(&mut self.ebpf, name) {
                let _ = program.unload();
            }
        }
    }

    /// Descriptors that become readable when a batch has arrived.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let buffers = self.buffers.iter().chain(&self.sample_buffers);
        buffers.map(AsFd::as_fd)
    }

    /// Hands every batch that has arrived to `sink`, as it came.
    pub fn drain(&mut self, mut sink: impl FnMut(&[u8])) {
        if let Some(warnings) = &mut self.warnings {
            warnings.flush();
        }
        let unsent = &mut self.records;
        drain_buffers(&mut self.buffers, |bytes| unsent.came(bytes, &mut sink));
    }

    /// Hands every batch of samples that has arrived to `sink`, as it came.
    pub fn drain_samples(&mut self, mut sink: impl FnMut(&[u8])) {
        let unsent = &mut self.samples;
        drain_buffers(&mut self.sample_buffers, |bytes| {
            unsent.came(bytes, &mut sink);
        });
    }

    /// Hands over what lies in batches since before `opened_ns`: a CPU that sleeps sends nothing. With
    /// the latest of all instants, everything.
    pub fn drain_unsent(&mut self, opened_ns: u64, mut sink: impl FnMut(&[u8])) {
        self.records.take(opened_ns, &mut sink);
    }

    /// The same for samples.
    pub fn drain_unsent_samples(&mut self, opened_ns: u64, mut sink: impl FnMut(&[u8])) {
        self.samples.take(opened_ns, &mut sink);
    }

    /// Reads every account in use, or only those of ended threads. `visit` gets a consistent copy and
    /// says whether a dead one's slot can be given back.
    pub fn read_ledgers(&mut self, ended_only: bool, mut visit: impl FnMut(&Ledger) -> Collected) {
        for slot in 1..=self.find_highest_slot() {
            let state = self.ledgers.state(slot);
            if state == state::FREE || (ended_only && state != state::DEAD) {
                continue;
            }
            let Some((ledger, healed)) = self.ledgers.read(slot) else {
                self.reads_failed += 1;
                continue;
            };
            if healed {
                self.healed.insert(slot);
            }
            if ledger.state == state::FREE {
                continue;
            }
            match visit(&ledger) {
                Collected::Free if ledger.state == state::DEAD => self.free_slot(slot),
                Collected::Abandon => {
                    self.slots.untie(ledger.tid, slot);
                    self.free_slot(slot);
                }
                Collected::Free | Collected::Keep => {}
            }
        }
    }

    fn free_slot(&mut self, slot: usize) {
        self.ledgers.clear(slot);
        if self.free.push(slot as u32, 0).is_ok() {
            self.control.slot_freed();
        } else {
            self.reads_failed += 1;
        }
    }

    /// Slots are handed out lowest first, so used ones lie together.
    fn find_highest_slot(&mut self) -> usize {
        let mut unused = 0;
        let mut slot = self.highest_slot + 1;
        while slot < self.ledgers.len() && unused < UNUSED_RUN {
            if self.ledgers.is_used(slot) {
                self.highest_slot = slot;
                unused = 0;
            } else {
                unused += 1;
            }
            slot += 1;
        }
        self.highest_slot
    }

    /// Whether this kernel tells which system call a blocked thread is in (5.15).
    pub fn knows_causes(&self) -> bool {
        self.knows_causes
    }

    /// Slots whose account was found broken and was healed.
    pub fn healed(&self) -> u64 {
        self.healed.len() as u64
    }

    /// Kernel-side faults by declared code, summed over CPUs.
    pub fn faults(&self) -> [u64; concmon_ebpf::fault::COUNT] {
        let mut sums = [0; concmon_ebpf::fault::COUNT];
        for (code, sum) in (0..).zip(&mut sums) {
            if let Ok(counts) = self.faults.get(&code, 0) {
                *sum = counts.iter().sum();
            }
        }
        sums
    }

    /// Estimated run time of all kernel programs since they were attached, ns; `None` where the
    /// kernel does not tell, or has not been asked for long enough. `now_ns` is a monotonic instant.
    pub fn kernel_run_ns(&mut self, now_ns: u64) -> Option<u64> {
        let measured_ns = self.measured_run_ns();
        self.run_time.estimate(now_ns, measured_ns)
    }

    /// Goes on with measuring that run time, where it is time to.
    pub fn measure_run_time(&mut self, now_ns: u64) {
        if self.run_time.is_due(now_ns) {
            let measured_ns = self.measured_run_ns();
            self.run_time.step(now_ns, measured_ns);
        }
    }

    /// What the kernel has measured of all programs of this watch.
    fn measured_run_ns(&self) -> u64 {
        self.ebpf
            .programs()
            .filter_map(|(_, program)| program.info().ok())
            .map(|info| info.run_time().as_nanos() as u64)
            .sum()
    }
}

fn drain_buffers(buffers: &mut [PerfEventArrayBuffer<MapData>], mut sink: impl FnMut(&[u8])) {
    let mut joined = Vec::new();
    for buffer in buffers {
        buffer.for_each(|event| match event {
            PerfEvent::Sample { head, tail: [] } => sink(head),
            PerfEvent::Sample { head, tail } => {
                joined.clear();
                joined.extend_from_slice(head);
                joined.extend_from_slice(tail);
                sink(&joined);
            }
            // Counted exactly by the gap in the batches' own numbers.
            PerfEvent::Lost { .. } => {}
        });
    }
}

/// Fault counts by name, zero ones left out.
pub fn named_faults(counts: &[u64; concmon_ebpf::fault::COUNT]) -> BTreeMap<String, u64> {
    concmon_ebpf::fault::NAMES
        .iter()
        .zip(counts)
        .filter(|(_, count)| **count != 0)
        .map(|(name, count)| ((*name).to_owned(), *count))
        .collect()
}

fn first_gils(gils: &[u64]) -> [u64; MAX_GILS] {
    let mut first = [0; MAX_GILS];
    for (slot, gil) in first.iter_mut().zip(gils) {
        *slot = *gil;
    }
    first
}

pub(super) fn map(ebpf: &mut Ebpf, name: &'static str) -> Result<aya::maps::Map, LiveError> {
    ebpf.take_map(name).ok_or(LiveError::Failed {
        what: "the embedded kernel object lacks a map",
        cause: name.to_owned(),
    })
}

fn array_fd(map: &aya::maps::Map) -> Result<BorrowedFd<'_>, LiveError> {
    match map {
        aya::maps::Map::Array(data) => Ok(data.fd().as_fd()),
        _ => Err(LiveError::Failed {
            what: "the embedded kernel object has a map of another type",
            cause: "an array was expected".to_owned(),
        }),
    }
}

pub(super) fn program<'a, T>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut T, LiveError>
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program>,
{
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(LiveError::Failed {
            what: "the embedded kernel object lacks a program",
            cause: name.to_owned(),
        })
}
