//! The time of loops, on simulated ones.

mod asleep;
mod hangs;
mod hostile;
mod lag;
mod sampled;
mod simulator;
mod stalls;
mod sums;
