//! The signals that end a watch, and the one that has a ring written.

use std::{io, mem::MaybeUninit};

use rustix::process;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::event::Pid;

/// What a signal wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// The watch is to end.
    End(SignalKind),
    /// The ring is to be written.
    Write,
}

/// The signals of a watch, from its begin on.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// `None`: it was ignored from the start, as `nohup` has it, and stays so.
    hangup: Option<Signal>,
    write: Signal,
}

/// The signals that end a watch; SIGHUP is none where it was ignored from the start.
pub(crate) fn that_end() -> impl Iterator<Item = SignalKind> {
    let all = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ];
    let is_hangup = |kind: &SignalKind| *kind == SignalKind::hangup();
    all.into_iter()
        .filter(move |kind| !is_hangup(kind) || !is_ignored(*kind))
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        let hangup = SignalKind::hangup();
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: match is_ignored(hangup) {
                true => None,
                false => Some(signal(hangup)?),
            },
            write: signal(SignalKind::user_defined2())?,
        })
    }

    pub(crate) async fn next(&mut self) -> Request {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Request::End(SignalKind::interrupt()),
            _ = self.terminate.recv() => Request::End(SignalKind::terminate()),
            _ = hangup => Request::End(SignalKind::hangup()),
            _ = self.write.recv() => Request::Write,
        }
    }

    /// From now on the signals that end a watch do what they do by default. What was loaded into the
    /// kernel goes away with this process.
    pub(crate) fn abort_from_now_on(&self) {
        set_default(libc::SIGINT);
        set_default(libc::SIGTERM);
        if self.hangup.is_some() {
            set_default(libc::SIGHUP);
        }
    }
}

/// Sends a signal to a child of ours that nobody has waited for yet.
pub(crate) fn send(pid: Pid, signal: SignalKind) {
    let pid = process::Pid::from_raw(pid.0.cast_signed());
    if let (Some(pid), Some(signal)) = (pid, process::Signal::from_named_raw(signal.as_raw_value()))
    {
        let _ = process::kill_process(pid, signal);
    }
}

fn set_default(signal: libc::c_int) {
    // SAFETY: the default disposition runs no code of ours.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

fn is_ignored(kind: SignalKind) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: nothing is set; there is room for what the kernel writes, and all zeros are valid, too.
    let action = unsafe {
        libc::sigaction(kind.as_raw_value(), std::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}

/// Lets a write beyond the limit on the size of files fail, instead of ending the tool.
///
/// A handler is not passed on to programs that are started, while ignoring is.
pub(crate) fn survive_file_size_limit() {
    extern "C" fn nothing(_: libc::c_int) {}
    let signal = SignalKind::from_raw(libc::SIGXFSZ);
    if !is_ignored(signal) {
        let handler = nothing as extern "C" fn(libc::c_int);
        // SAFETY: the handler does nothing at all.
        unsafe { libc::signal(libc::SIGXFSZ, handler as libc::sighandler_t) };
    }
}
