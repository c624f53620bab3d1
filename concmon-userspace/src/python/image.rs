//! Recorded memory images: every byte that a scan of a living interpreter read, so that the scan
//! can be made again without the process.
//!
//! A file begins with [`MAGIC`]; all numbers in it are LEB128. The length of a header and the
//! header in JSON are next, then a table of segments: their number, and of each how far it is from
//! the end of the one before, and its length. The rest are the segments' bytes in one stream of
//! alternating runs, literal bytes and zeros, each with its length in front, literal ones first.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::detect::{self, DetectError};
use super::memory::process::ProcessView;
use super::memory::{Batch, Memory, ProcessMemory, ReadError};
use super::{Interpreter, ScanOptions};
use crate::event::{Pid, PythonFact};

pub use super::recorded::RecordedProcess;

/// What a file begins with; the last byte is the version of the format.
pub const MAGIC: &[u8; 8] = b"concmem\x01";
/// The longest file that is taken, bytes.
pub const MAX_FILE_BYTES: usize = 4 << 20;
/// The most that an image holds, bytes.
const MAX_MEMORY_BYTES: usize = 16 << 20;
/// Zeros up to here stay among the literal bytes.
const SHORT_RUN: usize = 4;

/// Why a file is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("not a memory image of this version")]
    Magic,
    #[error("the image is cut, or too large")]
    Damaged,
    #[error("the image's header: {0}")]
    Header(#[from] serde_json::Error),
}

/// What is known about an image beside its bytes.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Header {
    /// `3.13.0`
    pub version: String,
    /// Address of `_PyRuntime`.
    pub runtime: u64,
    pub process: RecordedProcess,
}

/// Consecutive bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub address: u64,
    pub bytes: Vec<u8>,
}

impl Segment {
    fn end(&self) -> u64 {
        self.address + self.bytes.len() as u64
    }
}

/// A recorded interpreter.
#[derive(Clone, Debug)]
pub struct Image {
    pub header: Header,
    /// In ascending order, without overlaps.
    pub segments: Vec<Segment>,
}

/// Changes what a read brings, as a process that goes on does.
pub trait Tamper: fmt::Debug + Send + Sync {
    /// The image had the first `got` of `bytes` at `address`. Gives how many there are to be.
    fn tamper(&self, address: u64, bytes: &mut [u8], got: usize) -> usize;
}

/// A scan without the instants that it was made at: the same for the same memory.
pub fn timeless(fact: &PythonFact) -> PythonFact {
    let mut fact = fact.clone();
    fact.read_ns = 0;
    for gil in &mut fact.gils {
        gil.read_ns = 0;
    }
    let queues = fact.loops.iter_mut().filter_map(|one| one.queue.as_mut());
    queues.for_each(|queue| queue.read_ns = 0);
    fact
}

impl Image {
    /// Looks at a living interpreter, and keeps what was read. The image holds together only when
    /// the process stands still meanwhile. Gives the scan, too.
    ///
    /// # Errors
    /// As [`Interpreter::attach`]; an interpreter that cannot be read is an error here.
    pub fn record(pid: Pid, options: &ScanOptions) -> Result<(Self, PythonFact), DetectError> {
        let memory = ProcessMemory::new(pid);
        let found = detect::detect(pid, &memory)?;
        let (Some((runtime, _)), Some(version)) = (found.runtime, found.info.version) else {
            let reason = found.info.reason.unwrap_or_default();
            return Err(DetectError::Io(std::io::Error::other(reason)));
        };
        let header = Header {
            version,
            runtime,
            process: RecordedProcess::of(pid),
        };
        let recorder = Arc::new(Recorder {
            inner: memory,
            runs: Mutex::default(),
        });
        let mut interpreter = attach(&header, Arc::clone(&recorder) as Arc<dyn Memory>)?;
        let gils = interpreter.gils();
        let fact = interpreter.scan(0, options);
        gils.map_err(|error| DetectError::Io(std::io::Error::other(error)))?;
        let segments = recorder.segments();
        Ok((Self { header, segments }, fact))
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    pub fn parse(file: &[u8]) -> Result<Self, ImageError> {
        let mut rest = file.strip_prefix(MAGIC).ok_or(ImageError::Magic)?;
        if file.len() > MAX_FILE_BYTES {
            return Err(ImageError::Damaged);
        }
        let rest = &mut rest;
        let len = read_length(rest)?;
        let header = serde_json::from_slice(bytes(rest, len)?)?;
        let count = read_length(rest)?;
        let (mut places, mut end, mut sum) = (Vec::new(), 0u64, 0usize);
        for _ in 0..count {
            let address = end
                .checked_add(read_number(rest)?)
                .ok_or(ImageError::Damaged)?;
            let len = read_length(rest)?;
            end = address.checked_add(len as u64).ok_or(ImageError::Damaged)?;
            sum += len;
            if sum > MAX_MEMORY_BYTES {
                return Err(ImageError::Damaged);
            }
            places.push((address, len));
        }
        let memory = expand(rest, sum)?;
        let mut memory = memory.as_slice();
        let segments = places
            .into_iter()
            .map(|(address, len)| {
                let bytes = bytes(&mut memory, len)?.to_vec();
                Ok(Segment { address, bytes })
            })
            .collect::<Result<_, ImageError>>()?;
        Ok(Self { header, segments })
    }

    /// The image as a file.
    ///
    /// # Errors
    /// When it is larger than [`parse`](Self::parse) takes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ImageError> {
        let header = serde_json::to_vec(&self.header)?;
        let memory: Vec<u8> = self
            .segments
            .iter()
            .flat_map(|segment| segment.bytes.iter().copied())
            .collect();
        let mut file = MAGIC.to_vec();
        write_number(&mut file, header.len() as u64);
        file.extend(&header);
        write_number(&mut file, self.segments.len() as u64);
        let mut end = 0;
        for segment in &self.segments {
            let distance = segment
                .address
                .checked_sub(end)
                .ok_or(ImageError::Damaged)?;
            write_number(&mut file, distance);
            write_number(&mut file, segment.bytes.len() as u64);
            end = segment.end();
        }
        shrink(&memory, &mut file);
        let is_whole = file.len() <= MAX_FILE_BYTES && memory.len() <= MAX_MEMORY_BYTES;
        is_whole.then_some(file).ok_or(ImageError::Damaged)
    }

    /// The interpreter as it was when it was recorded.
    ///
    /// # Errors
    /// When the image holds none that can be read.
    pub fn replay(self, tamper: Option<Box<dyn Tamper>>) -> Result<Interpreter, DetectError> {
        let header = self.header.clone();
        let segments = self.segments;
        attach(&header, Arc::new(ImageMemory { segments, tamper }))
    }
}

fn attach(header: &Header, memory: Arc<dyn Memory>) -> Result<Interpreter, DetectError> {
    let found = detect::detect_again(&*memory, header.runtime, &header.version)?;
    let process = ProcessView::of(Box::new(header.process.clone()));
    Ok(Interpreter::of(
        Pid(header.process.pid),
        found,
        memory,
        process,
    ))
}

fn bytes<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], ImageError> {
    let (taken, after) = rest.split_at_checked(len).ok_or(ImageError::Damaged)?;
    *rest = after;
    Ok(taken)
}

/// Appends `memory` as alternating runs.
fn shrink(memory: &[u8], file: &mut Vec<u8>) {
    let zeros = |from: usize| memory[from..].iter().take_while(|byte| **byte == 0).count();
    let mut at = 0;
    while at < memory.len() {
        let from = at;
        let mut run = zeros(at);
        while at < memory.len() && run <= SHORT_RUN {
            at += run.max(1);
            run = zeros(at.min(memory.len()));
        }
        write_number(file, (at - from) as u64);
        file.extend(&memory[from..at]);
        write_number(file, run as u64);
        at += run;
    }
}

fn write_number(file: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        file.push(number as u8 | 0x80);
        number >>= 7;
    }
    file.push(number as u8);
}

fn expand(rest: &mut &[u8], len: usize) -> Result<Vec<u8>, ImageError> {
    let mut memory = Vec::with_capacity(len);
    while memory.len() < len {
        let literal = read_length(rest)?;
        memory.extend(bytes(rest, literal)?);
        let zeros = read_length(rest)?;
        if memory.len() + zeros > len {
            return Err(ImageError::Damaged);
        }
        memory.resize(memory.len() + zeros, 0);
    }
    let is_whole = memory.len() == len && rest.is_empty();
    is_whole.then_some(memory).ok_or(ImageError::Damaged)
}

fn read_number(rest: &mut &[u8]) -> Result<u64, ImageError> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let byte = bytes(rest, 1)?[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(ImageError::Damaged)
}

/// A length, or a number of things that have one.
fn read_length(rest: &mut &[u8]) -> Result<usize, ImageError> {
    let length = usize::try_from(read_number(rest)?).ok();
    length
        .filter(|length| *length <= MAX_MEMORY_BYTES)
        .ok_or(ImageError::Damaged)
}

/// Memory that keeps what is read of it.
#[derive(Debug)]
struct Recorder {
    inner: ProcessMemory,
    /// By address; they may overlap.
    runs: Mutex<BTreeMap<u64, Vec<u8>>>,
}

impl Memory for Recorder {
    fn read_batch(&self, batch: &mut Batch) -> Result<(), ReadError> {
        self.inner.read_batch(batch)?;
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        for (address, bytes) in batch.areas().filter(|(_, bytes)| !bytes.is_empty()) {
            let known = runs.entry(address).or_default();
            // What is read last holds: a scan reads again what did not fit together.
            let kept = bytes.len().min(known.len());
            known[..kept].copy_from_slice(&bytes[..kept]);
            known.extend(&bytes[kept..]);
        }
        Ok(())
    }
}

impl Recorder {
    /// Everything that was read, without overlaps.
    fn segments(&self) -> Vec<Segment> {
        let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut segments: Vec<Segment> = Vec::new();
        for (address, bytes) in &*runs {
            match segments.last_mut() {
                Some(last) if *address <= last.end() => {
                    let inside = (last.end() - address) as usize;
                    last.bytes.extend(bytes.get(inside..).unwrap_or_default());
                }
                _ => segments.push(Segment {
                    address: *address,
                    bytes: bytes.clone(),
                }),
            }
        }
        segments
    }
}

/// Memory as it was recorded.
#[derive(Debug)]
struct ImageMemory {
    segments: Vec<Segment>,
    tamper: Option<Box<dyn Tamper>>,
}

impl ImageMemory {
    /// How many bytes there are, up to the first that was not recorded.
    fn copy(&self, address: u64, into: &mut [u8]) -> usize {
        let after = self
            .segments
            .partition_point(|segment| segment.address <= address);
        let have = after
            .checked_sub(1)
            .and_then(|index| self.segments.get(index))
            .and_then(|segment| {
                let offset = usize::try_from(address - segment.address).ok()?;
                segment.bytes.get(offset..)
            })
            .unwrap_or_default();
        let got = have.len().min(into.len());
        into[..got].copy_from_slice(&have[..got]);
        match &self.tamper {
            Some(tamper) => tamper.tamper(address, into, got).min(into.len()),
            None => got,
        }
    }
}

impl Memory for ImageMemory {
    fn read_batch(&self, batch: &mut Batch) -> Result<(), ReadError> {
        batch.fill(|address, into| self.copy(address, into));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn image(segments: Vec<Segment>) -> Image {
        Image {
            header: Header {
                version: "3.13.0".to_owned(),
                runtime: 0x1000,
                process: RecordedProcess {
                    pid: 7,
                    stack_limit: Some(8 << 20),
                    tids: BTreeMap::from([(7, 7)]),
                    foreign_ids: false,
                    asyncio_table: None,
                    futexes: BTreeMap::new(),
                },
            },
            segments,
        }
    }

    fn segment(address: u64, bytes: &[u8]) -> Segment {
        Segment {
            address,
            bytes: bytes.to_vec(),
        }
    }

    #[test]
    fn a_file_holds_what_was_put_into_it() {
        let long = [vec![0; 300], vec![7; 300], vec![0; 70_000], vec![1]].concat();
        let segments = vec![
            segment(0x1000, &[1, 0, 0, 2]),
            segment(0x1004, &[]),
            segment(0x2000, &long),
            segment(0x9_0000, &[0; 9]),
        ];
        let file = image(segments.clone()).to_bytes().unwrap();
        assert!(file.len() < 1000, "{}", file.len());
        assert_eq!(Image::parse(&file).unwrap().segments, segments);
    }

    #[test]
    fn damaged_files_are_refused() {
        let file = image(vec![segment(0x1000, &[1; 100]), segment(0x2000, &[0; 100])])
            .to_bytes()
            .unwrap();
        for len in 0..file.len() {
            assert!(Image::parse(&file[..len]).is_err(), "{len}");
        }
        let overlapping = image(vec![segment(0x1000, &[1; 100]), segment(0x1010, &[2; 9])]);
        assert!(overlapping.to_bytes().is_err());
        for at in 0..file.len() {
            for bit in 0..8 {
                let mut file = file.clone();
                file[at] ^= 1 << bit;
                let _ = Image::parse(&file);
            }
        }
    }

    /// A process that dies after so many reads.
    #[derive(Debug)]
    struct Dying {
        memory: ImageMemory,
        left: AtomicUsize,
    }

    impl Memory for Dying {
        fn read_batch(&self, batch: &mut Batch) -> Result<(), ReadError> {
            let one_less = |left: usize| left.checked_sub(1);
            let order = Ordering::Relaxed;
            if self.left.fetch_update(order, order, one_less).is_err() {
                return Err(ReadError::Gone);
            }
            self.memory.read_batch(batch)
        }
    }

    #[test]
    fn a_process_may_die_at_any_read() {
        let file = include_bytes!("../../tests/images/3.12.image");
        let scan = |reads: usize| {
            let image = Image::parse(file).unwrap();
            let memory = Arc::new(Dying {
                memory: ImageMemory {
                    segments: image.segments,
                    tamper: None,
                },
                left: AtomicUsize::new(usize::MAX),
            });
            let mut interpreter = attach(&image.header, memory.clone()).unwrap();
            memory.left.store(reads, Ordering::Relaxed);
            let fact = interpreter.scan(7, &ScanOptions::default());
            (fact, reads - memory.left.load(Ordering::Relaxed))
        };
        let (whole, reads) = scan(1 << 20);
        assert_eq!(whole.reads_failed, 0, "{:?}", whole.limits);
        assert!(reads > 100, "{reads}");
        for reads in (0..reads).step_by(3) {
            let (fact, _) = scan(reads);
            assert!(fact.reads_failed > 0, "after {reads}");
            let gone = ReadError::Gone.to_string();
            let mut reasons = fact.limits.values();
            assert!(reasons.any(|reason| *reason == gone), "after {reads}");
        }
    }

    #[test]
    fn reads_of_an_image_end_where_it_was_not_recorded() {
        let memory = ImageMemory {
            segments: vec![segment(0x1000, &[1, 2, 3]), segment(0x1003, &[4])],
            tamper: None,
        };
        let mut into = [0; 4];
        assert_eq!(memory.copy(0x1001, &mut into), 2);
        assert_eq!(into, [2, 3, 0, 0]);
        for nothing in [0, 0xfff, 0x1004, u64::MAX] {
            assert_eq!(memory.copy(nothing, &mut into), 0, "{nothing:#x}");
        }
    }
}
