//! The file of `record`, which has its own name from its first frame on.

use std::{
    cell::RefCell,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    rc::Rc,
};

use rustix::fs::fstat;

use super::{
    FileError, Folder, NewFile,
    found::Found,
    out::{MOST_TRIES, Open, Place},
    replace::capture_to_move,
};
use crate::{
    capture::{FileStore, Header, Sealed, Store},
    session::outcome::{Failure, code, why},
    views::escape::escape,
};

/// What became of a recording, for who tells of it.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// The file, escaped.
    pub(crate) name: RefCell<String>,
    /// It is standard output, which is nobody else's then.
    pub(crate) is_stdout: bool,
    /// It goes away once something has been made of it.
    pub(crate) is_passing: bool,
    /// Where it stands under its name, once it has begun there.
    stands: RefCell<Option<Place>>,
}

impl Written {
    /// Opens what was recorded; `None`: it was not begun under a name.
    ///
    /// # Errors
    /// It is not there any more, or cannot be read.
    pub(crate) fn open(&self) -> io::Result<Option<File>> {
        let stands = self.stands.borrow();
        let open = |place: &Place| place.folder.open_to_read(&place.name);
        stands.as_ref().map(open).transpose()
    }

    /// Takes away what was recorded, if `file` is what stands there.
    pub(crate) fn remove(&self, file: &File) {
        let Some(place) = self.stands.borrow_mut().take() else {
            return;
        };
        let own = fstat(file).map(|stat| Found::of(&stat));
        let there = place.folder.find(&place.name);
        if let (Ok(own), Ok(Some(there))) = (own, there)
            && own.is(&there)
            && let Err(error) = place.folder.remove(&place.name)
        {
            log::warn!("{} stays: {error}", place.shown());
        }
    }
}

/// A capture file, made when its header is known: so it can be read from the instant on that it is
/// there, and who kills this program leaves no empty one. It is locked while it is written.
#[derive(Debug)]
pub(crate) struct Recording {
    to: To,
    written: Rc<Written>,
    store: Option<FileStore>,
}

#[derive(Debug)]
enum To {
    Open(Open),
    /// A capture that is there becomes `FILE.old`.
    Named(Place),
    /// The first name that is free: stem and end.
    Free(Rc<Folder>, String),
}

impl Recording {
    /// What `-o` says; without it a file in the current folder, whose name begins with `stem`.
    ///
    /// # Errors
    /// What stands there is no capture that can be put aside, or nothing can be made there.
    pub(crate) fn new(path: Option<&Path>, stem: &str) -> Result<Self, Failure> {
        let to = match path {
            None => {
                let failed = |error| FileError::io("a file in the current folder", error);
                let folder = Folder::open(Path::new("")).map_err(failed)?;
                To::Free(folder, stem.to_owned())
            }
            Some(path) => match Open::of(path)? {
                Some(open) if open.file.is_terminal() => {
                    let message = "a capture is not for terminals: name a file with -o FILE";
                    return Err(Failure::new(code::USAGE, message));
                }
                Some(open) => To::Open(open),
                None => {
                    let place = Place::of(path)?;
                    capture_to_move(&place.folder, &place.name)?;
                    capture_to_move(&place.folder, &old(&place.name))?;
                    To::Named(place)
                }
            },
        };
        let (name, is_stdout) = match &to {
            To::Open(open) => (open.shown.clone(), open.is_stdout),
            To::Named(place) => (place.shown(), false),
            To::Free(folder, stem) => (folder.shown(OsStr::new(&free(stem, 1))), false),
        };
        Ok(Self {
            to,
            written: Rc::new(Written {
                name: RefCell::new(name),
                is_stdout,
                ..Written::default()
            }),
            store: None,
        })
    }

    /// A capture that goes away once something has been made of it, and stays where that fails, or where this
    /// program is killed: what is to be `FILE` is recorded in `FILE.concmon`.
    ///
    /// # Errors
    /// As [`Recording::new`].
    pub(crate) fn passing(path: Option<&Path>, stem: &str) -> Result<Self, Failure> {
        let path = path.map(|path| {
            let mut beside = path.as_os_str().to_owned();
            beside.push(".concmon");
            PathBuf::from(beside)
        });
        let mut recording = Self::new(path.as_deref(), stem)?;
        let name = recording.written.name.borrow().clone();
        recording.written = Rc::new(Written {
            name: RefCell::new(name),
            is_passing: true,
            ..Written::default()
        });
        Ok(recording)
    }

    /// A file without a name, which is gone when nobody has it open, and the same to be read.
    /// `is_stdout`: what is made of it goes to standard output.
    ///
    /// # Errors
    /// The folder for temporary files cannot be written.
    pub(crate) fn temporary(is_stdout: bool) -> Result<(Self, File), FileError> {
        let shown = format!(
            "a temporary file in {}",
            escape(&std::env::temp_dir().to_string_lossy())
        );
        let failed = |error| FileError::io(shown.clone(), error);
        let file = tempfile::tempfile().map_err(failed)?;
        let same = file.try_clone().map_err(failed)?;
        let to = To::Open(Open {
            file,
            shown: shown.clone(),
            is_stdout: false,
        });
        let written = Rc::new(Written {
            name: RefCell::new(shown),
            is_stdout,
            is_passing: true,
            ..Written::default()
        });
        let store = None;
        Ok((Self { to, written, store }, same))
    }

    pub(crate) fn written(&self) -> Rc<Written> {
        Rc::clone(&self.written)
    }

    fn begun(&self, header: &Header) -> Result<FileStore, FileError> {
        let failed = |error| FileError::io(self.written.name.borrow().clone(), error);
        let begin = |file| {
            let mut store = FileStore::new(file);
            store.begin(header).map(|()| store)
        };
        let new = |folder: &Rc<Folder>, name: &OsStr| {
            let new = NewFile::make(folder, name, "part.concmon")?;
            new.lock()?;
            let store = begin(new.file().try_clone()?)?;
            Ok((new, store))
        };
        match &self.to {
            To::Open(open) => open.file.try_clone().and_then(begin).map_err(failed),
            To::Named(place) => {
                let (mut new, store) = new(&place.folder, &place.name).map_err(failed)?;
                put_in_place(&mut new, place)?;
                self.stands_at(&place.folder, &place.name);
                Ok(store)
            }
            To::Free(folder, stem) => {
                let (mut new, store) = new(folder, OsStr::new(stem)).map_err(failed)?;
                let name = new
                    .rename_to_free(|number| free(stem, number))
                    .map_err(failed)?;
                *self.written.name.borrow_mut() = folder.shown(OsStr::new(&name));
                self.stands_at(folder, OsStr::new(&name));
                Ok(store)
            }
        }
    }

    fn stands_at(&self, folder: &Rc<Folder>, name: &OsStr) {
        let folder = Rc::clone(folder);
        let name = name.to_owned();
        *self.written.stands.borrow_mut() = Some(Place { folder, name });
    }

    fn store(&mut self) -> io::Result<&mut FileStore> {
        let none = || io::Error::other("the recording was not begun");
        self.store.as_mut().ok_or_else(none)
    }

    /// An error that happened behind the header.
    fn broken(&self, error: io::Error) -> io::Error {
        let name = self.written.name.borrow();
        let text = format!(
            "cannot write {name}: {}; what was written before is whole",
            why(&error)
        );
        io::Error::new(error.kind(), text)
    }
}

impl Store for Recording {
    fn begin(&mut self, header: &Header) -> io::Result<()> {
        let store = self.begun(header).map_err(|error| {
            let text = format!("{error}; nothing was recorded");
            io::Error::new(io::Error::from(error).kind(), text)
        })?;
        self.store = Some(store);
        Ok(())
    }

    fn chunk(&mut self, chunk: Sealed) -> io::Result<()> {
        let kept = self.store()?.chunk(chunk);
        kept.map_err(|error| self.broken(error))
    }

    fn end(&mut self, at_ns: u64) -> io::Result<()> {
        let ended = self.store()?.end(at_ns);
        ended.map_err(|error| self.broken(error))
    }

    fn bytes(&self) -> u64 {
        self.store.as_ref().map_or(0, Store::bytes)
    }
}

/// Gives a recording that has begun its name. A capture there is moved aside first, unless somebody
/// records to it: as it is locked meanwhile, only one of several recorders does that.
fn put_in_place(new: &mut NewFile, place: &Place) -> Result<(), FileError> {
    let Place { folder, name } = place;
    let failed = |error| FileError::io(place.shown(), error);
    let old = old(name);
    for _ in 0..MOST_TRIES {
        if let Some((moved, _lock)) = capture_to_move(folder, name)? {
            let is_moved = |name: &OsStr| {
                let there = folder.find(name).map_err(failed)?;
                Ok(there.is_some_and(|there| there.is(&moved)))
            };
            if !is_moved(name)? {
                continue;
            }
            let over = capture_to_move(folder, &old)?;
            let over = over.as_ref().map(|(found, _lock)| found);
            match folder.rename(name, &old, over) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                renamed => renamed.map_err(|error| FileError::io(folder.shown(&old), error))?,
            }
            if !is_moved(&old)? {
                // Somebody has put another file there since.
                folder.rename(&old, name, None).map_err(failed)?;
                continue;
            }
        }
        match new.rename(name, None) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            renamed => return renamed.map_err(failed),
        }
    }
    Err(FileError::Busy(place.shown()))
}

fn old(name: &OsStr) -> OsString {
    let mut old = name.to_owned();
    old.push(".old");
    old
}

/// The names that are tried for a file without a name of the user's.
fn free(stem: &str, number: u32) -> String {
    match number {
        1 => format!("{stem}.concmon"),
        number => format!("{stem}-{number}.concmon"),
    }
}
