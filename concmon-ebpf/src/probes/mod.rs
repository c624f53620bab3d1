//! The hooks, one small file per family.

mod process;
mod sched;
mod seed;
mod tick;
