//! What is done to an image before it is looked at, and to what is read of it.

use std::sync::{Mutex, PoisonError};

use concmon::python::image::{Image, Tamper};

use super::random::{Random, mix};

/// An image, and the reads that a look at it makes: there mutations matter.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) image: Image,
    /// Address and length of each read.
    pub(crate) reads: Vec<(u64, usize)>,
    /// Words of the image that are addresses in it.
    pointers: Vec<u64>,
}

/// Keeps where reads are made.
#[derive(Debug, Default, Clone)]
struct Trace(std::sync::Arc<Mutex<Vec<(u64, usize)>>>);

impl Tamper for Trace {
    fn tamper(&self, address: u64, bytes: &mut [u8], got: usize) -> usize {
        if !bytes.is_empty() {
            let mut reads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            reads.push((address, bytes.len()));
        }
        got
    }
}

impl Subject {
    pub(crate) fn new(name: String, image: Image) -> Self {
        let trace = Trace::default();
        if let Ok(mut interpreter) = image.clone().replay(Some(Box::new(trace.clone()))) {
            let _ = interpreter.gils();
            interpreter.scan(0, &concmon::python::ScanOptions::default());
        }
        let reads = std::mem::take(&mut *trace.0.lock().unwrap_or_else(PoisonError::into_inner));
        let is_inside = |value: u64| segment_of(&image, value).is_some();
        let mut pointers: Vec<u64> = image
            .segments
            .iter()
            .flat_map(|segment| segment.bytes.chunks_exact(8))
            .map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap_or_default()))
            .filter(|value| is_inside(*value))
            .collect();
        pointers.sort_unstable();
        pointers.dedup();
        Self {
            name,
            image,
            reads,
            pointers,
        }
    }

    /// A copy of the image with some things wrong in it.
    pub(crate) fn mutated(&self, random: &mut Random) -> Image {
        let mut image = self.image.clone();
        let most = 1 << random.below(8);
        for _ in 0..random.below(most + 1) {
            let (address, len) = *random.pick(&self.reads);
            let Some(index) = segment_of(&image, address) else {
                continue;
            };
            if random.one_in(16) {
                cut(&mut image, index, address, random);
                continue;
            }
            let other = self.bytes_at_another_read(random);
            let segment = &mut image.segments[index];
            let from = (address - segment.address) as usize;
            let to = segment.bytes.len().min(from + len);
            if let Some(bytes) = segment.bytes.get_mut(from..to) {
                self.mutate(address, bytes, &other, random);
            }
        }
        image
    }

    fn bytes_at_another_read(&self, random: &mut Random) -> Vec<u8> {
        let (address, _) = *random.pick(&self.reads);
        segment_of(&self.image, address)
            .map(|index| &self.image.segments[index])
            .and_then(|segment| segment.bytes.get((address - segment.address) as usize..))
            .map(|bytes| bytes[..bytes.len().min(64)].to_vec())
            .unwrap_or_default()
    }

    /// One thing wrong in what lies at `address`. `other` is what lies somewhere else.
    fn mutate(&self, address: u64, bytes: &mut [u8], other: &[u8], random: &mut Random) {
        if bytes.is_empty() {
            return;
        }
        let word = random.below(bytes.len().div_ceil(8)) * 8;
        match random.below(12) {
            0 | 1 => {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
            2 | 3 => put(bytes, word, *random.pick(&self.pointers)),
            4 => put(bytes, word, odd_number(random)),
            // A count that is far too high.
            9 | 10 => {
                let small = bytes.chunks(8).enumerate().filter(|(_, chunk)| {
                    chunk.len() == 8 && chunk[2..] == [0; 6] && chunk[..2] != [0; 2]
                });
                let small: Vec<usize> = small.map(|(index, _)| index * 8).collect();
                if !small.is_empty() {
                    let count = (1 << random.below(25)) + random.below(1000) as u64;
                    put(bytes, *random.pick(&small), count);
                }
            }
            // A cycle of one, or to a neighbour.
            5 => put(
                bytes,
                word,
                address.wrapping_add(random.below(3) as u64 * 8),
            ),
            // Another object's type.
            6 => {
                if let Some(class) = other.get(8..16).filter(|_| bytes.len() >= 16) {
                    bytes[8..16].copy_from_slice(class);
                }
            }
            7 => {
                let len = other.len().min(bytes.len());
                bytes[..len].copy_from_slice(&other[..len]);
            }
            8 => {
                let at = random.below(bytes.len());
                let to = bytes.len().min(at + 1 + random.below(32));
                bytes[at..to].fill(if random.one_in(2) { 0 } else { 0xff });
            }
            _ => {
                let at = random.below(bytes.len());
                bytes[at] = bytes[at]
                    .wrapping_mul(2)
                    .wrapping_add(random.below(3) as u8);
            }
        }
    }
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    for (into, byte) in bytes.iter_mut().skip(at).zip(value.to_le_bytes()) {
        *into = byte;
    }
}

/// Numbers at the edges of what sizes can be.
fn odd_number(random: &mut Random) -> u64 {
    let power = 1u64 << random.below(64);
    match random.below(5) {
        0 => power,
        1 => power - 1,
        2 => power + 1,
        3 => 0u64.wrapping_sub(power),
        _ => random.below(70_000) as u64,
    }
}

/// A segment ends early, or is not there.
fn cut(image: &mut Image, index: usize, address: u64, random: &mut Random) {
    let segment = &mut image.segments[index];
    let keep = if random.one_in(4) {
        0
    } else {
        (address - segment.address) as usize + random.below(64)
    };
    segment.bytes.truncate(keep);
}

fn segment_of(image: &Image, address: u64) -> Option<usize> {
    let after = image
        .segments
        .partition_point(|segment| segment.address <= address);
    let index = after.checked_sub(1)?;
    let segment = &image.segments[index];
    (address - segment.address < segment.bytes.len() as u64).then_some(index)
}

/// A process that goes on while it is read: what is read twice need not be the same.
#[derive(Debug)]
pub(crate) struct Racing {
    subject: std::sync::Arc<Subject>,
    /// One read in so many is changed; 0: none.
    changed: usize,
    /// Where nothing was recorded, there is something all the same.
    filled: bool,
    seed: u64,
    random: Mutex<Random>,
}

impl Racing {
    pub(crate) fn new(subject: std::sync::Arc<Subject>, random: &mut Random) -> Self {
        Self {
            subject,
            changed: *random.pick(&[0, 0, 4, 16, 64, 256, 1024]),
            filled: random.one_in(3),
            seed: random.next(),
            random: Mutex::new(random.clone()),
        }
    }

    /// The word at an address where nothing was recorded: zero, a small number, or the address of
    /// something that is there.
    fn filling(&self, address: u64) -> u64 {
        let hash = mix(self.seed ^ (address & !7));
        let pointers = &self.subject.pointers;
        match hash % 8 {
            0 => 0,
            1 => (hash >> 8) % 100,
            2 => hash,
            _ => pointers
                .get((hash >> 8) as usize % pointers.len().max(1))
                .copied()
                .unwrap_or(0),
        }
    }
}

impl Tamper for Racing {
    fn tamper(&self, address: u64, bytes: &mut [u8], got: usize) -> usize {
        let mut got = got;
        if self.filled {
            while got < bytes.len() {
                let at = address.wrapping_add(got as u64);
                let word = self.filling(at).to_le_bytes();
                let inside = (at % 8) as usize;
                let len = (8 - inside).min(bytes.len() - got);
                bytes[got..got + len].copy_from_slice(&word[inside..inside + len]);
                got += len;
            }
        }
        if self.changed > 0 && got > 0 {
            let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
            if random.one_in(self.changed) {
                let other = self.subject.bytes_at_another_read(&mut random);
                self.subject
                    .mutate(address, &mut bytes[..got], &other, &mut random);
            }
        }
        got
    }
}
