//! concmon: where every nanosecond of a running Python program goes, seen from outside.
pub mod event;
pub mod model;
pub mod python;
