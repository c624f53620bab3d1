//! What `/proc/PID` says about a process's memory, files and threads.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use crate::event::{Pid, Tid};

/// More than the mappings of any real process: 65,530 is the kernel's default limit of areas.
const MAX_MAPS_BYTES: u64 = 64 << 20;
const MAX_STATUS_BYTES: u64 = 64 << 10;

/// One line of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    pub(crate) executable: bool,
    /// Offset in the file, bytes.
    pub(crate) offset: u64,
    pub(crate) inode: u64,
    /// Empty for anonymous memory.
    pub(crate) path: String,
}

impl Mapping {
    /// The last component of the path, without the mark of a deleted file.
    pub(crate) fn basename(&self) -> &str {
        let path = self.path.strip_suffix(" (deleted)").unwrap_or(&self.path);
        path.rsplit('/').next().unwrap_or(path)
    }

    /// Whether a regular file stands behind it.
    pub(crate) fn is_file(&self) -> bool {
        self.inode != 0 && self.path.starts_with('/')
    }

    /// Opens the very file that is mapped, whatever has happened to its name since, in the
    /// target's own mount tree.
    pub(crate) fn open(&self, pid: Pid) -> io::Result<File> {
        let exact = format!("/proc/{pid}/map_files/{:x}-{:x}", self.start, self.end);
        File::open(exact).or_else(|_| {
            // By now the name may belong to anything; opening a FIFO would wait for its other end.
            let file = File::options()
                .read(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(format!("/proc/{pid}/root{}", self.path))?;
            if file.metadata()?.ino() == self.inode {
                Ok(file)
            } else {
                Err(io::Error::from(io::ErrorKind::NotFound))
            }
        })
    }
}

fn parse_line(line: &str) -> Option<Mapping> {
    let mut rest = line;
    let mut field = || {
        let trimmed = rest.trim_start();
        let end = trimmed.find(' ').unwrap_or(trimmed.len());
        let (value, tail) = trimmed.split_at(end);
        rest = tail;
        value
    };
    let (start, end) = field().split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let end = u64::from_str_radix(end, 16).ok()?;
    let permissions = field();
    let offset = u64::from_str_radix(field(), 16).ok()?;
    let _device = field();
    let inode = field().parse().ok()?;
    Some(Mapping {
        start,
        end,
        readable: permissions.starts_with('r'),
        writable: permissions.get(1..2) == Some("w"),
        executable: permissions.get(2..3) == Some("x"),
        offset,
        inode,
        path: rest.trim_start().to_owned(),
    })
}

fn read_bounded(path: &str, limit: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The mappings of a process in ascending order; empty for a kernel thread and for a zombie.
pub(crate) fn mappings(pid: Pid) -> io::Result<Vec<Mapping>> {
    let text = read_bounded(&format!("/proc/{pid}/maps"), MAX_MAPS_BYTES)?;
    Ok(parse(&text))
}

/// The lines of `/proc/PID/maps` that are understood.
pub(crate) fn parse(text: &str) -> Vec<Mapping> {
    text.lines().filter_map(parse_line).collect()
}

/// The mapping that contains `address`, of an ascending list.
pub(crate) fn containing(mappings: &[Mapping], address: u64) -> Option<&Mapping> {
    let index = mappings.partition_point(|mapping| mapping.end <= address);
    mappings
        .get(index)
        .filter(|mapping| mapping.start <= address)
}

/// Whether the process has ended and only waits to be collected, or is not there at all.
pub(crate) fn ended(pid: Pid) -> bool {
    let Ok(stat) = read_bounded(&format!("/proc/{pid}/stat"), MAX_STATUS_BYTES) else {
        return true;
    };
    // The name may contain anything, parentheses too: the state follows the last one.
    stat.rsplit(") ")
        .next()
        .is_none_or(|rest| rest.starts_with(['Z', 'X']))
}

/// The soft limit of the main thread's stack in bytes; `None` when unlimited or not known.
pub(crate) fn stack_limit(pid: Pid) -> Option<u64> {
    let text = read_bounded(&format!("/proc/{pid}/limits"), MAX_STATUS_BYTES).ok()?;
    let line = text
        .lines()
        .find(|line| line.starts_with("Max stack size"))?;
    line["Max stack size".len()..]
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// Whether a process has this thread.
pub(crate) fn is_thread(pid: Pid, tid: Tid) -> bool {
    std::path::Path::new(&format!("/proc/{pid}/task/{tid}")).exists()
}

/// The futex that a thread is blocked on; `None` when it is not blocked, or on something else.
pub(crate) fn blocking_futex(pid: Pid, tid: Tid) -> io::Result<Option<u64>> {
    let path = format!("/proc/{pid}/task/{tid}/syscall");
    Ok(futex_of(&read_bounded(&path, MAX_STATUS_BYTES)?))
}

/// The first argument of a futex call: a number and its arguments, or `running`.
fn futex_of(syscall: &str) -> Option<u64> {
    let mut words = syscall.split_whitespace();
    let number: libc::c_long = words.next()?.parse().ok()?;
    let address = words.next()?.strip_prefix("0x")?;
    (number == libc::SYS_futex).then(|| u64::from_str_radix(address, 16).ok())?
}

/// The thread's id in each PID namespace it is in, ours first.
fn namespace_ids(path: &str) -> Option<Vec<u32>> {
    let text = read_bounded(path, MAX_STATUS_BYTES).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace()
        .map(|id| id.parse().ok())
        .collect::<Option<Vec<_>>>()
        .filter(|ids| !ids.is_empty())
}

/// Whether the process has other ids for itself than we have.
pub(crate) fn in_other_pid_namespace(pid: Pid) -> bool {
    namespace_ids(&format!("/proc/{pid}/status")).is_some_and(|ids| ids.len() > 1)
}

/// From the thread ids that the process itself uses to ours.
pub(crate) fn namespace_tids(pid: Pid) -> HashMap<u32, Tid> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return HashMap::new();
    };
    entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            let outer: u32 = name.to_str()?.parse().ok()?;
            let ids = namespace_ids(&format!("/proc/{pid}/task/{outer}/status"))?;
            Some((*ids.last()?, Tid(outer)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_maps() {
        let line = "7f00a000-7f00b000 rw-p 0001c000 fe:01 1234                 /opt/my app/libpython3.13.so.1.0 (deleted)";
        let mapping = parse_line(line).unwrap();
        assert_eq!(
            (mapping.start, mapping.end, mapping.offset, mapping.inode),
            (0x7f00_a000, 0x7f00_b000, 0x1c000, 1234)
        );
        assert!(mapping.readable && mapping.writable && mapping.is_file());
        assert_eq!(mapping.basename(), "libpython3.13.so.1.0");

        let anonymous = parse_line("7f00b000-7f00c000 ---p 00000000 00:00 0 ").unwrap();
        assert!(!anonymous.readable && !anonymous.is_file());
        assert_eq!(parse_line("not a mapping"), None);
    }

    #[test]
    fn futexes_of_blocked_threads() {
        let number = libc::SYS_futex;
        let call = format!("{number} 0x7f00a010 0x189 0x0 0x0 0x0 0xffffffff 0x7ffe10 0x7f0010\n");
        assert_eq!(futex_of(&call), Some(0x7f00_a010));
        for other in [
            "running\n",
            "-1 0x7ffe10 0x7f0010\n",
            "0 0x3 0x7f00a010",
            "",
        ] {
            assert_eq!(futex_of(other), None, "{other}");
        }
    }

    #[test]
    fn own_mappings_contain_a_local_and_the_executable_opens() {
        let pid = Pid(std::process::id());
        let local = 0u8;
        let all = mappings(pid).unwrap();
        let found = containing(&all, std::ptr::from_ref(&local) as u64).unwrap();
        assert!(found.writable);
        assert_eq!(containing(&all, 0x1000), None);
        let file = all.iter().find(|mapping| mapping.is_file()).unwrap();
        assert_eq!(
            file.open(pid).unwrap().metadata().unwrap().ino(),
            file.inode
        );
        assert!(!ended(pid));
        assert!(ended(Pid(u32::MAX)));
    }
}
