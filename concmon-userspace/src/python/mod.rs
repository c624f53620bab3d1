//! Reading CPython from outside: which interpreter a process runs, its GILs, threads, event
//! loops and tasks. Nothing is stopped, nothing is written, and every read is bounded.

mod attached;
mod detect;
#[cfg(feature = "developer")]
pub mod fuzz;
mod gil_sampler;
#[cfg(feature = "developer")]
pub mod image;
mod interpreter;
pub mod layout;
mod memory;
mod objects;
mod options;
mod probes;
#[cfg(feature = "developer")]
mod recorded;
mod scan;
mod unwind;
#[cfg(feature = "developer")]
mod verify;
mod walk;

pub use detect::{DetectError, maps_python};
pub use gil_sampler::{GilCounts, GilSampler};
pub use interpreter::{GilRange, Interpreter, LentScanner};
pub use memory::{IsOver, ReadCost, ReadError};
pub use objects::text::MAX_TEXT_CHARS;
pub use options::{MOST_TASKS, ScanOptions};
pub use probes::{ExactFutures, ExactTasks, NotExact, Probe, ProbeKind, ProbePlace};
pub use unwind::StepAt;
#[cfg(feature = "developer")]
pub use verify::{Verified, verify};
