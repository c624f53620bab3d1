//! What can go wrong while the kernel side is set up.

use std::{error::Error, io};

use aya::{EbpfError, maps::MapError, programs::ProgramError};
use rustix::thread::CapabilitySet;

use crate::procfs::rights;

/// What can go wrong while the kernel side is set up.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    #[error("{0}")]
    Permission(String),
    #[error("{0}")]
    Unsupported(String),
    #[error("{what}: {cause}")]
    Failed { what: &'static str, cause: String },
}

pub(super) fn failed(what: &'static str) -> impl Fn(&dyn Error) -> LiveError {
    move |error| {
        let mut cause = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            let text = inner.to_string();
            if !cause.contains(&text) {
                cause = format!("{cause}: {text}");
            }
            source = inner.source();
        }
        LiveError::Failed { what, cause }
    }
}

macro_rules! failing {
    ($what:literal) => {
        |error| $crate::source::error::failed($what)(&error)
    };
}
pub(super) use failing;

/// Says which permission is missing for `what`, where any error in the chain is for want of one and
/// this process lacks some of those that it `wants`.
pub(super) fn denied(
    error: &(dyn Error + 'static),
    what: &str,
    wants: CapabilitySet,
) -> Option<String> {
    let mut call = None;
    let mut at = Some(error);
    while let Some(inner) = at {
        call = call.or_else(|| call_of(inner));
        if let Some(io) = inner.downcast_ref::<io::Error>()
            && let Some(number @ (libc::EPERM | libc::EACCES)) = io.raw_os_error()
        {
            let name = rights::error_name(io);
            let said = call.map_or(name.clone(), |call| format!("{name} from {call}"));
            let missing = rights::lacking(wants);
            if !missing.is_empty() {
                return Some(format!("{what} {}", rights::needs(missing, &said)));
            }
            // EACCES may be the verifier's judgement.
            return rights::elsewhere()
                .filter(|_| number == libc::EPERM)
                .map(|reason| {
                    let has = rights::names(wants);
                    format!("{what} is denied ({said}), although this process has {has}: {reason}")
                });
        }
        at = inner.source();
    }
    None
}

/// The system call that an error of the library is about.
fn call_of(error: &(dyn Error + 'static)) -> Option<&'static str> {
    if let Some(error) = error.downcast_ref::<EbpfError>() {
        return match error {
            EbpfError::MapError(error) => call_of(error),
            EbpfError::ProgramError(error) => call_of(error),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref::<MapError>() {
        return match error {
            MapError::CreateError { .. } => Some("BPF_MAP_CREATE"),
            MapError::SyscallError(error) => Some(error.call),
            _ => None,
        };
    }
    match error.downcast_ref::<ProgramError>()? {
        ProgramError::LoadError { .. } => Some("BPF_PROG_LOAD"),
        ProgramError::SyscallError(error) => Some(error.call),
        _ => None,
    }
}

/// Says "permission" where that is what loading lacks.
pub(super) fn permission_or(error: &(dyn Error + 'static)) -> LiveError {
    match denied(error, "loading kernel programs", rights::LOADING) {
        Some(message) => LiveError::Permission(message),
        None => failed("loading the kernel programs")(error),
    }
}

/// The same for buffers, which lock more memory than an ordinary limit allows on many CPUs
/// (`perf_mmap` in kernel/events/core.c).
pub(super) fn buffers_failed(error: &(dyn Error + 'static)) -> LiveError {
    let what = "more locked memory than `ulimit -l` and kernel.perf_event_mlock_kb allow";
    match denied(error, what, CapabilitySet::IPC_LOCK) {
        Some(message) => LiveError::Permission(message),
        None => failed("opening the perf buffers")(error),
    }
}
