//! One connection: heads of requests in what is read of it, and heads of responses in what is written.

use std::cmp::Ordering;
use std::collections::VecDeque;

use concmon_ebpf::{SOCKET_BYTES, socket_flags, socket_kind};

use super::heads::{self, Body, Chunk, Head, Request, Status};
use crate::decode::sockets::SocketRecord;
use crate::event::{HttpEvent, HttpRequest, HttpWhat, NotParsed, Pid, Tid};

/// What is known of a connection.
#[derive(Debug, Default)]
pub(super) struct Connection {
    pub(super) expects: Expects,
    /// Nothing but its beginning says that what is expected is a head.
    is_guessed: bool,
    /// Bytes of a head, or of a chunk's, that is not whole; where they lie; when the first could be read and was.
    pub(super) buffer: Vec<u8>,
    buffer_at: u64,
    ready_ns: u64,
    read_ns: u64,
    pub(super) waiting: VecDeque<Waiting>,
    /// Where the next head of a response is, in what is written; `None`: somewhere.
    pub(super) response_end: Option<u64>,
    /// How far both streams were seen.
    received: u64,
    sent: u64,
    pub(super) used_ns: u64,
    /// When its peer had sent its last; 0: it has not.
    pub(super) ended_ns: u64,
}

/// What comes next on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Expects {
    #[default]
    Head,
    /// A body up to this place.
    Body(u64),
    /// A chunk up to this place.
    Chunk(u64),
    /// The length of a chunk.
    ChunkHead,
    /// A body whose end was not seen. `framed`: its chunks tell.
    Unknown { framed: bool },
    /// Nothing that is understood.
    Nothing,
}

/// A request without a response.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) id: u64,
    pub(super) pid: Pid,
    pub(super) began_ns: u64,
    pub(super) is_head: bool,
    pub(super) is_connect: bool,
    pub(super) request: HttpRequest,
}

/// Two ends of lines, on top of a tail.
const BLANK_LINE: u64 = u64::from_le_bytes(*b"\r\n\r\n\0\0\0\0");

impl Connection {
    /// Something is lost if it is forgotten.
    pub(super) fn is_busy(&self) -> bool {
        !self.waiting.is_empty() || !self.buffer.is_empty()
    }

    /// Notes how far the record's stream has come. Where it goes back, the kernel side had forgotten the connection, and
    /// counts anew.
    pub(super) fn follow(&mut self, record: &SocketRecord, sink: &mut impl FnMut(HttpEvent)) {
        let head = &record.head;
        let is_read = head.kind == socket_kind::READ;
        let seen = if is_read { self.received } else { self.sent };
        if head.offset < seen {
            self.forget(head.at_ns, sink);
        }
        let end = head.offset.saturating_add(u64::from(head.length));
        if is_read {
            (self.received, self.ended_ns) = (end, 0);
        } else {
            self.sent = end;
        }
        self.used_ns = head.at_ns;
    }

    /// What was concluded so far does not hold any more: what waits is given up, and a head must begin a read.
    pub(super) fn forget(&mut self, at_ns: u64, sink: &mut impl FnMut(HttpEvent)) {
        self.give_up(at_ns, sink);
        self.lose_track();
        (self.received, self.sent, self.response_end) = (0, 0, None);
    }

    /// The next head must begin a read.
    pub(super) fn lose_track(&mut self) {
        self.buffer = Vec::new();
        if self.expects != Expects::Nothing {
            self.expects = Expects::Unknown { framed: false };
        }
    }

    /// It cannot be told which responses those are that come.
    pub(super) fn give_up(&mut self, at_ns: u64, sink: &mut impl FnMut(HttpEvent)) {
        for waiting in self.waiting.drain(..) {
            let id = Some(waiting.id);
            sink(waiting.event(at_ns, HttpWhat::Unclear { id }));
        }
    }

    /// Gives heads that are whole, each with its headers of these names and how long its first byte had been readable;
    /// returns what else there is to tell.
    pub(super) fn read(
        &mut self,
        record: &SocketRecord,
        names: &[String],
        mut sink: impl FnMut(Request, Option<u64>),
    ) -> Option<HttpWhat> {
        let head = &record.head;
        let end = head.offset.saturating_add(u64::from(head.length));
        let seen_end = head.offset + record.bytes.len() as u64;
        if self.settle(record) {
            return Some(HttpWhat::Unclear { id: None });
        }
        let mut at = head.offset;
        let rest = |at: u64| &record.bytes[(at - head.offset) as usize..];
        loop {
            match self.expects {
                Expects::Nothing | Expects::Unknown { .. } => return None,
                Expects::Body(until) | Expects::Chunk(until) if until >= seen_end => {
                    // Where it ends within what was read, and was not handed over, a head may follow unseen.
                    if until < end {
                        let framed = matches!(self.expects, Expects::Chunk(_));
                        self.expects = Expects::Unknown { framed };
                    } else if until == end && self.expects == Expects::Body(until) {
                        self.expects = Expects::Head;
                    }
                    return None;
                }
                Expects::Body(until) => {
                    (at, self.expects) = (until.max(at), Expects::Head);
                }
                Expects::Chunk(until) => {
                    (at, self.expects) = (until.max(at), Expects::ChunkHead);
                }
                Expects::ChunkHead | Expects::Head => {
                    if at >= seen_end {
                        // What was not handed over may be anything.
                        if end > seen_end {
                            let framed = self.expects == Expects::ChunkHead;
                            self.expects = Expects::Unknown { framed };
                        }
                        return None;
                    }
                    if self.buffer.is_empty() {
                        self.buffer_at = at;
                        (self.ready_ns, self.read_ns) = (head.ready_ns, head.at_ns);
                    }
                    self.buffer.extend_from_slice(rest(at));
                    let is_cut = end > seen_end || self.buffer.len() >= SOCKET_BYTES;
                    match self.advance(is_cut, names, &mut sink) {
                        Ok(Some(next)) => at = next.max(head.offset),
                        Ok(None) => return None,
                        Err(_) if self.is_guessed => {
                            self.lose_track();
                            return None;
                        }
                        Err(reason) => {
                            self.expects = Expects::Nothing;
                            self.buffer = Vec::new();
                            return Some(HttpWhat::Unparsed(reason));
                        }
                    }
                }
            }
        }
    }

    /// Before a read is looked at: finds out whether what it begins with is what was expected. True: it is a request that
    /// cannot be told from those that may have gone unseen before it.
    fn settle(&mut self, record: &SocketRecord) -> bool {
        let head = &record.head;
        let buffered_to = self.buffer_at + self.buffer.len() as u64;
        if !self.buffer.is_empty() && buffered_to != head.offset {
            self.buffer.clear();
            self.expects = Expects::Unknown {
                framed: self.expects == Expects::ChunkHead,
            };
        }
        match self.expects {
            Expects::Body(until) if until <= head.offset => {
                self.expects = match until == head.offset {
                    true => Expects::Head,
                    false => Expects::Unknown { framed: false },
                };
            }
            Expects::Chunk(until) if until < head.offset => {
                self.expects = Expects::Unknown { framed: true };
            }
            _ => {}
        }
        let begins = head.flags & socket_flags::START != 0;
        let is_behind_end = head.tail >> 32 == BLANK_LINE;
        if let Expects::Unknown { framed } = self.expects
            && begins
            && (is_behind_end || !framed)
        {
            if !self.waiting.is_empty() {
                // Its response would be taken for that of one before it. It may be a body's, unless it is behind an end.
                return is_behind_end;
            }
            (self.expects, self.is_guessed) = (Expects::Head, true);
        }
        false
    }

    /// Parses what is buffered. Gives the place behind what was understood; `None`: it is not whole.
    fn advance(
        &mut self,
        is_cut: bool,
        names: &[String],
        sink: &mut impl FnMut(Request, Option<u64>),
    ) -> Result<Option<u64>, NotParsed> {
        if self.expects == Expects::ChunkHead {
            return match heads::chunk(&self.buffer) {
                Some(Chunk::Data { head, size }) => {
                    let next = self.pass(head);
                    // Behind the data is the end of a line.
                    self.expects = Expects::Chunk(next.saturating_add(size).saturating_add(2));
                    Ok(Some(next))
                }
                Some(Chunk::Last(length)) => {
                    self.expects = Expects::Head;
                    Ok(Some(self.pass(length)))
                }
                Some(Chunk::Partial) if !is_cut => Ok(None),
                Some(Chunk::Partial) => {
                    self.buffer.clear();
                    self.expects = Expects::Unknown { framed: true };
                    Ok(None)
                }
                None => Err(NotParsed::Malformed),
            };
        }
        let queue_ns = match self.ready_ns {
            0 => None,
            ready_ns => Some(self.read_ns.saturating_sub(ready_ns)),
        };
        match heads::request(&self.buffer, is_cut, names)? {
            Head::Partial => Ok(None),
            Head::Whole { length, head } => {
                self.is_guessed = false;
                let next = self.pass(length);
                self.expects = match head.body {
                    Body::None => Expects::Head,
                    Body::Bytes(bytes) => Expects::Body(next.saturating_add(bytes)),
                    Body::Chunks => Expects::ChunkHead,
                    Body::Unknown => Expects::Unknown { framed: false },
                };
                sink(head, queue_ns);
                Ok(Some(next))
            }
            Head::Cut(head) => {
                self.is_guessed = false;
                self.buffer.clear();
                self.expects = Expects::Unknown { framed: false };
                sink(head, queue_ns);
                Ok(None)
            }
        }
    }

    /// Gives the place behind so many bytes of the buffer, and drops it: what follows is read from the record.
    fn pass(&mut self, length: usize) -> u64 {
        self.buffer.clear();
        self.buffer_at + length as u64
    }

    pub(super) fn written(&mut self, record: &SocketRecord, sink: &mut impl FnMut(HttpEvent)) {
        if !self.waiting.is_empty() && self.answer(record, sink).is_none() {
            self.give_up(record.head.at_ns, sink);
        }
    }

    /// Gives requests their responses; `None`: there may be heads that were not seen, while requests wait.
    fn answer(&mut self, record: &SocketRecord, sink: &mut impl FnMut(HttpEvent)) -> Option<()> {
        let head = &record.head;
        let end = head.offset.saturating_add(u64::from(head.length));
        let mut at = head.offset;
        if let Some(next) = self.response_end {
            match at.cmp(&next) {
                // A body that looks like a head.
                Ordering::Less => return (end <= next).then_some(()),
                Ordering::Greater => return None,
                Ordering::Equal => {}
            }
        }
        while at < end {
            let bytes = record.bytes.get((at - head.offset) as usize..)?;
            let (length, status) = heads::status(bytes)?;
            let Status {
                code,
                body_bytes,
                is_whole,
            } = status;
            let behind = at + length as u64;
            let mut next = Some(behind).filter(|_| is_whole);
            if !(100..200).contains(&code) || code == 101 {
                let waiting = self.waiting.pop_front()?;
                if !waiting.is_head && !matches!(code, 101 | 204 | 304) {
                    next = next
                        .zip(body_bytes)
                        .map(|(next, bytes)| next.saturating_add(bytes));
                }
                if code == 101 || waiting.is_connect && (200..300).contains(&code) {
                    // Another protocol from here on.
                    self.expects = Expects::Nothing;
                }
                let what = HttpWhat::Answered {
                    id: waiting.id,
                    request: waiting.request.clone(),
                    status: code,
                    duration_ns: head.at_ns.saturating_sub(waiting.began_ns),
                };
                sink(HttpEvent {
                    tid: Tid(head.tid),
                    ..waiting.event(head.at_ns, what)
                });
            }
            self.response_end = next;
            if self.waiting.is_empty() {
                break;
            }
            // Another one may have been written together with it.
            let Some(next) = next else {
                let rest = &bytes[length..];
                let is_all = behind + rest.len() as u64 == end;
                let is_body = memchr::memmem::find(rest, b"HTTP/1.").is_none();
                return (is_all && is_body).then_some(());
            };
            at = next;
        }
        Some(())
    }

    /// No response will come.
    pub(super) fn abandon(&self, at_ns: u64, sink: &mut impl FnMut(HttpEvent)) {
        for waiting in &self.waiting {
            sink(waiting.event(at_ns, HttpWhat::Abandoned { id: waiting.id }));
        }
    }
}

impl Waiting {
    /// What becomes of it without a thread that does it.
    fn event(&self, at_ns: u64, what: HttpWhat) -> HttpEvent {
        HttpEvent {
            at_ns,
            pid: self.pid,
            tid: Tid(0),
            what,
        }
    }
}
