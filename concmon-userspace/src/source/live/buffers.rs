//! What the kernel programs send, and what they have not sent yet.

use std::os::fd::{AsFd as _, BorrowedFd};

use aya::maps::{
    MapData, PerfEventArray,
    perf::{PerfEvent, PerfEventArrayBuffer},
};

use crate::source::{
    error::{LiveError, buffers_failed},
    shared::SharedArray,
    unflushed::{Items, UnflushedBatches},
};

/// The buffers of all CPUs for one kind of batches.
pub(super) struct Buffers<T> {
    buffers: Vec<PerfEventArrayBuffer<MapData>>,
    /// What CPUs that sleep have not sent.
    unflushed: UnflushedBatches<T>,
    joined: Vec<u8>,
}

impl<T: Items> Buffers<T> {
    /// Opens so many pages for each CPU.
    pub(super) fn open(
        mut events: PerfEventArray<MapData>,
        cpus: &[u32],
        pages: usize,
        batches: SharedArray<T>,
    ) -> Result<Self, LiveError> {
        let buffers = cpus.iter().map(|cpu| events.open(*cpu, Some(pages)));
        Ok(Self {
            buffers: buffers
                .collect::<Result<_, _>>()
                .map_err(|error| buffers_failed(&error))?,
            unflushed: UnflushedBatches::new(batches),
            joined: Vec::new(),
        })
    }

    /// Descriptors that become readable when a batch has arrived.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.buffers.iter().map(|buffer| buffer.as_fd())
    }

    /// Hands every batch that has arrived to `sink`, as it came.
    pub(super) fn drain(&mut self, mut sink: impl FnMut(&[u8])) {
        let (unflushed, joined) = (&mut self.unflushed, &mut self.joined);
        for buffer in &mut self.buffers {
            buffer.for_each(|event| match event {
                PerfEvent::Sample { head, tail: [] } => unflushed.on_received(head, &mut sink),
                PerfEvent::Sample { head, tail } => {
                    joined.clear();
                    joined.extend_from_slice(head);
                    joined.extend_from_slice(tail);
                    unflushed.on_received(joined, &mut sink);
                }
                // Counted exactly by the gap in the batches' own numbers.
                PerfEvent::Lost { .. } => {}
            });
        }
    }

    /// Hands over what lies in batches since before `opened_ns`: a CPU that sleeps sends nothing. With
    /// the latest of all instants, everything.
    pub(super) fn drain_unsent(&mut self, opened_ns: u64, mut sink: impl FnMut(&[u8])) {
        self.unflushed.take(opened_ns, &mut sink);
    }
}
