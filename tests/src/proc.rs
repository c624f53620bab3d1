//! What `/proc` says: the second witness beside the workload's own account.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::watch::PATIENCE;

/// `PF_KTHREAD` of the kernel's `include/linux/sched.h`.
const PF_KTHREAD: u64 = 0x0020_0000;

/// The value of a line such as `VmHWM:` in `/proc/PID/status`, without its unit.
///
/// # Errors
/// When the process is gone or has no such line.
pub fn status(pid: u32, key: &str) -> Result<u64> {
    field(PathBuf::from(format!("/proc/{pid}/status")), key)
}

fn field(path: PathBuf, key: &str) -> Result<u64> {
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
        .and_then(|value| value.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("{}: no {key}", path.display()))
}

/// The thread ids of a process.
///
/// # Errors
/// When the process is gone.
pub fn threads(pid: u32) -> Result<Vec<u32>> {
    let folder = format!("/proc/{pid}/task");
    Ok(std::fs::read_dir(&folder)
        .with_context(|| folder.clone())?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect())
}

/// Voluntary context switches of every thread of a process, by thread id.
///
/// # Errors
/// When a thread is gone.
pub fn voluntary_switches(pid: u32) -> Result<BTreeMap<u32, u64>> {
    threads(pid)?
        .into_iter()
        .map(|tid| {
            let path = PathBuf::from(format!("/proc/{pid}/task/{tid}/status"));
            Ok((tid, field(path, "voluntary_ctxt_switches")?))
        })
        .collect()
}

/// The state letter of every thread of a process, as `/proc/PID/task/TID/stat` has it.
///
/// # Errors
/// When a thread is gone.
pub fn states(pid: u32) -> Result<Vec<char>> {
    threads(pid)?
        .into_iter()
        .map(|tid| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat"))?;
            text.rsplit_once(") ")
                .and_then(|(_, rest)| rest.chars().next())
                .context("no state")
        })
        .collect()
}

/// A kernel thread that can be seen from here.
pub fn kernel_thread() -> Option<u32> {
    std::fs::read_dir("/proc").ok()?.find_map(|entry| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // After the name: state ppid pgrp session tty tpgid flags
        let flags: u64 = text
            .rsplit_once(") ")?
            .1
            .split_whitespace()
            .nth(6)?
            .parse()
            .ok()?;
        (flags & PF_KTHREAD != 0).then_some(pid)
    })
}

/// Waits until a process has a handler for a signal, which may end it before.
///
/// # Errors
/// When it has ended, or none comes.
pub fn catches(pid: u32, signal: i32) -> Result<()> {
    let path = format!("/proc/{pid}/status");
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let status = std::fs::read_to_string(&path)?;
        let mut lines = status.lines();
        let caught = lines.find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = u64::from_str_radix(caught.context("no SigCgt")?.trim(), 16)?;
        if caught & (1 << (signal - 1)) != 0 {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("process {pid} does not catch signal {signal}")
}
