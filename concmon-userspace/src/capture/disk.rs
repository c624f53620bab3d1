//! The ring in a file of fixed size, which is whole enough at any instant: it outlives the tool.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    os::{fd::AsRawFd as _, unix::fs::FileExt as _},
};

use super::{
    encode::Sealed,
    format::{CaptureError, ChunkHead, HEAD_BYTES, Head, Layout, PREAMBLE_BYTES, frame, preamble},
    frames::{Frames, Next},
    header::Header,
    write::{FileStore, Store as _},
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

/// A frame in the area.
struct Found {
    number: u32,
    offset: u64,
    length: usize,
    key: bool,
}

/// Puts the frames of a ring file in order: gives a file of the usual layout, which has no name.
pub(super) fn straighten(file: &mut File) -> Result<File, CaptureError> {
    file.seek(SeekFrom::Start(PREAMBLE_BYTES as u64))?;
    let header = match Frames::new(&mut *file).next()? {
        Next::Frame { head, body } if head.kind == frame::HEADER => Header::parse(body)?,
        _ => return Err(CaptureError::Header),
    };
    let mut found = Vec::new();
    file.seek(SeekFrom::Start(AREA))?;
    let mut frames = Frames::new(&mut *file);
    loop {
        let before = frames.passed();
        match frames.next()? {
            Next::Frame { head, body } if head.kind == frame::CHUNK => found.push(Found {
                number: head.number,
                offset: AREA + before + HEAD_BYTES as u64,
                length: body.len(),
                key: ChunkHead::parse(body).is_some_and(|(chunk, _)| chunk.key),
            }),
            Next::Frame { .. } | Next::Damage(_) => {}
            Next::End => break,
        }
    }
    found.sort_by_key(|frame| frame.number);
    // The newest ones without a gap, from the first tick on.
    let breaks = |pair: &[Found]| pair[1].number != pair[0].number.wrapping_add(1);
    let from = found.windows(2).rposition(breaks).map_or(0, |at| at + 1);
    let newest = &found[from..];
    let whole = newest.first().is_some_and(|first| first.number == 1);
    let key = newest.iter().position(|frame| frame.key);
    let from = if whole { Some(0) } else { key };

    let straight = tempfile::tempfile()?;
    let mut store = FileStore::new(straight.try_clone()?);
    store.begin(&Header {
        joins: !whole,
        ..header
    })?;
    for frame in &newest[from.unwrap_or(newest.len())..] {
        let mut body = vec![0; frame.length];
        file.read_exact_at(&mut body, frame.offset)?;
        let Some((head, _)) = ChunkHead::parse(&body) else {
            continue;
        };
        store.chunk(Sealed { head, body })?;
    }
    let mut straight = straight;
    straight.seek(SeekFrom::Start(0))?;
    straight.by_ref().read_exact(&mut [0; PREAMBLE_BYTES])?;
    Ok(straight)
}
