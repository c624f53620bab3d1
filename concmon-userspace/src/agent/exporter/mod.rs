//! The exporter: a process of its own that serves what the collector tells it, and can do nothing else.

mod ask;
mod client;
mod confine;
mod dial;
mod pages;
mod push;
mod serve;

use std::{
    cell::RefCell,
    fs::File,
    io::{self, Write as _},
    net::TcpListener,
    os::{
        fd::{AsRawFd as _, RawFd},
        unix::net::UnixStream,
    },
    rc::Rc,
    time::Duration,
};

use rustix::{
    process::{Gid, Signal, Uid, WaitOptions, set_parent_process_death_signal},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use tokio::{io::AsyncReadExt as _, task::LocalSet};

use ask::Line;
pub(crate) use dial::run_if_asked;
use pages::Pages;
use push::Push;

use super::{
    config::{Account, Config},
    wire::{self, Message, Settings},
};
use crate::{
    event::Pid,
    procfs::{now, rights},
    session::{Failure, code},
};

/// The exporter, as the collector has it.
#[derive(Debug)]
pub(crate) struct Exporter {
    pub(crate) pid: Pid,
    pub(crate) socket: UnixStream,
}

/// Opens the address, and starts the exporter.
///
/// # Errors
/// The address cannot be had, or there can be no process.
pub(crate) fn start(config: &Config) -> Result<Exporter, Failure> {
    let refused = |error: io::Error| {
        let kind = match error.kind() {
            io::ErrorKind::PermissionDenied => code::PERMISSION,
            _ => code::FAILURE,
        };
        Failure::new(kind, format!("cannot listen at {}: {error}", config.listen))
    };
    let listener = TcpListener::bind(config.listen).map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    let (ours, theirs) = UnixStream::pair()?;
    let collector = std::process::id();
    match fork()? {
        Process::Child => {
            drop(ours);
            let ended = run(listener, theirs, config, collector);
            if let Err(error) = &ended {
                let _ = writeln!(io::stderr(), "concmon-bpf: the exporter ends: {error}");
            }
            std::process::exit(i32::from(ended.is_err()));
        }
        Process::Parent(pid) => {
            let scheme = match config.identity {
                Some(_) => "https",
                None => "http",
            };
            log::info!("metrics are served at {scheme}://{address}/metrics");
            if !address.ip().is_loopback() && config.token.is_none() {
                log::warn!(
                    "whoever reaches {address} can read them: exporter.token_file asks for a token"
                );
            }
            for (signal, to) in &config.otlp.destinations {
                log::info!("{} are pushed to {}", signal.name(), to.endpoint);
            }
            Ok(Exporter { pid, socket: ours })
        }
    }
}

/// Who one is after [`fork`].
enum Process {
    Parent(Pid),
    Child,
}

/// # Errors
/// There can be no process, or there are other threads already.
fn fork() -> io::Result<Process> {
    if now::count_threads(Pid(std::process::id())) != 1 {
        let message = "a process can be started only before there are other threads";
        return Err(io::Error::other(message));
    }
    // SAFETY: this process has one thread, so the child may do whatever a process may.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Process::Child),
        pid => Ok(Process::Parent(Pid(pid.cast_unsigned()))),
    }
}

/// Waits a moment for the end of the exporter, whose socket is closed; says how it ended.
pub(crate) fn wait(pid: Pid) -> Option<String> {
    let pid = rustix::process::Pid::from_raw(pid.0.cast_signed())?;
    for _ in 0..50 {
        match rustix::process::waitpid(Some(pid), WaitOptions::NOHANG) {
            Ok(None) => std::thread::sleep(Duration::from_millis(10)),
            Ok(Some((_, status))) => {
                return Some(match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => format!("with code {code}"),
                    (None, signal) => format!("by signal {}", signal.unwrap_or(0)),
                });
            }
            Err(_) => return None,
        }
    }
    None
}

/// The exporter's life: it ends when the collector does.
fn run(
    listener: TcpListener,
    socket: UnixStream,
    config: &Config,
    collector: u32,
) -> io::Result<()> {
    // Signals to all of a terminal or a unit are for the collector, whose end is ours.
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: ignoring runs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    let push = push::prepare(&config.otlp, config.exporter)?;
    let mut kept = vec![listener.as_raw_fd(), socket.as_raw_fd()];
    let dialers = push.iter().flat_map(|push| push.dialers());
    kept.extend(dialers.map(|dialer| dialer.as_raw_fd()));
    keep_only(&mut kept)?;
    let settings = Settings::of(config);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    rustix::thread::set_name(c"concmon-export")?;
    become_user(config.exporter)?;
    // A change of the user takes it back.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if std::os::unix::process::parent_id() != collector {
        return Ok(());
    }
    rights::reduce_to(rustix::thread::CapabilitySet::empty())?;
    LocalSet::new().block_on(&runtime, async {
        socket.set_nonblocking(true)?;
        let socket = tokio::net::UnixStream::from_std(socket)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let pages = Rc::new(RefCell::new(Pages::new(settings)));
        let push = push.map(|push| push.begin(&pages)).transpose()?;
        let (socket, writer) = socket.into_split();
        let line = Line::begin(writer);
        confine::confine_or_warn(confine::Who::Exporter);
        let served = serve::serve(listener, Rc::clone(&pages), line.clone());
        tokio::task::spawn_local(served);
        let dialer_ended = async {
            match &push {
                Some(push) => push.dialer_ended.notified().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = listen_to_collector(socket, &pages, &line, push.as_ref()) => ended,
            () = dialer_ended => Err(io::Error::other("a dialer has ended")),
        }
    })
}

/// Closes what whoever started the agent has left open, but for standard error and these.
fn keep_only(kept: &mut [RawFd]) -> io::Result<()> {
    let nothing = File::open("/dev/null")?;
    for standard in [libc::STDIN_FILENO, libc::STDOUT_FILENO] {
        // SAFETY: nobody in this process owns these two; both stay open.
        if unsafe { libc::dup2(nothing.as_raw_fd(), standard) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    drop(nothing);
    kept.sort_unstable();
    let mut from = libc::STDERR_FILENO + 1;
    for until in kept.iter().copied().chain([RawFd::MAX]) {
        // SAFETY: it closes what nothing in this process uses from now on.
        if until > from && unsafe { libc::syscall(libc::SYS_close_range, from, until - 1, 0) } == -1
        {
            return Err(io::Error::last_os_error());
        }
        from = until.saturating_add(1);
    }
    Ok(())
}

/// Gives up the user that everything was set up as, where that is root.
fn become_user(account: Account) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        // Without the right to, these are those of a user who is not root.
        let _ = set_thread_groups(&[]);
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(account.user), Gid::from_raw(account.group));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

/// Takes what the collector says, until it is gone.
async fn listen_to_collector(
    mut socket: tokio::net::unix::OwnedReadHalf,
    pages: &RefCell<Pages>,
    line: &Line,
    push: Option<&Push>,
) -> io::Result<()> {
    loop {
        let mut head = [0; wire::HEAD];
        match socket.read_exact(&mut head).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut body = vec![0; wire::length(head, wire::MAX_BODY)?];
        socket.read_exact(&mut body).await?;
        match wire::parse(&body)? {
            Message::Settings(settings) => pages.borrow_mut().set(settings),
            Message::Samples(samples) => {
                if let Some(push) = push {
                    push.learn(&samples.samples);
                }
                pages.borrow_mut().take(samples);
            }
            Message::Reply { number, reply } => line.replied(number, reply),
            Message::Events(events) => {
                if let Some(push) = push {
                    push.take(events);
                }
            }
        }
    }
}
