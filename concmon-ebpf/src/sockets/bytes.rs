//! The bytes that a system call reads or writes, and what they look like.

use core::ffi::c_void;

use aya_ebpf::helpers::generated;
use concmon_ebpf::{MAX_SYSCALLS, syscall_buffer};

use super::sock::SOCKET_CONFIG;
use crate::{
    maps::SYSCALLS,
    task::{self, frozen},
    verifier::bounded,
};

/// `struct msghdr` of user space: where the pointer to its vectors is.
const MESSAGE_VECTORS: u64 = 16;
/// Bytes of user space.
#[derive(Clone, Copy)]
pub(super) struct Bytes {
    /// 0: it is not known where they are.
    pub(super) at: u64,
    pub(super) length: u32,
}

impl Bytes {
    /// The first eight as a word, with zeros behind the last one.
    #[inline(always)]
    pub(super) fn first(self) -> u64 {
        read_some(self.at, self.length)
    }

    /// `tail`, with these behind it.
    #[inline(always)]
    pub(super) fn after(self, tail: u64) -> u64 {
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
pub(super) fn read_some(at: u64, length: u32) -> u64 {
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

/// Two words of user space; what cannot be read is 0.
#[inline(always)]
pub(super) fn read_two(at: u64) -> [u64; 2] {
    let mut words = [0u64; 2];
    // SAFETY: the helper checks the address.
    unsafe {
        generated::bpf_probe_read_user((&raw mut words).cast(), 16, at as *const c_void);
    }
    words
}

/// Where the running thread's system call has its first bytes: of `length`, those that lie in one piece.
#[inline(always)]
pub(super) fn bytes_of_call(length: u32) -> Bytes {
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
        syscall_buffer::MESSAGE => read_two(argument + MESSAGE_VECTORS)[0],
        _ => return none,
    };
    let [at, room] = read_two(vectors);
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
pub(super) enum Beginning {
    /// Of a request with a method that everybody knows, of HTTP/2, or of TLS: nobody but a server reads that.
    Served,
    /// It may be a request: capital letters, or an empty line before one.
    Possible,
    Other,
}

#[inline(always)]
pub(super) fn beginning(first: u64, length: u32) -> Beginning {
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
pub(super) fn is_tls(first: u64) -> bool {
    let (kind, version) = (first as u8, (first >> 8) as u16);
    kind.wrapping_sub(20) < 4 && version & 0xff == 3 && version >> 8 <= 4
}
