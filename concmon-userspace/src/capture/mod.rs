//! Captures: the inputs of a watch in a file, in the order of their arrival.
//!
//! What is kept stands before all conclusions: records of the kernel as they came, facts as they
//! were read, and what the session decided (how far events may be passed on, when a window ends).
//! Fed through the same pipeline once more, they give the same reports to the byte.
//!
//! ```text
//! file   = magic, version │ frame...
//! frame  = sync, type, number, length, checksums │ body
//! bodies = header │ chunk... │ end
//! chunk  = span, flags, sizes │ zstd( operations, columns of records )
//! ```
//!
//! Each chunk stands for itself: its own dictionaries of threads, strings and stacks, its own
//! predictions. So what is damaged costs what is in it, and no more. Before the facts of a tick a
//! chunk begins that is marked as a *key*: these facts are about everything, so a replay can begin
//! there. What bytes say is never trusted: lengths are bounded before anything is allocated, and what
//! a few bytes may stand for is (`bounds`). Heads within damaged bodies cost no more than their length.

mod bounds;
mod chunk;
mod columns;
mod complete;
mod disk;
mod encode;
mod format;
mod frames;
mod header;
mod input;
mod outline;
mod part;
mod read;
mod redact;
mod ring;
mod write;

pub use chunk::{Chunk, Inputs, chunk_of};
pub use complete::{Complete, complete, flight_of};
pub use disk::DiskRing;
pub use encode::{Encoder, Sealed};
pub use format::{CaptureError, ChunkHead, FILE_VERSION, MAGIC, Malformed};
pub use header::{Filters, Header};
pub use input::Input as CaptureInput;
pub use outline::{Key, Outline};
pub use part::Part;
pub use read::{Gap, Item, Reader};
pub use redact::Redactor;
pub use ring::Ring;
pub use write::{FileStore, Recorder, Store};

use crate::{decode::RawBatch, event::Event};

/// One input of a watch.
#[derive(Clone, Debug)]
pub enum Input {
    /// Records of one CPU, as they arrived.
    Batch(RawBatch),
    /// An event that waits for its turn among those of other CPUs.
    Ordered { cpu: u32, event: Event },
    /// An event that is applied at once.
    Now(Event),
    /// What happened up to this instant may be passed on: nothing before it is outstanding.
    Release { until_ns: u64 },
}

#[cfg(test)]
mod tests;
