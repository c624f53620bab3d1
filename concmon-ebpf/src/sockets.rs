//! What sockets of watched processes read and write: the beginnings of requests and responses are recognized here,
//! and handed over with as much of their heads as user space needs to parse.
//!
//! A socket is known by its cookie, which no other one ever has. It is followed from its first bytes on: on a port
//! that a watched process serves, from when its connection is made, which may be long before anybody accepts it.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_F_CURRENT_CPU, BPF_NOEXIST},
    helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns, generated},
    maps::LruHashMap,
};
use concmon_ebpf::{
    BatchHeader, MAX_SYSCALLS, RESPONSE_BYTES, SOCKET_AREA, SOCKET_BYTES, SOCKET_STARTS, Socket,
    SocketBatch, SocketConfig, SocketHead, WIRE_VERSION, fault, port_flags, socket_flags,
    socket_kind, socket_state, syscall_buffer,
};

use crate::{
    maps::{
        SELF_TEST, SERVED_PORTS, SOCKET_BATCHES, SOCKET_RECORDS, SOCKET_TEST, SOCKETS, SYSCALLS,
        UNIX_SOCKETS, count_fault, slot_of_tid,
    },
    namespace,
    task::{self, config, frozen},
    verifier::bounded,
};

/// Set by the loader and frozen.
#[unsafe(no_mangle)]
static SOCKET_CONFIG: SocketConfig = SocketConfig {
    port: 0,
    family: 0,
    state: 0,
    kind: 0,
    regs_arg1: 0,
    enabled: 0,
};

/// Address families (include/linux/socket.h).
const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const SOCK_STREAM: u16 = 1;
const MSG_PEEK: i32 = 2;
/// States of a socket (include/net/tcp_states.h).
const TCP_ESTABLISHED: i32 = 1;
const TCP_SYN_SENT: i32 = 2;
const TCP_SYN_RECV: i32 = 3;
const TCP_CLOSE: i32 = 7;
const TCP_LISTEN: i32 = 10;

/// `struct msghdr` of user space: where the pointer to its vectors is.
const MESSAGE_VECTORS: u64 = 16;
/// A batch with more bytes than this is full.
const FULL: u32 = SOCKET_STARTS as u32 - 2048;
/// Two ends of lines, on top of a tail.
const BLANK_LINE: u64 = 0x0a0d_0a0d;
/// `HTTP/1.`, as a word.
const RESPONSE: u64 = u64::from_le_bytes(*b"HTTP/1.\0");
/// Bytes of what is no request that are handed over.
const OTHER_BYTES: u32 = 16;

/// A `struct sock` that the verifier trusts.
#[derive(Clone, Copy)]
pub(crate) struct Sock(*const c_void);

impl Sock {
    /// # Safety
    ///
    /// `ptr` must be a `struct sock` that the verifier knows as such.
    #[inline(always)]
    pub(crate) unsafe fn new(ptr: *const c_void) -> Self {
        Self(ptr)
    }

    #[inline(always)]
    fn half_word(self, offset: u32) -> u16 {
        // SAFETY: the offset comes from this kernel's BTF and was checked by the self-test.
        unsafe { core::ptr::read_volatile(self.0.byte_add(offset as usize).cast()) }
    }

    #[inline(always)]
    fn port(self) -> u16 {
        self.half_word(frozen(&SOCKET_CONFIG.port))
    }

    #[inline(always)]
    fn family(self) -> u16 {
        self.half_word(frozen(&SOCKET_CONFIG.family))
    }

    #[inline(always)]
    fn kind(self) -> u16 {
        self.half_word(frozen(&SOCKET_CONFIG.kind))
    }

    #[inline(always)]
    fn state(self) -> i32 {
        let offset = frozen(&SOCKET_CONFIG.state) as usize;
        // SAFETY: as in `half_word`.
        i32::from(unsafe { core::ptr::read_volatile(self.0.byte_add(offset).cast::<u8>()) })
    }

    #[inline(always)]
    fn is_unix(self) -> bool {
        self.family() == AF_UNIX
    }

    /// It is a stream of a family by which servers are reached: ports of UDP are others than those of TCP.
    #[inline(always)]
    fn may_serve(self) -> bool {
        let family = self.family();
        (family == AF_INET || family == AF_INET6 || family == AF_UNIX) && self.kind() == SOCK_STREAM
    }

    /// It is a connection, of which nobody has told yet that it is closed.
    #[inline(always)]
    fn is_open(self) -> bool {
        let state = self.state();
        state != TCP_LISTEN && state != TCP_CLOSE
    }

    /// Where it is, if it is followed.
    #[inline(always)]
    fn all(self) -> &'static LruHashMap<u64, Socket> {
        if self.is_unix() {
            &UNIX_SOCKETS
        } else {
            &SOCKETS
        }
    }

    #[inline(always)]
    fn cookie(self) -> u64 {
        // SAFETY: a socket that the verifier trusts.
        unsafe { generated::bpf_get_socket_cookie(self.0.cast_mut()) }
    }

    /// What is known of its port; those of unix sockets are all 0.
    #[inline(always)]
    fn port_flags(self) -> u8 {
        match SERVED_PORTS.get_ptr(u32::from(self.port())) {
            // SAFETY: a live map value.
            Some(flags) => unsafe { core::ptr::read_volatile(flags) },
            None => 0,
        }
    }

    /// A watched process serves on its port.
    #[inline(always)]
    fn is_served(self) -> bool {
        self.port_flags() & port_flags::SERVED != 0
    }

    /// Bits that are set at one time on two CPUs may lose each other: the next connection sets them again.
    #[inline(always)]
    fn set_port_flags(self, more: u8) {
        if let Some(flags) = SERVED_PORTS.get_ptr_mut(u32::from(self.port())) {
            // SAFETY: a live map value.
            unsafe {
                let before = core::ptr::read_volatile(flags);
                if before & more != more {
                    core::ptr::write_volatile(flags, before | more);
                }
            }
        }
    }

    /// A watched process has read what only servers read: its port is served, unless it may be a client's.
    #[inline(always)]
    fn serves(self) {
        if self.is_unix() || self.port_flags() & port_flags::ACCEPTS != 0 {
            self.set_port_flags(port_flags::SERVED);
        }
    }
}

/// Bytes of user space.
#[derive(Clone, Copy)]
struct Bytes {
    /// 0: it is not known where they are.
    at: u64,
    length: u32,
}

impl Bytes {
    /// The first eight as a word, with zeros behind the last one.
    #[inline(always)]
    fn first(self) -> u64 {
        read_some(self.at, self.length)
    }

    /// `tail`, with these behind it.
    #[inline(always)]
    fn after(self, tail: u64) -> u64 {
        if self.length >= 8 {
            return read_some(self.at + u64::from(self.length) - 8, 8);
        }
        let bits = (self.length & 7) * 8;
        if bits == 0 {
            return tail;
        }
        tail >> bits | read_some(self.at, self.length) << (64 - bits)
    }
}

/// Up to eight bytes of user space as a word; what cannot be read is 0.
#[inline(always)]
fn read_some(at: u64, length: u32) -> u64 {
    let mut word = 0u64;
    let into = (&raw mut word).cast();
    // SAFETY: the helper checks the address; the length is a constant or masked.
    unsafe {
        if length >= 8 {
            generated::bpf_probe_read_user(into, 8, at as *const c_void);
        } else {
            let length = bounded::<8>(length as usize) as u32;
            generated::bpf_probe_read_user(into, length, at as *const c_void);
        }
    }
    word
}

/// Two words of user space: a vector.
#[inline(always)]
fn read_vector(at: u64) -> [u64; 2] {
    let mut vector = [0u64; 2];
    // SAFETY: the helper checks the address.
    unsafe {
        generated::bpf_probe_read_user((&raw mut vector).cast(), 16, at as *const c_void);
    }
    vector
}

/// Where the running thread's system call has its first bytes: of `length`, those that lie in one piece.
#[inline(always)]
fn bytes_of_call(length: u32) -> Bytes {
    let none = Bytes { at: 0, length: 0 };
    let Some(current) = task::current() else {
        return none;
    };
    let number = current.syscall().number;
    if number < 0 || number >= MAX_SYSCALLS as i64 {
        return none;
    }
    let Some(entry) = SYSCALLS.get_ptr(number as u32) else {
        return none;
    };
    let argument = current.register(frozen(&SOCKET_CONFIG.regs_arg1));
    // SAFETY: a live map value.
    let vectors = match unsafe { (*entry).buffer } {
        syscall_buffer::PLAIN => {
            return Bytes {
                at: argument,
                length,
            };
        }
        syscall_buffer::VECTORS => argument,
        syscall_buffer::MESSAGE => read_vector(argument + MESSAGE_VECTORS)[0],
        _ => return none,
    };
    let [at, room] = read_vector(vectors);
    Bytes {
        at,
        length: if room < u64::from(length) {
            room as u32
        } else {
            length
        },
    }
}

/// What the first bytes on a connection are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beginning {
    /// Of a request with a method that everybody knows, of HTTP/2, or of TLS: nobody but a server reads that.
    Served,
    /// It may be a request: capital letters, or an empty line before one.
    Possible,
    Other,
}

#[inline(always)]
fn beginning(first: u64, length: u32) -> Beginning {
    const fn word(bytes: &[u8; 4]) -> u32 {
        u32::from_le_bytes(*bytes)
    }
    let four = first as u32;
    if four == word(b"GET ")
        || four == word(b"POST")
        || four == word(b"PUT ")
        || four == word(b"HEAD")
        || four == word(b"DELE")
        || four == word(b"PATC")
        || four == word(b"OPTI")
        || four == word(b"TRAC")
        || four == word(b"CONN")
        || four == word(b"PRI ")
    {
        return Beginning::Served;
    }
    // A handshake record of TLS (22, 3) with a client's first message (1).
    if first & 0xff00_0000_ffff == 0x0100_0000_0316 {
        return Beginning::Served;
    }
    let mut index = 0;
    while index < 3 {
        let byte = (first >> (8 * index)) as u8;
        let is_possible = byte.wrapping_sub(b'A') < 26 || byte == b'\r' || byte == b'\n';
        if !is_possible && index < length {
            return Beginning::Other;
        }
        index += 1;
    }
    Beginning::Possible
}

/// Whether a read begins like any record of TLS.
#[inline(always)]
fn is_tls(first: u64) -> bool {
    let (kind, version) = (first as u8, (first >> 8) as u16);
    kind.wrapping_sub(20) < 4 && version & 0xff == 3 && version >> 8 <= 4
}

/// Bytes have become readable on `sock`.
#[inline(always)]
pub(crate) fn ready(sock: Sock) {
    if !sock.may_serve() || !sock.is_served() {
        return;
    }
    let cookie = sock.cookie();
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    match sock.all().get_ptr_mut(&cookie) {
        // SAFETY: a live map value.
        Some(socket) => unsafe {
            if (*socket).ready_ns == 0 {
                (*socket).ready_ns = now;
            }
        },
        None if sock.is_open() => {
            let socket = Socket {
                ready_ns: now,
                ..EMPTY
            };
            let _ = sock.all().insert(&cookie, &socket, 0);
        }
        None => {}
    }
}

/// Somebody who is not watched has read from `sock`: what was readable before is not what is read next.
#[inline(always)]
fn passed_over(sock: Sock, length: u32) {
    if !sock.is_served() {
        return;
    }
    let cookie = sock.cookie();
    if let Some(socket) = sock.all().get_ptr_mut(&cookie) {
        // SAFETY: a live map value.
        unsafe {
            (*socket).ready_ns = 0;
            (*socket).received += u64::from(length);
            (*socket).tail = 0;
        }
    }
}

/// A socket of which nothing is known.
const EMPTY: Socket = Socket {
    ready_ns: 0,
    received: 0,
    sent: 0,
    tail: 0,
    state: 0,
    captured: 0,
};

/// The running thread is watched.
#[inline(always)]
fn is_watched() -> bool {
    slot_of_tid(bpf_get_current_pid_tgid() as u32) != 0
}

/// The running thread has read `length` bytes from `sock`; none: its peer has ended.
#[inline(always)]
pub(crate) fn received(ctx: *mut c_void, sock: Sock, length: i32, flags: i32) {
    if length < 0 || flags & MSG_PEEK != 0 || !sock.may_serve() {
        return;
    }
    let length = length as u32;
    if !is_watched() {
        passed_over(sock, length);
        return;
    }
    let cookie = sock.cookie();
    let mut found = sock.all().get_ptr_mut(&cookie);
    // What was read before its peer has reset it was told to be without a response.
    if found.is_none() && (length == 0 || !sock.is_open()) {
        return;
    }
    // SAFETY: live map values.
    unsafe {
        if let Some(socket) = found
            && (*socket).state & socket_state::IGNORED != 0
        {
            return;
        }
        let bytes = bytes_of_call(length);
        let first = bytes.first();
        let beginning = beginning(first, bytes.length);
        if found.is_none() {
            if beginning == Beginning::Served {
                sock.serves();
            } else if sock.is_unix() || !sock.is_served() {
                return;
            }
            let _ = sock.all().insert(&cookie, &EMPTY, 0);
            found = sock.all().get_ptr_mut(&cookie);
        }
        let Some(socket) = found else { return };
        let mut told = Told {
            kind: socket_kind::READ,
            flags: 0,
            length,
            ready_ns: (*socket).ready_ns,
            cookie,
            offset: (*socket).received,
            tail: (*socket).tail,
            at: bytes.at,
            bytes: 0,
        };
        (*socket).ready_ns = 0;
        (*socket).received += u64::from(length);
        let state = (*socket).state;
        if length == 0 {
            if state & socket_state::REQUEST != 0 {
                told.kind = socket_kind::END;
                tell(ctx, &told);
            }
            return;
        }
        let tail = if bytes.length == length {
            bytes.after(told.tail)
        } else {
            0
        };
        (*socket).tail = tail;
        // Where no request is under way, or the last one is complete, another one may begin. What begins with a known
        // method is handed over in the midst of one, too: user space knows how long bodies are.
        let may_begin = state & socket_state::REQUEST == 0 || state & socket_state::COMPLETE != 0;
        let is_new = state & socket_state::HTTP == 0;
        if is_new
            && beginning != Beginning::Served
            && state & socket_state::FROM_START == 0
            && (sock.is_unix() || !is_tls(first))
        {
            // It may be in the midst of a body that began before the watch; and most unix sockets are for something
            // else.
            return;
        }
        if beginning == Beginning::Served || may_begin && beginning == Beginning::Possible {
            told.flags = socket_flags::START;
            (*socket).captured = 0;
        } else if is_new {
            (*socket).state = state | socket_state::IGNORED;
            told.kind = socket_kind::OTHER;
            told.bytes = least(bytes.length, OTHER_BYTES);
            tell(ctx, &told);
            return;
        } else if may_begin {
            return;
        }
        let captured = (*socket).captured;
        if captured >= SOCKET_BYTES as u32 {
            return;
        }
        let is_complete = tail >> 32 == BLANK_LINE;
        (*socket).state = (state & !socket_state::COMPLETE)
            | socket_state::HTTP
            | socket_state::REQUEST
            | if is_complete {
                socket_state::COMPLETE
            } else {
                0
            };
        told.bytes = least(bytes.length, SOCKET_BYTES as u32 - captured);
        (*socket).captured = captured + told.bytes;
        tell(ctx, &told);
    }
}

/// The running thread has written `length` bytes to `sock`.
#[inline(always)]
pub(crate) fn sent(ctx: *mut c_void, sock: Sock, length: i32) {
    if !is_watched() || length <= 0 {
        return;
    }
    if !sock.may_serve() {
        return;
    }
    let length = length as u32;
    let cookie = sock.cookie();
    let Some(socket) = sock.all().get_ptr_mut(&cookie) else {
        return;
    };
    // SAFETY: a live map value.
    unsafe {
        let state = (*socket).state;
        if state & socket_state::IGNORED != 0 || state & socket_state::HTTP == 0 {
            return;
        }
        let offset = (*socket).sent;
        (*socket).sent = offset + u64::from(length);
        let bytes = bytes_of_call(length);
        if bytes.length < 12 || bytes.first() & 0x00ff_ffff_ffff_ffff != RESPONSE {
            return;
        }
        // `HTTP/1.1 100`: the status, of which 1xx but 101 promises another one.
        let status = read_some(bytes.at + 9, 3);
        let is_final = status as u8 != b'1' || status == u64::from_le_bytes(*b"101\0\0\0\0\0");
        if is_final {
            (*socket).state = state & !(socket_state::REQUEST | socket_state::COMPLETE);
            (*socket).captured = 0;
        }
        tell(
            ctx,
            &Told {
                kind: socket_kind::WRITTEN,
                flags: 0,
                length,
                ready_ns: 0,
                cookie,
                offset,
                tail: 0,
                at: bytes.at,
                bytes: least(bytes.length, RESPONSE_BYTES as u32),
            },
        );
    }
}

/// `sock` goes from one state of TCP into another.
#[inline(always)]
pub(crate) fn state(ctx: *mut c_void, sock: Sock, before: i32, state: i32) {
    if state == TCP_LISTEN {
        sock.set_port_flags(if is_watched() {
            port_flags::ACCEPTS | port_flags::SERVED
        } else {
            port_flags::ACCEPTS
        });
    } else if state == TCP_SYN_SENT {
        // What it reads are no requests, whatever they look like.
        if is_watched() {
            follow(sock, socket_state::IGNORED);
        }
    } else if state == TCP_ESTABLISHED && before == TCP_SYN_RECV {
        sock.set_port_flags(port_flags::ACCEPTS);
        if sock.is_served() {
            follow(sock, socket_state::FROM_START);
        }
    } else if state == TCP_CLOSE {
        let cookie = sock.cookie();
        let Some(socket) = SOCKETS.get_ptr_mut(&cookie) else {
            return;
        };
        // SAFETY: a live map value.
        let known = unsafe { (*socket).state };
        let _ = SOCKETS.remove(&cookie);
        if known & socket_state::HTTP != 0 {
            tell(
                ctx,
                &Told {
                    kind: socket_kind::CLOSED,
                    flags: 0,
                    length: 0,
                    ready_ns: 0,
                    cookie,
                    offset: 0,
                    tail: 0,
                    at: 0,
                    bytes: 0,
                },
            );
        }
    }
}

/// Follows a socket of TCP of which nothing has been read, unless it is followed already.
#[inline(always)]
fn follow(sock: Sock, state: u32) {
    let cookie = sock.cookie();
    let _ = SOCKETS.insert(&cookie, &Socket { state, ..EMPTY }, u64::from(BPF_NOEXIST));
}

/// See the program of this name.
#[inline(always)]
pub(crate) fn self_test(sock: Sock) {
    let own = (bpf_get_current_pid_tgid() >> 32) as u32;
    let (Some(asker), Some(test)) = (SELF_TEST.get_ptr(0), SOCKET_TEST.get_ptr_mut(0)) else {
        return;
    };
    // SAFETY: live map values.
    unsafe {
        if (*asker).asker_tgid != own {
            return;
        }
        let bytes = bytes_of_call(8);
        (*test).port = u32::from(sock.port());
        (*test).family = u32::from(sock.family());
        (*test).state = sock.state() as u32;
        (*test).kind = u32::from(sock.kind());
        (*test).syscall = task::current().map_or(-1, |task| task.syscall().number);
        (*test).bytes = bytes.first();
        (*test).runs += 1;
    }
}

#[inline(always)]
fn least(one: u32, other: u32) -> u32 {
    if one < other { one } else { other }
}

/// What is to be told of a socket.
struct Told {
    kind: u8,
    flags: u8,
    length: u32,
    ready_ns: u64,
    cookie: u64,
    offset: u64,
    tail: u64,
    /// Where the bytes are that go along, and how many.
    at: u64,
    bytes: u32,
}

/// This CPU's batch.
#[inline(always)]
fn own_batch() -> Option<*mut SocketBatch> {
    // SAFETY: a helper without preconditions.
    SOCKET_BATCHES.get_ptr_mut(unsafe { bpf_get_smp_processor_id() })
}

/// Writes a record into this CPU's batch, and sends the batch when it is full or old. A program that interrupts
/// another one while that writes finds the batch busy; its record is then lost, and counted.
#[inline(always)]
fn tell(ctx: *mut c_void, told: &Told) {
    let Some(batch) = own_batch() else {
        return;
    };
    // Whoever closes a socket is not always who used it.
    let ids = match told.kind {
        socket_kind::CLOSED => namespace::Ids { tid: 0, tgid: 0 },
        _ => namespace::current(),
    };
    // SAFETY: this CPU's own value; `busy` keeps out whoever interrupts us. The offset and the length are masked so
    // that a whole record fits.
    unsafe {
        if core::ptr::read_volatile(&raw const (*batch).busy) != 0 {
            count_fault(fault::SOCKET_BUSY);
            return;
        }
        core::ptr::write_volatile(&raw mut (*batch).busy, 1);
        let now = bpf_ktime_get_ns();
        let used = core::ptr::read_volatile(&raw const (*batch).used);
        let at = bounded::<{ SOCKET_STARTS as i32 }>(used as usize & !7);
        let start = (&raw mut (*batch).area).cast::<u8>().add(at);
        let head: *mut SocketHead = start.cast();
        let mut flags = told.flags;
        let mut bytes = bounded::<2048>(told.bytes as usize) as u32;
        if bytes != 0 {
            let failed = generated::bpf_probe_read_user(
                start.add(size_of::<SocketHead>()).cast(),
                bounded::<2048>(bytes as usize) as u32,
                told.at as *const c_void,
            );
            if failed != 0 {
                flags |= socket_flags::FAULT;
                bytes = 0;
            }
        }
        (*head).kind = told.kind;
        (*head).flags = flags;
        (*head).bytes = bytes as u16;
        (*head).tid = ids.tid;
        (*head).tgid = ids.tgid;
        (*head).length = told.length;
        (*head).at_ns = now;
        (*head).ready_ns = told.ready_ns;
        (*head).cookie = told.cookie;
        (*head).offset = told.offset;
        (*head).tail = told.tail;
        if (*batch).header.count == 0 {
            (*batch).header.version = WIRE_VERSION;
            (*batch).header.cpu = bpf_get_smp_processor_id();
            (*batch).header.opened_ns = now;
        }
        let used = at as u32 + size_of::<SocketHead>() as u32 + ((bytes + 7) & !7);
        (*batch).used = used;
        (*batch).header.count += 1;
        let age = now.wrapping_sub((*batch).header.opened_ns);
        if used > FULL || age > u64::from(config!(batch_age_ns)) {
            send(ctx, batch);
        }
        core::ptr::write_volatile(&raw mut (*batch).busy, 0);
    }
}

/// Sends a batch that is old. Called by the low-rate clock.
#[inline(always)]
pub(crate) fn flush(ctx: *mut c_void, now: u64) {
    if frozen(&SOCKET_CONFIG.enabled) == 0 {
        return;
    }
    let Some(batch) = own_batch() else {
        return;
    };
    // SAFETY: as in `tell`; a batch that is being written is left for the next tick.
    unsafe {
        if core::ptr::read_volatile(&raw const (*batch).busy) != 0 || (*batch).header.count == 0 {
            return;
        }
        if now.wrapping_sub((*batch).header.opened_ns) > u64::from(config!(batch_age_ns)) {
            core::ptr::write_volatile(&raw mut (*batch).busy, 1);
            send(ctx, batch);
            core::ptr::write_volatile(&raw mut (*batch).busy, 0);
        }
    }
}

/// # Safety
///
/// `batch` is this CPU's value, and marked busy by the caller.
#[inline(always)]
unsafe fn send(ctx: *mut c_void, batch: *mut SocketBatch) {
    // SAFETY: see the function's contract; the length is bounded by the batch.
    unsafe {
        // Read anew: a bound that the compiler merges with an earlier one is none to older verifiers.
        let used = u64::from(core::ptr::read_volatile(&raw const (*batch).used));
        if used > SOCKET_AREA as u64 {
            return;
        }
        let failed = generated::bpf_perf_event_output(
            ctx,
            core::ptr::addr_of!(SOCKET_RECORDS).cast_mut().cast(),
            BPF_F_CURRENT_CPU,
            batch.cast(),
            size_of::<BatchHeader>() as u64 + used,
        );
        if failed != 0 {
            count_fault(fault::OUTPUT_FAILED);
        }
        (*batch).header.produced_before += u64::from((*batch).header.count);
        (*batch).header.count = 0;
        (*batch).used = 0;
    }
}
