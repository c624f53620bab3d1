//! Captures as they lie in files: what is whole is read, what is not is told.

use std::{
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{
    chunk::Chunk,
    format::{CaptureError, HEAD_BYTES, Layout, frame, layout},
    frames::{Frames, Next},
    header::Header,
    input::Input,
    outline::{Key, Outline},
};

/// A stretch of time of which inputs are missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gap {
    /// `CLOCK_MONOTONIC`, ns.
    pub from_ns: u64,
    /// `None`: nothing whole comes behind it.
    pub to_ns: Option<u64>,
    /// Frames that are missing; 0 where that cannot be told.
    pub frames: u64,
    /// Bytes that belong to no whole frame.
    pub bytes: u64,
}

/// What comes next in a capture.
#[derive(Debug)]
pub enum Item {
    Chunk(Chunk),
    /// Before the next chunk, or at the end, something is missing.
    Gap(Gap),
    /// The recording was ended, and is whole up to here.
    End,
}

/// The body of the last frame.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct EndBody {
    pub(super) at_ns: u64,
}

/// Reads a capture from the front, one chunk at a time.
#[derive(Debug)]
pub struct Reader<R> {
    frames: Frames<R>,
    header: Header,
    /// The frame that is expected next.
    number: u32,
    until_ns: u64,
    gap: Option<Gap>,
    /// What comes behind a gap.
    held: Option<Item>,
    unknown_frames: u64,
    done: bool,
}

impl Reader<Input> {
    /// Opens a capture file, to be read from the front.
    ///
    /// # Errors
    /// [`CaptureError`], when nothing in it can be used.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        Self::behind_preamble(Input::open(path, false)?, true)
    }

    /// Opens a capture file, to be read here and there.
    ///
    /// # Errors
    /// As for [`Reader::open`].
    pub fn open_anywhere(path: &Path) -> Result<Self, CaptureError> {
        Self::behind_preamble(Input::open(path, true)?, true)
    }
}

impl<R: Read + Seek> Reader<R> {
    /// Where the ticks are. Only to be asked before anything was read.
    ///
    /// # Errors
    /// Those of reading.
    pub fn outline(&mut self) -> io::Result<Outline> {
        let file = self.frames.inner();
        let at = file.stream_position()?;
        let outline = Outline::read(file);
        file.seek(SeekFrom::Start(at))?;
        outline
    }

    /// Goes on with the facts of a tick.
    ///
    /// # Errors
    /// Those of reading.
    pub fn skip_to(&mut self, key: Key) -> io::Result<()> {
        self.frames.seek(key.offset)?;
        self.number = key.number;
        self.until_ns = key.at_ns;
        (self.gap, self.held) = (None, None);
        Ok(())
    }
}

impl<R: Read> Reader<R> {
    /// A capture from anything that gives bytes.
    ///
    /// # Errors
    /// [`CaptureError`], when nothing in it can be used.
    pub fn new(mut inner: R) -> Result<Self, CaptureError> {
        match layout(&mut inner)? {
            Layout::Appended => Self::behind_preamble(inner, true),
            // It is read here and there.
            Layout::Ring => Err(CaptureError::NoCapture),
        }
    }

    /// A capture that this program brings along, whatever architecture it was made on. What is told
    /// by system calls is told for that one.
    ///
    /// # Errors
    /// As for [`Reader::new`].
    pub fn embedded(mut inner: R) -> Result<Self, CaptureError> {
        layout(&mut inner)?;
        Self::behind_preamble(inner, false)
    }

    fn behind_preamble(inner: R, check: bool) -> Result<Self, CaptureError> {
        let mut frames = Frames::new(inner);
        let header = match frames.next()? {
            Next::Frame { head, body } if head.kind == frame::HEADER => Header::parse(body)?,
            // Without what it was about, nothing that follows can be told.
            Next::Frame { .. } | Next::Damage(_) | Next::End => return Err(CaptureError::Header),
        };
        let header = match check {
            true => header.check_architecture()?,
            false => header,
        };
        Ok(Self {
            frames,
            until_ns: header.info.start_ns,
            header,
            number: 1,
            gap: None,
            held: None,
            unknown_frames: 0,
            done: false,
        })
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Frames of a kind that this version does not know.
    pub fn unknown_frames(&self) -> u64 {
        self.unknown_frames
    }

    /// What comes next; `None` behind the last.
    ///
    /// # Errors
    /// Those of reading; damage is none.
    pub fn item(&mut self) -> io::Result<Option<Item>> {
        if let Some(held) = self.held.take() {
            return Ok(Some(held));
        }
        while !self.done {
            let (head, body) = match self.frames.next()? {
                Next::Frame { head, body } => (head, body),
                Next::Damage(bytes) => {
                    self.gap.get_or_insert_default().bytes += bytes;
                    continue;
                }
                Next::End => {
                    self.done = true;
                    let gap = self.gap.take().unwrap_or_default();
                    return Ok(Some(Item::Gap(Gap {
                        from_ns: self.until_ns,
                        ..gap
                    })));
                }
            };
            let bytes = (HEAD_BYTES + body.len()) as u64;
            let Some(missing) = head.number.checked_sub(self.number) else {
                // It was there already.
                self.gap.get_or_insert_default().bytes += bytes;
                continue;
            };
            self.number = head.number.saturating_add(1);
            if missing > 0 {
                self.gap.get_or_insert_default().frames += u64::from(missing);
            }
            match head.kind {
                frame::CHUNK => match Chunk::parse(body) {
                    Ok(chunk) if chunk.inputs().is_ok() => {
                        let (from_ns, to_ns) = (chunk.head.from_ns, chunk.head.to_ns);
                        let item = self.after_gap(Some(from_ns), Item::Chunk(chunk));
                        self.until_ns = self.until_ns.max(to_ns);
                        return Ok(Some(item));
                    }
                    _ => {
                        let gap = self.gap.get_or_insert_default();
                        gap.frames += 1;
                        gap.bytes += bytes;
                    }
                },
                frame::END => {
                    self.done = true;
                    let end: Option<EndBody> = rmp_serde::from_slice(body).ok();
                    let at_ns = end.map(|end| end.at_ns);
                    return Ok(Some(self.after_gap(at_ns, Item::End)));
                }
                frame::HEADER => {}
                _ => self.unknown_frames += 1,
            }
        }
        Ok(None)
    }

    /// The gap before an item that begins at `to_ns`, where there is one, and the item behind it.
    fn after_gap(&mut self, to_ns: Option<u64>, item: Item) -> Item {
        let Some(gap) = self.gap.take() else {
            return item;
        };
        self.held = Some(item);
        Item::Gap(Gap {
            from_ns: self.until_ns,
            to_ns: to_ns.map(|to_ns| to_ns.max(self.until_ns)),
            ..gap
        })
    }
}
