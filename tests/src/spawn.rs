//! Processes that a test starts, and that end with it, their children included.

use std::ops::{Deref, DerefMut};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A child that leads a process group of its own; the whole group is killed on drop.
#[derive(Debug)]
pub struct Group(Child);

impl Group {
    /// Starts `command` as the leader of a new process group.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let child = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        Ok(Self(child))
    }

    /// Sends a signal to the leader only.
    pub fn signal(&self, signal: i32) {
        // SAFETY: kill takes no pointers; the child has not been waited for, so the pid is its.
        unsafe { libc::kill(self.0.id() as i32, signal) };
    }

    /// Waits for the leader's end.
    ///
    /// # Errors
    /// When it has not ended in time.
    pub fn wait_for(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("process {} did not end in {limit:?}", self.0.id());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Deref for Group {
    type Target = Child;
    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Group {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let group = -(self.0.id() as i32);
        // SAFETY: kill takes no pointers. The group id can only be another's when every process
        // of this group has ended and the number was given out again, which the kernel does last.
        unsafe { libc::kill(group, libc::SIGKILL) };
        let _ = self.0.wait();
    }
}

/// Exit status as a shell gives it: the code, or 128 + the signal.
pub fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Processes that keep the CPUs busy until dropped.
#[derive(Debug)]
pub struct Hogs {
    _hogs: Vec<Group>,
}

impl Hogs {
    /// Starts `count` hogs.
    ///
    /// # Errors
    /// When a shell cannot be started.
    pub fn start(count: usize) -> Result<Self> {
        let hogs = (0..count)
            .map(|_| {
                Group::start(
                    Command::new("sh")
                        .args(["-c", "while :; do :; done"])
                        .stdin(Stdio::null()),
                )
            })
            .collect::<Result<_>>()?;
        Ok(Self { _hogs: hogs })
    }
}
