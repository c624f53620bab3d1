//! Reading CPython from outside: which interpreter a process runs, its GILs, threads, event
//! loops and tasks. Nothing is stopped, nothing is written, and every read is bounded.

mod addresses;
mod attributes;
mod chain;
mod code;
mod containers;
mod detect;
mod elf;
mod facts;
mod gil;
mod gil_sampler;
pub mod layout;
mod lines;
mod look;
mod loops;
mod maps;
mod memory;
mod names;
mod object;
mod process;
mod stacks;
mod states;
#[cfg(test)]
mod synthetic;
mod tasks;
mod text;
mod threads;
mod verify;
mod version;

pub use detect::DetectError;
pub use facts::{GilRange, Interpreter, LookOptions};
pub use gil_sampler::{GilCounts, GilSampler};
pub use memory::ReadError;
pub use text::MAX_TEXT_CHARS;
pub use verify::{Verified, verify};
