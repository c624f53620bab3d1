//! Reading CPython from outside: which interpreter a process runs, its GILs, threads, event
//! loops and tasks. Nothing is stopped, nothing is written, and every read is bounded.

mod addresses;
mod attributes;
mod chain;
mod code;
mod collector;
mod containers;
mod contexts;
mod detect;
mod elf;
mod exact;
mod exact_futures;
mod executors;
mod facts;
#[doc(hidden)]
pub mod fuzz;
mod gil;
mod gil_sampler;
mod heap;
#[doc(hidden)]
pub mod image;
pub mod layout;
mod lines;
mod locals;
mod look;
mod loops;
mod maps;
mod memory;
mod names;
mod object;
mod process;
mod queues;
mod returns;
mod sampling;
mod slots;
mod stacks;
mod states;
mod surroundings;
#[cfg(test)]
mod synthetic;
mod task_heads;
mod task_lists;
mod task_waits;
mod tasks;
mod text;
mod thread_locals;
mod threads;
mod timers;
mod trio;
mod trio_waits;
mod verify;
mod version;
mod wait_rules;
mod waiters;
mod waits;
mod workers;

pub use detect::DetectError;
pub use exact::{ExactTasks, NotExact, Probe, ProbeKind, ProbePlace};
pub use exact_futures::ExactFutures;
pub use facts::{GilRange, Interpreter, LookOptions, MOST_TASKS};
pub use gil_sampler::{GilCounts, GilSampler};
pub use memory::{IsOver, ReadCost, ReadError};
pub use text::MAX_TEXT_CHARS;
pub use verify::{Verified, verify};
