//! A socket as programs are given it, and what is known of its port.

use core::ffi::c_void;

use aya_ebpf::{helpers::generated, maps::LruHashMap};
use concmon_ebpf::{Socket, SocketConfig, port_flags};

use crate::{
    maps::{SERVED_PORTS, SOCKETS, UNIX_SOCKETS},
    task::frozen,
};

/// Set by the loader and frozen.
#[unsafe(no_mangle)]
pub(super) static SOCKET_CONFIG: SocketConfig = SocketConfig {
    port: 0,
    family: 0,
    state: 0,
    kind: 0,
    peer4: 0,
    peer6: 0,
    peer_port: 0,
    regs_arg1: 0,
    enabled: 0,
};

/// Address families (include/linux/socket.h).
const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const SOCK_STREAM: u16 = 1;
/// States of a socket (include/net/tcp_states.h).
pub(super) const TCP_CLOSE: i32 = 7;
pub(super) const TCP_LISTEN: i32 = 10;

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
    pub(super) fn port(self) -> u16 {
        self.half_word(frozen(&SOCKET_CONFIG.port))
    }

    #[inline(always)]
    pub(super) fn family(self) -> u16 {
        self.half_word(frozen(&SOCKET_CONFIG.family))
    }

    #[inline(always)]
    pub(super) fn kind(self) -> u16 {
        self.half_word(frozen(&SOCKET_CONFIG.kind))
    }

    #[inline(always)]
    pub(super) fn state(self) -> i32 {
        let offset = frozen(&SOCKET_CONFIG.state) as usize;
        // SAFETY: as in `half_word`.
        i32::from(unsafe { core::ptr::read_volatile(self.0.byte_add(offset).cast::<u8>()) })
    }

    /// A word of the address of its peer, as the network has it.
    #[inline(always)]
    fn peer_word(self, offset: u32) -> u32 {
        // SAFETY: as in `half_word`.
        unsafe { core::ptr::read_volatile(self.0.byte_add(offset as usize).cast()) }
    }

    #[inline(always)]
    pub(super) fn peer(self) -> [u32; 4] {
        let family = self.family();
        if family == AF_INET {
            return [self.peer_word(frozen(&SOCKET_CONFIG.peer4)), 0, 0, 0];
        }
        if family == AF_INET6 {
            let first = frozen(&SOCKET_CONFIG.peer6);
            return [
                self.peer_word(first),
                self.peer_word(first + 4),
                self.peer_word(first + 8),
                self.peer_word(first + 12),
            ];
        }
        [0; 4]
    }

    /// 0: it has none.
    #[inline(always)]
    pub(super) fn peer_port(self) -> u16 {
        if self.is_unix() {
            return 0;
        }
        u16::from_be(self.half_word(frozen(&SOCKET_CONFIG.peer_port)))
    }

    /// Nobody listens on its port, as far as it is known, and none was accepted there.
    #[inline(always)]
    pub(super) fn is_client(self) -> bool {
        !self.is_unix() && self.port_flags() == 0
    }

    #[inline(always)]
    pub(super) fn is_unix(self) -> bool {
        self.family() == AF_UNIX
    }

    /// It is a stream of a family by which servers are reached: ports of UDP are others than those of TCP.
    #[inline(always)]
    pub(super) fn may_serve(self) -> bool {
        let family = self.family();
        (family == AF_INET || family == AF_INET6 || family == AF_UNIX) && self.kind() == SOCK_STREAM
    }

    /// It is a connection, of which nobody has told yet that it is closed.
    #[inline(always)]
    pub(super) fn is_open(self) -> bool {
        let state = self.state();
        state != TCP_LISTEN && state != TCP_CLOSE
    }

    /// Where it is, if it is followed.
    #[inline(always)]
    pub(super) fn all(self) -> &'static LruHashMap<u64, Socket> {
        if self.is_unix() {
            &UNIX_SOCKETS
        } else {
            &SOCKETS
        }
    }

    #[inline(always)]
    pub(super) fn cookie(self) -> u64 {
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
    pub(super) fn is_served(self) -> bool {
        self.port_flags() & port_flags::SERVED != 0
    }

    /// Bits that are set at one time on two CPUs may lose each other: the next connection sets them again.
    #[inline(always)]
    pub(super) fn set_port_flags(self, more: u8) {
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
    pub(super) fn serves(self) {
        if self.is_unix() || self.port_flags() & port_flags::ACCEPTS != 0 {
            self.set_port_flags(port_flags::SERVED);
        }
    }
}
