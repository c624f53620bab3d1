//! The system calls that the exporter may make: to answer on connections that come to it, to listen to the
//! collector, and to use connections that the dialer hands over. It opens no file, makes no socket, connects nowhere,
//! starts nothing, and touches no other process.
//!
//! A dialer makes connections, and no more: it finds addresses by names, so it reads files, too, and asks servers
//! of names by UDP. Where to it connects, no filter can hold; the exporter tells it nothing but when.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
};

use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen::Dword,
    SeccompCmpArgLen::Qword, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter_all_threads,
};

/// What may be asked of a descriptor: nothing that lets the kernel send signals to others on its account.
const FCNTL: &[i32] = &[
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_DUPFD_CLOEXEC,
];

const ALLOWED: &[i64] = &[
    // Connections.
    libc::SYS_accept4,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_shutdown,
    libc::SYS_close,
    libc::SYS_getsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    // Waiting.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_epoll_ctl,
    libc::SYS_ppoll,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    // Memory.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_getrandom,
    // Its own threads and signals, and its end.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// What the dialer may do besides, and nothing of the exporter's alone.
const DIALER: &[i64] = &[
    libc::SYS_connect,
    libc::SYS_setsockopt,
    libc::SYS_bind,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_uname,
];

/// What may be asked of its descriptors: how much there is to read, and not to wait.
const IOCTL: &[u64] = &[libc::FIONREAD, libc::FIONBIO];

/// Who is confined.
#[derive(Clone, Copy, Debug)]
pub(super) enum Who {
    Exporter,
    Dialer,
}

/// Puts the filter in force. All else fails with EPERM, and so do calls of other tables: their numbers are not
/// in it, or their architecture ends the process. Where the kernel has no such filters, or does not allow this one,
/// that is said.
pub(super) fn confine_or_warn(who: Who) {
    let filter = filter(who).and_then(|filter| apply_filter_all_threads(&filter));
    if let Err(error) = filter {
        let name = match who {
            Who::Exporter => "exporter",
            Who::Dialer => "dialer",
        };
        let _ = writeln!(
            io::stderr(),
            "concmon-bpf: no filter of system calls is in force for the {name}: {error}"
        );
    }
}

fn filter(who: Who) -> Result<BpfProgram, Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|number| (*number, Vec::new())).collect();
    match who {
        Who::Exporter => {
            // With an address, or MSG_FASTOPEN, it would connect.
            let flags = u64::from(libc::MSG_NOSIGNAL.cast_unsigned());
            let answer = vec![
                SeccompCondition::new(3, Dword, SeccompCmpOp::Eq, flags)?,
                SeccompCondition::new(4, Qword, SeccompCmpOp::Eq, 0)?,
            ];
            rules.insert(libc::SYS_sendto, vec![SeccompRule::new(answer)?]);
        }
        Who::Dialer => {
            rules.remove(&libc::SYS_accept4);
            rules.extend(DIALER.iter().map(|number| (*number, Vec::new())));
            // Nothing of a file system is made or written.
            let writes = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC;
            let read = SeccompCmpOp::MaskedEq(u64::from(writes.cast_unsigned()));
            let read = SeccompCondition::new(2, Dword, read, 0)?;
            rules.insert(libc::SYS_openat, vec![SeccompRule::new(vec![read])?]);
            let families = [libc::AF_INET, libc::AF_INET6];
            let families = families.map(|family| u64::from(family.cast_unsigned()));
            rules.insert(libc::SYS_socket, one_of(0, &families)?);
            rules.insert(libc::SYS_ioctl, one_of(1, IOCTL)?);
        }
    }
    let commands: Vec<u64> = FCNTL
        .iter()
        .map(|of| u64::from(of.cast_unsigned()))
        .collect();
    rules.insert(libc::SYS_fcntl, one_of(1, &commands)?);
    let denied = SeccompAction::Errno(libc::EPERM as u32);
    let arch = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules, denied, SeccompAction::Allow, arch)?;
    Ok(BpfProgram::try_from(filter)?)
}

/// An argument must be one of these.
fn one_of(argument: u8, values: &[u64]) -> Result<Vec<SeccompRule>, BackendError> {
    let rules = values.iter().map(|value| {
        let is = SeccompCondition::new(argument, Dword, SeccompCmpOp::Eq, *value)?;
        SeccompRule::new(vec![is])
    });
    rules.collect()
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{self, Read as _, Write as _},
        net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
        os::{fd::AsRawFd as _, unix::net::UnixStream},
        process::Command,
    };

    use super::*;

    fn is_denied<T>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    }

    /// Whether none of the ways is open to reach somebody else with a socket that is there.
    fn reaches_nobody(socket: i32, address: SocketAddr) -> Vec<(&'static str, bool)> {
        let SocketAddr::V4(address) = address else {
            panic!("{address} is not of the old kind");
        };
        let name = libc::sockaddr_in {
            sin_family: libc::AF_INET as u16,
            sin_port: address.port().to_be(),
            sin_addr: libc::in_addr {
                s_addr: u32::from(*address.ip()).to_be(),
            },
            sin_zero: [0; 8],
        };
        let (name, size) = (&raw const name, size_of::<libc::sockaddr_in>());
        let mut denied = Vec::new();
        for (what, flags, name, size) in [
            ("connect at once", libc::MSG_FASTOPEN, name, size),
            (
                "connect at once, quietly",
                libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL,
                name,
                size,
            ),
            ("send to", libc::MSG_NOSIGNAL, name, size),
            ("send urgently", libc::MSG_OOB, std::ptr::null(), 0),
        ] {
            // SAFETY: the bytes and the name live until it returns.
            let sent = unsafe {
                libc::sendto(
                    socket,
                    b"x".as_ptr().cast(),
                    1,
                    flags,
                    name.cast(),
                    size as libc::socklen_t,
                )
            };
            denied.push((what, sent == -1 && is_eperm()));
        }
        for (what, command, value) in [
            ("owner", libc::F_SETOWN, 1),
            ("signal", 10, libc::SIGKILL),
            ("signals of its own accord", libc::F_SETFL, libc::O_ASYNC),
            ("lease", libc::F_SETLEASE, libc::F_RDLCK),
        ] {
            // SAFETY: these commands take a number.
            let set = unsafe { libc::fcntl(socket, command, value) };
            denied.push((what, set == -1 && is_eperm()));
        }
        denied
    }

    fn is_eperm() -> bool {
        io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
    }

    /// What neither may ask of the kernel.
    const REACHING_OTHERS: &[(&str, i64)] = &[
        ("ptrace", libc::SYS_ptrace),
        ("read memory", libc::SYS_process_vm_readv),
        ("write memory", libc::SYS_process_vm_writev),
        ("bpf", libc::SYS_bpf),
        ("perf", libc::SYS_perf_event_open),
        ("kill", libc::SYS_kill),
        ("exec", libc::SYS_execve),
        ("user", libc::SYS_setresuid),
    ];

    fn refused(calls: &[(&'static str, i64)]) -> Vec<(&'static str, bool)> {
        let refused = calls.iter().map(|(name, number)| {
            // SAFETY: the filter refuses it, whatever the arguments are; they are all null.
            let result = unsafe { libc::syscall(*number, 0, 0, 0, 0, 0, 0) };
            (*name, result == -1 && is_eperm())
        });
        refused.collect()
    }

    /// In force for a thread of its own.
    #[test]
    fn the_dialer_can_connect_and_nothing_else() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("an address");
        let port = listener.local_addr().expect("an address").port();
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("there");
        std::fs::write(&file, "x").expect("room");
        let confined = std::thread::spawn(move || {
            seccompiler::apply_filter(&filter(Who::Dialer).expect("a filter")).expect("in force");
            TcpStream::connect(("localhost", port)).expect("it may find an address, and connect");
            File::open("/etc/hosts").expect("it may read");
            let mut denied = vec![
                ("make", is_denied(File::create(file.with_extension("new")))),
                ("write", is_denied(File::options().append(true).open(&file))),
                ("local socket", is_denied(UnixStream::pair())),
                ("start", is_denied(Command::new("true").spawn())),
                (
                    "thread",
                    is_denied(std::thread::Builder::new().spawn(|| ())),
                ),
            ];
            denied.extend(refused(REACHING_OTHERS));
            denied.extend(refused(&[
                ("listen", libc::SYS_listen),
                ("take connections", libc::SYS_accept4),
                ("delete", libc::SYS_unlinkat),
                ("rename", libc::SYS_renameat2),
            ]));
            denied
        });
        for (name, is_denied) in confined.join().expect("it ends") {
            assert!(is_denied, "{name}");
        }
    }

    /// In force for a thread of its own.
    #[test]
    fn it_can_answer_and_nothing_else() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("an address");
        let address = listener.local_addr().expect("an address");
        let (mut collector, exporter) = UnixStream::pair().expect("a pair");
        let mut client = TcpStream::connect(address).expect("a connection");
        let confined = std::thread::spawn(move || {
            seccompiler::apply_filter(&filter(Who::Exporter).expect("a filter"))
                .expect("it is in force");
            let mut denied = vec![
                ("open", is_denied(File::open("/proc/self/mem"))),
                ("connect", is_denied(TcpStream::connect(address))),
                ("bind", is_denied(UdpSocket::bind("127.0.0.1:0"))),
                ("start", is_denied(Command::new("true").spawn())),
                (
                    "thread",
                    is_denied(std::thread::Builder::new().spawn(|| ())),
                ),
            ];
            denied.extend(refused(REACHING_OTHERS));
            denied.extend(refused(&[
                ("send message", libc::SYS_sendmsg),
                ("set option", libc::SYS_setsockopt),
            ]));
            let (mut stream, _) = listener.accept().expect("it may answer");
            let mut asked = [0; 3];
            stream.read_exact(&mut asked).expect("it may read");
            stream.write_all(&asked).expect("it may write");
            let mut said = [0; 2];
            (&exporter).read_exact(&mut said).expect("it may listen");
            // A listener that is shut down could connect.
            // SAFETY: it is open.
            unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR) };
            denied.extend(reaches_nobody(listener.as_raw_fd(), address));
            denied
        });
        client.write_all(b"GET").expect("it reads");
        collector.write_all(b"ok").expect("it reads");
        let mut answer = [0; 3];
        client.read_exact(&mut answer).expect("it answers");
        for (name, is_denied) in confined.join().expect("it ends") {
            assert!(is_denied, "{name}");
        }
    }
}
