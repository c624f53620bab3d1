//! Processes that a benchmark starts, and what they take.
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

/// A process that is ended when dropped.
pub(super) struct Owned(pub(super) Child);

impl Owned {
    /// Starts a program, with pipes, and waits until it says `ready`.
    pub(super) fn start_ready(command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let program = command.get_program().to_string_lossy();
        let mut owned = Self(child.with_context(|| format!("starting {program}"))?);
        let stdout = owned.0.stdout.take().context("Python has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line.trim() == "ready", "Python said `{}`", line.trim());
        Ok(owned)
    }

    /// Asks it to end, and waits until it has.
    pub(super) fn interrupt(&mut self) -> Result<()> {
        // SAFETY: it is our own child, which nobody has waited for yet.
        let result = unsafe { libc::kill(self.0.id() as libc::pid_t, libc::SIGINT) };
        ensure!(result == 0, "it cannot be interrupted");
        self.0.wait()?;
        Ok(())
    }

    /// Lines of its `/proc/PID/status`, such as `VmRSS:`, bytes.
    pub(super) fn memory_bytes<const N: usize>(&self, fields: [&str; N]) -> Result<[u64; N]> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let mut bytes = [0; N];
        for (bytes, field) in bytes.iter_mut().zip(fields) {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            let kb = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
            *bytes = kb.with_context(|| format!("its status has no {field}"))? * 1024;
        }
        Ok(bytes)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // Both fail only where the process has been waited for already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
