//! All reading of `/proc`: bounded, and cheap where it is done for each process at each tick.
//!
//! A look at a process goes through an open handle of `/proc/PID`, which the kernel binds to the process
//! itself: when the process ends, and its id is given to another one, reads fail and do not mix.

pub mod cgroups;
pub mod clocks;
pub mod containers;
pub mod delay;
pub mod entry;
mod environ;
mod file;
pub mod host;
mod kubernetes;
pub mod listeners;
pub mod maps;
pub mod namespaces;
pub mod now;
mod process;
mod process_context;
pub mod rights;
pub mod root;
pub mod shown;
pub mod stat;
pub mod target;
mod throttling;
pub mod tree;

/// The program of the process that looks.
pub const OWN_PROGRAM: &str = "/proc/self/exe";

pub use process::{MAX_THREADS, ProcError, ProcessReader, command, place, program};
