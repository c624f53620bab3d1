//! All that the tool writes goes through here, into folders where others may write, too.
//!
//! It runs as root beside users who are not. So nothing that is already there is ever opened for
//! writing: each file is created exclusively under a random name, with mode 0600, and belongs to the
//! invoking user before its first byte. Then it is renamed. What stands under the wanted name may be
//! replaced only where it is an ordinary file of the same owner with no other name, and that is checked on what
//! the rename has taken out (`folder.rs`), so that nobody can slip another file in between. On a
//! failure the new file goes away, and what was there stays.

mod folder;
mod found;
mod new;
mod out;
mod recording;
mod replace;
#[cfg(test)]
mod tests;

use std::io;

pub(crate) use folder::Folder;
pub(crate) use new::NewFile;
pub(crate) use out::{Out, Target, named};
pub(crate) use recording::{Recording, Written};

use super::outcome::{Failure, code, why};

/// Why a file is not written. Names of files are escaped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("{0} names no file")]
    NoName(String),
    #[error("{0} is not open: nothing was handed over under this number")]
    NotOpen(String),
    #[error("{0} is a symbolic link, which is not written through: name the file itself")]
    Link(String),
    #[error("{0} is {1}, and is not written over: name an ordinary file")]
    Kind(String, &'static str),
    #[error("{0} belongs to user {1}, and is not written over: name another file")]
    Owner(String, u32),
    #[error("{0} is a hard link: the file has another name, too, and is not written over")]
    HardLink(String),
    #[error("{0} is no capture, and is not written over: name another file")]
    NoCapture(String),
    #[error("{0} is being recorded to by another concmon-bpf: name another file")]
    Busy(String),
    #[error("cannot write {name}: {}", why(error))]
    Io { name: String, error: io::Error },
}

impl FileError {
    pub(crate) fn io(name: impl Into<String>, error: io::Error) -> Self {
        let name = name.into();
        Self::Io { name, error }
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        let code = match error {
            FileError::NoName(_) | FileError::NotOpen(_) => code::USAGE,
            _ => code::FAILURE,
        };
        Failure::new(code, error.to_string())
    }
}

impl From<FileError> for io::Error {
    fn from(error: FileError) -> Self {
        let kind = match &error {
            FileError::Io { error, .. } => error.kind(),
            _ => io::ErrorKind::Other,
        };
        // Where it is passed on, it is said that something could not be written.
        match error {
            FileError::Io { name, error } => {
                io::Error::new(kind, format!("{name}: {}", why(&error)))
            }
            other => io::Error::new(kind, other.to_string()),
        }
    }
}
