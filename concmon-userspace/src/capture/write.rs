//! Inputs to chunks, and chunks to where they are kept.

use std::fs::File;
use std::io::{self, Write as _};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::{
    Input,
    encode::{Encoder, Sealed},
    format::{CHUNK_NS, Head, Layout, frame, preamble},
    header::Header,
    read::EndBody,
};

/// Where chunks are kept.
pub trait Store: std::fmt::Debug {
    /// The first thing there is.
    ///
    /// # Errors
    /// Why it cannot be kept; what was kept before stays whole.
    fn begin(&mut self, header: &Header) -> io::Result<()>;
    /// The next chunk.
    ///
    /// # Errors
    /// As for [`Store::begin`].
    fn chunk(&mut self, chunk: Sealed) -> io::Result<()>;
    /// The recording is over, and whole.
    ///
    /// # Errors
    /// As for [`Store::begin`].
    fn end(&mut self, at_ns: u64) -> io::Result<()>;
    /// Bytes that were kept so far.
    fn bytes(&self) -> u64;
}

/// What a pipe takes without waiting, once it takes anything (pipe(7), `PIPE_BUF`), bytes.
const STREAM_BYTES: usize = 4_096;
/// How long a reader may take nothing.
const PATIENCE: Timespec = Timespec {
    tv_sec: 2,
    tv_nsec: 0,
};

/// Where the bytes of a capture go, one after the other.
pub trait Target: std::fmt::Debug {
    /// Takes all of these bytes, or none of them; so many of the capture are there already.
    ///
    /// # Errors
    /// Why it took none.
    fn append(&mut self, bytes: &[u8], behind: u64) -> io::Result<()>;
}

/// A file that grows.
#[derive(Debug)]
pub struct Growing {
    file: File,
    /// Somebody must read what is written.
    is_stream: bool,
    /// What is before it in the file: somebody may have handed over one to append to.
    before: u64,
}

impl Target for Growing {
    fn append(&mut self, bytes: &[u8], behind: u64) -> io::Result<()> {
        let written = match self.is_stream {
            true => bytes
                .chunks(STREAM_BYTES)
                .try_for_each(|piece| write_to_reader(&self.file, piece)),
            false => self.file.write_all(bytes),
        };
        if written.is_err() {
            // Half a frame is of no use. Where the end cannot be cut, a reader will find it.
            let _ = self.file.set_len(self.before + behind);
        }
        written
    }
}

/// In memory; whoever makes it knows how long it gets.
impl Target for Vec<u8> {
    fn append(&mut self, bytes: &[u8], _behind: u64) -> io::Result<()> {
        self.try_reserve_exact(bytes.len())
            .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        self.extend_from_slice(bytes);
        Ok(())
    }
}

/// A capture that grows.
#[derive(Debug)]
pub struct Appended<T> {
    target: T,
    bytes: u64,
    number: u32,
}

/// One in a file.
pub type FileStore = Appended<Growing>;

impl FileStore {
    /// A new file; or one that was handed over, to be written from where it stands.
    pub fn new(file: File) -> Self {
        Self::to(Growing {
            is_stream: file.metadata().is_ok_and(|file| !file.is_file()),
            before: file.metadata().map_or(0, |file| file.len()),
            file,
        })
    }
}

impl<T: Target> Appended<T> {
    pub(super) const fn to(target: T) -> Self {
        Self {
            target,
            bytes: 0,
            number: 0,
        }
    }

    pub(super) fn into_target(self) -> T {
        self.target
    }

    fn frame(&mut self, kind: u16, body: &[u8]) -> io::Result<()> {
        self.frame_behind(Vec::new(), kind, body)
    }

    /// Writes a frame and what stands before it at once: who is killed leaves both of them, or neither.
    fn frame_behind(&mut self, mut bytes: Vec<u8>, kind: u16, body: &[u8]) -> io::Result<()> {
        bytes.extend_from_slice(&Head::of(kind, self.number, body).bytes());
        bytes.extend_from_slice(body);
        self.target.append(&bytes, self.bytes)?;
        self.bytes += bytes.len() as u64;
        self.number += 1;
        Ok(())
    }
}

/// Writes as much as a stream takes at once, when it takes any.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`]: nobody has read for as long as [`PATIENCE`].
fn write_to_reader(mut file: &File, mut piece: &[u8]) -> io::Result<()> {
    while !piece.is_empty() {
        match poll(&mut [PollFd::new(file, PollFlags::OUT)], Some(&PATIENCE)) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody reads it")),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        match file.write(piece) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(bytes) => piece = &piece[bytes..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl<T: Target> Store for Appended<T> {
    fn begin(&mut self, header: &Header) -> io::Result<()> {
        let before = preamble(Layout::Appended).to_vec();
        self.frame_behind(before, frame::HEADER, &header.bytes())
    }

    fn chunk(&mut self, chunk: Sealed) -> io::Result<()> {
        self.frame(frame::CHUNK, &chunk.body)
    }

    fn end(&mut self, at_ns: u64) -> io::Result<()> {
        let body = rmp_serde::to_vec_named(&EndBody { at_ns }).unwrap_or_default();
        self.frame(frame::END, &body)
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Takes the inputs of a watch in.
#[derive(Debug)]
pub struct Recorder {
    encoder: Encoder,
    store: Box<dyn Store>,
    /// When the chunk was begun, and the latest instant there was, ns.
    from_ns: u64,
    now_ns: u64,
    /// The facts of a tick begin the chunk.
    key: bool,
    failure: Option<io::Error>,
}

impl Recorder {
    /// Begins a recording.
    pub fn new(mut store: Box<dyn Store>, header: &Header) -> Self {
        let failure = store.begin(header).err();
        let start_ns = header.info.start_ns;
        Self {
            encoder: Encoder::default(),
            store,
            from_ns: start_ns,
            now_ns: start_ns,
            key: false,
            failure,
        }
    }

    /// Takes one input in.
    pub fn input(&mut self, input: &Input) {
        if self.failure.is_some() {
            return;
        }
        self.encoder.put(input);
        if self.encoder.is_full() {
            self.seal();
        }
    }

    /// What comes next arrives at this instant.
    pub fn now(&mut self, now_ns: u64) {
        self.now_ns = self.now_ns.max(now_ns);
        if self.now_ns.saturating_sub(self.from_ns) >= CHUNK_NS {
            self.seal();
        }
    }

    /// The facts of a tick come next: a replay can begin with them.
    pub fn key(&mut self, now_ns: u64) {
        self.now_ns = self.now_ns.max(now_ns);
        self.seal();
        self.key = true;
    }

    /// Ends the recording.
    ///
    /// # Errors
    /// Why not all was kept.
    pub fn finish(mut self) -> io::Result<u64> {
        self.seal();
        match self.failure {
            Some(error) => Err(error),
            None => {
                self.store.end(self.now_ns)?;
                Ok(self.store.bytes())
            }
        }
    }

    /// Why nothing is kept any more; what was kept before is whole.
    pub fn failure(&self) -> Option<&io::Error> {
        self.failure.as_ref()
    }

    /// Bytes that were kept so far.
    pub fn bytes(&self) -> u64 {
        self.store.bytes()
    }

    /// Keeps what was taken in so far, where that would wait for more.
    pub fn seal(&mut self) {
        if !self.encoder.is_empty() && self.failure.is_none() {
            let chunk = self.encoder.seal(self.from_ns, self.now_ns, self.key);
            self.failure = self.store.chunk(chunk).err();
            self.key = false;
        }
        self.from_ns = self.now_ns;
    }
}
