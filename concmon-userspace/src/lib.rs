//! concmon: where every nanosecond of a running Python program goes, seen from outside.
pub mod event;
pub mod kernel;
pub mod model;
#[cfg(test)]
mod testing;
