//! Where reports, pages and exports go: a file that appears when it is whole, or what is already open.

use std::{
    ffi::{OsStr, OsString},
    fs::{File, Metadata},
    io::{self, IsTerminal, LineWriter, Write},
    os::{
        fd::{AsFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::Path,
    rc::Rc,
};

use rustix::{
    fs::{Mode, OFlags, fstat, makedev, open},
    io::Errno,
};

use super::{FileError, Folder, NewFile, found::Found, replace::replaceable};
use crate::{
    procfs,
    session::{
        outcome::{Failure, code, why},
        stream,
    },
    views::escape::escape,
};

/// How often a file is renamed while others change what stands there.
pub(crate) const MOST_TRIES: usize = 8;

/// A place for a file, in a folder that is open.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) folder: Rc<Folder>,
    pub(crate) name: OsString,
}

impl Place {
    pub(crate) fn of(path: &Path) -> Result<Self, FileError> {
        let shown = || escape(&path.to_string_lossy()).into_owned();
        let ends_with_slash = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        let (Some(name), false) = (path.file_name(), ends_with_slash) else {
            return Err(FileError::NoName(shown()));
        };
        let folder = path.parent().unwrap_or(Path::new(""));
        Ok(Self {
            folder: Folder::open(folder).map_err(|error| FileError::io(shown(), error))?,
            name: name.to_owned(),
        })
    }

    pub(crate) fn shown(&self) -> String {
        self.folder.shown(&self.name)
    }
}

/// Where an output is to go; what stands there was looked at.
#[derive(Debug)]
pub(crate) enum Target {
    Open(Open),
    New(Existing),
}

/// A place, and what stands there.
#[derive(Debug)]
pub(crate) struct Existing {
    place: Place,
    found: Option<Found>,
}

impl Target {
    /// What `-o` says.
    ///
    /// # Errors
    /// What stands there cannot be replaced, or nothing can be made there.
    pub(crate) fn of(path: &Path) -> Result<Self, FileError> {
        if let Some(open) = Open::of(path)? {
            return Ok(Self::Open(open));
        }
        let place = Place::of(path)?;
        let found = replaceable(&place.folder, &place.name)?;
        Ok(Self::New(Existing { place, found }))
    }

    /// The same for a command that reads captures, which must not be written over.
    ///
    /// # Errors
    /// As [`Target::of`].
    pub(crate) fn beside(path: &Path, inputs: &[&Path]) -> Result<Self, Failure> {
        let target = Self::of(path)?;
        let identity = |file: Metadata| (file.dev(), file.ino());
        let written = match &target {
            Self::Open(open) => open.file.metadata().ok().map(identity),
            Self::New(existing) => existing.found.as_ref().map(Found::identity),
        };
        let read = |input: &&Path| input.metadata().ok().map(identity) == written;
        if written.is_some() && inputs.iter().any(read) {
            let shown = escape(&path.to_string_lossy()).into_owned();
            let message = format!("{shown} is read: name another file to write");
            return Err(Failure::new(code::USAGE, message));
        }
        Ok(target)
    }

    /// Whether it is what standard output was at the start.
    pub(crate) fn is_stdout(&self) -> bool {
        matches!(self, Self::Open(open) if open.is_stdout)
    }

    /// Whether it is something that is open already, or no file.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    /// Begins the output.
    ///
    /// # Errors
    /// No file can be made there.
    pub(crate) fn create(self) -> Result<Out, FileError> {
        let Existing { place, found } = match self {
            Self::Open(open) => return Ok(Out(Kind::Open(LineWriter::new(open.file), open.shown))),
            Self::New(existing) => existing,
        };
        let failed = |error| FileError::io(place.shown(), error);
        let new = NewFile::make(&place.folder, &place.name, "part").map_err(failed)?;
        let writer = LineWriter::new(new.file().try_clone().map_err(failed)?);
        Ok(Out(Kind::New {
            writer,
            new,
            place,
            replaces: found.is_some(),
            free: None,
        }))
    }
}

/// An output that is being written.
#[derive(Debug)]
pub(crate) struct Out(Kind);

#[derive(Debug)]
enum Kind {
    Stdout(io::Stdout),
    Open(LineWriter<File>, String),
    New {
        writer: LineWriter<File>,
        new: NewFile,
        place: Place,
        replaces: bool,
        /// Nothing is replaced: what its name begins and ends with, where a number fits in between.
        free: Option<(String, &'static str)>,
    },
}

impl Out {
    pub(crate) fn stdout() -> Self {
        Self(Kind::Stdout(io::stdout()))
    }

    /// Where standard output is something else's.
    pub(crate) fn stderr() -> Result<Self, FileError> {
        let file = handed_over(libc::STDERR_FILENO).ok_or(FileError::NotOpen("stderr".into()))?;
        Ok(Self(Kind::Open(
            LineWriter::new(file),
            "standard error".into(),
        )))
    }

    /// Whether bytes that are no text would meet a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        match &self.0 {
            Kind::Stdout(stdout) => stdout.is_terminal(),
            Kind::Open(file, _) => file.get_ref().is_terminal(),
            Kind::New { .. } => false,
        }
    }

    /// The same file once more, for a thread that writes: where somebody must read that, and standard output.
    ///
    /// # Errors
    /// There is no further descriptor.
    pub(crate) fn stream(&self) -> io::Result<Option<File>> {
        match &self.0 {
            Kind::Stdout(stdout) => Ok(Some(File::from(stdout.as_fd().try_clone_to_owned()?))),
            Kind::Open(file, _) => stream::of(file.get_ref()),
            Kind::New { .. } => Ok(None),
        }
    }

    /// A file in the current folder, whose name begins and ends like this, and which replaces none.
    ///
    /// # Errors
    /// No file can be made there.
    pub(crate) fn free(stem: String, end: &'static str) -> Result<Self, FileError> {
        let place = Place::of(Path::new(&format!("{stem}{end}")))?;
        let failed = |error| FileError::io(place.shown(), error);
        let new = NewFile::make(&place.folder, &place.name, "part").map_err(failed)?;
        let writer = LineWriter::new(new.file().try_clone().map_err(failed)?);
        Ok(Self(Kind::New {
            writer,
            new,
            place,
            replaces: false,
            free: Some((stem, end)),
        }))
    }

    /// It is whole: a file gets its name. Without this, no part of a file is left.
    ///
    /// # Errors
    /// What is there stays, when it cannot be replaced.
    pub(crate) fn finish(self) -> io::Result<()> {
        self.finish_named().map(drop)
    }

    /// The same; tells what the file is called.
    ///
    /// # Errors
    /// As [`Out::finish`].
    pub(crate) fn finish_named(mut self) -> io::Result<String> {
        self.flush()?;
        let shown = self.shown();
        let Kind::New {
            mut new,
            place,
            free,
            ..
        } = self.0
        else {
            return Ok(shown);
        };
        if let Some((stem, end)) = free {
            let named = new.rename_to_free(|number| match number {
                1 => format!("{stem}{end}"),
                number => format!("{stem}-{number}{end}"),
            });
            let failed = |error| FileError::io(place.shown(), error);
            return Ok(place.folder.shown(OsStr::new(&named.map_err(failed)?)));
        }
        for _ in 0..MOST_TRIES {
            let found = replaceable(&place.folder, &place.name)?;
            match new.rename(&place.name, found.as_ref()) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(FileError::io(place.shown(), error).into()),
                Ok(()) => return Ok(shown),
            }
        }
        let error = io::ErrorKind::AlreadyExists.into();
        Err(FileError::io(place.shown(), error).into())
    }

    /// What it is called, for a message.
    pub(crate) fn shown(&self) -> String {
        match &self.0 {
            Kind::Stdout(_) => "standard output".to_owned(),
            Kind::Open(_, shown) => shown.clone(),
            Kind::New { place, .. } => place.shown(),
        }
    }

    fn named<T>(&self, written: io::Result<T>) -> io::Result<T> {
        written.map_err(|error| {
            let left = match &self.0 {
                Kind::New { replaces: true, .. } => "; the file that was there stays as it was",
                Kind::New { .. } => "; no part of it is left",
                Kind::Stdout(_) | Kind::Open(..) => "",
            };
            named(&self.shown(), &error, left)
        })
    }
}

/// An error of writing that says to what, and what is there now.
pub(crate) fn named(shown: &str, error: &io::Error, left: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{shown}: {}{left}", why(error)))
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &mut self.0 {
            Kind::Stdout(out) => out.write(bytes),
            Kind::Open(out, _) => out.write(bytes),
            Kind::New { writer, .. } => writer.write(bytes),
        };
        self.named(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = match &mut self.0 {
            Kind::Stdout(out) => out.flush(),
            Kind::Open(out, _) => out.flush(),
            Kind::New { writer, .. } => writer.flush(),
        };
        self.named(flushed)
    }
}

/// What is written as it is: what was handed over open, and `/dev/null`.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) file: File,
    pub(crate) shown: String,
    pub(crate) is_stdout: bool,
}

impl Open {
    /// `-`, `/dev/stdout`, `/dev/stderr`, `/dev/fd/N`, `/dev/null`; `None`: something else.
    pub(crate) fn of(path: &Path) -> Result<Option<Self>, FileError> {
        let Some(text) = path.to_str() else {
            return Ok(None);
        };
        let number = match text {
            "-" | "/dev/stdout" => Some(libc::STDOUT_FILENO),
            "/dev/stderr" => Some(libc::STDERR_FILENO),
            "/dev/null" => None,
            _ => {
                let folders = ["/dev/fd/", procfs::host::OWN_FILES];
                let number = folders.iter().find_map(|folder| text.strip_prefix(folder));
                let Some(number) = number else {
                    return Ok(None);
                };
                let number = number.parse::<u16>().ok().map(RawFd::from);
                Some(number.ok_or_else(|| FileError::NotOpen(escape(text).into_owned()))?)
            }
        };
        let shown = escape(text).into_owned();
        let file = match number {
            Some(number) => handed_over(number).ok_or_else(|| FileError::NotOpen(shown.clone()))?,
            None => null().map_err(|error| FileError::io(shown.clone(), error))?,
        };
        Ok(Some(Self {
            file,
            shown,
            is_stdout: number == Some(libc::STDOUT_FILENO),
        }))
    }
}

/// A descriptor that whoever started this program left open. Those of this program itself are
/// marked to be closed at exec, so none that was handed over is.
fn handed_over(number: RawFd) -> Option<File> {
    // SAFETY: a system call without pointers; the number need not be open.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 || flags & libc::FD_CLOEXEC != 0 {
        return None;
    }
    // SAFETY: as above.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    // SAFETY: a new descriptor, which nobody else has.
    (copy >= 0).then(|| unsafe { OwnedFd::from_raw_fd(copy) }.into())
}

fn null() -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(open("/dev/null", flags, Mode::empty())?);
    // Documentation/admin-guide/devices.txt
    let is_null = fstat(&file)?.st_rdev == makedev(1, 3);
    if is_null && file.metadata()?.file_type().is_char_device() {
        return Ok(file);
    }
    Err(Errno::NODEV.into())
}
