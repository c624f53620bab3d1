//! How long the thread that asks has waited for a CPU.

use std::{fs::File, io, os::unix::fs::FileExt};

/// The clock of a thread's waits.
#[derive(Debug)]
pub struct RunDelay(File);

impl RunDelay {
    /// That of the calling thread.
    ///
    /// # Errors
    /// The kernel does not keep it.
    pub fn of_this_thread() -> io::Result<Self> {
        File::open("/proc/thread-self/schedstat").map(Self)
    }

    /// Since the thread began, ns; `None`: it cannot be read.
    pub fn ns(&self) -> Option<u64> {
        let mut room = [0; 96];
        let length = self.0.read_at(&mut room, 0).ok()?;
        let text = std::str::from_utf8(room.get(..length)?).ok()?;
        text.split_ascii_whitespace().nth(1)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_only_grows() {
        let delay = RunDelay::of_this_thread().unwrap();
        let before = delay.ns().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(delay.ns().unwrap() >= before);
    }
}
