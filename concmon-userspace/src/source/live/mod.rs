//! The live source: loads the kernel programs, and brings what they record and account for.

mod accounts;
mod buffers;
mod chunks;
mod hooks;
mod load;
mod sockets;
mod switches;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::BorrowedFd,
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData, PerCpuArray, Queue},
    programs::perf_event::PerfEventLinkId,
};
use aya_log::EbpfLogger;
use concmon_ebpf::{Batch, Hists, Ledger, MAX_GILS, Process, Python, SampleBatch};

use self::{accounts::Accounts, buffers::Buffers, sockets::Sockets, switches::Switches};
pub use self::{
    accounts::{Collected, Reading},
    load::Sizes,
};
pub use super::error::LiveError;
pub use super::shared::LedgerHead;
pub use super::{counted_time::Takes, run_time::KernelRun};
use super::{
    error::failing,
    exact::ExactLive,
    object::Wire,
    run_time::{Measured, RunTime},
};
use crate::{
    event::{Pid, PyEntered, Tid},
    kernel::features::{Feature, Features},
};

/// Between the two walks that seed: longer than any switch takes.
const SEED_PAUSE: Duration = Duration::from_millis(2);
/// Change an entry that is there, make none (include/uapi/linux/bpf.h).
const BPF_EXIST: u64 = 2;

/// The kernel side of a watch. Dropping it removes everything from the kernel.
pub struct Live {
    ebpf: Ebpf,
    records: Buffers<Batch>,
    samples: Buffers<SampleBatch>,
    /// What sockets read and write, where that is looked at; or why it cannot be.
    sockets: Option<Result<Sockets, String>>,
    accounts: Accounts,
    processes: HashMap<MapData, u32, Wire<Process>>,
    pythons: HashMap<MapData, u32, Wire<Python>>,
    /// Who has begun to run a program, not watched.
    execs: Queue<MapData, u32>,
    /// The clocks that sample.
    sample_links: Vec<PerfEventLinkId>,
    /// Where the hooks at sockets are attached; empty: nowhere.
    socket_links: hooks::Links,
    /// Samples per second and CPU that are wanted.
    rate: u32,
    switches: Switches,
    features: Features,
    faults: PerCpuArray<MapData, u64>,
    /// The rare warnings of kernel programs, passed on to this program's log.
    warnings: Option<EbpfLogger<&'static dyn log::Log>>,
    /// Tasks that are counted exactly, where that was asked for.
    exact: Option<ExactLive>,
    run_time: RunTime,
}

impl Live {
    /// Loads the kernel programs for this kernel and checks them on this process itself.
    /// Nothing is attached yet.
    pub fn load(sizes: Sizes) -> Result<Self, LiveError> {
        load::load(sizes)
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
            .insert(pid.0, Wire(process), 0)
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
        self.features.lacks(Feature::Samples)
    }

    /// Why this kernel lacks a feature; `None`: it is there, or only its use tells.
    pub fn lacks(&self, feature: Feature) -> Option<&'static str> {
        self.features.lacks(feature)
    }

    /// From now on, stacks of `pid` can be walked.
    pub fn set_python(&mut self, pid: Pid, python: &Python) {
        if !self.is_watched(pid) {
            return;
        }
        if let Err(error) = self.pythons.insert(pid.0, Wire(*python), 0) {
            log::debug!("process {pid}: its stacks are not sampled: {error}");
        }
    }

    /// Another program runs in `pid`, or none any more.
    pub fn forget_python(&mut self, pid: Pid) {
        // Missing is what is wanted.
        let _ = self.pythons.remove(&pid.0);
    }

    /// How much the kernel side keeps of processes, by kind.
    pub fn kept(&self) -> [(&'static str, usize); 4] {
        let configurations = self.pythons.keys().filter(Result::is_ok).count();
        let (probed, counts) = self.exact.as_ref().map_or((0, 0), ExactLive::kept);
        [
            ("kernel side's processes", self.watched().len()),
            ("its unwind configurations", configurations),
            ("probed processes", probed),
            ("exact counts", counts),
        ]
    }

    /// The part that counts tasks exactly, with the programs that it attaches; `None`: not asked for.
    pub fn exact(&mut self) -> Option<(&mut ExactLive, &mut Ebpf)> {
        Some((self.exact.as_mut()?, &mut self.ebpf))
    }

    /// How often thread `tid` gives a stack when it blocks, in the long run.
    pub fn set_stack_interval(&mut self, pid: Pid, tid: Tid, interval: Duration) {
        self.accounts.set_stack_interval(pid, tid, interval);
    }

    /// Threads of which nobody has said how often give a stack when they block so seldom, in the long run.
    pub fn ration_stacks(&mut self, interval: Duration, but: &BTreeSet<Pid>) {
        self.accounts.ration_stacks(interval, but);
    }

    /// Of threads that `enough` says, single slices are not told but for waits for the GIL and for locks; of the others all
    /// are.
    pub fn suit_slices(&self, enough: impl Fn(Pid, Tid) -> bool) {
        self.accounts.suit_slices(enough);
    }

    /// All slices of thread `tid` are told.
    pub fn tell_slices(&self, pid: Pid, tid: Tid) {
        self.accounts.tell_slices(pid, tid);
    }

    /// The processes watched now, those that joined at fork included.
    pub fn watched(&self) -> Vec<Pid> {
        self.processes
            .keys()
            .filter_map(Result::ok)
            .map(Pid)
            .collect()
    }

    /// Whether a process is watched: it is until its last thread begins to end.
    pub fn is_watched(&self, pid: Pid) -> bool {
        self.processes.get(&pid.0, 0).is_ok()
    }

    /// Hands over processes that are not watched and have begun to run a program, where the kernel side was to tell:
    /// of the many that a build makes, so many at a time.
    pub fn drain_execs(&mut self, most: usize, mut sink: impl FnMut(Pid)) {
        for _ in 0..most {
            match self.execs.pop(0) {
                Ok(pid) => sink(Pid(pid)),
                // It is empty.
                Err(_) => break,
            }
        }
    }

    /// The addresses of `pid`'s GILs have become known, or have changed.
    pub fn set_gils(&mut self, pid: Pid, gils: &[u64]) {
        let gils = first_gils(gils);
        if let Ok(Wire(mut process)) = self.processes.get(&pid.0, 0) {
            process.gils = gils;
            // It may have ended meanwhile: its id must not come back, for another one may get it.
            let _ = self.processes.insert(pid.0, Wire(process), BPF_EXIST);
        }
        self.accounts.set_gils(pid, &gils);
    }

    /// Threads of `pid` are in other interpreters than the main one: in the last of them where they are in several.
    pub fn set_entered(&mut self, pid: Pid, main: Option<u64>, entered: &[PyEntered]) {
        let mut of_threads: BTreeMap<Tid, Vec<&PyEntered>> = BTreeMap::new();
        for one in entered {
            of_threads.entry(one.tid).or_default().push(one);
        }
        for (tid, entered) in of_threads {
            let newest = entered.iter().rev().map(|one| one.gil);
            let mut gils: Vec<u64> = Vec::new();
            for gil in main.into_iter().chain(newest) {
                if gil != 0 && !gils.contains(&gil) {
                    gils.push(gil);
                }
            }
            let thread_state = entered.last().map_or(0, |one| one.thread_state);
            let gils = first_gils(&gils);
            self.accounts.set_entered(pid, tid, thread_state, &gils);
        }
    }

    /// Threads of `pid`, which has these GILs, are in other interpreters than the main one no more.
    pub fn set_left(&mut self, pid: Pid, gils: &[u64], left: &[Tid]) {
        let gils = first_gils(gils);
        for tid in left {
            self.accounts.set_entered(pid, *tid, 0, &gils);
        }
    }

    /// Attaches the hooks, and the sampling clock with `rate` samples per second and CPU; 0: none.
    pub fn attach(&mut self, rate: u32) -> Result<(), LiveError> {
        let Self { run_time, ebpf, .. } = self;
        self.switches.links = run_time.around(|| hooks::attach(ebpf))?;
        if let Some(Ok(_)) = self.sockets
            && let Err(error) = self.attach_sockets()
        {
            self.sockets = Some(Err(sockets::reason(&error)));
        }
        self.set_sample_rate(rate)
    }

    /// From now on, so many samples per second and CPU; 0: none.
    pub fn set_sample_rate(&mut self, rate: u32) -> Result<(), LiveError> {
        self.rate = rate;
        self.suit_sampling()
    }

    /// Sets the sampling clock to the rate that is wanted, or has it stand still while no switches are told.
    fn suit_sampling(&mut self) -> Result<(), LiveError> {
        if self.no_samples().is_some() {
            return Ok(());
        }
        let rate = self.switches.rate_of(self.rate);
        hooks::set_sample_rate(&mut self.ebpf, &mut self.sample_links, rate)
    }

    /// Opens accounts for the threads that watched processes already have. The second walk corrects
    /// those that switched while they were being seeded; by then their switch is long over.
    pub fn seed(&mut self) -> Result<(), LiveError> {
        hooks::walk_tasks(&mut self.ebpf, hooks::SEED)?;
        // There may be more than were expected: the second walk finds those, too.
        self.accounts.make_room(0);
        std::thread::sleep(SEED_PAUSE);
        hooks::walk_tasks(&mut self.ebpf, hooks::SEED)?;
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
        hooks::detach(&mut self.ebpf);
        if let Some(Ok(_)) = self.sockets {
            sockets::detach(&mut self.ebpf);
        }
    }

    /// Descriptors that become readable when a batch has arrived.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let records = self.records.descriptors();
        let sockets = self.sockets.iter().flatten();
        records
            .chain(self.samples.descriptors())
            .chain(sockets.flat_map(|sockets| sockets.records.descriptors()))
    }

    /// Sockets tell now.
    pub const fn tells_of_sockets(&self) -> bool {
        !self.socket_links.is_empty()
    }

    /// From now on, sockets tell.
    ///
    /// # Errors
    /// A hook cannot be attached; then none is.
    pub fn attach_sockets(&mut self) -> Result<(), LiveError> {
        if let Some(Ok(_)) = self.sockets
            && self.socket_links.is_empty()
        {
            self.socket_links = sockets::attach(&mut self.ebpf)?;
        }
        Ok(())
    }

    /// From now on, sockets tell nothing.
    ///
    /// # Errors
    /// A hook cannot be taken away.
    pub fn detach_sockets(&mut self) -> Result<(), LiveError> {
        let links = std::mem::take(&mut self.socket_links);
        hooks::detach_each(&mut self.ebpf, links)
    }

    /// Why no requests are looked for although they were to be; `None`: they are, or nobody asked for them.
    pub fn no_requests(&self) -> Option<&str> {
        match &self.sockets {
            Some(Err(reason)) => Some(reason),
            _ => self.lacks(Feature::Requests),
        }
    }

    /// Hands every batch of records of sockets that has arrived to `sink`, as it came, and what lies in batches since
    /// before `opened_ns`.
    pub fn drain_sockets(&mut self, opened_ns: u64, mut sink: impl FnMut(&[u8])) {
        if let Some(Ok(sockets)) = &mut self.sockets {
            sockets.records.drain(&mut sink);
            sockets.records.drain_unsent(opened_ns, sink);
        }
    }

    /// Requests to these local ports are seen from their first bytes on; 0: to unix sockets.
    pub fn serve(&mut self, ports: impl IntoIterator<Item = u16>) {
        if let Some(Ok(sockets)) = &mut self.sockets {
            for port in ports {
                sockets.serve(port);
            }
        }
    }

    /// Connections at these ports are none of clients, whoever listens there.
    pub fn accept(&mut self, ports: impl IntoIterator<Item = u16>) {
        if let Some(Ok(sockets)) = &mut self.sockets {
            for port in ports {
                sockets.accept(port);
            }
        }
    }

    /// Hands every batch that has arrived to `sink`, as it came.
    pub fn drain(&mut self, sink: impl FnMut(&[u8])) {
        if let Some(warnings) = &mut self.warnings {
            warnings.flush();
        }
        self.records.drain(sink);
    }

    /// Hands every batch of samples that has arrived to `sink`, as it came.
    pub fn drain_samples(&mut self, sink: impl FnMut(&[u8])) {
        self.samples.drain(sink);
    }

    /// Hands over what lies in batches since before `opened_ns`: a CPU that sleeps sends nothing. With
    /// the latest of all instants, everything.
    pub fn drain_unsent(&mut self, opened_ns: u64, sink: impl FnMut(&[u8])) {
        self.records.drain_unsent(opened_ns, sink);
    }

    /// The same for samples.
    pub fn drain_unsent_samples(&mut self, opened_ns: u64, sink: impl FnMut(&[u8])) {
        self.samples.drain_unsent(opened_ns, sink);
    }

    /// The processes of which no account has moved since it was read last: each of their threads still waits for
    /// what it waited for then.
    pub fn still(&self) -> BTreeSet<Pid> {
        self.accounts.still()
    }

    /// Reads accounts in use, but for those of the processes in `but`. `visit` gets a consistent copy of each, with its
    /// histograms where `reading` asks for them, and says whether a dead one's slot can be given back.
    pub fn read_ledgers(
        &mut self,
        reading: Reading,
        but: &BTreeSet<Pid>,
        visit: impl FnMut(&Ledger, Option<&Hists>) -> Collected,
    ) {
        self.accounts.read(reading, but, visit);
    }

    /// Room for accounts and for sets of histograms, in use or not.
    pub fn room(&self) -> (u64, u64) {
        self.accounts.room()
    }

    /// From now on, a thread of its own waits for the kernel where room for threads comes and goes.
    ///
    /// # Errors
    /// There can be no thread.
    pub fn start_helper(&mut self) -> io::Result<()> {
        self.accounts.start_helper()
    }

    /// Makes room for threads before it is needed: to be called several times a second.
    pub fn make_room(&mut self) {
        self.accounts.make_room(0);
    }

    /// Makes room for so many threads that are seeded next, too.
    pub fn make_room_for(&mut self, threads: usize) {
        self.accounts.make_room(threads as u64);
    }

    /// Gives back room for threads that was not used since this was called last: every few seconds.
    pub fn give_room_back(&mut self) {
        self.accounts.give_room_back();
    }

    /// The head of one thread's account; `None`: it has none, or it could not be read.
    pub fn head(&self, pid: Pid, tid: Tid) -> Option<LedgerHead> {
        self.accounts.head(pid, tid)
    }

    /// Reads the heads of all accounts in use.
    pub fn read_heads(&mut self, visit: impl FnMut(&LedgerHead)) {
        self.accounts.read_heads(visit);
    }

    /// Accounts that could not be read in one piece.
    pub fn reads_failed(&self) -> u64 {
        self.accounts.reads_failed
    }

    /// Whether this kernel tells which system call a blocked thread is in.
    pub fn knows_causes(&self) -> bool {
        self.features.has(Feature::Causes)
    }

    /// Slots whose account was found broken and was healed.
    pub fn healed(&self) -> u64 {
        self.accounts.healed.len() as u64
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

    /// Estimated run time of all kernel programs since they were attached; `None` where that can neither be measured
    /// nor counted, or was not for long enough. `now_ns` is a monotonic instant, until which there were so many records.
    pub fn kernel_run(&mut self, now_ns: u64, records: u64) -> Option<KernelRun> {
        let measured = self.measured_run();
        self.run_time.estimate(now_ns, measured, records)
    }

    /// What they took lately while switches were told; `None`: nothing new.
    pub fn takes_lately(&mut self) -> Option<Takes> {
        self.run_time.lately()
    }

    /// Goes on with measuring that run time, where it is time to.
    pub fn measure_run_time(&mut self, now_ns: u64) {
        if self.run_time.is_due(now_ns) {
            let measured = self.measured_run();
            self.run_time.step(now_ns, measured);
        }
    }

    /// What the kernel has measured of all programs of this watch.
    fn measured_run(&self) -> Measured {
        let mut run = Measured::default();
        for (name, program) in self.ebpf.programs() {
            let Ok(info) = program.info() else {
                continue;
            };
            let ns = info.run_time().as_nanos() as u64;
            run.all_ns += ns;
            if hooks::is_of_switches(name) {
                run.switches_ns += ns;
            }
        }
        run
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
