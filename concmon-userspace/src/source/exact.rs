//! Probes in watched processes, attached on request only, and what the kernel programs count there.

use std::{collections::BTreeMap, num::NonZeroU32};

use aya::{
    Ebpf, Pod,
    maps::{HashMap, MapData},
    programs::{UProbe, uprobe::UProbeLink, uprobe::UProbeScope},
};
use concmon_ebpf::{
    Exact, ExactFutures as FuturesView, ExactKey, ExactRow, ExactTask, ExactTaskKey, FailedKey,
    PoolKey, PoolRow,
};
use rustix::thread::CapabilitySet;

use super::{
    error::{LiveError, denied, failing, permission_or},
    live::{map, program},
};
use crate::{
    event::Pid,
    kernel,
    python::{ExactFutures, ExactTasks, Probe, ProbeKind},
};

/// Tasks that can live at one time, groups of tasks that are told apart, and calls under way. Only
/// what is used of the first two takes memory.
pub(super) const TASKS: u32 = 1 << 18;
pub(super) const ROWS: u32 = 1 << 13;
pub(super) const CALLS: u32 = 1 << 13;
/// Thread pools, and failures that nobody has asked for.
pub(super) const POOLS: u32 = 1 << 12;
pub(super) const FAILED: u32 = 1 << 16;

const PROGRAMS: [&str; 7] = [
    "exact_put",
    "exact_unwound",
    "exact_handed_over",
    "exact_task_made",
    "exact_task_step",
    "exact_wrapped_step",
    "exact_task_return",
];
/// Threads that take probes away at the end.
const DETACHERS: usize = 32;
/// How often a row is read again that changes meanwhile.
const TRIES: usize = 100;
/// Kernels on which returning from a probed function is a system call that filters of system calls may
/// not let pass, which ends the process (x86-64, from 6.11 until 6.14 let it pass always).
const FILTERED_RETURNS: std::ops::Range<(u32, u32)> = (6, 11)..(6, 14);

#[repr(transparent)]
#[derive(Clone, Copy)]
struct Wire<T>(T);
// SAFETY: only made of the wire types below: plain `repr(C)` integers without padding.
unsafe impl Pod for Wire<Exact> {}
// SAFETY: as above.
unsafe impl Pod for Wire<ExactKey> {}
// SAFETY: as above.
unsafe impl Pod for Wire<ExactRow> {}
// SAFETY: as above.
unsafe impl Pod for Wire<ExactTaskKey> {}
// SAFETY: as above.
unsafe impl Pod for Wire<ExactTask> {}
// SAFETY: as above.
unsafe impl Pod for Wire<FuturesView> {}
// SAFETY: as above.
unsafe impl Pod for Wire<PoolKey> {}
// SAFETY: as above.
unsafe impl Pod for Wire<PoolRow> {}
// SAFETY: as above.
unsafe impl Pod for Wire<FailedKey> {}

/// The probes of a watch.
pub struct ExactLive {
    views: HashMap<MapData, u32, Wire<Exact>>,
    rows: HashMap<MapData, Wire<ExactKey>, Wire<ExactRow>>,
    tasks: HashMap<MapData, Wire<ExactTaskKey>, Wire<ExactTask>>,
    futures: HashMap<MapData, u32, Wire<FuturesView>>,
    pools: HashMap<MapData, Wire<PoolKey>, Wire<PoolRow>>,
    failed: HashMap<MapData, Wire<FailedKey>, u64>,
    /// Dropping a link takes the probe away, which takes the kernel a tenth of a second or more.
    links: BTreeMap<Pid, Vec<UProbeLink>>,
    /// Rows that could not be read in one piece.
    pub reads_failed: u64,
}

impl Drop for ExactLive {
    fn drop(&mut self) {
        self.detach_all();
    }
}

impl ExactLive {
    /// Loads the programs; nothing is attached yet.
    pub(super) fn load(ebpf: &mut Ebpf) -> Result<Self, LiveError> {
        for name in PROGRAMS {
            let probe: &mut UProbe = program(ebpf, name)?;
            probe.load().map_err(|error| permission_or(&error))?;
        }
        let opening = failing!("opening a map");
        Ok(Self {
            views: HashMap::try_from(map(ebpf, "EXACT")?).map_err(opening)?,
            rows: HashMap::try_from(map(ebpf, "EXACT_ROWS")?).map_err(opening)?,
            tasks: HashMap::try_from(map(ebpf, "EXACT_TASKS")?).map_err(opening)?,
            futures: HashMap::try_from(map(ebpf, "EXACT_FUTURES")?).map_err(opening)?,
            pools: HashMap::try_from(map(ebpf, "EXACT_POOLS")?).map_err(opening)?,
            failed: HashMap::try_from(map(ebpf, "EXACT_FAILED")?).map_err(opening)?,
            links: BTreeMap::new(),
            reads_failed: 0,
        })
    }

    /// Probes the tasks of a process.
    ///
    /// # Errors
    /// Why that cannot be done, or must not be.
    pub fn attach(&mut self, ebpf: &mut Ebpf, pid: Pid, tasks: &ExactTasks) -> Result<(), String> {
        let number = probed(pid)?;
        may_return(pid)?;
        self.views
            .insert(pid.0, Wire(tasks.view), 0)
            .map_err(|error| format!("no room for the process: {error}"))?;
        let mut links = Vec::new();
        // Steps first: a task that was seen being made is seen to run, too.
        for probe in tasks.probes.iter().rev() {
            let (entry, returns) = programs_of(probe.kind);
            // The return first: a call that was noted is taken off the notes again.
            for name in returns.into_iter().chain([entry]) {
                let link = attach(ebpf, name, probe, number).inspect_err(|_| {
                    let _ = self.views.remove(&pid.0);
                })?;
                links.push(link);
            }
        }
        self.links.entry(pid).or_default().extend(links);
        Ok(())
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
        let number = probed(pid)?;
        self.futures
            .insert(pid.0, Wire(futures.view), 0)
            .map_err(|error| format!("no room for the process: {error}"))?;
        let mut links = Vec::new();
        // Who asks comes first: a failure that was seen is seen to be asked for, too.
        let probes = futures.probes.iter().rev();
        let is_new = |probe: &&Probe| !again || probe.kind == ProbeKind::HandedOver;
        for probe in probes.filter(is_new) {
            let (entry, _) = programs_of(probe.kind);
            let link = attach(ebpf, entry, probe, number).inspect_err(|_| {
                let _ = self.futures.remove(&pid.0);
            })?;
            links.push(link);
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
        let dropped = std::thread::Builder::new()
            .name("detach".to_owned())
            .spawn(move || drop(links));
        if let Err(error) = dropped {
            // The links were dropped with what was to drop them.
            log::debug!("process {pid}: its probes were taken away by the main thread: {error}");
        }
        // Missing is what is wanted, here and below.
        let _ = self.views.remove(&pid.0);
        // Another program may have other tasks at the same addresses.
        let of_process = |key: &Wire<ExactTaskKey>| key.0.tgid == pid.0;
        let tasks: Vec<_> = self.tasks.keys().filter_map(Result::ok).collect();
        for key in tasks.into_iter().filter(of_process) {
            let _ = self.tasks.remove(&key);
        }
        let _ = self.futures.remove(&pid.0);
        let failed: Vec<_> = self.failed.keys().filter_map(Result::ok).collect();
        for key in failed.into_iter().filter(|key| key.0.tgid == pid.0) {
            let _ = self.failed.remove(&key);
        }
    }

    /// Takes all probes away, many at a time: the kernel waits for each, and for all together no longer.
    pub(super) fn detach_all(&mut self) {
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

    /// Gives up what was counted of tasks in a process that has ended.
    pub fn forget(&mut self, pid: Pid) {
        self.detach(pid);
        let rows: Vec<_> = self.rows.keys().filter_map(Result::ok).collect();
        for key in rows.into_iter().filter(|key| key.0.tgid == pid.0) {
            let _ = self.rows.remove(&key);
        }
    }

    /// The same for thread pools.
    pub fn forget_pools(&mut self, pid: Pid) {
        self.detach(pid);
        let pools: Vec<_> = self.pools.keys().filter_map(Result::ok).collect();
        for key in pools.into_iter().filter(|key| key.0.tgid == pid.0) {
            let _ = self.pools.remove(&key);
        }
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

/// The program for a function's beginning, and the one for its end.
fn programs_of(kind: ProbeKind) -> (&'static str, Option<&'static str>) {
    const RETURN: Option<&str> = Some("exact_task_return");
    match kind {
        ProbeKind::Made => ("exact_task_made", None),
        ProbeKind::MadeEager => ("exact_task_made", RETURN),
        ProbeKind::Step => ("exact_task_step", RETURN),
        ProbeKind::WrappedStep => ("exact_wrapped_step", RETURN),
        ProbeKind::Put => ("exact_put", None),
        ProbeKind::Unwound => ("exact_unwound", None),
        ProbeKind::HandedOver => ("exact_handed_over", None),
    }
}

/// A process that can be probed.
fn probed(pid: Pid) -> Result<NonZeroU32, String> {
    if !cfg!(target_arch = "x86_64") {
        return Err("probes read arguments on x86-64 only".to_owned());
    }
    NonZeroU32::new(pid.0).ok_or_else(|| "there is no process 0".to_owned())
}

fn attach(
    ebpf: &mut Ebpf,
    name: &'static str,
    probe: &Probe,
    pid: NonZeroU32,
) -> Result<UProbeLink, String> {
    let failed = |error: &(dyn std::error::Error + 'static)| {
        denied(error, "probing a process", CapabilitySet::SYS_ADMIN)
            .unwrap_or_else(|| format!("the kernel does not take a probe of it: {error}"))
    };
    let program: &mut UProbe = program(ebpf, name).map_err(|error| failed(&error))?;
    let link = program
        .attach(probe.offset, &probe.file, UProbeScope::OneProcess(pid))
        .map_err(|error| failed(&error))?;
    program.take_link(link).map_err(|error| failed(&error))
}

/// Whether probed functions of a process may return on this kernel.
fn may_return(pid: Pid) -> Result<(), String> {
    let release = kernel::release().unwrap_or_default();
    let concerned =
        kernel::version_of(&release).is_none_or(|version| FILTERED_RETURNS.contains(&version));
    if !concerned {
        return Ok(());
    }
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .map_err(|error| format!("its status cannot be read: {error}"))?;
    match status
        .lines()
        .find_map(|line| line.strip_prefix("Seccomp:"))
    {
        Some(mode) if mode.trim() != "0" => Err(format!(
            "it filters system calls, and Linux {release} would end it at a probe"
        )),
        _ => Ok(()),
    }
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
