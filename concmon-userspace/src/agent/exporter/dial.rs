//! Connections to the receivers that the configuration names, each made by a process of its own.
//!
//! The exporter may connect nowhere, and a filter of system calls cannot tell one address from another. So a *dialer*
//! knows its one receiver from its start on, is told nothing but that a connection is wanted, and hands it over. It finds
//! addresses by the name of the host each time: who answers for it is whoever the host's resolver trusts. A receiver that
//! cannot be reached keeps none but its own dialer waiting, and no answer can be one about another receiver.

use std::{
    ffi::OsString,
    io::{self, IoSlice, IoSliceMut, Write as _},
    mem::MaybeUninit,
    net::{SocketAddr, TcpStream, ToSocketAddrs as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Command, ExitCode},
    rc::Rc,
    time::{Duration, Instant},
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
    agent::config::Account,
    procfs::{OWN_PROGRAM, rights},
};

/// Until a receiver has taken a connection at one of its addresses, and how many of these are tried.
const CONNECT_TIME: Duration = Duration::from_secs(8);
const MAX_ADDRESSES: usize = 4;
/// Why it failed is told in so many bytes.
const MAX_REASON: usize = 200;

/// What a dialer is called where processes are listed, and how it knows that it is one.
const NAME: &str = "concmon-dial";
/// Of the environment, what the C library's resolver reads.
const RESOLVER: &[&str] = &["LOCALDOMAIN", "RES_OPTIONS"];

/// What the dialer is told.
const QUESTION: [u8; 1] = [1];

/// The way to a dialer.
#[derive(Debug)]
pub(super) struct Line {
    socket: UnixStream,
    /// The last question is not answered: who asked did not wait.
    is_asked: Mutex<bool>,
    /// Told when a dialer is gone.
    ended: Rc<Notify>,
}

/// Starts the dialer of a receiver; its end of the way is to be waited for by [`Line::new`].
///
/// # Errors
/// There can be no process.
pub(super) fn start(host: &str, port: u16, user: Account) -> io::Result<OwnedFd> {
    let (ours, theirs) = pair()?;
    let exporter = std::process::id();
    if let Process::Child = fork()? {
        drop(ours);
        let error = begin_anew(&theirs, host, port, user, exporter);
        let _ = writeln!(
            io::stderr(),
            "concmon-bpf: no dialer can be started: {error}"
        );
        std::process::exit(1);
    }
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok(ours)
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
    Ok(pair?)
}

/// Replaces what this process is by a dialer: nothing is left of the memory that it was forked with, nor of the
/// environment, which have headers and a token.
fn begin_anew(socket: &OwnedFd, host: &str, port: u16, user: Account, exporter: u32) -> io::Error {
    if let Err(error) = rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::empty()) {
        return error.into();
    }
    let numbers = [u32::from(port), user.user, user.group, exporter];
    let kept = RESOLVER
        .iter()
        .filter_map(|name| Some((name, std::env::var_os(name)?)));
    Command::new(OWN_PROGRAM)
        .arg0(NAME)
        .arg(host)
        .args(numbers.map(|number| number.to_string()))
        .arg(socket.as_raw_fd().to_string())
        .env_clear()
        .envs(kept)
        .exec()
}

/// The life of a dialer, where this process was started as one.
pub(crate) fn run_if_asked(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    if arguments.next()? != NAME {
        return None;
    }
    let arguments: Vec<String> = arguments
        .filter_map(|text| text.into_string().ok())
        .collect();
    let ended = run_by(&arguments);
    Some(match ended {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(_)) | None => ExitCode::FAILURE,
    })
}

fn run_by(arguments: &[String]) -> Option<io::Result<()>> {
    let [host, port, user, group, exporter, socket] = arguments else {
        return None;
    };
    let user = Account {
        user: user.parse().ok()?,
        group: group.parse().ok()?,
    };
    let socket: i32 = socket
        .parse()
        .ok()
        .filter(|socket| *socket > libc::STDERR_FILENO)?;
    // SAFETY: nothing else in this process knows of it; whether it is open, its first use shows.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    Some(run(
        &socket,
        host,
        port.parse().ok()?,
        user,
        exporter.parse().ok()?,
    ))
}

/// The dialer's life: it ends when the exporter does.
fn run(socket: &OwnedFd, host: &str, port: u16, user: Account, exporter: u32) -> io::Result<()> {
    keep_only(&mut [socket.as_raw_fd()])?;
    rustix::thread::set_name(c"concmon-dial")?;
    become_user(user)?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if std::os::unix::process::parent_id() != exporter {
        return Ok(());
    }
    rights::reduce_to(rustix::thread::CapabilitySet::empty())?;
    confine::confine_or_warn(confine::Who::Dialer);
    while is_asked(socket)? {
        answer(socket, connect(host, port))?;
    }
    Ok(())
}

/// Waits for a question; `false`: there will be none.
fn is_asked(socket: &OwnedFd) -> io::Result<bool> {
    let mut asked = QUESTION;
    let (_, length) = recv(socket, &mut asked, RecvFlags::empty())?;
    Ok(length > 0)
}

fn answer(socket: &OwnedFd, connected: io::Result<TcpStream>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let (stream, reason) = match connected {
        Ok(stream) => (Some(stream), "-".to_owned()),
        Err(error) => (None, format!("-{error}")),
    };
    let descriptors: Vec<_> = stream.iter().map(|stream| stream.as_fd()).collect();
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    // Without a byte of its own, it would be the end.
    let reason = &reason.as_bytes()[..reason.len().min(1 + MAX_REASON)];
    sendmsg(
        socket,
        &[IoSlice::new(reason)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses = (host, port).to_socket_addrs()?;
    first_of(
        &addresses.take(MAX_ADDRESSES).collect::<Vec<_>>(),
        CONNECT_TIME,
    )
}

/// A connection to the first of some addresses that takes one: all of them have this time together.
fn first_of(addresses: &[SocketAddr], time: Duration) -> io::Result<TcpStream> {
    let until = Instant::now() + time;
    let mut failed = io::Error::other("its name has no address");
    for (index, address) in addresses.iter().enumerate() {
        let rest = until.saturating_duration_since(Instant::now());
        // None is no time at all, for which there is no connection.
        let share = rest / (addresses.len() - index) as u32;
        match TcpStream::connect_timeout(address, share.max(Duration::from_millis(1))) {
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
    /// `ended` is told when the dialer is gone.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub(super) fn new(socket: OwnedFd, ended: Rc<Notify>) -> io::Result<Self> {
        Ok(Self {
            socket: UnixStream::from_std(socket.into())?,
            is_asked: Mutex::new(false),
            ended,
        })
    }

    /// A connection to the receiver. Until a question is answered there is no other: who does not wait leaves the
    /// answer to who asks next.
    ///
    /// # Errors
    /// There is none.
    pub(super) async fn connect(&self) -> io::Result<tokio::net::TcpStream> {
        let mut is_asked = self.is_asked.lock().await;
        if *is_asked {
            // What came when nobody waited may be long closed by the other side.
            let came = self
                .socket
                .try_io(Interest::READABLE, || receive(&self.socket));
            *is_asked = came.is_err();
        }
        if !*is_asked {
            let said = self.socket.async_io(Interest::WRITABLE, || {
                Ok(send(&self.socket, &QUESTION, SendFlags::NOSIGNAL)?)
            });
            said.await.inspect_err(|_| self.ended.notify_one())?;
            *is_asked = true;
        }
        let answer = self
            .socket
            .async_io(Interest::READABLE, || receive(&self.socket));
        let answer = answer.await.inspect_err(|_| self.ended.notify_one())?;
        *is_asked = false;
        tokio::net::TcpStream::from_std(answer?)
    }
}

/// One answer: the connection, or why there is none.
fn receive(socket: &UnixStream) -> io::Result<io::Result<TcpStream>> {
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
    let Some((_, reason)) = text[..received.bytes].split_first() else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    let reason = || io::Error::other(String::from_utf8_lossy(reason).into_owned());
    Ok(stream.ok_or_else(reason))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(50);
    const LATE: Duration = Duration::from_secs(20);

    /// A listener whose queue is full, and what fills it.
    fn full() -> (TcpListener, Vec<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("an address");
        // SAFETY: it is open; the queue is made as short as it can be.
        unsafe { libc::listen(listener.as_raw_fd(), 0) };
        let address = listener.local_addr().expect("an address");
        let clients = std::iter::from_fn(|| TcpStream::connect_timeout(&address, SOON).ok());
        let clients = clients.collect();
        (listener, clients)
    }

    #[test]
    fn all_addresses_have_one_time_together() {
        let (dead, _clients) = full();
        let dead = dead.local_addr().expect("an address");
        let live = TcpListener::bind("127.0.0.1:0").expect("an address");
        let live = live.local_addr().expect("an address");
        let time = Duration::from_millis(600);
        let begin = Instant::now();
        let failed = first_of(&[dead; 4], time).expect_err("nobody takes it");
        assert_eq!(failed.kind(), io::ErrorKind::TimedOut);
        let took = begin.elapsed();
        assert!(took >= time / 2 && took < 3 * time, "{took:?}");
        assert!(
            first_of(&[dead, live], time).is_ok(),
            "the last one takes it"
        );
        assert!(first_of(&[], time).is_err());
    }

    /// There is one question at a time; who asks next has the answer that comes, not one that has come.
    #[tokio::test]
    async fn an_answer_that_nobody_waited_for_answers_no_later_question() {
        let (ours, dialer) = pair().expect("a pair");
        rustix::io::ioctl_fionbio(&ours, true).expect("it can");
        let line = Line::new(ours, Rc::default()).expect("a line");
        let listener = TcpListener::bind("127.0.0.1:0").expect("an address");
        let address = listener.local_addr().expect("an address");
        let connection = move || {
            let stream = TcpStream::connect(address)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        };
        let port = |stream: &TcpStream| stream.local_addr().expect("an address").port();
        for _ in 0..300 {
            assert!(timeout(SOON / 50, line.connect()).await.is_err());
        }
        // All these asked but one question; its answer comes while another one waits.
        assert!(is_asked(&dialer).expect("a question"));
        rustix::io::ioctl_fionbio(&dialer, true).expect("it can");
        assert!(is_asked(&dialer).is_err(), "there is another question");
        rustix::io::ioctl_fionbio(&dialer, false).expect("it can");
        let stream: TcpStream = connection().expect("a connection");
        let expected = port(&stream);
        let later = async {
            tokio::time::sleep(SOON).await;
            answer(&dialer, Ok(stream)).expect("it is taken");
        };
        let (got, ()) = tokio::join!(timeout(LATE, line.connect()), later);
        let got = got.expect("in time").expect("a connection");
        assert_eq!(got.local_addr().expect("an address").port(), expected);
        // This one comes when nobody waits.
        assert!(timeout(SOON, line.connect()).await.is_err());
        assert!(is_asked(&dialer).expect("a question"));
        answer(&dialer, connection()).expect("it is taken");
        tokio::time::sleep(SOON).await;
        let fresh = std::thread::spawn(move || {
            assert!(is_asked(&dialer).expect("a question"));
            let stream: TcpStream = connection().expect("a connection");
            let port = port(&stream);
            answer(&dialer, Ok(stream)).expect("it is taken");
            assert!(is_asked(&dialer).expect("a question"));
            answer(&dialer, Err(io::Error::other("no"))).expect("it is taken");
            port
        });
        let got = timeout(LATE, line.connect()).await.expect("in time");
        let got = got.expect("a connection");
        let failed = timeout(LATE, line.connect()).await.expect("in time");
        assert_eq!(failed.expect_err("there is none").to_string(), "no");
        let expected = fresh.join().expect("it ends");
        assert_eq!(got.local_addr().expect("an address").port(), expected);
    }
}
