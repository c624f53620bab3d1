//! A folder that was opened once: what happens in it goes by names in it, so that nobody can put
//! another folder in its place meanwhile.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
    rc::Rc,
};

use rustix::{
    fs::{
        self, Access, AtFlags, Dir, Gid, Mode, OFlags, RenameFlags, Uid, fchown, fstat, linkat,
        openat, renameat, renameat_with, statat, unlinkat,
    },
    io::Errno,
    process::geteuid,
};

use super::found::Found;
use crate::views::escape::escape;

/// A folder where files are written.
#[derive(Debug)]
pub(crate) struct Folder {
    handle: OwnedFd,
    path: PathBuf,
    owner: u32,
    /// Under sudo: who gets the files.
    caller: Option<(Uid, Gid)>,
}

impl Folder {
    /// Opens a folder in which files can be made.
    ///
    /// # Errors
    /// There is none, or nothing may be made in it.
    pub(crate) fn open(path: &Path) -> io::Result<Rc<Self>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = match path.as_os_str().is_empty() {
            true => fs::open(".", flags, Mode::empty()),
            false => fs::open(path, flags, Mode::empty()),
        }?;
        fs::accessat(
            &handle,
            ".",
            Access::WRITE_OK | Access::EXEC_OK,
            AtFlags::EACCESS,
        )?;
        let own = geteuid();
        let caller = own.is_root().then(caller).flatten();
        Ok(Rc::new(Self {
            handle,
            path: path.to_owned(),
            owner: caller.map_or(own, |(user, _)| user).as_raw(),
            caller,
        }))
    }

    /// Whose files it gets.
    pub(crate) fn owner(&self) -> u32 {
        self.owner
    }

    /// A file in it, as it is told to the user.
    pub(crate) fn shown(&self, name: &OsStr) -> String {
        escape(&self.path.join(name).to_string_lossy()).into_owned()
    }

    /// What stands under a name; a link is what it is.
    pub(crate) fn find(&self, name: &OsStr) -> io::Result<Option<Found>> {
        match statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Found::of(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens what may be anything; it never waits.
    pub(crate) fn open_to_read(&self, name: &OsStr) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(openat(&self.handle, name, flags, Mode::empty())?.into())
    }

    /// Whether an open file is an ordinary one of the same owner.
    pub(crate) fn is_own(&self, file: &File) -> bool {
        fstat(file).is_ok_and(|stat| Found::of(&stat).is_ordinary_of(self.owner))
    }

    /// Names in it, at most so many.
    pub(crate) fn names(&self, most: usize) -> io::Result<Vec<OsString>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let entries = Dir::new(openat(&self.handle, ".", flags, Mode::empty())?)?;
        let names = entries.take(most).map(|entry| {
            let entry = entry?;
            Ok(OsStr::from_bytes(entry.file_name().to_bytes()).to_owned())
        });
        names.collect()
    }

    pub(crate) fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(&self.handle, name, AtFlags::empty())?)
    }

    /// Makes a new file, which others cannot read.
    pub(crate) fn create(&self, name: &OsStr) -> io::Result<File> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.handle, name, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(file.into())
    }

    /// Gives a new file to whoever is to have it.
    pub(crate) fn hand_over(&self, file: &File) -> io::Result<()> {
        match self.caller {
            Some((user, group)) => Ok(fchown(file, Some(user), Some(group))?),
            None => Ok(()),
        }
    }

    /// Gives `from` the name `to`. `over` is what was found there, and the only thing that may go:
    /// what the rename takes out is looked at before it is deleted.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`]: something else stands there.
    pub(crate) fn rename(&self, from: &OsStr, to: &OsStr, over: Option<&Found>) -> io::Result<()> {
        let Some(over) = over else {
            return self.rename_to_nothing(from, to);
        };
        match renameat_with(&self.handle, from, &self.handle, to, RenameFlags::EXCHANGE) {
            Ok(()) => {}
            // It has gone away meanwhile.
            Err(Errno::NOENT) => return self.rename_to_nothing(from, to),
            Err(error) if is_unknown(error) && self.is_private()? => {
                return Ok(renameat(&self.handle, from, &self.handle, to)?);
            }
            Err(error) if is_unknown(error) => {
                return Err(io::Error::other(
                    "its file system cannot exchange files, and others may write to its folder: \
                     remove the old file first",
                ));
            }
            Err(error) => return Err(error.into()),
        }
        // The owner, too: numbers of inodes are given out again.
        if self.find(from)?.is_some_and(|out| out == *over) {
            return self.remove(from);
        }
        renameat_with(&self.handle, from, &self.handle, to, RenameFlags::EXCHANGE)?;
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn rename_to_nothing(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        match renameat_with(&self.handle, from, &self.handle, to, RenameFlags::NOREPLACE) {
            Err(error) if is_unknown(error) => self.link_to_nothing(from, to),
            renamed => Ok(renamed?),
        }
    }

    /// For file systems that have no other way to leave alone what is there.
    pub(crate) fn link_to_nothing(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        linkat(&self.handle, from, &self.handle, to, AtFlags::empty())?;
        self.remove(from)
    }

    /// Nobody else can rename in it.
    pub(crate) fn is_private(&self) -> io::Result<bool> {
        let folder = fstat(&self.handle)?;
        let ours = [0, self.owner].contains(&folder.st_uid);
        Ok(ours && folder.st_mode & 0o022 == 0)
    }
}

/// The file system does not know this way of renaming.
fn is_unknown(error: Errno) -> bool {
    [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP].contains(&error)
}

/// Who called this through sudo.
fn caller() -> Option<(Uid, Gid)> {
    let id = |name: &str| {
        let id: u32 = std::env::var(name).ok()?.parse().ok()?;
        // Stands for nobody in chown.
        (id != u32::MAX).then_some(id)
    };
    let (user, group) = (id("SUDO_UID")?, id("SUDO_GID")?);
    Some((Uid::from_raw(user), Gid::from_raw(group)))
}
