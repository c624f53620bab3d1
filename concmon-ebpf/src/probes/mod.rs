//! The hooks, one small file per family.

mod process;
mod sample;
mod sched;
mod seed;
mod tick;
