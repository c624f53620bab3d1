//! What sockets of watched processes read and write: the beginnings of requests and responses are recognized here,
//! and handed over with as much of their heads as user space needs to parse.
//!
//! A socket is known by its cookie, which no other one ever has. It is followed from its first bytes on: on a port
//! that a watched process serves, from when its connection is made, which may be long before anybody accepts it.

mod batch;
mod bytes;
mod sock;

use core::ffi::c_void;

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
};
use concmon_ebpf::{
    RESPONSE_BYTES, SOCKET_BYTES, Socket, cause, port_flags, slice_flags, socket_flags,
    socket_kind, socket_state,
};

pub(crate) use self::{batch::flush, sock::Sock};
use self::{
    batch::{Told, tell},
    bytes::{Beginning, beginning, bytes_of_call, is_tls, read_some, read_two},
    sock::{TCP_CLOSE, TCP_LISTEN},
};
use crate::{
    maps::{SELF_TEST, SOCKET_TEST, SOCKETS, ledger_at, slot_of_tid},
    task,
};

/// States of a socket (include/net/tcp_states.h).
const TCP_ESTABLISHED: i32 = 1;
const TCP_SYN_SENT: i32 = 2;
const TCP_SYN_RECV: i32 = 3;
const MSG_PEEK: i32 = 2;
/// Two ends of lines, on top of a tail.
const BLANK_LINE: u64 = 0x0a0d_0a0d;
/// `HTTP/1.`, as a word.
const RESPONSE: u64 = u64::from_le_bytes(*b"HTTP/1.\0");
/// Bytes of what is no request that are handed over.
const OTHER_BYTES: u32 = 16;

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
    match found {
        Some(socket) => used_by_client(ctx, sock, cookie, socket, 0),
        None if sock.is_client() => follow_client(sock, socket_state::CLIENT, 0),
        None => {}
    }
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
        if let Some(socket) = found
            && (*socket).state == socket_state::CLIENT
        {
            found = None;
        }
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
                tell(ctx, sock, &told);
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
            tell(ctx, sock, &told);
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
        tell(ctx, sock, &told);
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
    let own = bpf_get_current_pid_tgid() as u32;
    let Some(socket) = sock.all().get_ptr_mut(&cookie) else {
        if sock.is_client() {
            follow_client(sock, socket_state::CLIENT, own);
        }
        return;
    };
    used_by_client(ctx, sock, cookie, socket, own);
    // SAFETY: a live map value.
    unsafe {
        let state = (*socket).state;
        if state & socket_state::IGNORED != 0 || state & socket_state::HTTP == 0 {
            return;
        }
        let offset = (*socket).sent;
        (*socket).sent = offset + u64::from(length);
        let bytes = bytes_of_call(length);
        // `HTTP/1.1 100`: the status, of which 1xx but 101 promises another one.
        if bytes.length < 12 {
            return;
        }
        let [first, second] = if bytes.length < 16 {
            [bytes.first(), read_some(bytes.at + 8, 4)]
        } else {
            read_two(bytes.at)
        };
        if first & 0x00ff_ffff_ffff_ffff != RESPONSE {
            return;
        }
        let status = second >> 8 & 0x00ff_ffff;
        let is_final = status as u8 != b'1' || status == u64::from_le_bytes(*b"101\0\0\0\0\0");
        if is_final {
            (*socket).state = state & !(socket_state::REQUEST | socket_state::COMPLETE);
            (*socket).captured = 0;
        }
        tell(
            ctx,
            sock,
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
            let own = bpf_get_current_pid_tgid() as u32;
            follow_client(sock, socket_state::IGNORED | socket_state::MADE, own);
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
                sock,
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

/// Follows a socket of a client, which the running thread has just used: to write, or not at all.
#[inline(always)]
fn follow_client(sock: Sock, state: u32, writer: u32) {
    let cookie = sock.cookie();
    let socket = Socket {
        state,
        // SAFETY: a helper without preconditions.
        ready_ns: unsafe { bpf_ktime_get_ns() },
        tail: u64::from(writer),
        ..EMPTY
    };
    let _ = SOCKETS.insert(&cookie, &socket, u64::from(BPF_NOEXIST));
}

/// The running thread has read from a socket, or written to it (`writer`: itself, else 0). Where it is of a client: tells
/// of the thread's last wait, if that was for the peer. That is one in a system call on this very descriptor, or one in
/// `poll` or `select` between its own write or connect and this read.
#[inline(always)]
fn used_by_client(ctx: *mut c_void, sock: Sock, cookie: u64, socket: *mut Socket, writer: u32) {
    // SAFETY: a live map value.
    let state = unsafe { (*socket).state };
    if state & (socket_state::MADE | socket_state::CLIENT) == 0 {
        return;
    }
    let own = bpf_get_current_pid_tgid() as u32;
    let Some(ledger) = ledger_at(slot_of_tid(own)) else {
        return;
    };
    let Some(current) = task::current() else {
        return;
    };
    // SAFETY: live map values; the account is the running thread's own, which nobody else writes meanwhile.
    unsafe {
        let (used_ns, last_writer) = ((*socket).ready_ns, (*socket).tail);
        (*socket).ready_ns = bpf_ktime_get_ns();
        (*socket).tail = u64::from(writer);
        let (off_ns, wake_ns) = ((*ledger).off_ns, (*ledger).wake_ns);
        let flags = (*ledger).wait_flags;
        if off_ns <= used_ns || wake_ns <= off_ns || flags & slice_flags::BLOCKED == 0 {
            return;
        }
        let is_for_peer = match (*ledger).cause {
            cause::IO => (*ledger).arg0 == current.syscall().arg0,
            // Before a write it may have been for anything.
            cause::POLL => {
                flags & slice_flags::QUEUE == 0 && writer == 0 && last_writer == u64::from(own)
            }
            _ => false,
        };
        if !is_for_peer {
            return;
        }
        tell(
            ctx,
            sock,
            &Told {
                kind: socket_kind::WAITED,
                flags: if state & socket_state::MADE != 0 {
                    socket_flags::MADE
                } else {
                    0
                },
                length: 0,
                ready_ns: off_ns,
                cookie,
                offset: wake_ns - off_ns,
                tail: u64::from((*ledger).cause),
                at: 0,
                bytes: 0,
            },
        );
    }
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
        (*test).peer = sock.peer()[0];
        (*test).peer_port = u32::from(sock.peer_port());
        (*test).syscall = task::current().map_or(-1, |task| task.syscall().number);
        (*test).bytes = bytes.first();
        (*test).runs += 1;
    }
}

#[inline(always)]
fn least(one: u32, other: u32) -> u32 {
    if one < other { one } else { other }
}
