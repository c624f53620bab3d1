//! The system calls that the exporter may make: to answer on connections that come to it, and to listen to the
//! collector. It opens no file, makes no socket, connects nowhere, starts nothing, and touches no other process.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompFilter, SeccompRule, apply_filter_all_threads,
};

const ALLOWED: &[i64] = &[
    // Connections.
    libc::SYS_accept4,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
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

/// Puts the filter in force. All else fails with EPERM, and so do calls of other tables: their numbers are not
/// in it, or their architecture ends the process.
///
/// # Errors
/// The kernel has no such filters, or does not allow this one.
pub(super) fn confine() -> Result<(), Error> {
    apply_filter_all_threads(&filter()?)
}

fn filter() -> Result<BpfProgram, Error> {
    let rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|number| (*number, Vec::new())).collect();
    let denied = SeccompAction::Errno(libc::EPERM as u32);
    let arch = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules, denied, SeccompAction::Allow, arch)?;
    Ok(BpfProgram::try_from(filter)?)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{self, Read as _, Write as _},
        net::{TcpListener, TcpStream, UdpSocket},
        os::unix::net::UnixStream,
        process::Command,
    };

    use super::*;

    fn is_denied<T>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    }

    /// In force for a thread of its own.
    #[test]
    fn it_can_answer_and_nothing_else() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("an address");
        let address = listener.local_addr().expect("an address");
        let (mut collector, exporter) = UnixStream::pair().expect("a pair");
        let mut client = TcpStream::connect(address).expect("a connection");
        let confined = std::thread::spawn(move || {
            seccompiler::apply_filter(&filter().expect("a filter")).expect("it is in force");
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
            for (name, number) in [
                ("ptrace", libc::SYS_ptrace),
                ("read memory", libc::SYS_process_vm_readv),
                ("write memory", libc::SYS_process_vm_writev),
                ("bpf", libc::SYS_bpf),
                ("perf", libc::SYS_perf_event_open),
                ("kill", libc::SYS_kill),
                ("exec", libc::SYS_execve),
                ("user", libc::SYS_setresuid),
            ] {
                // SAFETY: the filter refuses it, whatever the arguments are; they are all null.
                let result = unsafe { libc::syscall(number, 0, 0, 0, 0, 0, 0) };
                let error = io::Error::last_os_error().raw_os_error();
                denied.push((name, result == -1 && error == Some(libc::EPERM)));
            }
            let (mut stream, _) = listener.accept().expect("it may answer");
            let mut asked = [0; 3];
            stream.read_exact(&mut asked).expect("it may read");
            stream.write_all(&asked).expect("it may write");
            let mut said = [0; 2];
            (&exporter).read_exact(&mut said).expect("it may listen");
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
