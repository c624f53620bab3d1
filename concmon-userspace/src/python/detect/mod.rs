//! From a process to the interpreter in it: which version, where its runtime is, which layout.

pub(super) mod elf;
mod live;
pub(super) mod version;

use std::collections::HashSet;
use std::io;

use elf::ElfFacts;
pub(super) use live::LiveProcess;
use version::{version_in_name, version_text};

use crate::event::{Pid, PythonInfo};
use crate::procfs::{
    maps::{self, Mapping},
    now,
};
use crate::python::layout::described::{self, MAX_TABLE_BYTES};
use crate::python::layout::{GilPlace, Layout, Version, row};
use crate::python::memory::{Memory, ProcessMemory, ReadError, at};
use crate::python::walk::thread_states;

const PAGE: u64 = 4096;
/// The longest writable mapping that is searched for the cookie of a runtime, bytes.
const MAX_SEARCH_BYTES: u64 = 16 << 20;

/// How long after its beginning a process may have mapped its files in part only, ns.
const DOUBT_NS: u64 = 1_000_000_000;

/// Why there is no interpreter to be looked at.
#[derive(Debug, thiserror::Error)]
pub enum DetectError {
    #[error("not a Python process")]
    NotPython,
    #[error("reading the process is denied")]
    NoPermission,
    #[error("the process is gone")]
    Gone,
    #[error("the interpreter has not finished starting")]
    Starting,
    #[error("the process could not be looked at")]
    Io(#[from] io::Error),
}

impl DetectError {
    fn from_io(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EACCES | libc::EPERM) => Self::NoPermission,
            Some(libc::ENOENT | libc::ESRCH) => Self::Gone,
            _ => Self::Io(error),
        }
    }

    fn from_read(error: ReadError) -> Self {
        match error {
            ReadError::Gone => Self::Gone,
            ReadError::NoPermission => Self::NoPermission,
            other => Self::Io(io::Error::other(other)),
        }
    }
}

/// What was found in a process.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) info: PythonInfo,
    /// Address of the runtime and what is known about it; `None` where nothing can be read.
    pub(crate) runtime: Option<(u64, Layout)>,
}

/// Looks for an interpreter in a process.
pub(crate) fn detect(pid: Pid, memory: &ProcessMemory) -> Result<Found, DetectError> {
    let mappings = maps::mappings(pid).map_err(DetectError::from_io)?;
    let Some(readable) = mappings.iter().find(|mapping| mapping.readable) else {
        return Err(if now::has_ended(pid) {
            DetectError::Gone
        } else {
            DetectError::NotPython
        });
    };
    // Whether the process may be read comes before what it is.
    match memory.read(readable.start, &mut [0]) {
        Ok(()) | Err(ReadError::Unmapped { .. }) => {}
        Err(error) => return Err(DetectError::from_read(error)),
    }
    match find_runtime(pid, memory, &mappings)? {
        Candidate::Runtime(runtime) => describe(pid, memory, &runtime),
        Candidate::Unsupported(info) => Ok(Found {
            info,
            runtime: None,
        }),
    }
}

/// A file with a runtime in it, as it is loaded.
struct LoadedRuntime<'a> {
    mapping: &'a Mapping,
    /// Address of `_PyRuntime`.
    address: u64,
    /// Address of `Py_Version`.
    version: Option<u64>,
}

enum Candidate<'a> {
    Runtime(LoadedRuntime<'a>),
    Unsupported(PythonInfo),
}

fn unsupported(implementation: &str, version: Option<String>, reason: String) -> PythonInfo {
    PythonInfo {
        implementation: implementation.to_owned(),
        version,
        free_threaded: false,
        supported: false,
        reason: Some(reason),
    }
}

/// Whether a file is named like an interpreter or its library: `python`, `python3.13`,
/// `libpython3.8.so.1.0`, but not `python-apt.mo`.
fn named_python(basename: &str) -> bool {
    match basename.strip_prefix("lib") {
        Some(library) => library.strip_prefix("python"),
        None => basename.strip_prefix("python"),
    }
    .is_some_and(|rest| rest.is_empty() || rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Whether a process has an interpreter or its library mapped, as far as their names tell; `false` where that cannot be
/// read.
pub fn maps_python(pid: Pid) -> bool {
    let mappings = maps::mappings(pid).unwrap_or_default();
    let is_python = |name: &str| named_python(name) || named_pypy(name);
    files(&mappings)
        .iter()
        .any(|file| is_python(file.basename()))
}

/// Whether a file is named like PyPy or its library.
fn named_pypy(basename: &str) -> bool {
    basename.starts_with("pypy") || basename.starts_with("libpypy")
}

/// How far a file was moved from the addresses written in it: by the first of its segments that
/// is mapped where its offset says.
pub(crate) fn load_bias(facts: &ElfFacts, file: &Mapping, mappings: &[Mapping]) -> Option<u64> {
    facts.segments.iter().find_map(|segment| {
        let offset = segment.offset & !(PAGE - 1);
        let mapping = mappings.iter().find(|mapping| {
            mapping.inode == file.inode && mapping.path == file.path && mapping.offset == offset
        })?;
        Some(mapping.start.wrapping_sub(segment.address & !(PAGE - 1)))
    })
}

/// One mapping for each file, those named like Python first, in the order of addresses.
fn files(mappings: &[Mapping]) -> Vec<&Mapping> {
    let mut seen = HashSet::new();
    let mut files: Vec<&Mapping> = mappings
        .iter()
        .filter(|mapping| mapping.is_file() && seen.insert((&mapping.path, mapping.inode)))
        .collect();
    files.sort_by_key(|mapping| !named_python(mapping.basename()));
    files
}

/// Address of asyncio's own offset table, in its module or in the interpreter's file.
pub(crate) fn asyncio_table(pid: Pid) -> Option<u64> {
    let mappings = maps::mappings(pid).ok()?;
    let mut files = files(&mappings);
    files.retain(|file| file.basename().starts_with("_asyncio.") || named_python(file.basename()));
    // In its own module first: the file of an interpreter is larger and rarely has one.
    files.sort_by_key(|file| !file.basename().starts_with("_asyncio."));
    files.into_iter().find_map(|file| {
        let facts = elf::inspect(file.open(pid).ok()?, false).ok()?;
        let bias = load_bias(&facts, file, &mappings)?;
        Some(bias.wrapping_add(facts.asyncio_table?))
    })
}

fn find_runtime<'a>(
    pid: Pid,
    memory: &ProcessMemory,
    mappings: &'a [Mapping],
) -> Result<Candidate<'a>, DetectError> {
    let files = files(mappings);
    if let Some(pypy) = files.iter().find(|file| named_pypy(file.basename())) {
        let reason = "PyPy keeps its objects in a way that is not known".to_owned();
        let version = pypy
            .basename()
            .strip_prefix("pypy")
            .filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            .map(str::to_owned);
        return Ok(Candidate::Unsupported(unsupported("pypy", version, reason)));
    }
    let mut named = Vec::new();
    let mut waits_for_library = false;
    for file in files {
        let is_named = named_python(file.basename());
        let opened = match file.open(pid) {
            Ok(opened) => opened,
            // An unreadable file of a readable process: only one named Python is missed.
            Err(error) if is_named => return Err(DetectError::from_io(error)),
            Err(_) => continue,
        };
        if is_named {
            named.push(file);
        }
        let Ok(facts) = elf::inspect(opened, is_named) else {
            continue;
        };
        waits_for_library |= facts.needs_libpython;
        let bias = load_bias(&facts, file, mappings);
        if let (Some(runtime), Some(bias)) = (facts.runtime, bias) {
            return Ok(Candidate::Runtime(LoadedRuntime {
                mapping: file,
                address: bias.wrapping_add(runtime),
                version: facts.version.map(|address| bias.wrapping_add(address)),
            }));
        }
    }
    without_symbol(memory, mappings, &named, waits_for_library)
}

/// No file says where a runtime is: it is none, one that starts, an old one, or one whose file
/// was stripped of its section headers.
fn without_symbol<'a>(
    memory: &ProcessMemory,
    mappings: &'a [Mapping],
    named: &[&'a Mapping],
    waits_for_library: bool,
) -> Result<Candidate<'a>, DetectError> {
    if named.is_empty() {
        return Err(DetectError::NotPython);
    }
    for mapping in mappings.iter().filter(|mapping| {
        mapping.writable
            && mapping.end - mapping.start <= MAX_SEARCH_BYTES
            && named.iter().any(|file| file.path == mapping.path)
    }) {
        let mut bytes = vec![0; (mapping.end - mapping.start) as usize];
        if memory.read(mapping.start, &mut bytes).is_err() {
            continue;
        }
        let found = bytes
            .chunks_exact(8)
            .position(|chunk| chunk == described::COOKIE);
        if let Some(index) = found {
            return Ok(Candidate::Runtime(LoadedRuntime {
                mapping,
                address: mapping.start + index as u64 * 8,
                version: None,
            }));
        }
    }
    let library_is_here = named
        .iter()
        .any(|file| file.basename().starts_with("libpython"));
    if waits_for_library && !library_is_here {
        return Err(DetectError::Starting);
    }
    let version = named
        .iter()
        .find_map(|file| version_in_name(file.basename()));
    let reason = match version {
        Some(version) if (version.major, version.minor) < (3, 7) => too_old(version),
        _ => "no interpreter runtime was found in the process's files".to_owned(),
    };
    Ok(Candidate::Unsupported(unsupported(
        "cpython",
        version.map(|version| format!("{}.{}", version.major, version.minor)),
        reason,
    )))
}

fn too_old(version: Version) -> String {
    format!(
        "Python {}.{} is older than 3.8, the oldest whose runtime is known",
        version.major, version.minor
    )
}

fn from_hex(hex: u64) -> Option<(Version, String)> {
    let version = Version {
        major: (hex >> 24) as u8,
        minor: (hex >> 16) as u8,
    };
    (version.major == 3).then(|| (version, version_text(hex)))
}

fn version_of_head(head: described::Head) -> Option<(Version, String, bool)> {
    let (version, text) = from_hex(head.version_hex)?;
    Some((version, text, head.free_threaded))
}

/// The version of a runtime: as a pair, as text, and whether it is free-threaded.
fn version_of(
    pid: Pid,
    memory: &ProcessMemory,
    runtime: &LoadedRuntime<'_>,
    table: &[u8],
) -> Option<(Version, String, bool)> {
    if let Some(head) = described::head(table) {
        return version_of_head(head);
    }
    if let Some(address) = runtime.version {
        let (version, text) = from_hex(memory.read_u64(address).ok()?)?;
        return Some((version, text, false));
    }
    let named = version_in_name(runtime.mapping.basename());
    let accept = |text: &str| match (named, version_in_name(&format!("python{text}"))) {
        (Some(named), found) => found == Some(named),
        (None, found) => found.is_some_and(|found| (7..=10).contains(&found.minor)),
    };
    let text = runtime
        .mapping
        .open(pid)
        .ok()
        .and_then(|file| elf::version_string(file, named, accept));
    match (named, text) {
        (Some(named), Some(text)) => Some((named, text, false)),
        (Some(named), None) => Some((named, format!("{}.{}", named.major, named.minor), false)),
        (None, Some(text)) => Some((version_in_name(&format!("python{text}"))?, text, false)),
        (None, None) => None,
    }
}

fn describe(
    pid: Pid,
    memory: &ProcessMemory,
    runtime: &LoadedRuntime<'_>,
) -> Result<Found, DetectError> {
    let mut table = vec![0; MAX_TABLE_BYTES];
    match memory.read(runtime.address, &mut table) {
        Ok(()) => {}
        Err(error @ ReadError::Unmapped { .. }) if !now::is_young(pid, DOUBT_NS) => {
            let named = version_in_name(runtime.mapping.basename());
            let version = named.map(|version| format!("{}.{}", version.major, version.minor));
            let reason = format!("its memory is not there to be read: {error}");
            return Ok(Found {
                info: unsupported("cpython", version, reason),
                runtime: None,
            });
        }
        Err(error) => return Err(DetectError::from_read(error)),
    }
    let version = version_of(pid, memory, runtime, &table);
    judge(memory, runtime.address, version, &table)
}

/// What is in a process that was detected once before: `text` is its version.
#[cfg(feature = "developer")]
pub(crate) fn detect_again(
    memory: &dyn Memory,
    runtime: u64,
    text: &str,
) -> Result<Found, DetectError> {
    let mut table = vec![0; MAX_TABLE_BYTES];
    memory
        .read(runtime, &mut table)
        .map_err(DetectError::from_read)?;
    let version = match described::head(&table) {
        Some(head) => version_of_head(head),
        None => version_in_name(&format!("python{text}"))
            .map(|version| (version, text.to_owned(), false)),
    };
    judge(memory, runtime, version, &table)
}

/// Whether a runtime of this version, with its own table where it has one, can be read.
fn judge(
    memory: &dyn Memory,
    runtime: u64,
    version: Option<(Version, String, bool)>,
    table: &[u8],
) -> Result<Found, DetectError> {
    let Some((version, text, free_threaded)) = version else {
        let reason = "the interpreter's version could not be told".to_owned();
        return Ok(Found {
            info: unsupported("cpython", None, reason),
            runtime: None,
        });
    };
    let refuse = |reason: String| {
        let mut info = unsupported("cpython", Some(text.clone()), reason);
        info.free_threaded = free_threaded;
        Ok(Found {
            info,
            runtime: None,
        })
    };
    if free_threaded {
        let reason = "free-threaded builds lay out their objects in another way, not supported yet";
        return refuse(reason.to_owned());
    }
    let Some(mut layout) = row(version) else {
        let reason = if (version.major, version.minor) < (3, 8) {
            too_old(version)
        } else {
            format!(
                "Python {}.{} is newer than 3.15, the newest whose memory is known",
                version.major, version.minor
            )
        };
        return refuse(reason);
    };
    if described::head(table).is_some()
        && let Err(error) = described::apply(&mut layout, version, table)
    {
        return refuse(error.to_string());
    }
    match check(memory, runtime, &layout) {
        Ok(()) => {}
        Err(Check::Starting) => return Err(DetectError::Starting),
        Err(Check::Read(error @ (ReadError::Gone | ReadError::NoPermission))) => {
            return Err(DetectError::from_read(error));
        }
        Err(Check::Read(error)) => {
            let reason = format!("its runtime does not look as that of {text} should: {error}");
            return refuse(reason);
        }
    }
    Ok(Found {
        info: PythonInfo {
            implementation: "cpython".to_owned(),
            version: Some(text),
            free_threaded,
            supported: true,
            reason: None,
        },
        runtime: Some((runtime, layout)),
    })
}

enum Check {
    Starting,
    Read(ReadError),
}

impl From<ReadError> for Check {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// Whether the layout holds for this runtime: the main interpreter's newest thread points back to
/// its interpreter, and the GIL looks like one.
fn check(memory: &dyn Memory, runtime: u64, layout: &Layout) -> Result<(), Check> {
    // Sub-interpreters may have no thread at all, the main one always has.
    let Some(interpreter) = thread_states::interpreters(memory, runtime, layout)?
        .first()
        .copied()
    else {
        return Err(Check::Starting);
    };
    let thread = memory.read_u64(at(interpreter, layout.interpreter.threads_head))?;
    let modules = memory.read_u64(at(interpreter, layout.interpreter.modules))?;
    if thread == 0 || modules == 0 {
        return Err(Check::Starting);
    }
    if memory.read_u64(at(thread, layout.walk.thread.interpreter))? != interpreter {
        return Err(Check::Read(ReadError::Implausible {
            what: "thread state",
            address: thread,
        }));
    }
    let gil = gil_of(memory, runtime, interpreter, layout)?;
    if gil == 0 {
        return Err(Check::Starting);
    }
    check_gil(memory, gil).map_err(Check::Read)
}

/// Address of the GIL that an interpreter uses; 0 while it has none.
pub(crate) fn gil_of(
    memory: &dyn Memory,
    runtime: u64,
    interpreter: u64,
    layout: &Layout,
) -> Result<u64, ReadError> {
    match layout.interpreter.gil {
        GilPlace::Runtime(offset) => Ok(at(runtime, offset)),
        GilPlace::Pointer(offset) => memory.read_u64(at(interpreter, offset)),
    }
}

/// Whether a GIL is there.
pub(crate) fn check_gil(memory: &dyn Memory, address: u64) -> Result<(), ReadError> {
    crate::python::walk::gil::read(memory, address).map(drop)
}

#[cfg(test)]
mod tests;
