//! What a process and its threads do at this moment.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;

use super::clocks;
use super::file::{self, CWD, SMALL};
use super::namespaces;
use super::process::{MAX_THREADS, soft_limit};
use super::shown;
use super::stat::Stat;
use crate::event::{Pid, Tid};

/// The threads of a process; none where they cannot be listed.
pub fn tids(pid: Pid) -> Vec<Tid> {
    let mut tids = Vec::new();
    if let Ok(folder) = file::open(CWD, format!("/proc/{pid}/task")) {
        let _ = file::ids(folder, |tid| {
            tids.push(Tid(tid));
            true
        });
    }
    tids
}

/// From the thread ids that the process itself uses to ours.
pub fn native_tids(pid: Pid) -> HashMap<u32, Tid> {
    tids(pid)
        .into_iter()
        .filter_map(|tid| {
            let ids = namespaces::ids(format!("/proc/{pid}/task/{tid}/status"))?;
            Some((*ids.last()?, tid))
        })
        .collect()
}

/// The user that a process runs as (effective).
pub fn user(pid: Pid) -> Option<u32> {
    let status = file::text(CWD, format!("/proc/{pid}/status")).ok()?;
    let ids = file::field(&status, "Uid:")?;
    ids.split_whitespace().nth(1)?.parse().ok()
}

/// How many threads a process has; 0: there is none.
pub fn count_threads(pid: Pid) -> usize {
    tids(pid).len()
}

/// The state letters of a process's threads, `R`, `S`, `D`, ..., of [`MAX_THREADS`] at most; what
/// cannot be read is left out.
pub fn thread_states(pid: Pid) -> BTreeMap<Tid, u8> {
    let tids = tids(pid).into_iter().take(MAX_THREADS);
    tids.filter_map(|tid| {
        let mut room = [0; SMALL];
        let line = file::small(CWD, format!("/proc/{pid}/task/{tid}/stat"), &mut room);
        Some((tid, Stat::parse(line.ok()?)?.state))
    })
    .collect()
}

/// The path of the executable as the process sees it; `None` when it cannot be read.
pub fn executable(pid: Pid) -> Option<String> {
    let pid = shown::shown_by(pid);
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    Some(path.to_string_lossy().into_owned())
}

/// What a descriptor of a process is: `socket`, `pipe`, `eventfd`, ..., `file`; `None`: it cannot be read.
pub fn descriptor_kind(pid: Pid, number: u32) -> Option<String> {
    let path = std::fs::read_link(format!("/proc/{pid}/fd/{number}")).ok()?;
    let path = path.to_string_lossy();
    if path.starts_with('/') {
        return Some("file".to_owned());
    }
    let inside = path.strip_prefix("anon_inode:").unwrap_or(&path);
    let inside = inside.trim_start_matches('[').trim_end_matches(']');
    Some(inside.split(':').next().unwrap_or(inside).to_owned())
}

/// Whether a process has this thread.
pub fn has_thread(pid: Pid, tid: Tid) -> bool {
    Path::new(&format!("/proc/{pid}/task/{tid}")).exists()
}

/// When a process started (`CLOCK_BOOTTIME`, ns, to a clock tick); `None`: there is none.
pub fn start_boottime_ns(pid: Pid) -> Option<u64> {
    let mut room = [0; SMALL];
    let line = file::small(CWD, format!("/proc/{pid}/stat"), &mut room).ok()?;
    Some(clocks::ticks_to_ns(Stat::parse(line)?.start_ticks))
}

/// The parent of a process; `None`: there is no process.
pub fn parent(pid: Pid) -> Option<Pid> {
    let mut room = [0; SMALL];
    let line = file::small(CWD, format!("/proc/{pid}/stat"), &mut room).ok()?;
    Some(Pid(Stat::parse(line)?.ppid)).filter(|parent| parent.0 != 0)
}

/// The ancestors of a process, its parent first, so many at most.
pub fn ancestors(pid: Pid) -> impl Iterator<Item = Pid> {
    const MOST: usize = 64;
    std::iter::successors(parent(pid), |pid| parent(*pid)).take(MOST)
}

/// Whether a process began less than `ns` ago, or is not there.
pub fn is_young(pid: Pid, ns: u64) -> bool {
    let began_ns = start_boottime_ns(pid);
    began_ns.is_none_or(|began_ns| clocks::Clocks::now().boottime_ns.saturating_sub(began_ns) < ns)
}

/// Whether the process is there and has not ended; a zombie has.
pub fn is_running(pid: Pid) -> bool {
    let mut room = [0; SMALL];
    let line = file::small(CWD, format!("/proc/{pid}/stat"), &mut room);
    line.is_ok_and(|line| Stat::parse(line).is_some_and(|stat| !stat.is_zombie()))
}

/// Whether the process has been forked and has not executed another program since.
pub fn is_fork(pid: Pid) -> bool {
    let mut room = [0; SMALL];
    let line = file::small(CWD, format!("/proc/{pid}/stat"), &mut room);
    line.is_ok_and(|line| Stat::parse(line).is_some_and(|stat| stat.is_fork()))
}

/// Whether the first thread of a process has ended, or the process is not there at all.
pub fn has_ended(pid: Pid) -> bool {
    let mut room = [0; SMALL];
    let Ok(line) = file::small(CWD, format!("/proc/{pid}/stat"), &mut room) else {
        return true;
    };
    Stat::parse(line).is_some_and(|stat| stat.has_ended())
}

/// A thread's CPU clock in ns, as the kernel last brought it up to date (at most a clock tick ago
/// while it runs); `None` where the kernel does not tell.
pub fn cpu_clock_ns(pid: Pid, tid: Tid) -> Option<u64> {
    let mut room = [0; SMALL];
    let text = file::small(CWD, format!("/proc/{pid}/task/{tid}/schedstat"), &mut room).ok()?;
    let text = std::str::from_utf8(text).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// The futex that a thread is blocked on; `None` when it is not blocked, or on something else.
///
/// # Errors
/// The kernel does not say.
pub fn blocking_futex(pid: Pid, tid: Tid) -> io::Result<Option<u64>> {
    let mut room = [0; SMALL];
    let call = file::small(CWD, format!("/proc/{pid}/task/{tid}/syscall"), &mut room)?;
    Ok(std::str::from_utf8(call).ok().and_then(futex_of))
}

/// Whether a thread is blocked on this futex, and was given no time after which it goes on anyway.
pub fn waits_for_ever(pid: Pid, tid: Tid, futex: u64) -> bool {
    let mut room = [0; SMALL];
    let call = file::small(CWD, format!("/proc/{pid}/task/{tid}/syscall"), &mut room);
    let call = call.ok().and_then(|call| std::str::from_utf8(call).ok());
    call.is_some_and(|call| futex_of(call) == Some(futex) && has_no_time(call))
}

/// The first argument of a futex call: a number and its arguments, or `running`. A call that goes on after a signal
/// has the arguments that it had; which one it was, these tell.
fn futex_of(call: &str) -> Option<u64> {
    let (number, arguments) = call.split_once(char::is_whitespace)?;
    let word = |word: &str| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok();
    let arguments: Vec<u64> = arguments.split_whitespace().map_while(word).collect();
    let (private, realtime) = (libc::FUTEX_PRIVATE_FLAG, libc::FUTEX_CLOCK_REALTIME);
    let waits = || {
        let operation = i32::try_from(*arguments.get(1)?).ok()?;
        let any_bit = arguments.get(5)? & u64::from(u32::MAX) == u64::from(u32::MAX);
        Some(match operation & !(private | realtime) {
            libc::FUTEX_WAIT_BITSET => any_bit,
            _ => operation == libc::FUTEX_WAIT | private,
        })
    };
    let is_futex = match number.parse::<libc::c_long>().ok()? {
        libc::SYS_futex => true,
        libc::SYS_restart_syscall => waits() == Some(true),
        _ => false,
    };
    arguments.first().copied().filter(|_| is_futex)
}

/// The fourth argument of a futex call says where the time is.
fn has_no_time(call: &str) -> bool {
    call.split_whitespace().nth(4) == Some("0x0")
}

/// The soft limit of the main thread's stack in bytes; `None` when unlimited or not known.
pub fn stack_limit(pid: Pid) -> Option<u64> {
    let limits = file::text(CWD, format!("/proc/{pid}/limits")).ok()?;
    soft_limit(&limits, "Max stack size")
}

/// The folder that a process works in, by the path that it has for it.
pub fn folder(pid: Pid) -> Option<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// Whether the freezer of a process's cgroup, or of one above, keeps it from running.
pub fn is_frozen(pid: Pid) -> bool {
    let Some(cgroups) = cgroups(pid) else {
        return false;
    };
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/"));
    let is_told = |text: String| text.lines().any(|line| line == "frozen 1");
    // Where version 1 has controllers, the other hierarchy is below.
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .iter()
        .any(|root| {
            let file = path.map(|path| format!("{root}/{path}/cgroup.events"));
            let text = file.and_then(|file| file::text(CWD, file).ok());
            text.is_some_and(is_told)
        })
}

/// The cgroups of a process, a line each.
pub fn cgroups(pid: Pid) -> Option<String> {
    file::text(CWD, format!("/proc/{pid}/cgroup")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_and_a_waiting_thread() {
        let pid = Pid(std::process::id());
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let waiting = std::thread::spawn(move || {
            let _ = stopped.recv();
        });
        let own = Tid(rustix::thread::gettid().as_raw_pid().cast_unsigned());
        // Whoever reads runs; another thread comes to wait sooner or later.
        let states = loop {
            let states = thread_states(pid);
            if states.values().any(|state| *state == b'S') {
                break states;
            }
            std::thread::yield_now();
        };
        assert_eq!(states.get(&own), Some(&b'R'));
        assert!(has_thread(pid, own) && is_running(pid) && !has_ended(pid));
        assert!(cpu_clock_ns(pid, own).is_some());
        // In our own namespace, ids are the same.
        assert_eq!(native_tids(pid).get(&own.0), Some(&own));
        assert!(native_tids(Pid(u32::MAX)).is_empty());
        drop(stop);
        waiting.join().unwrap();
        let path = executable(pid).unwrap();
        assert_eq!(Path::new(&path), std::env::current_exe().unwrap());
    }

    #[test]
    fn a_process_that_is_not_there() {
        let none = Pid(u32::MAX);
        assert_eq!(executable(Pid(0)), None);
        assert!(!is_running(none) && has_ended(none));
        assert!(count_threads(none) == 0 && !has_thread(none, Tid(1)));
        assert!(cpu_clock_ns(none, Tid(1)).is_none());
    }

    #[test]
    fn futexes_of_blocked_threads() {
        let number = libc::SYS_futex;
        let call = format!("{number} 0x7f00a010 0x189 0x0 0x0 0x0 0xffffffff 0x7ffe10 0x7f0010\n");
        assert_eq!(futex_of(&call), Some(0x7f00_a010));
        assert!(has_no_time(&call));
        let timed = call.replacen("0x0 0x0", "0x0 0x7ffe20", 1);
        assert_eq!(futex_of(&timed), Some(0x7f00_a010));
        assert!(!has_no_time(&timed) && !has_no_time("running\n"));
        let restart = libc::SYS_restart_syscall;
        let after_stop = timed.replacen(&number.to_string(), &restart.to_string(), 1);
        assert_eq!(futex_of(&after_stop), Some(0x7f00_a010));
        assert!(!has_no_time(&after_stop));
        // Nine descriptors, and a clock.
        let others = [
            "0x7f00a010 0x9 0x3e8 0x0 0x0 0x7f00",
            "0x1 0x1 0x0 0x0 0x0 0x0",
        ];
        for arguments in others {
            let call = format!("{restart} {arguments} 0x7ffe10 0x7f0010\n");
            assert_eq!(futex_of(&call), None, "{call}");
        }
        for other in [
            "running\n",
            "-1 0x7ffe10 0x7f0010\n",
            "0 0x3 0x7f00a010",
            "",
        ] {
            assert_eq!(futex_of(other), None, "{other}");
        }
    }
}
