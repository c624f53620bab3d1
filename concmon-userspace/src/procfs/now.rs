//! What a process and its threads do at this moment.

use std::collections::BTreeMap;
use std::path::Path;

use super::stat::Stat;
use super::{MAX_FILE, MAX_THREADS, read_bounded};
use crate::event::{Pid, Tid};

/// The state letters of a process's threads, `R`, `S`, `D`, ..., of [`MAX_THREADS`] at most; what
/// cannot be read is left out.
pub fn thread_states(pid: Pid) -> BTreeMap<Tid, u8> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return BTreeMap::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .take(MAX_THREADS)
        .filter_map(|tid| {
            let path = format!("/proc/{pid}/task/{tid}/stat");
            let stat = Stat::parse(&read_bounded(Path::new(&path), MAX_FILE).ok()?)?;
            Some((Tid(tid), stat.state))
        })
        .collect()
}

/// The path of the executable as the process sees it; `None` when it cannot be read.
pub fn executable(pid: Pid) -> Option<String> {
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    Some(path.to_string_lossy().into_owned())
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
        // SAFETY: takes no argument.
        let own = Tid(unsafe { libc::gettid() } as u32);
        // Whoever reads runs; another thread comes to wait sooner or later.
        let states = loop {
            let states = thread_states(pid);
            if states.values().any(|state| *state == b'S') {
                break states;
            }
            std::thread::yield_now();
        };
        assert_eq!(states.get(&own), Some(&b'R'));
        drop(stop);
        waiting.join().unwrap();
        let path = executable(pid).unwrap();
        assert_eq!(Path::new(&path), std::env::current_exe().unwrap());
        assert_eq!(executable(Pid(0)), None);
    }
}
