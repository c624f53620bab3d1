//! What the bytes of a capture file are: magic, version, frames.

use std::io::{self, Read};

/// Format version of files: major, minor. A reader refuses a newer major version.
pub const FILE_VERSION: (u16, u16) = (1, 0);

/// What every capture begins with.
pub const MAGIC: [u8; 8] = *b"\x89CONCMON";
/// Magic, major, minor, layout, reserved.
pub(super) const PREAMBLE_BYTES: usize = 16;
/// What a frame begins with; random bytes, so that nothing else looks like it by chance.
pub(super) const SYNC: [u8; 8] = [0xc7, 0x1e, 0x9d, 0x53, 0xb8, 0x06, 0xf2, 0x6b];
/// Sync, type, reserved, number, length, checksum of the body, checksum of the head.
pub(super) const HEAD_BYTES: usize = 28;
/// The longest body.
pub(super) const MAX_BODY_BYTES: usize = 36 << 20;
/// The most that a chunk's content is before compression.
pub(super) const MAX_RAW_BYTES: usize = 34 << 20;
/// A chunk is closed when its content is longer than this,
pub(super) const CHUNK_BYTES: usize = 1 << 20;
/// or when it is older than this, ns.
pub(super) const CHUNK_NS: u64 = 400_000_000;

/// Types of frames.
pub(super) mod frame {
    pub(in crate::capture) const HEADER: u16 = 1;
    pub(in crate::capture) const CHUNK: u16 = 2;
    pub(in crate::capture) const END: u16 = 3;
}

/// How frames lie in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// One behind the other.
    Appended,
    /// The header, then an area that is written round and round: the numbers of frames tell their
    /// order.
    Ring,
}

impl Layout {
    pub(super) fn from_wire(number: u16) -> Option<Self> {
        [Layout::Appended, Layout::Ring]
            .get(usize::from(number))
            .copied()
    }
}

/// Why a file cannot be read as a capture.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is no file: name a capture, or `-` for the standard input")]
    NoFile,
    #[error("a ring is read here and there: save it to a file, and name that")]
    PipedRing,
    #[error(
        "what comes through a pipe does not fit in a temporary file ({0}): save it to a file, and name that, or set TMPDIR"
    )]
    Temporary(io::Error),
    #[error("more than {0} GiB come through a pipe: save it to a file, and name that")]
    Long(u64),
    #[error("the file is empty")]
    Empty,
    #[error("it is no capture: it does not begin as one")]
    NoCapture,
    #[error("it is a capture of format {0}.{1}; this version reads {major} and older; a newer concmon-bpf reads it", major = FILE_VERSION.0)]
    Newer(u16, u16),
    #[error("its records are of wire version {0}; this version reads {wire} and older; a newer concmon-bpf reads it", wire = concmon_ebpf::WIRE_VERSION)]
    NewerWire(u16),
    #[error(
        "it was recorded on {0}, and this program is for {1}: system calls have other numbers there"
    )]
    Architecture(String, &'static str),
    #[error("its header is damaged or missing, so nothing in it can be told")]
    Header,
}

/// Content that contradicts itself although its checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed content")]
pub struct Malformed;

/// The first bytes of a file.
pub(super) fn preamble(layout: Layout) -> [u8; PREAMBLE_BYTES] {
    let mut bytes = [0; PREAMBLE_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..10].copy_from_slice(&FILE_VERSION.0.to_le_bytes());
    bytes[10..12].copy_from_slice(&FILE_VERSION.1.to_le_bytes());
    bytes[12..14].copy_from_slice(&(layout as u16).to_le_bytes());
    bytes
}

/// What the first bytes say.
pub(super) fn parse_preamble(bytes: &[u8]) -> Result<Layout, CaptureError> {
    if bytes.is_empty() {
        return Err(CaptureError::Empty);
    }
    if bytes.len() < PREAMBLE_BYTES || bytes[..8] != MAGIC {
        return Err(CaptureError::NoCapture);
    }
    let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let (major, minor) = (half(8), half(10));
    if major > FILE_VERSION.0 {
        return Err(CaptureError::Newer(major, minor));
    }
    Layout::from_wire(half(12)).ok_or(CaptureError::NoCapture)
}

/// Reads the preamble.
pub(super) fn layout(inner: &mut impl Read) -> Result<Layout, CaptureError> {
    let mut preamble = Vec::new();
    inner
        .take(PREAMBLE_BYTES as u64)
        .read_to_end(&mut preamble)?;
    parse_preamble(&preamble)
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: u16,
    pub(super) number: u32,
    pub(super) length: u32,
    pub(super) body_crc: u32,
}

impl Head {
    pub(super) fn of(kind: u16, number: u32, body: &[u8]) -> Self {
        Self {
            kind,
            number,
            length: u32::try_from(body.len()).unwrap_or(u32::MAX),
            body_crc: crc32fast::hash(body),
        }
    }

    pub(super) fn bytes(self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[..8].copy_from_slice(&SYNC);
        bytes[8..10].copy_from_slice(&self.kind.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.length.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = crc32fast::hash(&bytes[8..24]);
        bytes[24..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `None`: no frame begins here.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEAD_BYTES] = bytes.first_chunk()?;
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        if bytes[..8] != SYNC || crc32fast::hash(&bytes[8..24]) != word(24) {
            return None;
        }
        let head = Self {
            kind: u16::from_le_bytes([bytes[8], bytes[9]]),
            number: word(12),
            length: word(16),
            body_crc: word(20),
        };
        (head.length as usize <= MAX_BODY_BYTES).then_some(head)
    }
}

/// What stands before the compressed content of a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkHead {
    /// Between which instants (`CLOCK_MONOTONIC`, ns) its inputs arrived.
    pub from_ns: u64,
    pub to_ns: u64,
    /// The facts of a tick begin it, so a replay can.
    pub key: bool,
    /// Bytes of the content before compression.
    pub raw_bytes: u32,
    pub inputs: u32,
    /// Records of the kernel among them.
    pub records: u32,
}

impl ChunkHead {
    pub(super) const BYTES: usize = 32;
    const KEY: u32 = 1;

    pub(super) fn bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.from_ns.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.to_ns.to_le_bytes());
        let flags = if self.key { Self::KEY } else { 0 };
        for (at, word) in [flags, self.raw_bytes, self.inputs, self.records]
            .into_iter()
            .enumerate()
        {
            bytes[16 + 4 * at..20 + 4 * at].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The head, and what stands behind it.
    pub(super) fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = bytes.split_first_chunk::<{ Self::BYTES }>()?;
        let long = |at: usize| Some(u64::from_le_bytes(*head[at..].first_chunk()?));
        let word = |at: usize| Some(u32::from_le_bytes(*head[at..].first_chunk()?));
        let parsed = Self {
            from_ns: long(0)?,
            to_ns: long(8)?,
            key: word(16)? & Self::KEY != 0,
            raw_bytes: word(20)?,
            inputs: word(24)?,
            records: word(28)?,
        };
        (parsed.raw_bytes as usize <= MAX_RAW_BYTES).then_some((parsed, rest))
    }
}
