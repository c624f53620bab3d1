//! A file that is being made under a random name.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::unix::ffi::OsStrExt as _,
    rc::Rc,
};

use rustix::{
    fs::{FlockOperation, flock, fstat},
    rand::{GetRandomFlags, getrandom},
};

use super::{Folder, found::Found};

/// Bytes of a wanted name that a random name begins with; the longest name has 255.
const STEM_BYTES: usize = 180;

/// A new file. It goes away with this value, unless it was given its name.
#[derive(Debug)]
pub(crate) struct NewFile {
    file: File,
    folder: Rc<Folder>,
    name: OsString,
    stays: bool,
}

impl NewFile {
    /// Makes one, which others can neither read nor foretell the name of: `stem.RANDOM.end`.
    pub(crate) fn make(folder: &Rc<Folder>, stem: &OsStr, end: &str) -> io::Result<Self> {
        let mut random = [0; 8];
        getrandom(&mut random, GetRandomFlags::empty())?;
        let stem = stem.as_bytes();
        let mut name = OsStr::from_bytes(&stem[..stem.len().min(STEM_BYTES)]).to_owned();
        name.push(format!(".{:016x}.{end}", u64::from_ne_bytes(random)));
        let new = Self {
            file: folder.create(&name)?,
            folder: Rc::clone(folder),
            name,
            stays: false,
        };
        folder.hand_over(&new.file)?;
        Ok(new)
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Where it is now, as it is told to the user.
    pub(crate) fn shown(&self) -> String {
        self.folder.shown(&self.name)
    }

    /// Says to other recorders that it is being written, as long as it is open.
    ///
    /// # Errors
    /// Those of the file system; one without locks is none.
    pub(crate) fn lock(&self) -> io::Result<()> {
        match flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                log::debug!("{} cannot be locked", self.shown());
                Ok(())
            }
            locked => Ok(locked?),
        }
    }

    /// Gives it its name; `over` is what may be replaced there. From then on it stays.
    ///
    /// # Errors
    /// As [`Folder::rename`]; it can be tried again.
    pub(crate) fn rename(&mut self, name: &OsStr, over: Option<&Found>) -> io::Result<()> {
        self.folder.rename(&self.name, name, over)?;
        self.name = name.to_owned();
        self.stays = true;
        Ok(())
    }

    /// Gives it the first of these names that is free, and tells which.
    ///
    /// # Errors
    /// As [`Folder::rename`].
    pub(crate) fn rename_to_free(&mut self, name: impl Fn(u32) -> String) -> io::Result<String> {
        /// Recorders of one program that write at the same second.
        const MOST: u32 = 1_000;
        for number in 1..=MOST {
            let name = name(number);
            match self.rename(OsStr::new(&name), None) {
                Ok(()) => return Ok(name),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        let own = fstat(&self.file).map(|stat| Found::of(&stat));
        let there = self.folder.find(&self.name);
        if let (Ok(own), Ok(Some(there))) = (own, there)
            && own.is(&there)
            && let Err(error) = self.folder.remove(&self.name)
        {
            log::warn!("{} is not whole, and stays: {error}", self.shown());
        }
    }
}
