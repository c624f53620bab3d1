//! Functions in the code of a process, and the instructions in them that probes go to.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use iced_x86::Register;

use super::returns::{LONGEST, Place, Walker};
use crate::event::Pid;
use crate::procfs::maps::{self, Mapping};
use crate::python::attached::Attached;
use crate::python::layout::Layout;

/// The longest mapping of a module that is searched for its own data.
const MAX_MAPPING_BYTES: u64 = 24 << 20;

/// What a probed function does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    /// Initializes a task, its first argument.
    Made,
    /// As [`ProbeKind::Made`], and may run it.
    MadeEager,
    /// Runs a step of the task that is its first argument.
    Step,
    /// Runs a step of the task in the wrapper that is its first argument.
    WrappedStep,
    /// Puts the first of its arguments into a queue.
    Put,
    /// Notes that an exception passes a frame.
    Unwound,
    /// Gives an exception to a future of asyncio.
    HandedOver,
}

impl ProbeKind {
    /// What a function is called whose calls are seen to end, too.
    fn with_ends(self) -> Option<&'static str> {
        match self {
            Self::MadeEager => Some("the function that makes tasks"),
            Self::Step => Some("the function that wakes tasks up"),
            Self::WrappedStep => Some("a function that runs steps"),
            Self::Made | Self::Put | Self::Unwound | Self::HandedOver => None,
        }
    }

    /// The registers of the arguments that are read (System V ABI, x86-64).
    fn arguments(self) -> &'static [Register] {
        match self {
            Self::Step | Self::WrappedStep | Self::Unwound => &[Register::RDI],
            Self::Made | Self::MadeEager | Self::Put => &[Register::RDI, Register::RSI],
            Self::HandedOver => &[Register::RSI, Register::RDX],
        }
    }
}

/// A function in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    pub kind: ProbeKind,
    /// The very file that is mapped, whatever has happened to its name since.
    pub file: PathBuf,
    /// What each call passes once, before it has done anything.
    pub begin: ProbePlace,
    /// What calls pass at their end, when nothing is left to be done; they may pass it before, too.
    pub ends: Vec<ProbePlace>,
}

/// An instruction of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbePlace {
    /// Bytes from the file's beginning.
    pub offset: u64,
    /// In the process's memory.
    pub address: u64,
    /// What must be added to the stack pointer there to get the one at the call's entry.
    pub depth: u64,
}

/// Why nothing can be counted exactly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotExact {
    /// There is nothing to count yet.
    #[error("what is to be probed has not been imported")]
    NotYet,
    #[error("{0}")]
    Refused(String),
}

pub(crate) fn refused(reason: impl Into<String>) -> NotExact {
    NotExact::Refused(reason.into())
}

/// The runtime of a process, what is known about it, and its main interpreter.
pub(super) fn main_of(attached: &Attached) -> Result<(u64, Layout, u64), NotExact> {
    if attached.runtime.is_none() {
        return Err(refused("this interpreter is not supported"));
    }
    attached
        .main()
        .ok_or_else(|| refused("its interpreters cannot be read"))
}

pub(super) fn mappings_of(attached: &Attached) -> Result<Vec<Mapping>, NotExact> {
    maps::mappings(attached.pid)
        .map_err(|error| refused(format!("its mappings cannot be read: {error}")))
}

/// Executable memory of a process.
pub(crate) struct Code<'a> {
    pub(crate) pid: Pid,
    pub(crate) mappings: &'a [Mapping],
}

impl<'a> Code<'a> {
    /// The mapping of a file that an address of a function lies in.
    pub(crate) fn file_of(&self, address: u64) -> Result<&'a Mapping, NotExact> {
        maps::containing(self.mappings, address)
            .filter(|mapping| mapping.executable && !mapping.writable && mapping.is_file())
            .ok_or_else(|| refused("a function lies in no executable part of a file"))
    }

    /// A function, which must lie in the same file as `home`.
    pub(crate) fn probe(
        &self,
        kind: ProbeKind,
        address: u64,
        home: &Mapping,
    ) -> Result<Probe, NotExact> {
        let mapping = self.file_of(address)?;
        if !is_same_file(mapping, home) {
            return Err(refused(
                "a function lies in another file than others of its module",
            ));
        }
        let file = mapping
            .open(self.pid)
            .map_err(|error| refused(format!("the file of its code cannot be read: {error}")));
        let mut walker = Walker::new(|at| code_at(file.as_ref().ok()?, mapping, at));
        let place = |place: Place| ProbePlace {
            offset: place.address - mapping.start + mapping.offset,
            address: place.address,
            depth: place.depth,
        };
        let begin = place(walker.begin(address, kind.arguments()));
        let ends = match (kind.with_ends(), &file) {
            (None, _) => Vec::new(),
            (Some(_), Err(why)) => return Err(why.clone()),
            (Some(name), Ok(_)) => walker
                .ends(address)
                .map_err(|why| refused(format!("it cannot be told where {name} returns: {why}")))?,
        };
        Ok(Probe {
            kind,
            file: mapping.file_path(self.pid).into(),
            begin,
            ends: ends.into_iter().map(place).collect(),
        })
    }

    /// What is mapped of a file beside its code.
    pub(super) fn parts_of(&self, home: &Mapping) -> Vec<&'a Mapping> {
        let is_part = |mapping: &&Mapping| {
            is_same_file(mapping, home)
                && mapping.readable
                && mapping.end - mapping.start <= MAX_MAPPING_BYTES
        };
        self.mappings.iter().filter(is_part).collect()
    }
}

/// What a file has at an address that it is mapped at, and zeros behind the mapping's end.
fn code_at(file: &File, mapping: &Mapping, address: u64) -> Option<[u8; LONGEST]> {
    let left = (mapping.start..mapping.end)
        .contains(&address)
        .then(|| mapping.end - address)?;
    let mut bytes = [0; LONGEST];
    let wanted = usize::try_from(left).map_or(LONGEST, |left| left.min(LONGEST));
    let offset = address - mapping.start + mapping.offset;
    file.read_exact_at(&mut bytes[..wanted], offset).ok()?;
    Some(bytes)
}

fn is_same_file(one: &Mapping, other: &Mapping) -> bool {
    one.inode == other.inode && one.path == other.path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_must_lie_in_code_of_one_file() {
        let text = "1000-2000 r--p 00000000 fe:01 7 /lib/a.so\n\
                    2000-3000 r-xp 00001000 fe:01 7 /lib/a.so\n\
                    3000-4000 rwxp 00002000 fe:01 7 /lib/a.so\n\
                    4000-5000 r-xp 00000000 00:00 0 \n\
                    5000-6000 r-xp 00000000 fe:01 8 /lib/b.so\n";
        let mappings = maps::parse(text);
        let code = Code {
            pid: Pid(9),
            mappings: &mappings,
        };
        let home = code.file_of(0x2010).expect("code");
        let probe = code.probe(ProbeKind::Made, 0x2010, home).expect("a probe");
        assert_eq!(probe.begin.offset, 0x1010);
        // Without the file, the ends of its calls cannot be known.
        assert!(code.probe(ProbeKind::Step, 0x2010, home).is_err());
        assert_eq!(probe.file, PathBuf::from("/proc/9/map_files/2000-3000"));
        for bad in [0x1010, 0x3010, 0x4010, 0x5010, 0x7000] {
            assert!(code.probe(ProbeKind::Made, bad, home).is_err(), "{bad:#x}");
        }
        assert_eq!(code.parts_of(home).len(), 3);
    }
}
