//! Capabilities that a run gives up, once it has what they were for.
//!
//! What stays, and why (found by experiment on Linux 6.18, and in the kernel's sources):
//!
//! - SYS_PTRACE and DAC_READ_SEARCH: every look reads memory and `/proc/PID` anew, also of children that
//!   come later. Root's own processes need the former, too: the kernel lets nobody read a process that
//!   has capabilities which the reader lacks.
//! - CHECKPOINT_RESTORE: opens files of programs that were replaced or deleted (`/proc/PID/map_files`).
//! - PERFMON, while there is a sampling rate: where the budget is exceeded, the clock of each CPU is opened
//!   once more (`perf_event_open`).
//! - SYS_ADMIN, with `--exact`: probes come late, when a process imports asyncio, and to children.
//! - BPF: room for more threads is a map that is made when it is needed. Programs are loaded no more
//!   (`confine.rs`).
//! - KILL, with `-- CMD`: a signal is passed on to it, and it may run as another user.
//! - CHOWN, and DAC_OVERRIDE with FOWNER, as root, where files come later: under sudo they are given to
//!   the caller, and their folder may be somebody else's.
//!
//! Threads that read processes or wait for the program keep less (`python/gil_sampler.rs`, `start.rs`).
//! Perf buffers, mapped ledgers, and taking hooks away need none.

use std::{os::unix::fs::MetadataExt as _, path::Path};

use rustix::thread::CapabilitySet;

use super::Recording;
use crate::{cli::Options, procfs::rights};

/// What reading a capture takes that is somebody else's.
pub(crate) const CAPTURES: CapabilitySet = CapabilitySet::DAC_READ_SEARCH;

/// What a watch takes that runs.
pub(crate) fn of_watch(options: &Options, recording: &Recording, has_child: bool) -> CapabilitySet {
    let mut keep = rights::LOOKS | CapabilitySet::BPF;
    if options.watching.rate > 0 {
        keep |= CapabilitySet::PERFMON;
    }
    if !options.watching.exact.is_empty() {
        keep |= CapabilitySet::SYS_ADMIN | CapabilitySet::PERFMON;
    }
    if has_child {
        keep |= CapabilitySet::KILL;
    }
    match (&options.output, recording) {
        (Some(path), Recording::Flight(_)) => keep | of_folder(path),
        (None, Recording::Flight(_)) => keep | of_folder(Path::new(".")),
        // It is there already, under its name.
        (_, Recording::File) | (None, Recording::None) => keep,
        (Some(path), Recording::None | Recording::Export(..)) => keep | of_file(path),
        (None, Recording::Export(..)) => keep | of_folder(Path::new(".")),
    }
}

/// What ending a file takes that is written.
pub(crate) fn of_file(path: &Path) -> CapabilitySet {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => of_folder(folder),
        _ => of_folder(Path::new(".")),
    }
}

/// What making, renaming and removing files in a folder takes.
fn of_folder(folder: &Path) -> CapabilitySet {
    let mut keep = CapabilitySet::empty();
    if !rustix::process::geteuid().is_root() {
        return keep;
    }
    if std::env::var_os("SUDO_UID").is_some() {
        keep |= CapabilitySet::CHOWN;
    }
    let is_roots = |file: std::fs::Metadata| file.uid() == 0 && file.mode() & 0o300 == 0o300;
    if !folder.metadata().is_ok_and(is_roots) {
        keep |= CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER;
    }
    keep
}

/// Gives up all capabilities of this thread, and of those it starts from now on, but these.
pub(crate) fn give_up_but(keep: CapabilitySet) {
    match rights::reduce_to(keep) {
        Ok((had, has)) => log::info!(
            "gave up {} of {} capabilities; what stays: {}",
            (had - has).bits().count_ones(),
            had.bits().count_ones(),
            rights::names(has)
        ),
        Err(error) => log::warn!("capabilities that are not needed any more stay: {error}"),
    }
}

/// Gives up all of them, on a thread that needs none.
pub(crate) fn give_up_all() {
    if let Err(error) = rights::reduce_to(CapabilitySet::empty()) {
        log::debug!("a thread keeps capabilities that it does not need: {error}");
    }
}

/// Keeps capabilities that this process was given for itself from a program that it starts. Makes
/// system calls only, so it may be called between fork and exec.
pub(crate) fn keep_from_program() {
    // Of an unprivileged user: root's programs have all that is in the bounding set.
    let tools =
        rights::LOOKS | rights::LOADING | CapabilitySet::SYS_ADMIN | CapabilitySet::IPC_LOCK;
    for one in tools.iter() {
        let _ = rustix::thread::configure_capability_in_ambient_set(one, false);
    }
}
