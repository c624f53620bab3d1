//! The ring in a file of fixed size, which is whole enough at any instant: it outlives the tool.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::{fd::AsRawFd as _, unix::fs::FileExt as _},
};

use super::{
    encode::Sealed,
    format::{CaptureError, ChunkHead, HEAD_BYTES, Head, Layout, PREAMBLE_BYTES, frame, preamble},
    frames::{Frames, Next},
    header::Header,
};

/// Where the area begins that is written round and round; before it is the header.
const AREA: u64 = 64 << 10;

/// Writes frames round and round.
#[derive(Debug)]
pub struct DiskRing {
    file: File,
    size: u64,
    at: u64,
    number: u32,
}

impl DiskRing {
    /// One in an empty file.
    pub fn new(file: File, size: u64) -> Self {
        Self {
            file,
            size: size.max(2 * AREA),
            at: AREA,
            number: 0,
        }
    }

    /// Takes all the room that it may ever need, behind the header: so it can be read at any instant.
    pub(super) fn begin(&mut self, header: &Header) -> io::Result<()> {
        let body = Header {
            joins: true,
            ..header.clone()
        }
        .bytes();
        let mut bytes = preamble(Layout::Ring).to_vec();
        bytes.extend(Head::of(frame::HEADER, 0, &body).bytes());
        bytes.extend(body);
        if bytes.len() as u64 > AREA {
            return Err(io::Error::other("the header is too long for a ring"));
        }
        self.file.write_all_at(&bytes, 0)?;
        let length = i64::try_from(self.size).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: a system call on an open descriptor.
        match unsafe { libc::posix_fallocate(self.file.as_raw_fd(), 0, length) } {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    pub(super) fn chunk(&mut self, chunk: &Sealed) -> io::Result<()> {
        self.number += 1;
        let head = Head::of(frame::CHUNK, self.number, &chunk.body).bytes();
        let length = (HEAD_BYTES + chunk.body.len()) as u64;
        if length > self.size - AREA {
            // A gap in the numbers: what lies before it is of no use any more.
            return Ok(());
        }
        if self.at + length > self.size {
            self.at = AREA;
        }
        // In one piece: half a frame is seen by its checksum.
        self.file
            .write_all_at(&[&head, &chunk.body[..]].concat(), self.at)?;
        self.at += length;
        Ok(())
    }
}

/// A frame of the area, as it is in the file and in the order of numbers.
#[derive(Clone, Copy, Debug)]
struct Piece {
    head: Head,
    /// Of its body in the file.
    offset: u64,
    key: bool,
    /// Where it begins in what is read.
    at: u64,
}

impl Piece {
    fn bytes(&self) -> u64 {
        HEAD_BYTES as u64 + u64::from(self.head.length)
    }
}

/// A ring file, read as if its frames lay one behind the other.
#[derive(Debug)]
pub(super) struct Straight {
    file: File,
    /// The preamble and the frame of the header.
    beginning: Vec<u8>,
    pieces: Vec<Piece>,
    position: u64,
}

impl Straight {
    pub(super) fn new(mut file: File) -> Result<Self, CaptureError> {
        file.seek(SeekFrom::Start(PREAMBLE_BYTES as u64))?;
        let header = match Frames::new(&mut file).next()? {
            Next::Frame { head, body } if head.kind == frame::HEADER => Header::parse(body)?,
            _ => return Err(CaptureError::Header),
        };
        let mut found = Vec::new();
        file.seek(SeekFrom::Start(AREA))?;
        let mut frames = Frames::new(&mut file);
        loop {
            let before = frames.passed();
            match frames.next()? {
                Next::Frame { head, body } if head.kind == frame::CHUNK => {
                    let Some((chunk, _)) = ChunkHead::parse(body) else {
                        continue;
                    };
                    found.push(Piece {
                        head,
                        offset: AREA + before + HEAD_BYTES as u64,
                        key: chunk.key,
                        at: 0,
                    });
                }
                Next::Frame { .. } | Next::Damage(_) => {}
                Next::End => break,
            }
        }
        found.sort_by_key(|piece| piece.head.number);
        // The newest ones without a gap, from the first tick on.
        let breaks = |pair: &[Piece]| pair[1].head.number != pair[0].head.number.wrapping_add(1);
        let from = found.windows(2).rposition(breaks).map_or(0, |at| at + 1);
        found.drain(..from);
        let whole = found.first().is_some_and(|first| first.head.number == 1);
        if !whole {
            let key = found.iter().position(|piece| piece.key);
            found.drain(..key.unwrap_or(found.len()));
        }
        let header = Header {
            joins: !whole,
            ..header
        }
        .bytes();
        let mut beginning = preamble(Layout::Appended).to_vec();
        beginning.extend(Head::of(frame::HEADER, 0, &header).bytes());
        beginning.extend(header);
        let mut at = beginning.len() as u64;
        for (piece, number) in found.iter_mut().zip(1..) {
            piece.head.number = number;
            piece.at = at;
            at += piece.bytes();
        }
        Ok(Self {
            file,
            beginning,
            pieces: found,
            position: PREAMBLE_BYTES as u64,
        })
    }

    fn piece(&self) -> Option<&Piece> {
        let behind = self.pieces.partition_point(|it| it.at <= self.position);
        let piece = self.pieces.get(behind.checked_sub(1)?)?;
        (self.position < piece.at + piece.bytes()).then_some(piece)
    }
}

impl Read for Straight {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let ahead = usize::try_from(self.position).unwrap_or(usize::MAX);
        let count = if let Some(mut rest) = self.beginning.get(ahead..).filter(|it| !it.is_empty())
        {
            rest.read(into)?
        } else if let Some(piece) = self.piece() {
            let head = piece.head.bytes();
            let inside = (self.position - piece.at) as usize;
            match head.get(inside..).filter(|it| !it.is_empty()) {
                Some(mut rest) => rest.read(into)?,
                None => {
                    let passed = inside - HEAD_BYTES;
                    let most = into.len().min(piece.head.length as usize - passed);
                    let offset = piece.offset + passed as u64;
                    self.file.read_at(&mut into[..most], offset)?
                }
            }
        } else {
            0
        };
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for Straight {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = match to {
            SeekFrom::Start(offset) => offset,
            SeekFrom::Current(by) => self
                .position
                .checked_add_signed(by)
                .ok_or(io::ErrorKind::InvalidInput)?,
            SeekFrom::End(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(self.position)
    }
}
