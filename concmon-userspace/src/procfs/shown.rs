//! By which thread the kernel shows what the threads of a process share.

use super::file::{self, CWD, SMALL};
use super::stat::Stat;
use crate::event::Pid;

/// The thread that shows the memory of a process, its files and its program: the first one may have ended before the
/// others, and shows nothing then. The process itself where none is left.
pub fn shown_by(pid: Pid) -> Pid {
    if !has_ended(format!("/proc/{pid}/stat")) {
        return pid;
    }
    let Ok(folder) = file::open(CWD, format!("/proc/{pid}/task")) else {
        return pid;
    };
    let mut living = pid;
    let _ = file::ids(folder, |tid| {
        let lives = !has_ended(format!("/proc/{pid}/task/{tid}/stat"));
        if lives {
            living = Pid(tid);
        }
        !lives
    });
    living
}

/// Whether a thread has ended, or is not there at all.
fn has_ended(path: String) -> bool {
    let mut room = [0; SMALL];
    let line = file::small(CWD, path, &mut room);
    line.map_or(true, |line| {
        Stat::parse(line).is_some_and(|stat| stat.has_ended())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_shows_itself_as_long_as_its_first_thread_lives() {
        let own = Pid(std::process::id());
        assert_eq!(shown_by(own), own);
        assert_eq!(shown_by(Pid(u32::MAX)), Pid(u32::MAX));
    }
}
