//! Probes in watched processes, attached on request only, and what the kernel programs count there.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use aya::{
    Ebpf, Pod,
    maps::{HashMap, MapData},
    programs::{UProbe, uprobe::UProbeLink, uprobe::UProbeScope},
};
use concmon_ebpf::{
    Exact, ExactFutures as FuturesView, ExactKey, ExactPlace, ExactRow, ExactTask, ExactTaskKey,
    FailedKey, PLACE_DEPTHS, PoolKey, PoolRow,
};
use rustix::thread::CapabilitySet;

use super::{
    error::{LiveError, denied, permission_or},
    object::{Wire, opened, program},
};
use crate::{
    event::Pid,
    kernel::features::{Feature, Features},
    python::{ExactFutures, ExactTasks, Probe, ProbeKind, ProbePlace},
};

/// How many entries its maps have, where `processes` can be watched at one time. Only what is used of
/// these takes memory, calls excepted.
pub(super) const fn entries(processes: u32) -> [(&'static str, u32); 8] {
    [
        ("EXACT", processes),
        // Tasks that can live at one time, and groups of tasks that are told apart.
        ("EXACT_TASKS", 1 << 18),
        ("EXACT_ROWS", 1 << 13),
        // Calls under way, and instructions that are probed.
        ("EXACT_CALLS", 1 << 13),
        ("EXACT_PLACES", 1 << 16),
        ("EXACT_FUTURES", processes),
        // Thread pools, and failures that nobody has asked for.
        ("EXACT_POOLS", 1 << 12),
        ("EXACT_FAILED", 1 << 16),
    ]
}

const PROGRAMS: [&str; 7] = [
    "exact_put",
    "exact_unwound",
    "exact_handed_over",
    "exact_task_made",
    "exact_task_step",
    "exact_wrapped_step",
    END,
];
/// The program for what calls pass at their end.
const END: &str = "exact_task_end";
/// Threads that take probes away at the end.
const DETACHERS: usize = 32;
/// How often a row is read again that changes meanwhile.
const TRIES: usize = 100;
/// The probes of a watch.
pub struct ExactLive {
    views: HashMap<MapData, u32, Wire<Exact>>,
    rows: HashMap<MapData, Wire<ExactKey>, Wire<ExactRow>>,
    places: HashMap<MapData, Wire<ExactPlace>, u64>,
    tasks: HashMap<MapData, Wire<ExactTaskKey>, Wire<ExactTask>>,
    futures: HashMap<MapData, u32, Wire<FuturesView>>,
    pools: HashMap<MapData, Wire<PoolKey>, Wire<PoolRow>>,
    failed: HashMap<MapData, Wire<FailedKey>, u64>,
    /// Dropping a link takes the probe away, which takes the kernel a tenth of a second or more.
    links: BTreeMap<Pid, Vec<UProbeLink>>,
    /// Probes of processes that have ended, which the kernel takes away one after the other.
    leaving: Arc<AtomicUsize>,
    /// Why nothing can be probed; `None`: it can.
    refused: Option<&'static str>,
    /// Rows that could not be read in one piece.
    pub reads_failed: u64,
}

impl Drop for ExactLive {
    fn drop(&mut self) {
        self.detach_all();
    }
}

/// Loads the programs; nothing is attached yet. They name maps by descriptors, so this comes before any map is taken
/// out.
pub(super) fn load_programs(ebpf: &mut Ebpf) -> Result<(), LiveError> {
    for name in PROGRAMS {
        let probe: &mut UProbe = program(ebpf, name)?;
        probe.load().map_err(|error| permission_or(&error))?;
    }
    Ok(())
}

impl ExactLive {
    /// Takes over the maps of programs that are loaded.
    pub(super) fn new(ebpf: &mut Ebpf, features: &Features) -> Result<Self, LiveError> {
        Ok(Self {
            views: opened(ebpf, "EXACT")?,
            rows: opened(ebpf, "EXACT_ROWS")?,
            places: opened(ebpf, "EXACT_PLACES")?,
            tasks: opened(ebpf, "EXACT_TASKS")?,
            futures: opened(ebpf, "EXACT_FUTURES")?,
            pools: opened(ebpf, "EXACT_POOLS")?,
            failed: opened(ebpf, "EXACT_FAILED")?,
            links: BTreeMap::new(),
            leaving: Arc::default(),
            refused: features.lacks(Feature::Probes),
            reads_failed: 0,
        })
    }

    /// How many probes the kernel is taking away: putting one somewhere waits for all of them.
    pub fn leaving(&self) -> usize {
        self.leaving.load(Ordering::Relaxed)
    }

    /// A process that can be probed.
    fn probed(&self, pid: Pid) -> Result<NonZeroU32, String> {
        if let Some(reason) = self.refused {
            return Err(reason.to_owned());
        }
        NonZeroU32::new(pid.0).ok_or_else(|| "there is no process 0".to_owned())
    }

    /// Probes the tasks of a process.
    ///
    /// # Errors
    /// Why that cannot be done, or must not be.
    pub fn attach(&mut self, ebpf: &mut Ebpf, pid: Pid, tasks: &ExactTasks) -> Result<(), String> {
        let number = self.probed(pid)?;
        let mut links = Vec::new();
        let attached = self.attach_tasks(ebpf, pid, number, tasks, &mut links);
        match attached {
            Ok(()) => self.links.entry(pid).or_default().extend(links),
            Err(_) => {
                self.forget_view(pid);
                take_away(pid, links, &self.leaving);
            }
        }
        attached
    }

    fn attach_tasks(
        &mut self,
        ebpf: &mut Ebpf,
        pid: Pid,
        number: NonZeroU32,
        tasks: &ExactTasks,
        links: &mut Vec<UProbeLink>,
    ) -> Result<(), String> {
        self.views
            .insert(pid.0, Wire(tasks.view), 0)
            .map_err(|error| format!("no room for the process: {error}"))?;
        for probe in &tasks.probes {
            self.note(pid, &probe.begin)?;
        }
        // Functions may end in the same code.
        let mut ends = BTreeMap::new();
        for probe in &tasks.probes {
            for place in &probe.ends {
                self.note(pid, place)?;
                ends.insert(place.offset, probe);
            }
        }
        // Ends come first: a call that was noted is seen to end.
        for (offset, probe) in ends {
            log::debug!("process {pid}: {:?} ends at {offset:#x}", probe.kind);
            links.push(attach(ebpf, END, &probe.file, offset, number)?);
        }
        // Steps before what makes tasks: one that was seen being made is seen to run, too.
        for probe in tasks.probes.iter().rev() {
            let begin = program_of(probe.kind);
            log::debug!(
                "process {pid}: {:?} begins at {:#x}",
                probe.kind,
                probe.begin.offset
            );
            links.push(attach(
                ebpf,
                begin,
                &probe.file,
                probe.begin.offset,
                number,
            )?);
        }
        Ok(())
    }

    /// Tells programs what calls have on the stack at an instruction.
    fn note(&mut self, pid: Pid, place: &ProbePlace) -> Result<(), String> {
        for index in 0..PLACE_DEPTHS {
            let key = Wire(ExactPlace {
                address: place.address,
                tgid: pid.0,
                index,
            });
            match self.places.get(&key, 0) {
                Ok(depth) if depth == place.depth => return Ok(()),
                Ok(_) => {}
                Err(_) => {
                    return self
                        .places
                        .insert(key, place.depth, 0)
                        .map_err(|error| format!("no room for the process: {error}"));
                }
            }
        }
        Err("too many of its functions share code".to_owned())
    }

    /// Without these, programs count nothing.
    fn forget_view(&mut self, pid: Pid) {
        // Missing is what is wanted.
        let _ = self.views.remove(&pid.0);
        let places: Vec<_> = self.places.keys().filter_map(Result::ok).collect();
        for key in places.into_iter().filter(|key| key.0.tgid == pid.0) {
            let _ = self.places.remove(&key);
        }
    }

    /// Probes the thread pools of a process; once more when asyncio has come to it.
    ///
    /// # Errors
    /// Why that cannot be done, or must not be.
    pub fn attach_futures(
        &mut self,
        ebpf: &mut Ebpf,
        pid: Pid,
        futures: &ExactFutures,
        again: bool,
    ) -> Result<(), String> {
        let number = self.probed(pid)?;
        self.futures
            .insert(pid.0, Wire(futures.view), 0)
            .map_err(|error| format!("no room for the process: {error}"))?;
        let mut links = Vec::new();
        // Who asks comes first: a failure that was seen is seen to be asked for, too.
        let probes = futures.probes.iter().rev();
        let is_new = |probe: &&Probe| !again || probe.kind == ProbeKind::HandedOver;
        for probe in probes.filter(is_new) {
            let (name, offset) = (program_of(probe.kind), probe.begin.offset);
            match attach(ebpf, name, &probe.file, offset, number) {
                Ok(link) => links.push(link),
                Err(error) => {
                    let _ = self.futures.remove(&pid.0);
                    take_away(pid, links, &self.leaving);
                    return Err(error);
                }
            }
        }
        self.links.entry(pid).or_default().extend(links);
        Ok(())
    }

    /// Takes the probes of a process away; what was counted stays until [`ExactLive::forget`].
    ///
    /// They go meanwhile, and may be met for a little while still: without the view, or a second time
    /// by the same call, programs count nothing.
    pub fn detach(&mut self, pid: Pid) {
        let Some(links) = self.links.remove(&pid) else {
            return;
        };
        take_away(pid, links, &self.leaving);
        self.forget_tasks(&[pid].into());
    }

    /// Forgets what programs know of the tasks and futures of these processes, each map gone through once.
    fn forget_tasks(&mut self, pids: &BTreeSet<Pid>) {
        // Missing is what is wanted. Another program may have other tasks at the same addresses.
        for pid in pids {
            let _ = self.views.remove(&pid.0);
            let _ = self.futures.remove(&pid.0);
        }
        remove(&mut self.places, |key| pids.contains(&Pid(key.0.tgid)));
        remove(&mut self.tasks, |key| pids.contains(&Pid(key.0.tgid)));
        remove(&mut self.failed, |key| pids.contains(&Pid(key.0.tgid)));
    }

    /// Takes all probes away, many at a time: the kernel waits for each, and for all together no longer.
    fn detach_all(&mut self) {
        let mut shares: Vec<Vec<UProbeLink>> = (0..DETACHERS).map(|_| Vec::new()).collect();
        let links = std::mem::take(&mut self.links).into_values().flatten();
        for (share, link) in (0..DETACHERS).cycle().zip(links) {
            shares[share].push(link);
        }
        shares.retain(|share| !share.is_empty());
        std::thread::scope(|scope| {
            for share in shares {
                scope.spawn(move || drop(share));
            }
        });
    }

    /// Gives up what was counted in processes that have ended.
    pub fn forget(&mut self, pids: &BTreeSet<Pid>) {
        if pids.is_empty() {
            return;
        }
        let probed = pids.iter().copied();
        let probed: BTreeSet<Pid> = probed.filter(|pid| self.links.contains_key(pid)).collect();
        for pid in &probed {
            if let Some(links) = self.links.remove(pid) {
                take_away(*pid, links, &self.leaving);
            }
        }
        if !probed.is_empty() {
            self.forget_tasks(&probed);
        }
        remove(&mut self.rows, |key| pids.contains(&Pid(key.0.tgid)));
        remove(&mut self.pools, |key| pids.contains(&Pid(key.0.tgid)));
    }

    /// How many processes are probed, and how many rows there are of what was counted.
    pub(super) fn kept(&self) -> (usize, usize) {
        let rows = self.rows.keys().filter(Result::is_ok).count();
        let pools = self.pools.keys().filter(Result::is_ok).count();
        (self.links.len(), rows + pools)
    }

    /// What was counted of thread pools so far.
    pub fn pools(&self) -> Vec<(PoolKey, PoolRow)> {
        let pools = self.pools.iter().filter_map(Result::ok);
        pools.map(|(key, row)| (key.0, row.0)).collect()
    }

    /// Everything that was counted so far, each row in one piece.
    pub fn rows(&mut self) -> Vec<(ExactKey, ExactRow)> {
        let keys: Vec<_> = self.rows.keys().filter_map(Result::ok).collect();
        let mut rows = Vec::with_capacity(keys.len());
        for key in keys {
            match read_whole(|| self.rows.get(&key, 0).ok().map(|row| row.0)) {
                Some(row) => rows.push((key.0, row)),
                None => self.reads_failed += 1,
            }
        }
        rows
    }
}

/// Removes the entries of a map whose keys are so.
fn remove<K: Pod, V: Pod>(map: &mut HashMap<MapData, K, V>, is_so: impl Fn(&K) -> bool) {
    let keys: Vec<K> = map.keys().filter_map(Result::ok).filter(is_so).collect();
    for key in keys {
        // Missing is what is wanted.
        let _ = map.remove(&key);
    }
}

/// Takes probes away meanwhile; `leaving` counts them.
fn take_away(pid: Pid, links: Vec<UProbeLink>, leaving: &Arc<AtomicUsize>) {
    if links.is_empty() {
        return;
    }
    leaving.fetch_add(links.len(), Ordering::Relaxed);
    let leave = Leave(Arc::clone(leaving), links);
    let dropped = std::thread::Builder::new()
        .name("detach".to_owned())
        .spawn(move || drop(leave));
    if let Err(error) = dropped {
        // The links were dropped with what was to drop them.
        log::debug!("process {pid}: its probes were taken away by the main thread: {error}");
    }
}

/// Probes that are taken away with it, and then counted no more.
struct Leave(Arc<AtomicUsize>, Vec<UProbeLink>);

impl Drop for Leave {
    fn drop(&mut self) {
        for link in self.1.drain(..) {
            drop(link);
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A row as it was between two writes: the kernel copies it while it may be written.
fn read_whole(mut read: impl FnMut() -> Option<ExactRow>) -> Option<ExactRow> {
    let mut before = read()?;
    for _ in 0..TRIES {
        let again = read()?;
        if before.seq == again.seq && again.seq.is_multiple_of(2) {
            // Whatever tore the second copy would have shown in its number, had it been there before.
            return Some(before);
        }
        before = again;
    }
    None
}

/// The program for a function's beginning.
fn program_of(kind: ProbeKind) -> &'static str {
    match kind {
        ProbeKind::Made | ProbeKind::MadeEager => "exact_task_made",
        ProbeKind::Step => "exact_task_step",
        ProbeKind::WrappedStep => "exact_wrapped_step",
        ProbeKind::Put => "exact_put",
        ProbeKind::Unwound => "exact_unwound",
        ProbeKind::HandedOver => "exact_handed_over",
    }
}

fn attach(
    ebpf: &mut Ebpf,
    name: &'static str,
    file: &Path,
    offset: u64,
    pid: NonZeroU32,
) -> Result<UProbeLink, String> {
    let failed = |error: &(dyn std::error::Error + 'static)| {
        denied(error, "probing a process", CapabilitySet::SYS_ADMIN)
            .unwrap_or_else(|| format!("the kernel does not take a probe of it: {error}"))
    };
    let program: &mut UProbe = program(ebpf, name).map_err(|error| failed(&error))?;
    let link = program
        .attach(offset, file, UProbeScope::OneProcess(pid))
        .map_err(|error| failed(&error))?;
    program.take_link(link).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use concmon_ebpf::{Hist, NAME_BYTES};

    fn row(seq: u64, finished: u64) -> ExactRow {
        ExactRow {
            seq,
            started: 0,
            finished,
            failed: 0,
            cancelled: 0,
            duration: Hist::ZERO,
            width: 1,
            reserved: 0,
            name: [0; NAME_BYTES / 8],
        }
    }

    #[test]
    fn rows_are_read_between_two_writes() {
        let mut copies = [row(1, 1), row(2, 2), row(4, 3), row(4, 4)].into_iter();
        let found = read_whole(|| copies.next()).map(|row| row.finished);
        assert_eq!(found, Some(3));
        assert!(read_whole(|| Some(row(3, 1))).is_none());
        assert!(read_whole(|| None).is_none());
    }
}
