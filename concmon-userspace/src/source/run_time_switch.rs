//! Has the kernel measure the run time of its programs, which takes CAP_SYS_ADMIN each time.
//!
//! A watch gives that capability up, unless `--exact` needs it. So a process of its own keeps it: forked
//! before anything is loaded, with that one capability, no descriptor but its end of a socket, and five system
//! calls: read, write, close, exit, and `bpf` to have run time measured. It ends with the watch, however
//! that ends.

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use aya::sys::{Stats, enable_stats};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, apply_filter,
};

use crate::procfs::rights;

/// `BPF_ENABLE_STATS` and `BPF_STATS_RUN_TIME` (include/uapi/linux/bpf.h).
const ENABLE_STATS: i32 = 32;
const RUN_TIME: u32 = 0;
/// What the helper is told and answers.
const ON: u8 = 1;
const OFF: u8 = 0;
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it is looked whether it has ended, and the time between.
const GOODBYES: u32 = 100;
const GOODBYE: Duration = Duration::from_millis(1);

/// Switches the measuring on and off.
#[derive(Debug)]
pub(super) enum Switch {
    /// By this process; measuring goes on while there is a descriptor.
    Own(Option<OwnedFd>),
    Helper(Helper),
}

impl Switch {
    /// `stays_capable`: this process keeps the capability.
    pub(super) fn new(stays_capable: bool) -> Self {
        let may = rights::lacking(CapabilitySet::SYS_ADMIN).is_empty();
        if stays_capable || !may {
            return Self::Own(None);
        }
        match Helper::start() {
            Ok(helper) => Self::Helper(helper),
            Err(error) => {
                log::debug!("the run time of kernel programs is not measured: {error}");
                Self::Own(None)
            }
        }
    }

    /// Whether this process, or its helper, may.
    pub(super) fn may(&self) -> bool {
        match self {
            Self::Own(_) => rights::lacking(CapabilitySet::SYS_ADMIN).is_empty(),
            Self::Helper(_) => true,
        }
    }

    pub(super) fn set(&mut self, on: bool) -> io::Result<()> {
        match self {
            Self::Own(measuring) => {
                *measuring = match on {
                    true => Some(enable_stats(Stats::RunTime).map_err(|error| error.io_error)?),
                    false => None,
                };
                Ok(())
            }
            Self::Helper(helper) => helper.set(on),
        }
    }
}

/// The process that keeps the capability.
#[derive(Debug)]
pub(super) struct Helper {
    socket: UnixStream,
    pid: libc::pid_t,
}

impl Helper {
    fn start() -> io::Result<Self> {
        let filter = filter().map_err(io::Error::other)?;
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(PATIENCE))?;
        // Signals to the whole group are the watch's business: no handler of ours may run in the child.
        let before = block_signals();
        // SAFETY: the child makes system calls only, on memory that is there already.
        let forked = match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => serve(theirs.as_raw_fd(), &filter),
            pid => Ok(Self { socket: ours, pid }),
        };
        // SAFETY: a set that the kernel has written.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut())
        };
        forked
    }

    fn set(&mut self, on: bool) -> io::Result<()> {
        self.socket.write_all(&[if on { ON } else { OFF }])?;
        let mut done = [OFF];
        self.socket.read_exact(&mut done)?;
        match done == [ON] {
            true => Ok(()),
            false => Err(io::Error::from(io::ErrorKind::Unsupported)),
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        // It ends by that. One that somebody has stopped is not waited for.
        for _ in 0..GOODBYES {
            // SAFETY: our own child, which nobody else waits for; a null pointer takes no status.
            if unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), libc::WNOHANG) } != 0 {
                break;
            }
            std::thread::sleep(GOODBYE);
        }
    }
}

/// Blocks all signals of this thread, and gives what was blocked before.
fn block_signals() -> libc::sigset_t {
    let mut all = MaybeUninit::<libc::sigset_t>::zeroed();
    let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: both are written to before they are read, and all zeros are valid.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), before.as_mut_ptr());
        before.assume_init()
    }
}

fn filter() -> Result<BpfProgram, Error> {
    let calls = [
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_close,
        libc::SYS_exit_group,
    ];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = calls
        .into_iter()
        .map(|number| (number, Vec::new()))
        .collect();
    let command = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Eq,
        ENABLE_STATS as u64,
    )?;
    rules.insert(libc::SYS_bpf, vec![SeccompRule::new(vec![command])?]);
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?;
    Ok(filter.try_into()?)
}

/// The life of the child: allocates nothing, for another thread may have held the allocator's lock.
fn serve(socket: i32, filter: &BpfProgram) -> ! {
    let only = CapabilitySets {
        effective: CapabilitySet::SYS_ADMIN,
        permitted: CapabilitySet::SYS_ADMIN,
        inheritable: CapabilitySet::empty(),
    };
    // SAFETY: system calls on own descriptors, and a name that ends in a NUL.
    let ready = unsafe {
        libc::dup2(socket, 0) == 0
            && libc::syscall(libc::SYS_close_range, 1, u32::MAX, 0) == 0
            && libc::prctl(libc::PR_SET_NAME, c"concmon-stats".as_ptr()) == 0
    };
    if ready && set_capabilities(None, only).is_ok() && apply_filter(filter).is_ok() {
        let kind = RUN_TIME;
        let mut measuring = -1;
        let mut word = OFF;
        // SAFETY: reads and writes one byte of our own.
        while unsafe { libc::read(0, (&raw mut word).cast(), 1) } == 1 {
            if measuring >= 0 {
                // SAFETY: a descriptor that is ours alone.
                unsafe { libc::close(measuring) };
                measuring = -1;
            }
            if word == ON {
                // SAFETY: the command reads a kind of four bytes, and gives a descriptor or -1.
                measuring =
                    unsafe { libc::syscall(libc::SYS_bpf, ENABLE_STATS, &raw const kind, 4) }
                        as i32;
            }
            let done = if word == ON && measuring < 0 { OFF } else { ON };
            // SAFETY: as above.
            unsafe { libc::write(0, (&raw const done).cast(), 1) };
        }
    }
    // SAFETY: ends this process at once, without what the parent has registered for its end.
    unsafe { libc::_exit(0) }
}
