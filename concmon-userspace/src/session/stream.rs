//! Standard output and standard error where nobody may read: a thread writes, and what waits is bounded.
//!
//! A write to a pipe or terminal that nobody reads never returns, so none is done where signals, records
//! and children are waited for.

use std::{
    collections::VecDeque,
    fmt,
    fs::File,
    io::{self, IsTerminal as _, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::ioctl_fionread,
};

use super::privileges;
use crate::views::escape::{escape, is_hostile};

/// How long a reader may take nothing once the tool is to end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// How often progress is looked for.
pub(crate) const GLANCE: Duration = Duration::from_millis(20);
/// What may wait. One report more may come on top, so that a large one has its turn, too.
const MAX_PIECES: usize = 8;
const MAX_BYTES: usize = 1 << 20;
/// Reports that wait to be made: how long they will be is not known.
const MAX_UNMADE: usize = 2;
/// Written at a time: progress shows in such steps.
const CHUNK: usize = 4_096;
/// How long a message waits to be written, so that messages and reports keep their order on a terminal.
const MOMENT: Duration = Duration::from_millis(50);

/// What a piece of output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A window.
    Report,
    /// As many lines about stalls.
    Stalls(usize),
    Summary,
    /// A part of the live view, or a message: nothing that would be missed by name.
    Other,
}

/// What was not written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dropped {
    reports: usize,
    stalls: usize,
    summary: bool,
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count: usize, one: &str, many: &str| match count {
            0 => None,
            1 => Some(format!("1 {one}")),
            count => Some(format!("{count} {many}")),
        };
        let parts: Vec<String> = [
            plural(self.reports, "report", "reports"),
            plural(self.stalls, "stall", "stalls"),
            self.summary.then(|| "the summary".to_owned()),
        ]
        .into_iter()
        .flatten()
        .collect();
        let many = self.reports + self.stalls + usize::from(self.summary) > 1;
        match parts.split_last() {
            None => f.write_str("output")?,
            Some((last, [])) => f.write_str(last)?,
            Some((last, before)) => write!(f, "{} and {last}", before.join(", "))?,
        }
        f.write_str(if many {
            " were dropped"
        } else {
            " was dropped"
        })
    }
}

/// Makes a text.
type Maker = Box<dyn FnOnce() -> io::Result<Vec<u8>> + Send>;

struct Piece {
    kind: Kind,
    /// Taken away while it is being written.
    text: Option<Maker>,
    /// What it counts as, as long as it waits.
    bytes: usize,
    /// These are a guess.
    unmade: bool,
}

#[derive(Default)]
struct State {
    /// The first is being written.
    waiting: VecDeque<Piece>,
    bytes: usize,
    /// How long the last report was.
    report: usize,
    written: u64,
    /// The error number with which writing ended.
    failed: Option<i32>,
    /// Nothing is written any more.
    given_up: bool,
}

struct Shared {
    file: File,
    terminal: bool,
    /// An ordinary file: it needs no reader.
    ordinary: bool,
    state: Mutex<State>,
    changed: Condvar,
}

/// An output that a thread of its own writes. Clones share it.
#[derive(Clone)]
pub(crate) struct Stream(Arc<Shared>);

impl Stream {
    /// Starts the thread that writes to `file`.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(crate) fn new(file: File, name: &str) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            terminal: file.is_terminal(),
            ordinary: file.metadata().is_ok_and(|data| data.is_file()),
            file,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let own = Arc::clone(&shared);
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                privileges::give_up_all();
                own.write();
            })?;
        Ok(Self(shared))
    }

    /// Hands over a piece, which is written as a whole behind what waits.
    ///
    /// # Errors
    /// With which writing has failed before. That nobody reads any more is
    /// [`io::ErrorKind::BrokenPipe`], of a terminal that is gone, too.
    pub(crate) fn send(&self, kind: Kind, text: Vec<u8>) -> io::Result<()> {
        match text.len() {
            0 => self.check(),
            bytes => self.push(kind, Some(bytes), Box::new(|| Ok(text))),
        }
    }

    /// The same for a piece that is made when it is its turn, by the thread that writes. An error of making it ends
    /// writing as one of the output does.
    ///
    /// # Errors
    /// As for [`Self::send`].
    pub(crate) fn send_later(
        &self,
        kind: Kind,
        make: impl FnOnce() -> io::Result<Vec<u8>> + Send + 'static,
    ) -> io::Result<()> {
        self.push(kind, None, Box::new(make))
    }

    /// `bytes`; `None`: as many as the last report had.
    fn push(&self, kind: Kind, bytes: Option<usize>, text: Maker) -> io::Result<()> {
        self.check()?;
        let mut state = self.0.state();
        if !state.given_up {
            let unmade = bytes.is_none();
            let bytes = bytes.unwrap_or(state.report);
            state.bytes += bytes;
            state.waiting.push_back(Piece {
                kind,
                text: Some(text),
                bytes,
                unmade,
            });
            self.0.changed.notify_all();
        }
        Ok(())
    }

    /// The error with which writing has failed, if it has.
    pub(crate) fn check(&self) -> io::Result<()> {
        match self.0.state().failed {
            Some(number) => Err(io::Error::from_raw_os_error(number)),
            None => Ok(()),
        }
    }

    /// Whether more may be handed over: less waits than the bound, or nothing will ever be written.
    pub(crate) fn has_room(&self) -> bool {
        let state = self.0.state();
        let is_unmade = |piece: &&Piece| piece.unmade && piece.text.is_some();
        let unmade = state.waiting.iter().filter(is_unmade).count();
        let room = state.waiting.len() < MAX_PIECES && unmade < MAX_UNMADE;
        state.over() || (room && state.bytes < MAX_BYTES)
    }

    /// Whether everything is written that ever will be.
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.0.state();
        state.over() || state.waiting.is_empty()
    }

    /// How much was written and read: it changes as long as somebody reads.
    pub(crate) fn progress(&self) -> u64 {
        // Of a terminal, this is what was typed.
        let unread = match self.0.terminal {
            true => 0,
            false => ioctl_fionread(&self.0.file).unwrap_or(0),
        };
        self.0.state().written.wrapping_sub(unread)
    }

    /// Waits until all is written, or nobody has read for as long as [`PATIENCE`].
    pub(crate) fn drain(&self) {
        let mut reader = Reader::new(self);
        while !self.is_idle() && !reader.is_gone(self) {
            thread::sleep(GLANCE);
        }
    }

    /// Drops what was not written, and says what that was.
    pub(crate) fn give_up(&self) -> Dropped {
        let mut state = self.0.state();
        state.given_up = true;
        state.bytes = 0;
        let mut dropped = Dropped::default();
        for piece in state.waiting.drain(..) {
            match piece.kind {
                Kind::Report => dropped.reports += 1,
                Kind::Stalls(count) => dropped.stalls += count,
                Kind::Summary => dropped.summary = true,
                Kind::Other => {}
            }
        }
        dropped
    }
}

impl State {
    const fn over(&self) -> bool {
        self.given_up || self.failed.is_some()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: writes what comes until that fails.
    fn write(&self) {
        let _ending = Ending(self);
        loop {
            let mut state = self.state();
            let (kind, make) = loop {
                if state.over() {
                    return;
                }
                if let Some(piece) = state.waiting.front_mut()
                    && let Some(make) = piece.text.take()
                {
                    break (piece.kind, make);
                }
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            };
            drop(state);
            let text = match make() {
                Ok(text) => text,
                Err(error) => return self.fail(&error),
            };
            if kind == Kind::Report {
                self.state().report = text.len();
            }
            for chunk in text.chunks(CHUNK) {
                if let Err(error) = self.write_chunk(chunk) {
                    return self.fail(&error);
                }
                let mut state = self.state();
                state.written += chunk.len() as u64;
                if state.over() {
                    return;
                }
            }
            let mut state = self.state();
            if let Some(piece) = state.waiting.pop_front() {
                state.bytes = state.bytes.saturating_sub(piece.bytes);
            }
            self.changed.notify_all();
        }
    }

    fn write_chunk(&self, mut chunk: &[u8]) -> io::Result<()> {
        let mut file = &self.file;
        while !chunk.is_empty() {
            match file.write(chunk) {
                Ok(0) => return Err(io::Error::from_raw_os_error(libc::EIO)),
                Ok(bytes) => chunk = &chunk[bytes..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Somebody who shares the stream does not wait for it; here, somebody does.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let _ = poll(&mut [PollFd::new(&self.file, PollFlags::OUT)], None);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn fail(&self, error: &io::Error) {
        self.state().failed = Some(self.reason(error));
        self.changed.notify_all();
    }

    fn reason(&self, error: &io::Error) -> i32 {
        match error.raw_os_error() {
            // What a terminal says that has hung up.
            Some(libc::EIO) if self.terminal => libc::EPIPE,
            Some(number) => number,
            None => libc::EIO,
        }
    }
}

/// Whoever waits for a thread that has panicked while it made a text would wait for ever.
struct Ending<'a>(&'a Shared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.state().failed = Some(libc::EIO);
            self.0.changed.notify_all();
        }
    }
}

/// Whoever reads a stream, while its end is waited for.
#[derive(Debug)]
pub(crate) struct Reader {
    progress: u64,
    since: Instant,
}

impl Reader {
    pub(crate) fn new(stream: &Stream) -> Self {
        Self {
            progress: stream.progress(),
            since: Instant::now(),
        }
    }

    /// Whether nothing was read for as long as [`PATIENCE`]. A file takes what it is given, however long that takes.
    pub(crate) fn is_gone(&mut self, stream: &Stream) -> bool {
        if stream.0.ordinary {
            return false;
        }
        let progress = stream.progress();
        if progress != self.progress {
            (self.progress, self.since) = (progress, Instant::now());
        }
        self.since.elapsed() > PATIENCE
    }
}

/// Collects what is written until it is flushed, and hands that over in one piece.
pub(crate) struct Pieces {
    stream: Stream,
    text: Vec<u8>,
}

impl Pieces {
    pub(crate) const fn new(stream: Stream) -> Self {
        let text = Vec::new();
        Self { stream, text }
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream
            .send(Kind::Other, std::mem::take(&mut self.text))
    }
}

/// Standard error. Where nobody reads it, messages are dropped, and counted.
struct Messages {
    /// `None`: an ordinary file, which takes everything.
    stream: Option<Stream>,
    dropped: Mutex<usize>,
}

static MESSAGES: OnceLock<Messages> = OnceLock::new();

fn messages() -> &'static Messages {
    MESSAGES.get_or_init(|| Messages {
        stream: of(&io::stderr())
            .ok()
            .flatten()
            .and_then(|file| Stream::new(file, "stderr").ok()),
        dropped: Mutex::new(0),
    })
}

/// Says something on standard error, in lines, and waits for a reader for a moment only. What is hostile
/// in it, wherever that comes from, is escaped.
pub fn say(text: &str) {
    let safe = |c: char| match c {
        c if c != '\n' && is_hostile(c) => escape(c.encode_utf8(&mut [0; 4])).into_owned(),
        c => c.to_string(),
    };
    match text.chars().any(|c| c != '\n' && is_hostile(c)) {
        true => put(&text.chars().map(safe).collect::<String>()),
        false => put(text),
    }
}

/// The same, as it is.
pub(crate) fn put(text: &str) {
    let messages = messages();
    let Some(stream) = &messages.stream else {
        let _ = io::stderr().write_all(text.as_bytes());
        return;
    };
    let mut dropped = messages
        .dropped
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if !stream.has_room() {
        *dropped += 1;
        return;
    }
    let was_idle = stream.is_idle();
    let mut whole = String::new();
    if *dropped > 0 {
        whole =
            format!("concmon-bpf: {dropped} messages were dropped: nobody read standard error\n");
        *dropped = 0;
    }
    whole.push_str(text);
    // Who does not read any more misses nothing.
    let _ = stream.send(Kind::Other, whole.into_bytes());
    let began = Instant::now();
    while was_idle && !stream.is_idle() && began.elapsed() < MOMENT {
        let state = stream.0.state();
        let over = state.over() || state.waiting.is_empty();
        if !over {
            let _ = stream.0.changed.wait_timeout(state, MOMENT);
        }
    }
}

/// Waits until standard error has taken what was said, or nobody reads it.
pub fn end_of_messages() {
    if let Some(Messages {
        stream: Some(stream),
        ..
    }) = MESSAGES.get()
    {
        stream.drain();
    }
}

/// Log lines, for whatever writes them.
#[derive(Debug, Default)]
pub struct LogLines;

impl Write for LogLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        say(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A descriptor of one's own, should the file be none that takes everything at once.
pub(crate) fn of(file: &impl std::os::fd::AsFd) -> io::Result<Option<File>> {
    let file = File::from(file.as_fd().try_clone_to_owned()?);
    Ok((!file.metadata()?.is_file()).then_some(file))
}

#[cfg(test)]
mod tests;
