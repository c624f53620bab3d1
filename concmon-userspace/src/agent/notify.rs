//! Tells systemd how the agent is (sd_notify(3)): ready, reloading, stopping, and that it lives.

use std::{
    os::{linux::net::SocketAddrExt as _, unix::ffi::OsStrExt as _, unix::net},
    time::Duration,
};

/// Where it is told; nowhere without `NOTIFY_SOCKET`.
#[derive(Debug)]
pub(super) struct Notify {
    socket: Option<net::UnixDatagram>,
    /// It wants to hear that the agent lives at least as often.
    pub(super) watchdog: Option<Duration>,
}

impl Notify {
    /// Connects, which cannot be done any more once the filter of system calls is in force.
    pub(super) fn new() -> Self {
        Self {
            socket: connect(),
            watchdog: watchdog(),
        }
    }

    pub(super) fn tell(&self, state: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(state.as_bytes())
        {
            log::debug!("systemd is not told {state:?}: {error}");
        }
    }

    /// The configuration is read again; [`Self::tell`] `READY=1` ends that.
    pub(super) fn reloading(&self, now_ns: u64) {
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", now_ns / 1_000));
    }
}

fn connect() -> Option<net::UnixDatagram> {
    let name = std::env::var_os("NOTIFY_SOCKET")?;
    let address = match name.as_bytes() {
        [b'@', rest @ ..] => net::SocketAddr::from_abstract_name(rest),
        path => net::SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path)),
    };
    let connected = address.and_then(|address| {
        let socket = net::UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect_addr(&address)?;
        Ok(socket)
    });
    connected
        .inspect_err(|error| log::warn!("NOTIFY_SOCKET cannot be reached: {error}"))
        .ok()
}

/// Half of the time that systemd waits, if it waits for this process.
fn watchdog() -> Option<Duration> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let micros = number("WATCHDOG_USEC").filter(|micros| is_ours && *micros > 0)?;
    Some(Duration::from_micros(micros / 2))
}
