//! One execution: what is done with which input, all of it from a seed.

use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::FromRawFd as _;
use std::str::FromStr;
use std::sync::Arc;

use concmon::python::image::Image;
use concmon::python::{ScanOptions, fuzz};
use concmon::source::fuzz::{content, contents};

use super::capture;
use super::crafted::Shape;
use super::elf;
use super::mutate::{Racing, Subject};
use super::random::Random;

/// Written as `3.12/77`: the input, and the seed of what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    /// The name of an image, or of a parser.
    pub(crate) input: String,
    pub(crate) seed: u64,
}

pub(crate) const PARSERS: [&str; 7] = [
    "elf", "maps", "tables", "file", "capture", "chunk", "crafted",
];

/// The oldest capture, and one of a program with all that can be told.
const CAPTURES: [&[u8]; 2] = [
    include_bytes!("../../../tests/captures/1.0.concmon"),
    include_bytes!("../../src/demo/misbehave.concmon"),
];

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.input, self.seed)
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split_once('/')
            .and_then(|(input, seed)| {
                Some(Self {
                    input: input.to_owned(),
                    seed: seed.parse().ok()?,
                })
            })
            .ok_or_else(|| format!("`{text}` is not like 3.12/77"))
    }
}

impl Case {
    /// Runs it; whatever goes wrong is for the caller to see.
    pub(crate) fn run(&self, subjects: &[Arc<Subject>]) {
        let mut random = Random::new(self.seed);
        match self.input.as_str() {
            "elf" => elf_file(&mut random),
            "maps" => maps_text(&mut random),
            "tables" => offset_tables(&mut random),
            "file" => image_file(subjects, &mut random),
            "capture" => {
                let file = random.pick(&CAPTURES);
                capture::file(&damaged(file, &mut random));
            }
            "chunk" => chunk(&mut random),
            "crafted" => crafted(&mut random),
            name => {
                if let Some(subject) = subjects.iter().find(|subject| subject.name == name) {
                    look(subject, &mut random);
                }
            }
        }
    }
}

/// A file that asks for much, as it is or damaged.
fn crafted(random: &mut Random) {
    let file = random.pick(&Shape::ALL).file(1 << (8 + random.below(10)));
    if random.one_in(2) {
        capture::file(&file);
    } else {
        capture::file(&damaged(&file, random));
    }
}

/// The content of a chunk, damaged, with a checksum that is right.
fn chunk(random: &mut Random) {
    let file = random.pick(&CAPTURES);
    let whole = contents(file);
    let chunk: &Vec<u8> = random.pick(&whole);
    content(file, &damaged(chunk, random));
}

fn look(subject: &Arc<Subject>, random: &mut Random) {
    let image = subject.mutated(random);
    let racing = Racing::new(Arc::clone(subject), random);
    let Ok(mut interpreter) = image.replay(Some(Box::new(racing))) else {
        return;
    };
    let _ = interpreter.gils();
    // What the first look remembers is another input of the second.
    for at in 0..2 {
        interpreter.scan(at, &ScanOptions::default());
    }
}

/// Bytes with some of them changed, doubled or lost.
fn damaged(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(16) {
        if bytes.is_empty() {
            break;
        }
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = *random.pick(&[0, 0xff, 0x7f, 0x80, b' ', b'-', b'\n']),
            2 => {
                let value = (1u64 << random.below(64)).wrapping_sub(random.below(3) as u64);
                for (into, byte) in bytes[at..].iter_mut().zip(value.to_le_bytes()) {
                    *into = byte;
                }
            }
            3 if random.one_in(4) => bytes.truncate(at),
            4 => {
                let piece = bytes[at..bytes.len().min(at + random.below(64))].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, piece);
            }
            _ => bytes[at] = random.next() as u8,
        }
    }
    bytes
}

fn elf_file(random: &mut Random) {
    let bytes = damaged(&elf::with_interpreter(), random);
    // SAFETY: a system call with a string that ends with a zero; the descriptor that it gives is
    // nobody else's.
    let mut file = unsafe {
        let descriptor = libc::memfd_create(c"fuzz".as_ptr(), libc::MFD_CLOEXEC);
        if descriptor < 0 {
            return;
        }
        File::from_raw_fd(descriptor)
    };
    if file.write_all(&bytes).is_err() {
        return;
    }
    if random.one_in(8) {
        // A hole costs nobody anything, but sections may claim it.
        let _ = file.set_len(1 << 40);
    }
    fuzz::elf_file(&file);
}

const MAPS: &str = "\
55d0c0a00000-55d0c0a01000 r--p 00000000 fe:01 1234                       /usr/bin/python3.12
55d0c0a01000-55d0c0a02000 r-xp 00001000 fe:01 1234                       /usr/bin/python3.12 (deleted)
7f00a000-7f00b000 rw-p 0001c000 fe:01 99                                 /opt/my app/libpython3.13.so.1.0
7f00b000-7f00c000 ---p 00000000 00:00 0 
7ffd0000-7ffe0000 rw-p 00000000 00:00 0                                  [stack]
";

fn maps_text(random: &mut Random) {
    let bytes = damaged(MAPS.as_bytes(), random);
    fuzz::maps_text(&String::from_utf8_lossy(&bytes));
}

fn offset_tables(random: &mut Random) {
    let mut table = b"xdebugpy".to_vec();
    table.extend((0..110).flat_map(|_| {
        let value = random.next() >> random.below(64);
        value.to_le_bytes()
    }));
    for (header, size) in [
        (352, 16),
        (400, 16),
        (464, 16),
        (360, 8),
        (408, 8),
        (472, 8),
    ] {
        table[header..header + 8].copy_from_slice(&u64::to_le_bytes(size));
    }
    fuzz::offset_tables(&damaged(&table, random));
}

fn image_file(subjects: &[Arc<Subject>], random: &mut Random) {
    let subject = random.pick(subjects);
    if let Ok(file) = subject.image.to_bytes() {
        let _ = Image::parse(&damaged(&file, random));
    }
}
