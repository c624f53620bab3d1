//! The hooks, one small file per family.

mod exact;
mod process;
mod sample;
mod sched;
mod seed;
mod socket;
mod tick;
