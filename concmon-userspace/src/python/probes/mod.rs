//! Where probes can be attached that count tasks, and what fails in thread pools, exactly.

mod code;
mod futures;
mod returns;
mod tasks;

pub use code::{NotExact, Probe, ProbeKind, ProbePlace};
pub use futures::ExactFutures;
pub(super) use futures::futures;
pub use tasks::ExactTasks;
pub(super) use tasks::tasks;
