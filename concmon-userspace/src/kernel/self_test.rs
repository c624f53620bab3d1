//! Whether kernel programs read this kernel's tasks right.
//!
//! A wrong but aligned offset loads silently and reads garbage. So before anything is attached, a
//! program reads this very process by offsets, and what it found is compared with what the
//! kernel says of us through system calls and `/proc`.

use std::io;

use concmon_ebpf::SelfTest;
use thiserror::Error;

use crate::procfs::{clocks, host::own_stat, stat::Stat};

/// Why kernel programs cannot be trusted here.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SelfTestError {
    /// A kernel program read something other than the truth.
    #[error(
        "the self-test failed: {field} reads {seen}, but is {truth}; the BTF in use does not \
         describe the running kernel"
    )]
    Field {
        field: &'static str,
        seen: String,
        truth: String,
    },
    /// The kernel's ids are not ours.
    #[error(
        "concmon runs in a PID namespace of its own, and this kernel's types do not tell the ids there (it \
         is process {own} here and {kernel} to the kernel): run it in the host's (docker: --pid=host; \
         kubernetes: hostPID)"
    )]
    Namespace { own: u32, kernel: u32 },
}

/// The CPU clock that a program reads lags by up to one tick (10 ms at HZ=100); twice that.
const CPU_CLOCK_LAG_NS: u64 = 20_000_000;
/// `/proc` gives start times in clock ticks of 10 ms.
const START_RESOLUTION_NS: u64 = 10_000_000;

/// This thread's own state, read before the program runs.
#[derive(Debug)]
pub struct Expected {
    pid: u32,
    tid: u32,
    comm: Vec<u8>,
    start_boottime_ns: u64,
    cpu_ns: u64,
    threads: u32,
}

impl Expected {
    /// Reads `/proc/thread-self` and the thread's CPU clock.
    pub fn before() -> Result<Self, io::Error> {
        let stat = own_stat()?;
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "unexpected /proc/self/stat");
        let stat = Stat::parse(&stat).ok_or_else(invalid)?;
        Ok(Self {
            pid: std::process::id(),
            tid: rustix::thread::gettid().as_raw_pid().cast_unsigned(),
            comm: stat.comm.to_vec(),
            start_boottime_ns: clocks::ticks_to_ns(stat.start_ticks),
            cpu_ns: clocks::thread_cpu_ns(),
            threads: u32::try_from(stat.threads).map_err(|_| invalid())?,
        })
    }

    /// Compares. `fd` is the descriptor by which the iterator was read: the first argument of the
    /// system call that ran the program. `has_own_ids`: they are read for our PID namespace.
    pub fn check(
        &self,
        seen: &SelfTest,
        fd: i32,
        with_registers: bool,
        has_own_ids: bool,
    ) -> Result<(), SelfTestError> {
        let same = |field, seen: u64, truth: u64| {
            if seen == truth {
                return Ok(());
            }
            Err(SelfTestError::Field {
                field,
                seen: seen.to_string(),
                truth: truth.to_string(),
            })
        };
        // In a PID namespace of one's own, the kernel's ids are what a helper says.
        let (tgid, tid) = match has_own_ids {
            true => (seen.tgid_by_helper, seen.pid_by_helper),
            false => (self.pid, self.tid),
        };
        if !has_own_ids && seen.asker_tgid != 0 && seen.asker_tgid != self.pid {
            return Err(SelfTestError::Namespace {
                own: self.pid,
                kernel: seen.asker_tgid,
            });
        }
        if seen.runs == 0 {
            return Err(SelfTestError::Field {
                field: "task_struct::pid or tgid",
                seen: "nothing that matches".to_owned(),
                truth: format!("{}/{}", self.pid, self.tid),
            });
        }
        same(
            "task_struct::tgid",
            u64::from(seen.tgid_by_offset),
            u64::from(tgid),
        )?;
        same(
            "task_struct::pid",
            u64::from(seen.pid_by_offset),
            u64::from(tid),
        )?;
        same(
            "pid::numbers (process id)",
            u64::from(seen.tgid_seen),
            u64::from(self.pid),
        )?;
        same(
            "pid::numbers (thread id)",
            u64::from(seen.tid_seen),
            u64::from(self.tid),
        )?;
        let comm = seen
            .comm
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default();
        if comm != self.comm {
            return Err(SelfTestError::Field {
                field: "task_struct::comm",
                seen: format!("{:?}", String::from_utf8_lossy(comm)),
                truth: format!("{:?}", String::from_utf8_lossy(&self.comm)),
            });
        }
        if seen.start_boottime_ns.abs_diff(self.start_boottime_ns) > START_RESOLUTION_NS {
            return Err(SelfTestError::Field {
                field: "task_struct::start_boottime",
                seen: seen.start_boottime_ns.to_string(),
                truth: format!("about {}", self.start_boottime_ns),
            });
        }
        let latest = clocks::thread_cpu_ns();
        if seen.sum_exec_ns > latest || seen.sum_exec_ns + CPU_CLOCK_LAG_NS < self.cpu_ns {
            return Err(SelfTestError::Field {
                field: "task_struct::se.sum_exec_runtime",
                seen: seen.sum_exec_ns.to_string(),
                truth: format!("between {} and {latest}", self.cpu_ns),
            });
        }
        same("task_struct::__state", u64::from(seen.state), 0)?;
        same("task_struct::on_cpu", u64::from(seen.on_cpu), 1)?;
        same("task_struct::on_rq", u64::from(seen.queued), 1)?;
        same(
            "task_struct::flags (kernel thread)",
            u64::from(seen.kernel_thread),
            0,
        )?;
        same(
            "signal_struct::live",
            u64::from(seen.live),
            u64::from(self.threads),
        )?;
        if with_registers {
            same(
                "pt_regs (syscall)",
                seen.syscall as u64,
                libc::SYS_read as u64,
            )?;
            same("pt_regs (first argument)", seen.arg0, fd as u64)?;
        }
        Ok(())
    }
}
