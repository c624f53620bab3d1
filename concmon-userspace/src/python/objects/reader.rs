//! One scan's view of a process: what it reads and keeps, bounded, and what it could not.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Slots, TypeInfo};
use crate::python::layout::WalkLayout;
use crate::python::memory::addresses::AddressMap;
use crate::python::memory::{Batch, Memory, ReadError};

/// A scan keeps one byte of so many that it may read: what is kept at once is what memory it needs.
const KEPT_SHARE: usize = 8;
/// Why a scan ends early that keeps too much.
pub(crate) const KEPT_ALL: &str = "the scan has kept as much as it may";

/// How much a scan keeps that may read so many bytes.
pub(crate) fn kept_of(bytes: usize) -> usize {
    bytes / KEPT_SHARE
}

/// One scan's view of a process: the memory, the layout, and what has been read so far.
pub(crate) struct Reader<'a> {
    pub(crate) walk: WalkLayout,
    /// Reads that failed or were torn beyond retry.
    pub(crate) failed: u64,
    /// What this scan does not cover.
    pub(crate) limits: BTreeMap<String, String>,
    memory: &'a dyn Memory,
    /// Why the scan could not go on, from some point of it on.
    cut: Option<String>,
    /// How much more may be read.
    bytes_left: usize,
    /// How much more may be kept.
    keep_left: usize,
    pub(super) types: AddressMap<Option<Arc<TypeInfo>>>,
    pub(crate) slots: AddressMap<Arc<Slots>>,
    pub(super) texts: AddressMap<Option<Arc<str>>>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(memory: &'a dyn Memory, walk: WalkLayout, bytes: usize) -> Self {
        Self {
            bytes_left: bytes,
            keep_left: kept_of(bytes),
            walk,
            failed: 0,
            limits: BTreeMap::new(),
            memory,
            cut: None,
            types: AddressMap::default(),
            slots: AddressMap::default(),
            texts: AddressMap::default(),
        }
    }

    /// Goes on with another layout: what was judged by the old one is forgotten.
    pub(crate) fn set_layout(&mut self, walk: WalkLayout) {
        self.walk = walk;
        self.types.clear();
        self.slots.clear();
    }

    /// Reads a batch. When the process as a whole cannot be read any more, or the scan has read
    /// as much as it may, all areas stay short.
    pub(crate) fn fetch(&mut self, batch: &mut Batch) {
        if self.may_read(batch.size())
            && let Err(error) = self.memory.read_batch(batch)
        {
            self.unread(error);
        }
    }

    /// As [`fetch`](Self::fetch), one area after the other as they were added.
    pub(crate) fn fetch_in_order(&mut self, batch: &mut Batch) {
        if self.may_read(batch.size())
            && let Err(error) = self.memory.read_in_order(batch)
        {
            self.unread(error);
        }
    }

    fn unread(&mut self, error: ReadError) {
        if error != ReadError::Over || !self.is_over() {
            self.limits.insert("python".to_owned(), error.to_string());
        }
    }

    /// Whether the scan has to end: loops that do not read ask, and whoever would read again.
    pub(crate) fn is_over(&mut self) -> bool {
        match self.memory.over() {
            Some(reason) => {
                self.end_early(reason);
                true
            }
            None => false,
        }
    }

    /// Says of a part of the scan that it may not be whole, if the scan could not go on.
    pub(crate) fn note_cut(&mut self, field: &str) {
        if let Some(reason) = &self.cut {
            let limit = self.limits.entry(field.to_owned());
            limit.or_insert_with(|| reason.clone());
        }
    }

    /// Why the scan could not go on.
    pub(crate) fn cut(&self) -> Option<&str> {
        self.cut.as_deref()
    }

    fn end_early(&mut self, reason: String) {
        self.limits.insert("python".to_owned(), reason.clone());
        self.cut.get_or_insert(reason);
    }

    fn may_read(&mut self, bytes: usize) -> bool {
        match self.bytes_left.checked_sub(bytes) {
            Some(left) => self.bytes_left = left,
            None => {
                self.end_early("the scan has read as much as it may".to_owned());
                self.failed += 1;
                return false;
            }
        }
        true
    }

    /// Whether so many more bytes may be kept for the rest of the scan.
    pub(crate) fn may_keep(&mut self, bytes: usize) -> bool {
        match self.keep_left.checked_sub(bytes) {
            Some(left) => {
                self.keep_left = left;
                true
            }
            None => {
                self.end_early(KEPT_ALL.to_owned());
                false
            }
        }
    }

    /// So many bytes are not kept any more.
    pub(crate) fn give_back(&mut self, bytes: usize) {
        self.keep_left += bytes;
    }

    /// Reads one area.
    pub(crate) fn bytes(&mut self, address: u64, len: usize) -> Result<Vec<u8>, ReadError> {
        let mut batch = Batch::new();
        batch.push(address, len);
        self.fetch(&mut batch);
        match batch.whole(0) {
            Some(bytes) => Ok(bytes.to_vec()),
            None => Err(ReadError::Unmapped { address, len }),
        }
    }

    /// Reads one area up to the first byte that cannot be read.
    pub(crate) fn prefix(&mut self, address: u64, len: usize) -> Vec<u8> {
        let mut batch = Batch::new();
        batch.push(address, len);
        self.fetch(&mut batch);
        batch.prefix(0).to_vec()
    }

    pub(crate) fn pointer(&mut self, address: u64) -> Result<u64, ReadError> {
        if !self.may_read(8) {
            return Err(ReadError::Unmapped { address, len: 8 });
        }
        self.memory.read_u64(address)
    }
}
