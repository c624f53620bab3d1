//! The content of a chunk back to inputs.

use std::{collections::HashMap, sync::Arc};

use concmon_ebpf::{BATCH_RECORDS, BatchHeader};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    Input,
    bounds::{self, MAX_FRAMES, MAX_IDS, MAX_STRING, Room},
    columns::{self, restore, take, take_bytes, take_u32},
    format::{ChunkHead, MAX_RAW_BYTES, Malformed},
};
use crate::{
    decode::RawBatch,
    event::{CodeKind, Event, Iteration, Pid, PyFrame, Sample, SampleKind, SampledStack, Tid},
};

/// The operations of a chunk: a code, a length, and so many bytes. Unknown ones are skipped.
pub(super) mod op {
    /// CPU, wire version, count, produced before, opened; the records are in the columns.
    pub(in crate::capture) const BATCH: u8 = 1;
    /// An event that is applied at once.
    pub(in crate::capture) const NOW: u8 = 2;
    /// A CPU, and an event that waits for its turn.
    pub(in crate::capture) const ORDERED: u8 = 3;
    /// The instant up to which events are passed on.
    pub(in crate::capture) const RELEASE: u8 = 4;
    /// A CPU, and a sample by the number of its stack.
    pub(in crate::capture) const SAMPLE: u8 = 5;
    /// Gives the next number to a string,
    pub(in crate::capture) const STRING: u8 = 6;
    /// or to a stack: step frames, flags, then function, file and line of each frame.
    pub(in crate::capture) const STACK: u8 = 7;
}

/// What is expected of a CPU's next batch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cpu {
    pub(super) produced: u64,
    /// The last record's instant, ns.
    pub(super) at_ns: u64,
}

/// A [`Sample`] with the number of its stack.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredSample {
    at: u64,
    pid: Pid,
    tid: Tid,
    kind: SampleKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    turn: Option<Iteration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    turns: Option<u32>,
    #[serde(default)]
    gc: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<CodeKind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    coroutine: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    creator: Option<u64>,
    stack: u64,
}

impl StoredSample {
    pub(super) fn new(sample: &Sample, stack: u64) -> Self {
        Self {
            at: sample.at_ns,
            pid: sample.pid,
            tid: sample.tid,
            kind: sample.kind,
            version: sample.context_version,
            turn: sample.iteration,
            turns: sample.turns,
            gc: sample.collecting,
            code: sample.code,
            coroutine: sample.coroutine,
            creator: sample.creator,
            stack,
        }
    }

    fn with(self, stack: Arc<SampledStack>) -> Sample {
        Sample {
            at_ns: self.at,
            pid: self.pid,
            tid: self.tid,
            kind: self.kind,
            context_version: self.version,
            iteration: self.turn,
            turns: self.turns,
            collecting: self.gc,
            code: self.code,
            coroutine: self.coroutine,
            creator: self.creator,
            stack,
        }
    }
}

/// A chunk, decompressed.
#[derive(Clone, Debug)]
pub struct Chunk {
    pub head: ChunkHead,
    raw: Vec<u8>,
    /// In the file.
    stored_bytes: usize,
}

impl Chunk {
    /// Decompresses the body of a chunk's frame, within the bounds of its head.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let (head, compressed) = ChunkHead::parse(body).ok_or(Malformed)?;
        let length = head.raw_bytes as usize;
        if length > MAX_RAW_BYTES || compressed.len() < bounds::least_compressed(length) {
            return Err(Malformed);
        }
        let raw = zstd::bulk::decompress(compressed, length).map_err(|_| Malformed)?;
        if raw.len() != length {
            return Err(Malformed);
        }
        Ok(Self {
            head,
            raw,
            stored_bytes: body.len(),
        })
    }

    /// How long it is in the file.
    pub const fn stored_bytes(&self) -> usize {
        self.stored_bytes
    }

    /// Its content, decompressed.
    pub fn content(&self) -> &[u8] {
        &self.raw
    }

    /// Its inputs, in the order of their arrival.
    ///
    /// # Errors
    /// [`Malformed`], when it has no operations.
    pub fn inputs(&self) -> Result<Inputs<'_>, Malformed> {
        let mut rest = self.raw.as_slice();
        let count = take(&mut rest)?;
        let lengths: Vec<u64> = (0..count.min(256))
            .map(|_| take(&mut rest))
            .collect::<Result<_, _>>()?;
        let mut sections = Vec::with_capacity(lengths.len());
        for length in lengths {
            sections.push(take_bytes(&mut rest, length)?);
        }
        let (operations, of_records) = sections.split_first().ok_or(Malformed)?;
        let mut records = columns::Reader::default();
        for (column, section) in records.columns.iter_mut().zip(of_records) {
            *column = section;
        }
        Ok(Inputs {
            operations,
            records,
            cpus: HashMap::new(),
            strings: Vec::new(),
            stacks: Vec::new(),
            room: Room::default(),
            released_ns: 0,
            skipped: 0,
        })
    }
}

/// A chunk with this content.
///
/// # Errors
/// It is longer than a chunk can be.
pub fn chunk_of(content: &[u8]) -> Result<Chunk, Malformed> {
    let raw_bytes = u32::try_from(content.len()).map_err(|_| Malformed)?;
    let head = ChunkHead {
        raw_bytes,
        ..ChunkHead::default()
    };
    let compressed = zstd::bulk::compress(content, 1).map_err(|_| Malformed)?;
    Chunk::parse(&[&head.bytes()[..], &compressed].concat())
}

/// The inputs of a chunk. After an error there are no more.
#[derive(Debug)]
pub struct Inputs<'a> {
    operations: &'a [u8],
    records: columns::Reader<'a>,
    cpus: HashMap<u32, Cpu>,
    strings: Vec<Arc<str>>,
    stacks: Vec<Arc<SampledStack>>,
    room: Room,
    released_ns: u64,
    skipped: u64,
}

impl Inputs<'_> {
    /// Inputs of a kind that this version does not know.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    fn step(&mut self) -> Result<Option<Input>, Malformed> {
        while let Some((&code, rest)) = self.operations.split_first() {
            self.operations = rest;
            let length = take(&mut self.operations)?;
            let mut body = take_bytes(&mut self.operations, length)?;
            match code {
                op::BATCH => return self.batch(body).map(Some),
                op::NOW => {
                    if let Some(event) = self.known(body) {
                        return Ok(Some(Input::Now(event)));
                    }
                }
                op::ORDERED => {
                    let cpu = take_u32(&mut body)?;
                    match self.known::<Event>(body) {
                        Some(event) if event.happens() => {
                            return Ok(Some(Input::Ordered { cpu, event }));
                        }
                        // Facts do not wait, and what waits is kept until its turn.
                        Some(_) => self.skipped += 1,
                        None => {}
                    }
                }
                op::RELEASE => {
                    self.released_ns = restore(take(&mut body)?, self.released_ns);
                    let until_ns = self.released_ns;
                    return Ok(Some(Input::Release { until_ns }));
                }
                op::SAMPLE => {
                    let cpu = take_u32(&mut body)?;
                    if let Some(sample) = self.known::<StoredSample>(body) {
                        let stack = usize::try_from(sample.stack).map_err(|_| Malformed)?;
                        let stack = self.stacks.get(stack).ok_or(Malformed)?;
                        let event = Event::Sample(Box::new(sample.with(Arc::clone(stack))));
                        return Ok(Some(Input::Ordered { cpu, event }));
                    }
                }
                op::STRING => {
                    let text = std::str::from_utf8(body).map_err(|_| Malformed)?;
                    if text.len() > MAX_STRING {
                        return Err(Malformed);
                    }
                    self.room.take(text.len())?;
                    self.strings.push(text.into());
                }
                op::STACK => {
                    let stack = self.stack(body)?;
                    self.room.take(size_of_val(&*stack.frames))?;
                    self.stacks.push(Arc::new(stack));
                }
                _ => self.skipped += 1,
            }
        }
        Ok(None)
    }

    /// A value; `None`, and counted, when this version does not know its kind.
    fn known<T: DeserializeOwned>(&mut self, body: &[u8]) -> Option<T> {
        let modest = bounds::is_modest(body);
        let value = modest.then(|| rmp_serde::from_slice(body).ok()).flatten();
        self.skipped += u64::from(value.is_none());
        value
    }

    fn batch(&mut self, mut body: &[u8]) -> Result<Input, Malformed> {
        let cpu = take_u32(&mut body)?;
        let half = |number: u64| u16::try_from(number).map_err(|_| Malformed);
        let version = half(take(&mut body)?)?;
        let count = half(take(&mut body)?)?;
        if usize::from(count) > BATCH_RECORDS {
            return Err(Malformed);
        }
        if self.cpus.len() >= MAX_IDS && !self.cpus.contains_key(&cpu) {
            return Err(Malformed);
        }
        let known = self.cpus.entry(cpu).or_default();
        let produced_before = restore(take(&mut body)?, known.produced);
        let opened_ns = restore(take(&mut body)?, known.at_ns);
        known.produced = produced_before.wrapping_add(u64::from(count));
        let records = (0..count)
            .map(|_| self.records.take(&mut known.at_ns))
            .collect::<Result<_, _>>()?;
        Ok(Input::Batch(RawBatch {
            header: BatchHeader {
                version,
                count,
                cpu,
                produced_before,
                opened_ns,
            },
            records,
        }))
    }

    fn stack(&self, mut body: &[u8]) -> Result<SampledStack, Malformed> {
        let step_frames = usize::try_from(take(&mut body)?).map_err(|_| Malformed)?;
        let flags = take(&mut body)?;
        let mut frames = Vec::new();
        while !body.is_empty() {
            if frames.len() >= MAX_FRAMES {
                return Err(Malformed);
            }
            let mut text = || {
                let number = usize::try_from(take(&mut body)?).map_err(|_| Malformed)?;
                self.strings.get(number).cloned().ok_or(Malformed)
            };
            frames.push(PyFrame {
                function: text()?,
                file: text()?,
                line: take_u32(&mut body)?,
            });
        }
        Ok(SampledStack {
            // Frames are indexed by it.
            step_frames: step_frames.min(frames.len()),
            frames,
            in_loop: flags & 1 != 0,
            truncated: flags & 2 != 0,
        })
    }
}

impl Iterator for Inputs<'_> {
    type Item = Result<Input, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            self.operations = &[];
        }
        step.transpose()
    }
}
