//! Reading another process's memory: one trait, batched, every read bounded.

pub(super) mod addresses;
pub(super) mod process;
mod process_memory;
pub(super) mod process_source;

use std::fmt;

pub(super) use process_memory::ProcessMemory;

/// The longest single read in bytes; a longer request is refused before it reaches the kernel.
pub(crate) const MAX_READ_BYTES: usize = 1 << 24;
/// The most that one batch reads, bytes: lengths come from the target, and there may be many.
const MAX_BATCH_BYTES: usize = 1 << 24;
const PAGE: u64 = 4096;

/// Why memory could not be read, or was not what it had to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("the process is gone")]
    Gone,
    #[error("reading the process's memory is denied")]
    NoPermission,
    #[error("{len} bytes at {address:#x} cannot be read")]
    Unmapped { address: u64, len: usize },
    #[error("the {what} at {address:#x} is not plausible")]
    Implausible { what: &'static str, address: u64 },
    #[error("the {what} at {address:#x} changed while it was read")]
    Torn { what: &'static str, address: u64 },
    #[error("reading memory failed with error number {0}")]
    Os(i32),
    #[error("the time for reading was up")]
    Over,
}

#[derive(Clone, Copy)]
struct Area {
    address: u64,
    offset: usize,
    len: usize,
    got: usize,
}

/// Areas to be read together, and what came back.
#[derive(Default)]
pub(crate) struct Batch {
    areas: Vec<Area>,
    size: usize,
    /// Empty until the batch is read.
    bytes: Vec<u8>,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds `len` bytes at `address`; the number is the area's index.
    pub(crate) fn push(&mut self, address: u64, len: usize) -> usize {
        let has_room = len <= MAX_BATCH_BYTES - self.size;
        let len = match has_room && can_read(address, len) {
            true => len,
            false => 0,
        };
        self.areas.push(Area {
            address,
            offset: self.size,
            len,
            got: 0,
        });
        self.size += len;
        self.areas.len() - 1
    }

    /// The area's bytes, if every one of them was read.
    pub(crate) fn whole(&self, index: usize) -> Option<&[u8]> {
        let area = self.areas.get(index)?;
        (area.len > 0 && area.got == area.len)
            .then(|| &self.bytes[area.offset..area.offset + area.len])
    }

    /// The word that each area begins with; 0 where that was not read.
    pub(crate) fn words(&self) -> Vec<u64> {
        let of = |index| word(self.whole(index)?, 0);
        (0..self.len())
            .map(|index| of(index).unwrap_or(0))
            .collect()
    }

    /// The area's bytes up to the first one that could not be read.
    pub(crate) fn prefix(&self, index: usize) -> &[u8] {
        match self.areas.get(index) {
            // A batch that was not read has no bytes yet.
            Some(area) => self
                .bytes
                .get(area.offset..area.offset + area.got)
                .unwrap_or_default(),
            None => &[],
        }
    }

    /// How many bytes are asked for in all.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Each area's address with its bytes, as far as they were read.
    #[cfg(feature = "developer")]
    pub(crate) fn areas(&self) -> impl Iterator<Item = (u64, &[u8])> {
        (0..self.areas.len()).map(|index| (self.areas[index].address, self.prefix(index)))
    }

    /// Lets `read` fill each area; it says how many bytes it had.
    #[cfg(feature = "developer")]
    pub(crate) fn fill(&mut self, read: impl Fn(u64, &mut [u8]) -> usize) {
        self.bytes.resize(self.size, 0);
        for area in self.areas.iter_mut().filter(|area| area.len > 0) {
            let into = &mut self.bytes[area.offset..area.offset + area.len];
            area.got = read(area.address, into);
        }
    }

    /// How many areas there are.
    pub(crate) fn len(&self) -> usize {
        self.areas.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.areas.is_empty()
    }
}

/// Something whose memory can be read by address.
pub(crate) trait Memory: fmt::Debug + Send + Sync {
    /// Reads all areas of the batch. An area that cannot be read stays short; an error means
    /// that nothing of the process can be read any more.
    fn read_batch(&self, batch: &mut Batch) -> Result<(), ReadError>;

    /// As [`read_batch`](Self::read_batch), until time is up: what was not read by then stays short.
    fn read_batch_until(
        &self,
        batch: &mut Batch,
        is_over: &dyn Fn() -> bool,
    ) -> Result<(), ReadError> {
        if is_over() {
            return Err(ReadError::Over);
        }
        self.read_batch(batch)
    }

    /// Why nothing is read any more; `None`: it is. Walkers ask in loops that do not read.
    fn over(&self) -> Option<String> {
        None
    }

    /// Reads all areas of the batch, one after the other as they were added: what is read first and
    /// last tells whether it changed in between.
    fn read_in_order(&self, batch: &mut Batch) -> Result<(), ReadError> {
        self.read_batch(batch)
    }

    /// What reading took so far, where that is counted.
    fn cost(&self) -> ReadCost {
        ReadCost::default()
    }

    /// Fills `into` from `address`.
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let mut batch = Batch::new();
        batch.push(address, into.len());
        self.read_batch(&mut batch)?;
        let bytes = batch.whole(0).ok_or(ReadError::Unmapped {
            address,
            len: into.len(),
        })?;
        into.copy_from_slice(bytes);
        Ok(())
    }

    fn read_u64(&self, address: u64) -> Result<u64, ReadError> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// Whether a scan has to end, asked before each of its reads: `None` while it may go on, else why.
pub type IsOver<'a> = dyn Fn() -> Option<String> + Send + Sync + 'a;

/// Memory that can be read until time is up.
pub(crate) struct UntilOver<'a> {
    pub(crate) memory: &'a dyn Memory,
    pub(crate) is_over: &'a IsOver<'a>,
}

impl fmt::Debug for UntilOver<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.memory.fmt(f)
    }
}

impl Memory for UntilOver<'_> {
    fn read_batch(&self, batch: &mut Batch) -> Result<(), ReadError> {
        self.memory
            .read_batch_until(batch, &|| (self.is_over)().is_some())
    }

    fn read_in_order(&self, batch: &mut Batch) -> Result<(), ReadError> {
        match (self.is_over)() {
            Some(_) => Err(ReadError::Over),
            None => self.memory.read_in_order(batch),
        }
    }

    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), ReadError> {
        match (self.is_over)() {
            Some(_) => Err(ReadError::Over),
            None => self.memory.read(address, into),
        }
    }

    fn over(&self) -> Option<String> {
        (self.is_over)()
    }

    fn cost(&self) -> ReadCost {
        self.memory.cost()
    }
}

/// Whether so many bytes may be asked for; of none, nothing is read.
fn can_read(address: u64, len: usize) -> bool {
    (1..=MAX_READ_BYTES).contains(&len) && plausible(address)
}

/// Whether an address can be one of an object: not in the first page, and in the user half.
pub(crate) fn plausible(address: u64) -> bool {
    (PAGE..1 << 56).contains(&address)
}

/// The address `offset` bytes further on; what wraps around is refused when it is read.
pub(crate) fn at(address: u64, offset: u32) -> u64 {
    address.wrapping_add(u64::from(offset))
}

/// The little-endian `u64` at `offset` of `bytes`.
pub(crate) fn word(bytes: &[u8], offset: u32) -> Option<u64> {
    let at = offset as usize;
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// The little-endian `i32` at `offset` of `bytes`.
pub(crate) fn int(bytes: &[u8], offset: u32) -> Option<i32> {
    let at = offset as usize;
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(i32::from_le_bytes(bytes.try_into().ok()?))
}

/// The byte at `offset` of `bytes`.
pub(crate) fn byte(bytes: &[u8], offset: u32) -> Option<u8> {
    bytes.get(offset as usize).copied()
}

/// What reading a process took so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadCost {
    /// System calls.
    pub calls: u64,
    /// Bytes that were copied.
    pub bytes: u64,
}
