//! What the code is that a thread runs: the interpreter's own, or native code that it has called.

use crate::event::{CodeKind, Pid};
use crate::procfs::maps::{self, Mapping};

/// The executable memory of a process, read when a sample needs it: its list of mappings is long, and
/// most processes are idle.
#[derive(Debug, Default)]
pub(super) struct ExecutableMemory {
    /// Begin, end, and whether it is the interpreter's own or the C library's; by begin.
    ranges: Vec<(u64, u64, bool)>,
    /// It was read since the last scan.
    is_fresh: bool,
    /// Scans since it was read.
    scans: u32,
}

/// After so many scans, it is read again whatever samples show: other memory may be where some was.
const MAX_SCANS: u32 = 10;

impl ExecutableMemory {
    /// What has been mapped since the last scan is to be seen by the next sample.
    pub(super) fn begin_scan(&mut self, pid: Pid) {
        self.is_fresh = false;
        self.scans = self.scans.saturating_add(1);
        if self.ranges.is_empty() {
            self.read(pid);
        }
    }

    fn read(&mut self, pid: Pid) {
        (self.is_fresh, self.scans) = (true, 0);
        let ranges = executable(pid);
        // The last samples of a process may come after its end.
        if !ranges.is_empty() {
            self.ranges = ranges;
        }
    }

    pub(super) fn kind(&mut self, pid: Pid, ip: u64) -> Option<CodeKind> {
        if self.scans >= MAX_SCANS {
            self.read(pid);
        }
        let known = self.known(ip);
        // It may have been mapped since.
        if known.is_none() && !self.is_fresh {
            self.read(pid);
            return self.known(ip);
        }
        known
    }

    fn known(&self, ip: u64) -> Option<CodeKind> {
        let after = self.ranges.partition_point(|(start, _, _)| *start <= ip);
        let (_, end, own) = self.ranges.get(after.checked_sub(1)?)?;
        (ip < *end).then_some(if *own {
            CodeKind::Interpreter
        } else {
            CodeKind::Native
        })
    }
}

/// The executable memory of a process.
fn executable(pid: Pid) -> Vec<(u64, u64, bool)> {
    maps::mappings(pid)
        .unwrap_or_default()
        .iter()
        .filter(|mapping| mapping.executable)
        .map(|mapping| (mapping.start, mapping.end, is_interpreter(mapping)))
        .collect()
}

/// Memory of the interpreter, or of what every program shares: the C library, the loader. Extension
/// modules of the standard library (`json`, `re`) count as native code: they do not let go of the GIL.
fn is_interpreter(mapping: &Mapping) -> bool {
    let name = mapping.basename();
    let is_shared = ["libc.so", "libc-", "libpthread", "ld-linux", "[vdso]"];
    name.starts_with("python")
        || name.starts_with("libpython")
        || is_shared.iter().any(|prefix| name.starts_with(prefix))
}
