//! Everything that shows a [`Snapshot`](crate::model::snapshot::Snapshot): JSON, report lines,
//! the final summary, the live screen.
//!
//! A view sees snapshots and nothing else: no event, no clock, no file, no process.

mod columns;
mod digest;
pub mod escape;
mod format;
mod gil;
pub mod json;
pub mod lines;
mod paint;
pub mod screen;
pub mod summary;
mod table;

pub use paint::Paint;
