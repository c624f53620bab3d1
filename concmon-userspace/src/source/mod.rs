//! Where events come from, and the order they are brought into.

pub mod live;
mod object;
pub mod order;
mod shared;
