//! Where events come from, and the order they are brought into.

mod arrivals;
mod counted_time;
mod error;
pub mod exact;
#[cfg(feature = "developer")]
pub mod fuzz;
mod host;
pub mod live;
mod needed;
mod object;
pub mod order;
pub mod pipeline;
pub mod replay;
pub mod requests;
mod room;
mod run_time;
mod run_time_switch;
mod shared;
mod unflushed;
