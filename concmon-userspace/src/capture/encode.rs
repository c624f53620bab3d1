//! Inputs to the compressed content of chunks.

use std::{collections::HashMap, sync::Arc};

use concmon_ebpf::BatchHeader;
use serde::Serialize;

use super::{
    Input,
    bounds::{self, MAX_FRAMES, MAX_STRING, least_compressed},
    chunk::{Cpu, StoredSample, op},
    columns::{self, differ, put},
    format::{CHUNK_BYTES, ChunkHead, MAX_RAW_BYTES},
};
use crate::{
    decode::RawBatch,
    event::{Event, Sample, SampledStack},
};

/// Compresses well enough at some hundred MB/s.
const LEVEL: i32 = 3;
/// Stacks that are remembered by address at most.
const MAX_STACKS: usize = 65_536;

/// A finished chunk: the body of its frame.
#[derive(Clone, Debug)]
pub struct Sealed {
    pub head: ChunkHead,
    pub body: Vec<u8>,
}

/// Fills one chunk after the other.
#[derive(Debug, Default)]
pub struct Encoder {
    operations: Vec<u8>,
    records: columns::Writer,
    cpus: HashMap<u32, Cpu>,
    strings: HashMap<String, u64>,
    /// By address: stacks are shared, and kept here so that none gets the address of another.
    stacks: HashMap<usize, (u64, Arc<SampledStack>)>,
    stack_count: u64,
    released_ns: u64,
    head: ChunkHead,
    /// Inputs that were too long to be kept.
    oversized: u64,
    scratch: Vec<u8>,
}

impl Encoder {
    /// Appends an input to the chunk.
    pub fn put(&mut self, input: &Input) {
        match input {
            Input::Batch(batch) => self.batch(batch),
            Input::Ordered {
                cpu,
                event: Event::Sample(sample),
            } => self.sample(*cpu, sample),
            Input::Ordered { cpu, event } => {
                self.scratch.clear();
                put(&mut self.scratch, u64::from(*cpu));
                self.value(op::ORDERED, event);
            }
            Input::Now(event) => {
                self.scratch.clear();
                self.value(op::NOW, event);
            }
            Input::Release { until_ns } => {
                self.scratch.clear();
                put(&mut self.scratch, differ(*until_ns, self.released_ns));
                self.released_ns = *until_ns;
                self.operation(op::RELEASE);
            }
        }
        self.head.inputs += 1;
    }

    /// The chunk is long enough to be closed.
    pub fn is_full(&self) -> bool {
        self.operations.len() + self.records.len() >= CHUNK_BYTES
    }

    /// Nothing is in the chunk.
    pub fn is_empty(&self) -> bool {
        self.head.inputs == 0
    }

    /// Inputs that were left out, for they were longer than a chunk can be.
    pub fn oversized(&self) -> u64 {
        self.oversized
    }

    /// Closes the chunk, whose inputs arrived between the two instants, and begins the next one.
    pub fn seal(&mut self, from_ns: u64, to_ns: u64, key: bool) -> Sealed {
        let mut raw = Vec::with_capacity(self.operations.len() + self.records.len() + 128);
        put(&mut raw, 1 + columns::COUNT as u64);
        for section in std::iter::once(&self.operations).chain(&self.records.columns) {
            put(&mut raw, section.len() as u64);
        }
        for section in std::iter::once(&self.operations).chain(&self.records.columns) {
            raw.extend_from_slice(section);
        }
        let head = ChunkHead {
            from_ns,
            to_ns,
            key,
            raw_bytes: raw.len() as u32,
            ..self.head
        };
        let mut body = head.bytes().to_vec();
        // It fails for want of memory only; an empty content then reads as damage.
        let compressed = zstd::bulk::compress(&raw, LEVEL).unwrap_or_default();
        let missing = least_compressed(raw.len()).saturating_sub(compressed.len());
        body.extend(compressed);
        if missing > 0 {
            // A reader does not believe that so little stands for so much.
            body.extend(skippable(missing));
        }
        self.operations.clear();
        self.records.clear();
        self.cpus.clear();
        self.strings.clear();
        self.stacks.clear();
        self.stack_count = 0;
        self.released_ns = 0;
        self.head = ChunkHead::default();
        Sealed { head, body }
    }

    fn batch(&mut self, batch: &RawBatch) {
        let BatchHeader {
            version,
            count,
            cpu,
            produced_before,
            opened_ns,
        } = batch.header;
        let known = self.cpus.entry(cpu).or_default();
        self.scratch.clear();
        for number in [
            u64::from(cpu),
            u64::from(version),
            u64::from(count),
            differ(produced_before, known.produced),
            differ(opened_ns, known.at_ns),
        ] {
            put(&mut self.scratch, number);
        }
        known.produced = produced_before.wrapping_add(u64::from(count));
        for record in &batch.records {
            self.records.put(record, &mut known.at_ns);
        }
        self.head.records += u32::from(count);
        self.operation(op::BATCH);
    }

    fn sample(&mut self, cpu: u32, sample: &Sample) {
        let stack = self.stack(&sample.stack);
        self.scratch.clear();
        put(&mut self.scratch, u64::from(cpu));
        self.value(op::SAMPLE, &StoredSample::new(sample, stack));
    }

    /// The number of a stack in this chunk.
    fn stack(&mut self, stack: &Arc<SampledStack>) -> u64 {
        let address = Arc::as_ptr(stack).addr();
        if let Some((number, _)) = self.stacks.get(&address) {
            return *number;
        }
        let mut body = Vec::new();
        put(&mut body, stack.step_frames as u64);
        let flags = u64::from(stack.in_loop) | u64::from(stack.truncated) << 1;
        put(&mut body, flags);
        for frame in stack.frames.iter().take(MAX_FRAMES) {
            for text in [&frame.function, &frame.file] {
                let number = self.string(text);
                put(&mut body, number);
            }
            put(&mut body, u64::from(frame.line));
        }
        self.scratch.clear();
        self.scratch.append(&mut body);
        self.operation(op::STACK);
        let number = self.stack_count;
        self.stack_count += 1;
        if self.stacks.len() < MAX_STACKS {
            self.stacks.insert(address, (number, Arc::clone(stack)));
        }
        number
    }

    fn string(&mut self, text: &str) -> u64 {
        if let Some(number) = self.strings.get(text) {
            return *number;
        }
        let number = self.strings.len() as u64;
        self.strings.insert(text.to_owned(), number);
        self.scratch.clear();
        let cut = text.floor_char_boundary(MAX_STRING);
        self.scratch.extend_from_slice(&text.as_bytes()[..cut]);
        self.operation(op::STRING);
        number
    }

    /// An operation with what is in `scratch`, and a value behind it.
    fn value<T: Serialize>(&mut self, code: u8, value: &T) {
        let begin = self.scratch.len();
        if rmp_serde::encode::write_named(&mut self.scratch, value).is_err() {
            self.scratch.truncate(begin);
        }
        if !bounds::is_modest(&self.scratch[begin..]) {
            self.oversized += 1;
            return;
        }
        self.operation(code);
    }

    fn operation(&mut self, code: u8) {
        if self.scratch.len() > MAX_RAW_BYTES - 2 * CHUNK_BYTES {
            self.oversized += 1;
            return;
        }
        self.operations.push(code);
        put(&mut self.operations, self.scratch.len() as u64);
        self.operations.extend_from_slice(&self.scratch);
    }
}

/// A frame of zstd without content, of at least so many bytes (RFC 8878, 3.1.2).
fn skippable(bytes: usize) -> Vec<u8> {
    let mut frame = 0x184d_2a50u32.to_le_bytes().to_vec();
    frame.extend(u32::try_from(bytes).unwrap_or(0).to_le_bytes());
    frame.resize(frame.len() + bytes, 0);
    frame
}
