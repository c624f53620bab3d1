//! Where the ticks of a capture are: the heads of its chunks, without their contents.

use std::io::{self, Read, Seek, SeekFrom};

use super::{
    format::{ChunkHead, PREAMBLE_BYTES, frame},
    frames::{Frames, Next},
};

/// A tick that a replay can begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The tick's instant, ns.
    pub at_ns: u64,
    /// Where its chunk's frame is in the file, and its number.
    pub(super) offset: u64,
    pub(super) number: u32,
}

/// The ticks of a capture, in their order.
#[derive(Clone, Debug, Default)]
pub struct Outline {
    pub keys: Vec<Key>,
    /// The end of the last whole chunk, ns.
    pub end_ns: u64,
}

impl Outline {
    /// Reads a file through. Its position is behind the preamble again then.
    ///
    /// # Errors
    /// Those of reading.
    pub fn read(file: &mut (impl Read + Seek)) -> io::Result<Self> {
        let begin = PREAMBLE_BYTES as u64;
        file.seek(SeekFrom::Start(begin))?;
        let mut outline = Self::default();
        let mut frames = Frames::new(&mut *file);
        loop {
            let offset = begin + frames.passed();
            match frames.next()? {
                Next::Frame { head, body } if head.kind == frame::CHUNK => {
                    let Some((chunk, _)) = ChunkHead::parse(body) else {
                        continue;
                    };
                    outline.end_ns = outline.end_ns.max(chunk.to_ns);
                    if chunk.key {
                        outline.keys.push(Key {
                            at_ns: chunk.from_ns,
                            offset,
                            number: head.number,
                        });
                    }
                }
                Next::Frame { .. } | Next::Damage(_) => {}
                Next::End => break,
            }
        }
        file.seek(SeekFrom::Start(begin))?;
        Ok(outline)
    }

    /// The last tick at or before an instant.
    pub fn before(&self, at_ns: u64) -> Option<Key> {
        let behind = self.keys.partition_point(|key| key.at_ns <= at_ns);
        self.keys.get(behind.checked_sub(1)?).copied()
    }

    /// The first tick at or after an instant.
    pub fn after(&self, at_ns: u64) -> Option<Key> {
        let at = self.keys.partition_point(|key| key.at_ns < at_ns);
        self.keys.get(at).copied()
    }
}
