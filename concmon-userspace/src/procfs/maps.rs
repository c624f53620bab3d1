//! What a process has mapped: `/proc/PID/maps`, the files behind it, and which pages are in memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use super::file;
use super::shown;
use crate::event::Pid;

/// More than the mappings of any real process: 65,530 is the kernel's default limit of areas.
const MAX_MAPS_BYTES: u64 = 64 << 20;

/// One line of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub start: u64,
    pub end: u64,
    pub readable: bool,
    pub writable: bool,
    pub executable: bool,
    /// Offset in the file, bytes.
    pub offset: u64,
    pub inode: u64,
    /// Empty for anonymous memory.
    pub path: String,
}

impl Mapping {
    /// The last component of the path, without the mark of a deleted file.
    pub fn basename(&self) -> &str {
        let path = self.path.strip_suffix(" (deleted)").unwrap_or(&self.path);
        path.rsplit('/').next().unwrap_or(path)
    }

    /// Whether a regular file stands behind it.
    pub fn is_file(&self) -> bool {
        self.inode != 0 && self.path.starts_with('/')
    }

    /// The path of the very file that is mapped, whatever has happened to its name since.
    pub fn file_path(&self, pid: Pid) -> String {
        format!("/proc/{pid}/map_files/{:x}-{:x}", self.start, self.end)
    }

    /// Opens the very file that is mapped, or the one of its name in the target's own mount tree.
    ///
    /// # Errors
    /// Neither can be opened, or the name belongs to another file.
    pub fn open(&self, pid: Pid) -> io::Result<File> {
        let pid = shown::shown_by(pid);
        File::open(self.file_path(pid)).or_else(|_| {
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

/// The mappings of a process in ascending order; empty for a kernel thread and for a zombie.
///
/// # Errors
/// Whatever reading them fails with.
pub fn mappings(pid: Pid) -> io::Result<Vec<Mapping>> {
    let pid = shown::shown_by(pid);
    let text = file::bytes(file::CWD, format!("/proc/{pid}/maps"), MAX_MAPS_BYTES)?;
    Ok(parse(&String::from_utf8_lossy(&text)))
}

/// The lines of `/proc/PID/maps` that are understood.
pub fn parse(text: &str) -> Vec<Mapping> {
    text.lines().filter_map(parse_line).collect()
}

/// The mapping that contains `address`, of an ascending list.
pub fn containing(mappings: &[Mapping], address: u64) -> Option<&Mapping> {
    let index = mappings.partition_point(|mapping| mapping.end <= address);
    mappings
        .get(index)
        .filter(|mapping| mapping.start <= address)
}

/// The file that says of each page whether it is in memory.
pub fn pagemap_path(pid: Pid) -> String {
    format!("/proc/{pid}/pagemap")
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
    }
}
