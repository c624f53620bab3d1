//! Batches that their CPUs have not sent: read where they are.
//!
//! A batch is sent by whatever happens next on its CPU. One that sleeps deeply runs not even its clock,
//! so what it has is taken from the mapped batch itself. It is sent later all the same, with what has
//! been added; what was taken before is left out then.

use concmon_ebpf::{
    Batch, BatchHeader, Record, SampleBatch, SampleFrame, SampleHead, SocketBatch, SocketHead,
};

use super::shared::SharedArray;

const HEADER_BYTES: usize = size_of::<BatchHeader>();

/// A kind of batches.
pub(super) trait Items {
    /// Bytes of items in use.
    fn used(&self) -> usize;
    /// Somebody writes it right now.
    fn is_busy(&self) -> bool;
    /// Bytes of the first item in `items`; 0: there is none.
    fn item_bytes(items: &[u8]) -> usize;
}

impl Items for Batch {
    fn used(&self) -> usize {
        usize::from(self.header.count) * size_of::<Record>()
    }

    fn is_busy(&self) -> bool {
        self.busy != 0
    }

    fn item_bytes(items: &[u8]) -> usize {
        size_of::<Record>().min(items.len())
    }
}

impl Items for SampleBatch {
    fn used(&self) -> usize {
        self.used as usize
    }

    fn is_busy(&self) -> bool {
        false
    }

    fn item_bytes(items: &[u8]) -> usize {
        // `SampleHead::frames`.
        let Some(frames) = items.get(2..4) else {
            return 0;
        };
        let frames = usize::from(u16::from_le_bytes([frames[0], frames[1]]));
        (size_of::<SampleHead>() + frames * size_of::<SampleFrame>()).min(items.len())
    }
}

impl Items for SocketBatch {
    fn used(&self) -> usize {
        self.used as usize
    }

    fn is_busy(&self) -> bool {
        self.busy != 0
    }

    fn item_bytes(items: &[u8]) -> usize {
        // `SocketHead::bytes`.
        let Some(bytes) = items.get(2..4) else {
            return 0;
        };
        let bytes = usize::from(u16::from_le_bytes([bytes[0], bytes[1]]));
        (size_of::<SocketHead>() + bytes.next_multiple_of(8)).min(items.len())
    }
}

/// The batches of all CPUs, and how many items of each were taken.
#[derive(Debug)]
pub(super) struct UnflushedBatches<T> {
    batches: SharedArray<T>,
    taken: Vec<u64>,
}

impl<T: Items> UnflushedBatches<T> {
    pub(super) fn new(batches: SharedArray<T>) -> Self {
        Self {
            taken: vec![0; batches.len()],
            batches,
        }
    }

    /// A batch has come by itself: passes on what was not taken before.
    pub(super) fn on_received(&mut self, bytes: &[u8], mut sink: impl FnMut(&[u8])) {
        let Some(header) = header(bytes) else {
            sink(bytes);
            return;
        };
        let Some(taken) = self.taken.get_mut(header.cpu as usize) else {
            sink(bytes);
            return;
        };
        let count = u64::from(header.count);
        let skip = taken.saturating_sub(header.produced_before).min(count);
        *taken = (*taken).max(header.produced_before + count);
        if skip == 0 {
            sink(bytes);
        } else if skip < count {
            sink(&without::<T>(bytes, header, skip));
        }
    }

    /// Takes what lies in batches that were opened before `opened_ns`.
    pub(super) fn take(&mut self, opened_ns: u64, mut sink: impl FnMut(&[u8])) {
        for cpu in 0..self.batches.len() {
            let Some(bytes) = self.copy(cpu, opened_ns) else {
                continue;
            };
            self.on_received(&bytes, &mut sink);
        }
    }

    /// A copy of a CPU's batch, when there is something new in it. Items do not change once they are
    /// counted, and the count falls only when the batch is sent.
    fn copy(&self, cpu: usize, opened_ns: u64) -> Option<Vec<u8>> {
        let batch = self.batches.pointer(cpu);
        // SAFETY: inside the mapping; kernel programs write concurrently, and the copy is used only
        // when the header shows that the items in it did not change.
        unsafe {
            let read = || batch.cast::<BatchHeader>().read_volatile();
            let before = read();
            let items = before.produced_before + u64::from(before.count);
            if before.count == 0
                || before.opened_ns >= opened_ns
                || items <= self.taken[cpu]
                || (*batch).is_busy()
            {
                return None;
            }
            let used = (*batch).used().min(size_of::<T>() - HEADER_BYTES);
            let mut bytes = vec![0; HEADER_BYTES + used];
            std::ptr::copy_nonoverlapping(batch.cast::<u8>(), bytes.as_mut_ptr(), bytes.len());
            let after = read();
            (after.produced_before == before.produced_before && after.count >= before.count)
                .then_some(())?;
            // What was added meanwhile is for the next time.
            bytes[2..4].copy_from_slice(&before.count.to_le_bytes());
            Some(bytes)
        }
    }
}

fn header(bytes: &[u8]) -> Option<BatchHeader> {
    let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let first = word(0)?;
    Some(BatchHeader {
        version: first as u16,
        count: (first >> 16) as u16,
        cpu: (first >> 32) as u32,
        produced_before: word(8)?,
        opened_ns: word(16)?,
    })
}

/// A batch without its first items.
fn without<T: Items>(bytes: &[u8], header: BatchHeader, skip: u64) -> Vec<u8> {
    let mut items = &bytes[HEADER_BYTES..];
    for _ in 0..skip {
        items = &items[T::item_bytes(items)..];
    }
    let mut rest = bytes[..HEADER_BYTES].to_vec();
    let count = header.count - skip as u16;
    rest[2..4].copy_from_slice(&count.to_le_bytes());
    rest[8..16].copy_from_slice(&(header.produced_before + skip).to_le_bytes());
    rest.extend_from_slice(items);
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(count: u16, produced_before: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(1u16.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(produced_before.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        for item in 0..count {
            bytes.extend([item as u8; size_of::<Record>()]);
        }
        bytes
    }

    #[test]
    fn what_was_taken_is_left_out() {
        let whole = batch(5, 10);
        let found = without::<Batch>(&whole, header(&whole).expect("a header"), 3);
        let left = header(&found).expect("a header");
        assert_eq!((left.count, left.produced_before), (2, 13));
        assert_eq!(found.len(), HEADER_BYTES + 2 * size_of::<Record>());
        assert_eq!(found[HEADER_BYTES], 3);
    }

    #[test]
    fn samples_have_lengths_of_their_own() {
        let mut items = vec![0; size_of::<SampleHead>() + 2 * size_of::<SampleFrame>() + 9];
        items[2] = 2;
        let bytes = <SampleBatch as Items>::item_bytes(&items);
        assert_eq!(bytes, items.len() - 9);
        assert_eq!(<SampleBatch as Items>::item_bytes(&items[..3]), 0);
    }
}
