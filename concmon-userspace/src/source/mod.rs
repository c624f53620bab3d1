//! Where events come from.

pub mod live;
mod object;
mod shared;
