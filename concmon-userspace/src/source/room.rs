//! How much memory a replay may take: what its file is worth, and something beside.

use crate::procfs::clocks;

/// Beside what the file is worth, bytes.
const FREE_BYTES: u64 = 160 << 20;
/// For each byte of the file.
const PER_BYTE: u64 = 3;
/// Inputs between two looks.
const INPUTS: u32 = 128;

/// Says when a replay has taken what it may. Tables of the model have ends of their own; all of them
/// full at once are more than a short file is worth.
#[derive(Debug)]
pub(super) struct Room {
    inputs: u32,
    stored_bytes: u64,
    /// What this process had in memory before it read anything.
    base_bytes: u64,
    /// What the user has for it, whatever the file is worth.
    granted_bytes: u64,
    full: bool,
}

impl Room {
    pub(super) fn new(granted_bytes: u64) -> Self {
        Self {
            inputs: 0,
            stored_bytes: 0,
            base_bytes: resident_bytes(),
            granted_bytes,
            full: false,
        }
    }

    /// So many bytes of the file more were read.
    pub(super) const fn read(&mut self, bytes: u64) {
        self.stored_bytes += bytes;
    }

    /// After an input: whether no more fits. The model is to be copied `copies` times yet, and what
    /// is told of it takes `rows_bytes`.
    pub(super) fn is_full(&mut self, copies: u64, rows_bytes: u64) -> bool {
        self.inputs += 1;
        if self.inputs >= INPUTS {
            self.inputs = 0;
            let worth = FREE_BYTES + PER_BYTE * self.stored_bytes;
            let most = worth.max(self.granted_bytes);
            let grown = resident_bytes().saturating_sub(self.base_bytes);
            self.full |= self.base_bytes + grown * (1 + copies) + rows_bytes > most;
        }
        self.full
    }
}

/// What this process has in memory; 0 where that cannot be told.
fn resident_bytes() -> u64 {
    clocks::process_rss_bytes().unwrap_or(0)
}
