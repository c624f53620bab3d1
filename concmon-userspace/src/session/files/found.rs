//! What stands under a name already.

use rustix::fs::{FileType, Stat};

use super::FileError;

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
