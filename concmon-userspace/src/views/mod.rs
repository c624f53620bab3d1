//! Everything that shows a [`Snapshot`](crate::schema::Snapshot) or a
//! [`Dump`](crate::model::dump::Dump): JSON, report lines, the final summary, the live screen,
//! stacks and task trees; and what `doctor` found.
//!
//! A view sees these and nothing else: no event, no clock, no file, no process.

mod columns;
mod counted;
pub mod diff;
mod digest;
pub mod doctor;
pub mod dump;
pub use crate::escape;
pub mod export;
mod findings;
mod fold;
mod forest;
mod form;
mod format;
mod gaps;
mod gil;
#[cfg(test)]
mod hostile;
pub mod html;
pub mod json;
pub mod lines;
mod names;
mod overview;
mod paint;
pub mod recording;
mod requests;
pub mod screen;
mod shapes;
pub mod stalls;
pub mod summary;
mod table;
pub mod tasks;

pub use form::{Form, WIDTH};
pub use paint::Paint;
