//! Whether what stands under a name may be replaced.

use std::{ffi::OsStr, fs::File, io::Read as _};

use rustix::{
    fs::{FlockOperation, flock, fstat},
    io::Errno,
};

use super::{FileError, Folder, found::Found};
use crate::capture;

/// What may be replaced by a report: an ordinary file of the same owner that nobody records to.
pub(crate) fn replaceable(folder: &Folder, name: &OsStr) -> Result<Option<Found>, FileError> {
    let shown = folder.shown(name);
    let Some(found) = find(folder, name)? else {
        return Ok(None);
    };
    found.check(folder.owner(), &shown)?;
    // What cannot be opened is no recording of ours.
    if let Ok(file) = folder.open_to_read(name) {
        lock(&file, FlockOperation::NonBlockingLockShared, &shown)?;
    }
    Ok(Some(found))
}

/// A capture that may give way to a new one. It is locked as long as the file is open.
pub(crate) fn capture_to_move(
    folder: &Folder,
    name: &OsStr,
) -> Result<Option<(Found, File)>, FileError> {
    let shown = folder.shown(name);
    let Some(found) = find(folder, name)? else {
        return Ok(None);
    };
    found.check(folder.owner(), &shown)?;
    let failed = |error| FileError::io(shown.clone(), error);
    let mut file = folder.open_to_read(name).map_err(failed)?;
    let opened = Found::of(&fstat(&file).map_err(|error| failed(error.into()))?);
    opened.check(folder.owner(), &shown)?;
    lock(&file, FlockOperation::NonBlockingLockExclusive, &shown)?;
    let mut magic = [0; capture::MAGIC.len()];
    if file.read_exact(&mut magic).is_err() || magic != capture::MAGIC {
        return Err(FileError::NoCapture(shown));
    }
    Ok(Some((opened, file)))
}

fn find(folder: &Folder, name: &OsStr) -> Result<Option<Found>, FileError> {
    let failed = |error| FileError::io(folder.shown(name), error);
    folder.find(name).map_err(failed)
}

fn lock(file: &File, how: FlockOperation, shown: &str) -> Result<(), FileError> {
    match flock(file, how) {
        Err(Errno::WOULDBLOCK) => Err(FileError::Busy(shown.to_owned())),
        // A file system without locks: nobody can be told from it.
        Ok(()) | Err(_) => Ok(()),
    }
}
