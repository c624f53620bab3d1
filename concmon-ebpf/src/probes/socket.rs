//! Sockets: when bytes become readable, what watched threads read and write, and when a socket begins to listen or
//! is closed. Loaded only when requests are asked for.

use core::ffi::c_void;

use super::sched::argument;
use crate::sockets::{self, Sock};

/// `sk_data_ready(const struct sock *sk)`: mostly in an interrupt, or in the context of whoever sends.
#[unsafe(no_mangle)]
#[unsafe(link_section = "tp_btf/sk_data_ready")]
fn sk_data_ready(ctx: *mut c_void) -> i32 {
    // SAFETY: the tracepoint's own argument.
    sockets::ready(unsafe { Sock::new(argument(ctx, 0)) });
    0
}

/// `sock_recv_length(struct sock *sk, int ret, int flags)`: in the calling thread, after the copy.
#[unsafe(no_mangle)]
#[unsafe(link_section = "tp_btf/sock_recv_length")]
fn sock_recv_length(ctx: *mut c_void) -> i32 {
    // SAFETY: the tracepoint's own arguments.
    let (sock, length, flags) = unsafe {
        (
            Sock::new(argument(ctx, 0)),
            argument::<i32>(ctx, 1),
            argument::<i32>(ctx, 2),
        )
    };
    sockets::received(ctx, sock, length, flags);
    0
}

/// `sock_send_length(struct sock *sk, int ret, int flags)`: in the calling thread, after the copy.
#[unsafe(no_mangle)]
#[unsafe(link_section = "tp_btf/sock_send_length")]
fn sock_send_length(ctx: *mut c_void) -> i32 {
    // SAFETY: the tracepoint's own arguments.
    let (sock, length) = unsafe { (Sock::new(argument(ctx, 0)), argument::<i32>(ctx, 1)) };
    sockets::sent(ctx, sock, length);
    0
}

/// `inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)`
#[unsafe(no_mangle)]
#[unsafe(link_section = "tp_btf/inet_sock_set_state")]
fn inet_sock_set_state(ctx: *mut c_void) -> i32 {
    // SAFETY: the tracepoint's own arguments.
    let (sock, before, state) = unsafe {
        (
            Sock::new(argument(ctx, 0)),
            argument::<i32>(ctx, 1),
            argument::<i32>(ctx, 2),
        )
    };
    sockets::state(ctx, sock, before, state);
    0
}

/// Reads a socket that the tool itself reads from, in every way the other programs will.
#[unsafe(no_mangle)]
#[unsafe(link_section = "tp_btf/sock_recv_length")]
fn socket_self_test(ctx: *mut c_void) -> i32 {
    // SAFETY: the tracepoint's own argument.
    sockets::self_test(unsafe { Sock::new(argument(ctx, 0)) });
    0
}
