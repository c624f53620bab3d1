//! Where events come from, and in which order they are passed on.
pub mod order;
