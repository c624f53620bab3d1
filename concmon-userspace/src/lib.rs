//! concmon: where every nanosecond of a running Python program goes, seen from outside.
pub mod cli;
pub mod decode;
pub mod event;
pub mod kernel;
pub mod model;
pub mod procfs;
pub mod python;
pub mod session;
pub mod source;
#[cfg(test)]
mod testing;
pub mod views;
