//! What sockets of watched processes read and write, as far as it is HTTP.

use super::BatchHeader;

/// Offsets in `struct sock`, and whether sockets are looked at, in a frozen global of their own. Flags are 0 or 1.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketConfig {
    /// `__sk_common.skc_num`: the local port.
    pub port: u32,
    /// `__sk_common.skc_family`.
    pub family: u32,
    /// `__sk_common.skc_state`, as TCP and stream sockets have it.
    pub state: u32,
    /// `sk_type`: whether it is a stream.
    pub kind: u32,
    /// `__sk_common.skc_daddr`, `skc_v6_daddr` and `skc_dport`: its peer.
    pub peer4: u32,
    pub peer6: u32,
    pub peer_port: u32,
    /// The second argument of a system call in the saved user registers.
    pub regs_arg1: u32,
    pub enabled: u32,
}

/// Where a system call has the bytes that it reads or writes
/// ([`SyscallEntry::buffer`](super::SyscallEntry::buffer)).
pub mod syscall_buffer {
    /// Nothing that can be told here.
    pub const NONE: u8 = 0;
    /// At its second argument.
    pub const PLAIN: u8 = 1;
    /// At the first of the vectors that its second argument points to.
    pub const VECTORS: u8 = 2;
    /// At the first vector of the message header that its second argument points to.
    pub const MESSAGE: u8 = 3;
}

/// Bits of [`Socket::state`].
pub mod socket_state {
    /// A request was read on it.
    pub const HTTP: u32 = 1;
    /// It speaks something else, or a watched process is its client.
    pub const IGNORED: u32 = 1 << 1;
    /// A request was begun to be read, and no final response was begun to be written since.
    pub const REQUEST: u32 = 1 << 2;
    /// What was read last ended like a request without a body.
    pub const COMPLETE: u32 = 1 << 3;
    /// It is known since before its first byte.
    pub const FROM_START: u32 = 1 << 4;
    /// A watched process has made the connection.
    pub const MADE: u32 = 1 << 5;
    /// It is taken for a client's: a watched process uses it, and nobody is known to listen on its port.
    pub const CLIENT: u32 = 1 << 6;
}

/// Bits of a value of the array `SERVED_PORTS`.
pub mod port_flags {
    /// A watched process serves there.
    pub const SERVED: u8 = 1;
    /// Somebody listens there, or connections to it were accepted: it is no port of a client.
    pub const ACCEPTS: u8 = 1 << 1;
}

/// A socket: a value of the map `SOCKETS` or `UNIX_SOCKETS`, keyed by the socket's cookie, which is never used again.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Socket {
    /// When bytes became readable, the first after the last read; 0: none have, or that was not seen. Of a client: when
    /// it was used last.
    pub ready_ns: u64,
    /// Bytes read and written since it is known.
    pub received: u64,
    pub sent: u64,
    /// The last eight bytes that were read, the very last one on top. Of a client: the thread that used it last, if that
    /// was to connect or to write; else 0.
    pub tail: u64,
    /// [`socket_state`].
    pub state: u32,
    /// Bytes of the current request that were handed over.
    pub captured: u32,
}

/// What a [`SocketHead`] tells.
pub mod socket_kind {
    /// Bytes of a request were read.
    pub const READ: u8 = 1;
    /// The head of a response was written.
    pub const WRITTEN: u8 = 2;
    /// The peer sends nothing more, and a request has no response yet.
    pub const END: u8 = 3;
    /// The socket is closed.
    pub const CLOSED: u8 = 4;
    /// The first bytes that were read are of no request.
    pub const OTHER: u8 = 5;
    /// A thread of the client has waited for the peer: from `ready_ns` on, for as long as `offset` says, in a wait whose
    /// [`cause`](super::cause) is `tail`.
    pub const WAITED: u8 = 6;
}

/// Bits of [`SocketHead::flags`].
pub mod socket_flags {
    /// What was read begins like a request, where one may begin.
    pub const START: u8 = 1;
    /// The bytes could not be read.
    pub const FAULT: u8 = 1 << 1;
    /// The connection was made by a watched process.
    pub const MADE: u8 = 1 << 2;
}

/// What stands before the bytes of a record.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketHead {
    /// [`socket_kind`].
    pub kind: u8,
    /// [`socket_flags`].
    pub flags: u8,
    /// How many bytes follow, padded to eight.
    pub bytes: u16,
    /// Who read or wrote; 0: nobody did.
    pub tid: u32,
    pub tgid: u32,
    /// How many bytes were read or written.
    pub length: u32,
    pub at_ns: u64,
    /// As [`Socket::ready_ns`].
    pub ready_ns: u64,
    pub cookie: u64,
    /// How many bytes were read, or written, before these.
    pub offset: u64,
    /// As [`Socket::tail`], before these bytes.
    pub tail: u64,
    /// The address of its peer, as the network has it: of the family that is told, where only the first word is of IPv4.
    pub peer: [u32; 4],
    pub family: u16,
    /// 0: it has none.
    pub peer_port: u16,
    pub reserved: u32,
}

/// The most bytes of one request that are handed over.
pub const SOCKET_BYTES: usize = 1024;

/// And of a response, of which little is needed but its first line.
pub const RESPONSE_BYTES: usize = 256;

/// Records begin before this offset; a power of two.
pub const SOCKET_STARTS: usize = 32768;

/// Bytes of records in a batch, at most: any record fits behind offset [`SOCKET_STARTS`].
pub const SOCKET_AREA: usize = SOCKET_STARTS + 2304;

/// The per-CPU batch of records of sockets: a CPU's value of the mapped array `SOCKET_BATCHES`. `header.count`
/// counts records; they lie one behind the other.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SocketBatch {
    pub header: BatchHeader,
    pub area: [u8; SOCKET_AREA],
    /// Bytes of `area` in use.
    pub used: u32,
    /// 1 while a program on this CPU writes the batch.
    pub busy: u32,
}

/// What the self-test program saw of the socket that the tool read from: the value of the array `SOCKET_TEST`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketTest {
    pub port: u32,
    pub family: u32,
    pub state: u32,
    pub kind: u32,
    pub peer: u32,
    pub peer_port: u32,
    pub syscall: i64,
    /// The first eight bytes that were read.
    pub bytes: u64,
    /// How often the program ran for the process that asked.
    pub runs: u64,
}

const _: () = {
    assert!(size_of::<SocketConfig>() == 36);
    assert!(size_of::<Socket>() == 40);
    assert!(size_of::<SocketHead>() == 80);
    assert!(size_of::<SocketBatch>() == 24 + SOCKET_AREA + 8);
    assert!(size_of::<SocketTest>() == 48);
    assert!(SOCKET_STARTS.is_power_of_two() && SOCKET_AREA.is_multiple_of(8));
};
