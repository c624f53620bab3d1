//! What `/proc` says of a process: one bounded look, all of it about the same process.
//!
//! A look goes through an open handle of `/proc/PID`, which the kernel binds to the process
//! itself: when the process ends, and its id is given to another one, reads fail and do not mix.

pub mod clocks;
pub mod delay;
pub mod entry;
pub mod now;
pub mod rights;
pub mod stat;
pub mod target;
pub mod tree;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::event::{Pid, ProcessFact, ThreadStat, Tid};
use clocks::Clocks;
use stat::Stat;
use tree::Tree;

/// Threads described one by one, at most; [`ProcessFact::threads`] is not limited by it.
pub const MAX_THREADS: usize = 4096;
/// Bytes of a command line that are read; the rest is left out.
const MAX_CMDLINE: u64 = 64 << 10;
/// Bytes of any other file of `/proc/PID` that are read. The longest, `status`, has 2 KB, or some
/// 10 KB for a user in very many groups.
const MAX_FILE: u64 = 256 << 10;

/// Why a process could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ProcError {
    #[error("process {0} does not exist any more")]
    Gone(u32),
    #[error("cannot read {path}: {source}")]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{0} is not of the form that the kernel documents")]
    Malformed(PathBuf),
}

/// An open `/proc/PID`.
struct Dir {
    pid: u32,
    handle: File,
}

impl Dir {
    fn open(pid: u32) -> Result<Self, ProcError> {
        let path = PathBuf::from(format!("/proc/{pid}"));
        match File::open(&path) {
            Ok(handle) => Ok(Dir { pid, handle }),
            Err(e) if is_gone(&e) => Err(ProcError::Gone(pid)),
            Err(source) => Err(ProcError::Unreadable { path, source }),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{name}", self.handle.as_raw_fd()).into()
    }

    /// The path as a user knows it, for messages.
    fn shown(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.pid).into()
    }

    fn read(&self, name: &str, max: u64) -> std::io::Result<Vec<u8>> {
        read_bounded(&self.path(name), max)
    }

    fn text(&self, name: &str) -> Option<String> {
        let bytes = self.read(name, MAX_FILE).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn stat(&self) -> Result<Stat, ProcError> {
        let bytes = match self.read("stat", MAX_FILE) {
            Ok(bytes) => bytes,
            Err(e) if is_gone(&e) => return Err(ProcError::Gone(self.pid)),
            Err(source) => {
                return Err(ProcError::Unreadable {
                    path: self.shown("stat"),
                    source,
                });
            }
        };
        Stat::parse(&bytes).ok_or_else(|| ProcError::Malformed(self.shown("stat")))
    }

    fn cmdline(&self) -> Vec<String> {
        split_cmdline(&self.read("cmdline", MAX_CMDLINE).unwrap_or_default())
    }

    /// Resident pages, second field of `statm`, in bytes.
    fn rss_bytes(&self) -> Option<u64> {
        let pages: u64 = self.text("statm")?.split(' ').nth(1)?.parse().ok()?;
        pages.checked_mul(clocks::page_bytes())
    }

    fn fds(&self) -> Option<u64> {
        let entries = std::fs::read_dir(self.path("fd")).ok()?;
        Some(entries.filter(Result::is_ok).count() as u64)
    }

    fn thread(&self, tid: u32) -> Option<ThreadStat> {
        let stat = Stat::parse(&self.read(&format!("task/{tid}/stat"), MAX_FILE).ok()?)?;
        let (voluntary, involuntary) = switches(&self.text(&format!("task/{tid}/status"))?)?;
        Some(ThreadStat {
            tid: Tid(tid),
            start_boottime_ns: clocks::ticks_to_ns(stat.start_ticks),
            cpu_user_ns: clocks::ticks_to_ns(stat.user_ticks),
            cpu_system_ns: clocks::ticks_to_ns(stat.system_ticks),
            comm: stat.comm,
            voluntary,
            involuntary,
        })
    }

    fn threads(&self) -> Vec<ThreadStat> {
        let Ok(entries) = std::fs::read_dir(self.path("task")) else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .take(MAX_THREADS)
            .filter_map(|tid| self.thread(tid))
            .collect()
    }
}

/// What process `pid` calls itself, and what it was started to run, where its command line tells.
///
/// # Errors
/// [`ProcError`], when there is no such process or its files cannot be read.
pub fn program(pid: u32) -> Result<(String, Option<String>), ProcError> {
    let dir = Dir::open(pid)?;
    Ok((dir.stat()?.comm, entry::entry_of(&dir.cmdline())))
}

/// One look at process `pid`.
///
/// `read_ns` (`CLOCK_MONOTONIC`) becomes the fact's; `clocks` turns its start to wall-clock time
/// and should be the same reading in each look, or the start wanders with the wall clock; `tree`
/// is this tick's scan. CPU times have the kernel's tick resolution (10 ms).
///
/// # Errors
/// [`ProcError`] when not even `/proc/PID/stat` can be read; what else cannot is `None`.
pub fn read_process(
    pid: u32,
    read_ns: u64,
    clocks: &Clocks,
    tree: &Tree,
) -> Result<ProcessFact, ProcError> {
    let dir = Dir::open(pid)?;
    let stat = dir.stat()?;
    let family = tree.family(pid);
    let start_boottime_ns = clocks::ticks_to_ns(stat.start_ticks);
    let cmdline = dir.cmdline();
    Ok(ProcessFact {
        read_ns,
        pid,
        ppid: stat.ppid,
        start_boottime_ns,
        start_unix_ns: clocks.unix_of_boottime(start_boottime_ns),
        zombie: stat.is_zombie(),
        cpu_user_ns: Some(clocks::ticks_to_ns(stat.user_ticks)),
        cpu_system_ns: Some(clocks::ticks_to_ns(stat.system_ticks)),
        threads: Some(stat.threads),
        entry: entry::entry_of(&cmdline),
        cmdline,
        rss_bytes: dir.rss_bytes(),
        fds: dir.fds(),
        fds_limit: dir.text("limits").and_then(|text| open_files_limit(&text)),
        children: family.children,
        descendants: family.descendants,
        zombies: family.zombies,
        thread_stats: dir.threads(),
        name: stat.comm,
    })
}

/// When process `pid` started (`CLOCK_BOOTTIME`, ns, to a clock tick); `None`: there is none.
pub fn start_boottime_ns(pid: Pid) -> Option<u64> {
    let stat = Dir::open(pid.0).ok()?.stat().ok()?;
    Some(clocks::ticks_to_ns(stat.start_ticks))
}

/// Whether two readings of a start, each exact or to a clock tick, may be of the same process.
pub fn is_same_start(one_ns: u64, other_ns: u64) -> bool {
    one_ns / clocks::tick_ns() == other_ns / clocks::tick_ns()
}

/// Whether process `pid` exists and has not ended; a zombie has.
pub fn is_running(pid: Pid) -> bool {
    let stat = Dir::open(pid.0).and_then(|dir| dir.stat());
    stat.is_ok_and(|stat| !stat.is_zombie())
}

/// Whether process `pid` has a thread `tid`.
pub fn has_thread(pid: Pid, tid: Tid) -> bool {
    Path::new(&format!("/proc/{pid}/task/{tid}")).exists()
}

/// How many threads process `pid` has; 0: there is none.
pub fn count_threads(pid: Pid) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// A thread's CPU clock in ns, as the kernel last brought it up to date (at most a clock tick ago
/// while it runs); `None` where the kernel does not tell.
pub fn cpu_clock_ns(pid: Pid, tid: Tid) -> Option<u64> {
    let path = format!("/proc/{pid}/task/{tid}/schedstat");
    let text = read_bounded(Path::new(&path), 256).ok()?;
    std::str::from_utf8(&text)
        .ok()?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

fn is_gone(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

fn read_bounded(path: &Path, max: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Arguments end in a NUL each. Programs that change their title leave a row of NULs behind:
/// empty arguments at the end are dropped.
fn split_cmdline(bytes: &[u8]) -> Vec<String> {
    let end = bytes
        .iter()
        .rposition(|b| *b != 0)
        .map_or(0, |last| last + 1);
    if end == 0 {
        return Vec::new();
    }
    bytes[..end]
        .split(|b| *b == 0)
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect()
}

/// Voluntary and involuntary context switches, from a `status` file.
fn switches(status: &str) -> Option<(u64, u64)> {
    let number = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().parse().ok()
    };
    Some((
        number("voluntary_ctxt_switches:")?,
        number("nonvoluntary_ctxt_switches:")?,
    ))
}

/// The soft limit, from a `limits` file; `None` when there is none.
fn open_files_limit(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(pid: u32) -> Result<ProcessFact, ProcError> {
        read_process(pid, 7, &Clocks::now(), &Tree::scan().unwrap())
    }

    #[test]
    fn this_process() {
        let held: Vec<File> = (0..20).map(|_| File::open("/dev/null").unwrap()).collect();
        let fact = look(std::process::id()).unwrap();
        assert_eq!((fact.read_ns, fact.pid), (7, std::process::id()));
        assert_eq!(fact.ppid, std::os::unix::process::parent_id());
        assert_eq!(fact.cmdline, std::env::args().collect::<Vec<_>>());
        assert!(!fact.zombie);
        assert!(fact.fds.unwrap() > held.len() as u64);
        assert!(fact.rss_bytes.unwrap() > 1 << 20);
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: `limit` is a valid place for the answer.
        let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
        assert_eq!(result, 0);
        assert_eq!(fact.fds_limit, Some(limit.rlim_cur));
        let leader = fact
            .thread_stats
            .iter()
            .find(|t| t.tid.0 == fact.pid)
            .unwrap();
        assert_eq!(leader.start_boottime_ns, fact.start_boottime_ns);
        assert_eq!(leader.comm, fact.name);
    }

    #[test]
    fn a_thread_by_its_name_and_switches() {
        let (tell, told) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("odd) R 1 name".to_owned());
        let thread = thread
            .spawn(move || {
                for _ in 0..25 {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                // SAFETY: takes no argument.
                let tid = unsafe { libc::gettid() } as u32;
                let fact = look(std::process::id()).unwrap();
                told.recv().unwrap_err();
                fact.thread_stats.into_iter().find(|t| t.tid.0 == tid)
            })
            .unwrap();
        drop(tell);
        let stat = thread.join().unwrap().unwrap();
        assert_eq!(stat.comm, "odd) R 1 name");
        assert!(stat.voluntary >= 25, "{}", stat.voluntary);
    }

    #[test]
    fn a_zombie_and_its_parent() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        while !look(child.id()).unwrap().zombie {
            std::thread::yield_now();
        }
        let fact = look(child.id()).unwrap();
        assert_eq!((fact.name.as_str(), fact.cmdline.len()), ("true", 0));
        assert!(look(std::process::id()).unwrap().zombies >= 1);
        child.wait().unwrap();
        assert!(matches!(look(child.id()), Err(ProcError::Gone(_))));
    }

    #[test]
    fn start_on_the_wall_clock() {
        let before = Clocks::now();
        let mut child = std::process::Command::new("sleep")
            .arg("10")
            .spawn()
            .unwrap();
        let fact = look(child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // The start is cut down to a tick of 10 ms.
        let earliest = before.unix_ns - clocks::tick_ns();
        let after = Clocks::now().unix_ns;
        assert!((earliest..=after).contains(&fact.start_unix_ns));
    }

    #[test]
    fn pieces() {
        for (bytes, expected) in [
            (&b""[..], &[][..]),
            (b"\0\0", &[]),
            (b"python3\0-c\0print(1)\0", &["python3", "-c", "print(1)"]),
            (b"a\0\0b\0", &["a", "", "b"]),
            (b"worker: idle\0\0\0\0", &["worker: idle"]),
            (b"no end", &["no end"]),
            (b"\xff\0", &["\u{fffd}"]),
        ] {
            assert_eq!(split_cmdline(bytes), expected);
        }
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t3\n";
        assert_eq!(switches(status), Some((12, 3)));
        assert_eq!(switches("Name:\tx\n"), None);
        let limits = "Limit   Soft Limit  Hard Limit  Units\nMax open files  1024  4096  files\n";
        assert_eq!(open_files_limit(limits), Some(1024));
        assert_eq!(
            open_files_limit("Max open files  unlimited  unlimited  files"),
            None
        );
    }
}
