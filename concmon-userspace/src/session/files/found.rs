//! What stands under a name already, and whether it may be replaced.

use std::{fs::File, io::Read as _};

use rustix::{
    fs::{FileType, FlockOperation, Stat, flock, fstat},
    io::Errno,
};

use super::{FileError, Folder};
use crate::capture;

/// What stands under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    dev: u64,
    ino: u64,
    kind: FileType,
    uid: u32,
    links: u64,
}

impl Found {
    #[allow(
        clippy::useless_conversion,
        reason = "the types of these fields differ between architectures"
    )]
    pub(crate) fn of(stat: &Stat) -> Self {
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            kind: FileType::from_raw_mode(stat.st_mode),
            uid: stat.st_uid,
            links: u64::from(stat.st_nlink),
        }
    }

    /// Device and number of the inode.
    pub(crate) fn identity(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }

    pub(crate) fn is(&self, other: &Found) -> bool {
        self.identity() == other.identity()
    }

    pub(crate) fn is_ordinary_of(&self, owner: u32) -> bool {
        self.kind == FileType::RegularFile && self.uid == owner && self.links == 1
    }

    /// Refuses what is not an ordinary file of this owner.
    pub(crate) fn check(&self, owner: u32, shown: &str) -> Result<(), FileError> {
        let shown = shown.to_owned();
        let kind = match self.kind {
            FileType::RegularFile if self.uid != owner => {
                return Err(FileError::Owner(shown, self.uid));
            }
            FileType::RegularFile if self.links != 1 => return Err(FileError::HardLink(shown)),
            FileType::RegularFile => return Ok(()),
            FileType::Symlink => return Err(FileError::Link(shown)),
            FileType::Fifo => "a FIFO",
            FileType::Directory => "a folder",
            FileType::Socket => "a socket",
            _ => "a device",
        };
        Err(FileError::Kind(shown, kind))
    }
}

/// What may be replaced by a report: an ordinary file of the same owner that nobody records to.
pub(crate) fn replaceable(
    folder: &Folder,
    name: &std::ffi::OsStr,
) -> Result<Option<Found>, FileError> {
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
    name: &std::ffi::OsStr,
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

fn find(folder: &Folder, name: &std::ffi::OsStr) -> Result<Option<Found>, FileError> {
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
