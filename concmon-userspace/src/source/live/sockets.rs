//! The kernel programs at sockets: loaded, tried on a socket of the tool's own, and attached, only where requests are
//! asked for.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    time::Duration,
};

use aya::{
    Btf, Ebpf,
    maps::{Array, MapData},
    programs::BtfTracePoint,
};
use concmon_ebpf::{SocketBatch, SocketTest, port_flags};
use rustix::param::page_size;

use super::{
    buffers::Buffers,
    hooks::{self, Links},
};
use crate::source::{
    error::{LiveError, failing, permission_or},
    object::{Wire, mapped, opened, program},
};

/// Attached in this order: a socket is known before anything is read from it.
const HOOKS: [&str; 4] = [
    "inet_sock_set_state",
    "sk_data_ready",
    "sock_recv_length",
    "sock_send_length",
];
/// `TCP_ESTABLISHED` (include/net/tcp_states.h).
const ESTABLISHED: u64 = 1;
const SELF_TEST: &str = "socket_self_test";
/// Sockets that are followed at a time; the ones that were not used for longest are forgotten.
const MOST_SOCKETS: u32 = 32_768;
const MOST_UNIX_SOCKETS: u32 = 4_096;
/// All local ports.
const PORTS: u32 = 65_536;
/// Bytes of each CPU's buffer, on machines with few of them and with many: a busy server fills some MB a second.
const BYTES: [usize; 2] = [2 << 20, 512 << 10];
const FEW_CPUS: usize = 8;

/// What the programs at sockets send, and what they are told.
pub(super) struct Sockets {
    pub(super) records: Buffers<SocketBatch>,
    /// By local port, [`port_flags`].
    served: Array<MapData, u8>,
}

impl Sockets {
    /// From now on, connections to a port are followed from their first bytes on; 0: unix sockets.
    pub(super) fn serve(&mut self, port: u16) {
        self.set(port, port_flags::SERVED | port_flags::ACCEPTS);
    }

    /// Connections at this port were accepted there, whoever listens.
    pub(super) fn accept(&mut self, port: u16) {
        let known = self.served.get(&u32::from(port), 0).unwrap_or(0);
        self.set(port, known | port_flags::ACCEPTS);
    }

    fn set(&mut self, port: u16, served: u8) {
        if let Err(error) = self.served.set(u32::from(port), served, 0) {
            log::debug!("port {port}: {error}");
        }
    }
}

/// The sizes of maps that are of one entry otherwise.
pub(super) fn entries(cpus: u32) -> [(&'static str, u32); 4] {
    [
        ("SOCKETS", MOST_SOCKETS),
        ("UNIX_SOCKETS", MOST_UNIX_SOCKETS),
        ("SERVED_PORTS", PORTS),
        ("SOCKET_BATCHES", cpus),
    ]
}

/// Pages of each CPU's buffer: a power of two, as the kernel wants it.
fn pages(cpu_count: usize, page_bytes: usize) -> usize {
    let bytes = BYTES[usize::from(cpu_count > FEW_CPUS)];
    (bytes / page_bytes).next_power_of_two()
}

/// Loads them, while the object still has all maps.
pub(super) fn load(ebpf: &mut Ebpf, btf: &Btf) -> Result<(), LiveError> {
    for (name, tracepoint) in HOOKS
        .map(|name| (name, name))
        .into_iter()
        .chain([(SELF_TEST, "sock_recv_length")])
    {
        let hook: &mut BtfTracePoint = program(ebpf, name)?;
        hook.load(tracepoint, btf)
            .map_err(|error| permission_or(&error))?;
    }
    Ok(())
}

/// Has the self-test read a socket of this process. `Err` within: what they would read is not what the kernel's types
/// say, or it could not be tried.
pub(super) fn open(
    ebpf: &mut Ebpf,
    cpus: &[u32],
    cpu_count: usize,
) -> Result<Result<Sockets, String>, LiveError> {
    if let Err(reason) = self_test(ebpf)? {
        return Ok(Err(format!("the self-test at a socket failed: {reason}")));
    }
    let batches = mapped(
        ebpf,
        "SOCKET_BATCHES",
        cpu_count,
        "mapping the batches of sockets",
    )?;
    let records = opened(ebpf, "SOCKET_RECORDS")?;
    Ok(Ok(Sockets {
        records: Buffers::open(records, cpus, pages(cpus.len(), page_size()), batches)?,
        served: opened(ebpf, "SERVED_PORTS")?,
    }))
}

/// What is said where they could not be loaded, or attached: the verifier's account is for the log alone.
pub(super) fn reason(error: &LiveError) -> String {
    let said = error.to_string();
    log::debug!("without requests: {said}");
    let line = said.lines().next().unwrap_or_default();
    let short = line
        .split_once(" Verifier output")
        .map_or(line, |(short, _)| short);
    short.trim_end_matches('.').to_owned()
}

/// All of them, or none.
pub(super) fn attach(ebpf: &mut Ebpf) -> Result<Links, LiveError> {
    hooks::attach_each(ebpf, &HOOKS)
}

pub(super) fn detach(ebpf: &mut Ebpf) {
    for name in HOOKS {
        if let Ok(hook) = program::<BtfTracePoint>(ebpf, name) {
            let _ = hook.unload();
        }
    }
}

/// What is sent to oneself is there at once.
const PATIENCE: Duration = Duration::from_secs(1);

/// What this process knows of what it has read.
struct Truth {
    port: u16,
    peer_port: u16,
    bytes: [u8; 8],
}

/// Reads eight bytes from a connection to itself.
fn read_own() -> io::Result<Truth> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut sender = TcpStream::connect(listener.local_addr()?)?;
    // Anybody on this machine can connect to it, too.
    let mut receiver = loop {
        let (stream, peer) = listener.accept()?;
        if peer == sender.local_addr()? {
            break stream;
        }
    };
    receiver.set_read_timeout(Some(PATIENCE))?;
    sender.write_all(b"selftest")?;
    let mut bytes = [0; 8];
    receiver.read_exact(&mut bytes)?;
    Ok(Truth {
        port: listener.local_addr()?.port(),
        peer_port: sender.local_addr()?.port(),
        bytes,
    })
}

/// Has the self-test program see how this process reads from a socket, and compares.
fn self_test(ebpf: &mut Ebpf) -> Result<Result<(), String>, LiveError> {
    let hook: &mut BtfTracePoint = program(ebpf, SELF_TEST)?;
    hook.attach().map_err(|error| permission_or(&error))?;
    let truth = read_own();
    let hook: &mut BtfTracePoint = program(ebpf, SELF_TEST)?;
    hook.unload().map_err(failing!("detaching a hook"))?;
    let truth = match truth {
        Ok(truth) => truth,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let results: Array<_, Wire<SocketTest>> = opened(ebpf, "SOCKET_TEST")?;
    let Wire(seen) = results
        .get(&0, 0)
        .map_err(failing!("reading the self-test"))?;
    let compared = [
        ("port", u64::from(seen.port), u64::from(truth.port)),
        ("family", u64::from(seen.family), libc::AF_INET as u64),
        ("state", u64::from(seen.state), ESTABLISHED),
        (
            "peer",
            u64::from(u32::from_be(seen.peer)),
            u64::from(Ipv4Addr::LOCALHOST.to_bits()),
        ),
        (
            "port of the peer",
            u64::from(seen.peer_port),
            u64::from(truth.peer_port),
        ),
        ("type", u64::from(seen.kind), libc::SOCK_STREAM as u64),
        (
            "system call",
            seen.syscall.cast_unsigned(),
            libc::SYS_recvfrom.cast_unsigned(),
        ),
        ("bytes", seen.bytes, u64::from_le_bytes(truth.bytes)),
    ];
    let wrong = compared.into_iter().find(|(_, seen, truth)| seen != truth);
    Ok(match wrong {
        Some((field, seen, truth)) => Err(format!("{field} reads {seen}, but is {truth}")),
        None => Ok(()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_as_large_with_any_pages() {
        let sizes = [4_096, 16_384, 65_536].map(|page| [pages(2, page), pages(64, page)]);
        assert_eq!(sizes, [[512, 128], [128, 32], [32, 8]]);
        // Larger ones than any architecture has.
        assert_eq!(pages(64, 1 << 20), 1);
    }
}
