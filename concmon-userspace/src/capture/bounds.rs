//! What reading may take: no more than what was written is worth.
//!
//! A recorder closes a chunk once it is longer than [`CHUNK_BYTES`](super::format::CHUNK_BYTES), so one
//! that claims much more was not made by one. These bounds are above everything that a recorder writes.

use super::format::Malformed;

/// How often a byte of compressed content may stand for one of content. Equal accounts of threads
/// come to 50.
pub(super) const MAX_RATIO: usize = 128;
/// Content that may be compressed by any ratio.
pub(super) const FREE_BYTES: usize = 64 << 10;

/// Threads, and CPUs, of one chunk.
pub(super) const MAX_IDS: usize = 1 << 17;
/// The longest string, bytes.
pub(super) const MAX_STRING: usize = 16 << 10;
/// Frames of one stack; the kernel program walks 64.
pub(super) const MAX_FRAMES: usize = 256;
/// What the strings and stacks of a chunk take in memory, bytes.
const MAX_DICTIONARY_BYTES: usize = 48 << 20;
/// What one of them takes beside its content.
const ENTRY_BYTES: usize = 64;

/// Events longer than this are looked at before they are taken apart.
const LONG_EVENT: usize = 64 << 10;
/// Values of one event, names of fields not counted. A value takes some 60 bytes at most.
const MAX_VALUES: usize = 2_000_000;

/// Room for the strings and stacks of a chunk.
#[derive(Debug)]
pub(super) struct Room(usize);

impl Default for Room {
    fn default() -> Self {
        Self(MAX_DICTIONARY_BYTES)
    }
}

impl Room {
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), Malformed> {
        let left = self.0.checked_sub(bytes.saturating_add(ENTRY_BYTES));
        self.0 = left.ok_or(Malformed)?;
        Ok(())
    }
}

/// The least that content compressed to so many bytes must have, were it of `raw` bytes.
pub(super) const fn least_compressed(raw: usize) -> usize {
    raw.saturating_sub(FREE_BYTES).div_ceil(MAX_RATIO)
}

/// Whether an event can be taken apart in memory that is worth its length.
pub(super) fn is_modest(event: &[u8]) -> bool {
    event.len() <= LONG_EVENT || values(event).is_some_and(|count| count <= MAX_VALUES)
}

/// How many values the MessagePack of an event has, keys of maps not counted; `None`: it is cut.
fn values(mut rest: &[u8]) -> Option<usize> {
    // How many are outstanding, keys among them; and how many were keys.
    let (mut wanted, mut count, mut keys) = (1usize, 0usize, 0usize);
    while wanted > 0 {
        let (&marker, behind) = rest.split_first()?;
        rest = behind;
        wanted -= 1;
        count += 1;
        let mut number = |bytes: usize| {
            let (number, behind) = rest.split_at_checked(bytes)?;
            rest = behind;
            let number = number.iter();
            Some(number.fold(0usize, |sum, byte| sum << 8 | usize::from(*byte)))
        };
        let (values, bytes) = match marker {
            0x80..=0x8f => (2 * usize::from(marker & 0xf), 0),
            0x90..=0x9f => (usize::from(marker & 0xf), 0),
            0xa0..=0xbf => (0, usize::from(marker & 0x1f)),
            0xc4 | 0xd9 => (0, number(1)?),
            0xc5 | 0xda => (0, number(2)?),
            0xc6 | 0xdb => (0, number(4)?),
            0xc7 => (0, number(1)? + 1),
            0xc8 => (0, number(2)? + 1),
            0xc9 => (0, number(4)? + 1),
            0xcc | 0xd0 => (0, 1),
            0xcd | 0xd1 => (0, 2),
            0xca | 0xce | 0xd2 => (0, 4),
            0xcb | 0xcf | 0xd3 => (0, 8),
            0xd4..=0xd8 => (0, 1 + (1 << (marker - 0xd4))),
            0xdc => (number(2)?, 0),
            0xdd => (number(4)?, 0),
            0xde => (2 * number(2)?, 0),
            0xdf => (2 * number(4)?, 0),
            _ => (0, 0),
        };
        if matches!(marker, 0x80..=0x8f | 0xde | 0xdf) {
            keys = keys.saturating_add(values / 2);
        }
        wanted = wanted.saturating_add(values);
        rest = rest.get(bytes..)?;
    }
    Some(count.saturating_sub(keys))
}
