//! How a run ends: messages for people and exit codes for scripts.

use std::io;

use crate::{
    procfs::{rights::Denied, target::TargetError},
    python::DetectError,
    source::live::LiveError,
    views::escape::escape,
};

/// Exit codes; part of the command line's contract.
pub mod code {
    pub const OK: u8 = 0;
    pub const FAILURE: u8 = 1;
    pub const USAGE: u8 = 2;
    pub const NO_TARGET: u8 = 3;
    pub const PERMISSION: u8 = 4;
    pub const UNSUPPORTED: u8 = 5;
    /// A rule of `--fail-on` has held.
    pub const FINDING: u8 = 6;
    /// `-- CMD` could not be started; as shells have it.
    pub const NOT_STARTED: u8 = 127;
}

/// Why a watch could not be done, in one line, and the code to exit with.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub code: u8,
    pub message: String,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    pub(crate) fn from_target(error: &TargetError) -> Self {
        let code = match error {
            TargetError::NoPermission(_) => code::PERMISSION,
            TargetError::NoSuchProcess(_)
            | TargetError::Thread { .. }
            | TargetError::KernelThread { .. }
            | TargetError::Zombie { .. } => code::NO_TARGET,
            TargetError::Proc(_) => code::FAILURE,
        };
        // It names the target as that calls itself.
        Self::new(code, escape(&error.to_string()))
    }

    pub(crate) fn from_detect(pid: u32, name: &str, error: &DetectError) -> Self {
        let name = escape(name);
        match error {
            DetectError::NotPython => Self::new(
                code::NO_TARGET,
                format!("process {pid} ({name}) is not Python"),
            ),
            DetectError::NoPermission => {
                let denied = Denied::reading(pid, "denied reading its memory");
                Self::new(code::PERMISSION, denied.to_string())
            }
            DetectError::Gone => Self::from_target(&TargetError::NoSuchProcess(pid)),
            other => Self::new(code::FAILURE, format!("process {pid} ({name}): {other}")),
        }
    }
}

/// Why a file could not be written.
pub(crate) fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::FileTooLarge => {
            "the file size limit is reached (ulimit -f, LimitFSIZE=)".to_owned()
        }
        _ => error.to_string(),
    }
}

impl From<LiveError> for Failure {
    fn from(error: LiveError) -> Self {
        let code = match error {
            LiveError::Permission(_) => code::PERMISSION,
            LiveError::Unsupported(_) => code::UNSUPPORTED,
            LiveError::Failed { .. } => code::FAILURE,
        };
        Self::new(code, error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(code::FAILURE, error.to_string())
    }
}
