//! The wire contract: what kernel programs and user space say to each other.
//!
//! Every record and every map value is defined once, here, without dependencies, and its size
//! is asserted at compile time. Both sides include this library; neither has a copy of its own.
//!
//! Times are nanoseconds of `CLOCK_MONOTONIC` (`bpf_ktime_get_ns`) unless a name says otherwise.
#![no_std]

mod wire;

pub use wire::*;
