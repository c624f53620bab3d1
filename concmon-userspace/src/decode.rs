//! Bytes of the kernel's perf events to typed events: total, so that damage is an error or a count.
//!
//! A batch that is damaged as a whole is refused; a record that is of unknown kind, or contradicts
//! itself, is skipped and counted, and its neighbours are kept.

pub mod exact;
pub mod http;
pub mod ledger;
pub mod loss;
mod records;
pub mod samples;
pub mod sockets;

use concmon_ebpf::{BATCH_RECORDS, BatchHeader, Record, RecordHead, WIRE_VERSION};

use crate::{event::Event, kernel::Arch};
use records::{Skip, event};

const HEADER_BYTES: usize = size_of::<BatchHeader>();
const RECORD_BYTES: usize = size_of::<Record>();

/// Why a perf event is no batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("a perf event of {0} bytes is shorter than a batch header")]
    Header(usize),
    #[error("a batch of wire version {0}; this is version {WIRE_VERSION}")]
    Version(u16),
    #[error("a batch of {0} records; {BATCH_RECORDS} is the most")]
    Count(u16),
    #[error("a batch of {count} records has only {bytes} bytes")]
    Truncated { count: u16, bytes: usize },
}

/// A decoded batch.
#[derive(Clone, Debug)]
pub struct Batch {
    pub header: BatchHeader,
    /// In the order of the batch.
    pub events: Vec<Event>,
    /// The latest instant in it; when it was opened, if it is empty.
    pub last_ns: u64,
    /// Records of a kind that this version does not know.
    pub unknown: u64,
    /// Records that contradict themselves.
    pub invalid: u64,
}

/// Little-endian fields one after the other. What lies beyond the end reads as 0; callers check
/// lengths first.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((value, rest)) = self.0.split_first_chunk::<N>() else {
            return [0; N];
        };
        self.0 = rest;
        *value
    }

    fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.take())
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

/// The records of one perf event as the kernel programs wrote them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawBatch {
    /// Its count is the number of records.
    pub header: BatchHeader,
    pub records: Vec<Record>,
}

impl RawBatch {
    /// Takes the bytes of one perf event apart. Bytes behind the last record are the kernel's
    /// padding.
    ///
    /// # Errors
    /// [`DecodeError`], when nothing of it can be used.
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (header, body) = split(bytes, BATCH_RECORDS)?;
        let count = header.count;
        let records =
            body.get(..usize::from(count) * RECORD_BYTES)
                .ok_or(DecodeError::Truncated {
                    count,
                    bytes: bytes.len(),
                })?;
        Ok(Self {
            header,
            records: records.chunks_exact(RECORD_BYTES).map(record).collect(),
        })
    }

    /// What the records say; `arch`: of the host that they are of, where that is known.
    pub fn decode(&self, arch: Option<Arch>) -> Batch {
        let mut events = Vec::with_capacity(self.records.len());
        let (last_ns, unknown, invalid) = self.each(arch, |event| events.push(event));
        Batch {
            header: self.header,
            events,
            last_ns,
            unknown,
            invalid,
        }
    }

    /// Gives what the records say, one by one; then, as [`Batch`] has them, the latest instant, and
    /// how many were unknown and invalid.
    pub fn each(&self, arch: Option<Arch>, mut sink: impl FnMut(Event)) -> (u64, u64, u64) {
        let (mut last_ns, mut unknown, mut invalid) = (self.header.opened_ns, 0, 0);
        for record in &self.records {
            match event(record, self.header.cpu, arch) {
                Ok(event) => {
                    last_ns = last_ns.max(record.head.at_ns);
                    sink(event);
                }
                Err(Skip::Unknown) => unknown += 1,
                Err(Skip::Invalid) => invalid += 1,
            }
        }
        (last_ns, unknown, invalid)
    }
}

/// Decodes the bytes of one perf event of this host.
///
/// # Errors
/// [`DecodeError`], when nothing of it can be used.
pub fn batch(bytes: &[u8]) -> Result<Batch, DecodeError> {
    Ok(RawBatch::parse(bytes)?.decode(Arch::current()))
}

/// The header of a batch of at most so many items, and what follows it.
fn split(bytes: &[u8], most: usize) -> Result<(BatchHeader, &[u8]), DecodeError> {
    let (head, body) = bytes
        .split_at_checked(HEADER_BYTES)
        .ok_or(DecodeError::Header(bytes.len()))?;
    let header = header(head);
    if header.version != WIRE_VERSION {
        return Err(DecodeError::Version(header.version));
    }
    if usize::from(header.count) > most {
        return Err(DecodeError::Count(header.count));
    }
    Ok((header, body))
}

fn header(bytes: &[u8]) -> BatchHeader {
    let mut fields = Fields(bytes);
    BatchHeader {
        version: fields.u16(),
        count: fields.u16(),
        cpu: fields.u32(),
        produced_before: fields.u64(),
        opened_ns: fields.u64(),
    }
}

fn record(bytes: &[u8]) -> Record {
    let mut fields = Fields(bytes);
    Record {
        head: RecordHead {
            kind: fields.u8(),
            cause: fields.u8(),
            flags: fields.u8(),
            reserved: fields.u8(),
            tid: fields.u32(),
            at_ns: fields.u64(),
        },
        body: std::array::from_fn(|_| fields.u64()),
    }
}

#[cfg(test)]
mod tests;
