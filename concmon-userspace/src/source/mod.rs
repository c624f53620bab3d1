//! Where events come from, and the order they are brought into.

mod error;
pub mod exact;
mod host;
pub mod live;
pub mod order;
mod run_time;
mod shared;
mod unsent;
