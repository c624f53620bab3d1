//! Connections to the receivers that the configuration names, made by a process of its own.
//!
//! The exporter may connect nowhere, and a filter of system calls cannot tell one address from another. So the *dialer*
//! knows the receivers from its start on, is told nothing but the number of one, and hands connections over. It finds
//! addresses by the names of hosts each time: who answers for these is whoever the host's resolver trusts.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::{TcpStream, ToSocketAddrs as _},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    time::Duration,
};

use rustix::{
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg,
        socketpair,
    },
    process::{Signal, set_parent_process_death_signal},
};
use tokio::{
    io::Interest,
    net::UnixStream,
    sync::{Mutex, Notify},
};

use super::{Process, become_user, confine, fork, keep_only};
use crate::{
    agent::config::{Account, Endpoint},
    procfs::rights,
};

/// Until a receiver has taken a connection, and how many of its addresses are tried.
const CONNECT_TIME: Duration = Duration::from_secs(5);
const MAX_ADDRESSES: usize = 4;
/// Why it failed is told in so many bytes.
const MAX_REASON: usize = 200;

/// The way to the dialer.
#[derive(Debug)]
pub(super) struct Line {
    socket: UnixStream,
    /// The number of the last question: an answer that comes too late is to another one.
    asked: Mutex<u8>,
    ended: Notify,
}

/// Starts the dialer; its end of the way is to be waited for by [`Line::new`].
///
/// # Errors
/// There can be no process.
pub(super) fn start(receivers: &[Endpoint], user: Account) -> io::Result<OwnedFd> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let exporter = std::process::id();
    if let Process::Child = fork()? {
        drop(ours);
        let ended = run(&theirs, receivers, user, exporter);
        std::process::exit(i32::from(ended.is_err()));
    }
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok(ours)
}

/// The dialer's life: it ends when the exporter does.
fn run(socket: &OwnedFd, receivers: &[Endpoint], user: Account, exporter: u32) -> io::Result<()> {
    keep_only(&mut [socket.as_raw_fd()])?;
    rustix::thread::set_name(c"concmon-dial")?;
    become_user(user)?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if std::os::unix::process::parent_id() != exporter {
        return Ok(());
    }
    rights::reduce_to(rustix::thread::CapabilitySet::empty())?;
    confine::confine_or_warn(confine::Who::Dialer);
    loop {
        let mut asked = [0; 2];
        let (_, length) = recv(socket, &mut asked, RecvFlags::empty())?;
        if length == 0 {
            return Ok(());
        }
        let [receiver, number] = asked;
        let connected = match receivers.get(usize::from(receiver)) {
            Some(receiver) => connect(receiver),
            None => Err(io::ErrorKind::InvalidInput.into()),
        };
        answer(socket, number, connected)?;
    }
}

fn answer(socket: &OwnedFd, number: u8, connected: io::Result<TcpStream>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let (stream, reason) = match connected {
        Ok(stream) => (Some(stream), String::new()),
        Err(error) => (None, error.to_string()),
    };
    let descriptors: Vec<_> = stream.iter().map(|stream| stream.as_fd()).collect();
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    let reason = &reason.as_bytes()[..reason.len().min(MAX_REASON)];
    let number = [number];
    let parts = [IoSlice::new(&number), IoSlice::new(reason)];
    sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn connect(receiver: &Endpoint) -> io::Result<TcpStream> {
    let addresses = (&*receiver.host, receiver.port).to_socket_addrs()?;
    let mut failed = io::Error::other("its name has no address");
    for address in addresses.take(MAX_ADDRESSES) {
        match TcpStream::connect_timeout(&address, CONNECT_TIME) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                return Ok(stream);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

impl Line {
    /// # Errors
    /// It cannot be waited for.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            socket: UnixStream::from_std(socket.into())?,
            asked: Mutex::new(0),
            ended: Notify::new(),
        })
    }

    /// A connection to the receiver of a number.
    ///
    /// # Errors
    /// There is none.
    pub(super) async fn connect(&self, receiver: u8) -> io::Result<tokio::net::TcpStream> {
        let mut asked = self.asked.lock().await;
        *asked = asked.wrapping_add(1);
        let question = [receiver, *asked];
        let said = self.socket.async_io(Interest::WRITABLE, || {
            Ok(send(&self.socket, &question, SendFlags::NOSIGNAL)?)
        });
        said.await.inspect_err(|_| self.ended.notify_one())?;
        loop {
            let answer = self
                .socket
                .async_io(Interest::READABLE, || receive(&self.socket));
            let (number, answer) = match answer.await {
                Ok(answer) => answer,
                Err(error) => {
                    self.ended.notify_one();
                    return Err(error);
                }
            };
            if number == *asked {
                return tokio::net::TcpStream::from_std(answer?);
            }
        }
    }

    /// Waits until a question has shown that the dialer is gone.
    pub(super) async fn ended(&self) {
        self.ended.notified().await;
    }
}

/// One answer: to which question, and the connection or why there is none.
fn receive(socket: &UnixStream) -> io::Result<(u8, io::Result<TcpStream>)> {
    let mut text = [0; 1 + MAX_REASON];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut text)];
    let received = recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let stream = descriptors.flatten().next().map(TcpStream::from);
    let Some((number, reason)) = text[..received.bytes].split_first() else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    let reason = || io::Error::other(String::from_utf8_lossy(reason).into_owned());
    Ok((*number, stream.ok_or_else(reason)))
}
