//! HTTP/1 out of what sockets read and wrote: requests, each with its response.
//!
//! Kernel programs hand over the beginnings of what may be heads, with where they lie in the stream. A body is passed
//! over by its length, or by the framing of its chunks as far as that was seen, so what lies in one is taken for no
//! head. Where the end of a body was not seen, the next head must begin a read, behind the end of a message.
//!
//! Responses belong to requests in their order. Everything is bounded: connections, requests of one that wait, and
//! bytes of a head.

mod heads;
mod paths;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use concmon_ebpf::{SOCKET_BYTES, socket_flags, socket_kind};

use super::sockets::SocketRecord;
use crate::event::{HttpEvent, HttpRequest, HttpWhat, NotParsed, Pid, Tid};
use heads::{Body, Chunk, Head, Request, Status};

/// Connections that are followed at a time.
const MAX_CONNECTIONS: usize = 65_536;
/// Requests of one connection that wait for their responses.
const MAX_WAITING: usize = 256;

/// Follows connections.
#[derive(Debug)]
pub struct Assembler {
    /// By cookie. The kernel counts these up, so the first is the oldest.
    connections: BTreeMap<u64, Connection>,
    /// Headers whose values go along with requests.
    header_names: Vec<String>,
    requests: u64,
    dropped: u64,
}

/// What is known of a connection.
#[derive(Debug, Default)]
struct Connection {
    expects: Expects,
    /// Bytes of a head, or of a chunk's, that is not whole; where they lie; when the first could be read and was.
    buffer: Vec<u8>,
    buffer_at: u64,
    ready_ns: u64,
    read_ns: u64,
    waiting: VecDeque<Waiting>,
    /// Before this place in what is written lies the body of a response.
    response_end: u64,
}

/// What comes next on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expects {
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
struct Waiting {
    id: u64,
    pid: Pid,
    began_ns: u64,
    is_head: bool,
    is_connect: bool,
    request: HttpRequest,
}

/// Two ends of lines, on top of a tail.
const BLANK_LINE: u64 = u64::from_le_bytes(*b"\r\n\r\n\0\0\0\0");

impl Assembler {
    /// One that keeps the values of these headers.
    pub fn new(header_names: Vec<String>) -> Self {
        Self {
            connections: BTreeMap::new(),
            header_names,
            requests: 0,
            dropped: 0,
        }
    }

    /// Connections that were forgotten, and requests that were not counted, for want of room.
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Connections that are followed.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// None is followed.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Records are missing: what was under way is not known any more.
    pub fn lost(&mut self) {
        self.connections.clear();
    }

    /// Takes the next record, in the order of time.
    pub fn take(&mut self, record: &SocketRecord, mut sink: impl FnMut(HttpEvent)) {
        let cookie = record.head.cookie;
        match record.head.kind {
            socket_kind::READ => self.read(record, &mut sink),
            socket_kind::WRITTEN => self.written(record, &mut sink),
            socket_kind::OTHER => {
                let connection = self.connection(cookie, &mut sink);
                connection.expects = Expects::Nothing;
                sink(event(record, HttpWhat::Unparsed(not_http(&record.bytes))));
            }
            socket_kind::CLOSED => {
                if let Some(connection) = self.connections.remove(&cookie) {
                    connection.abandon(record.head.at_ns, &mut sink);
                }
            }
            // The peer may wait for the response all the same.
            _ => {}
        }
    }

    /// The connection with this cookie; another one may be forgotten for it.
    fn connection(&mut self, cookie: u64, sink: &mut impl FnMut(HttpEvent)) -> &mut Connection {
        if self.connections.len() >= MAX_CONNECTIONS
            && !self.connections.contains_key(&cookie)
            && let Some((_, oldest)) = self.connections.pop_first()
        {
            self.dropped += 1;
            oldest.abandon(oldest.read_ns, sink);
        }
        self.connections.entry(cookie).or_default()
    }

    fn read(&mut self, record: &SocketRecord, sink: &mut impl FnMut(HttpEvent)) {
        let mut heads = Vec::new();
        let head = &record.head;
        let connection = self.connection(head.cookie, sink);
        let went_wrong = connection.read(record, |request, queue_ns| {
            heads.push((request, queue_ns));
        });
        for (request, queue_ns) in heads {
            self.began(record, request, queue_ns, sink);
        }
        if let Some(reason) = went_wrong {
            sink(event(record, HttpWhat::Unparsed(reason)));
        }
    }

    fn began(
        &mut self,
        record: &SocketRecord,
        head: Request,
        queue_ns: Option<u64>,
        sink: &mut impl FnMut(HttpEvent),
    ) {
        let request = HttpRequest {
            method: known_method(&head.method).to_owned(),
            path: Some(paths::fold(&head.path)),
            queue_ns,
        };
        let is_wanted = |name: &String| self.header_names.iter().any(|wanted| wanted == name);
        let mut ids: BTreeMap<_, _> = head.headers.into_iter().collect();
        ids.retain(|name, _| is_wanted(name));
        let Some(connection) = self.connections.get_mut(&record.head.cookie) else {
            return;
        };
        if connection.waiting.len() >= MAX_WAITING {
            self.dropped += 1;
            return;
        }
        self.requests += 1;
        let id = self.requests;
        connection.waiting.push_back(Waiting {
            id,
            pid: Pid(record.head.tgid),
            began_ns: record.head.at_ns,
            is_head: head.method == "HEAD",
            is_connect: head.method == "CONNECT",
            request: request.clone(),
        });
        sink(event(record, HttpWhat::Began { id, request, ids }));
    }

    fn written(&mut self, record: &SocketRecord, sink: &mut impl FnMut(HttpEvent)) {
        let Some(connection) = self.connections.get_mut(&record.head.cookie) else {
            return;
        };
        connection.written(record, sink);
    }
}

impl Connection {
    /// Gives heads that are whole, each with how long its first byte had been readable; returns why nothing more is
    /// understood.
    fn read(
        &mut self,
        record: &SocketRecord,
        mut sink: impl FnMut(Request, Option<u64>),
    ) -> Option<NotParsed> {
        let head = &record.head;
        let end = head.offset.saturating_add(u64::from(head.length));
        let seen_end = head.offset + record.bytes.len() as u64;
        self.settle(record);
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
                    match self.advance(is_cut, &mut sink) {
                        Ok(Some(next)) => at = next.max(head.offset),
                        Ok(None) => return None,
                        Err(reason) => {
                            self.expects = Expects::Nothing;
                            self.buffer = Vec::new();
                            return Some(reason);
                        }
                    }
                }
            }
        }
    }

    /// Before a read is looked at: finds out whether what it begins with is what was expected.
    fn settle(&mut self, record: &SocketRecord) {
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
            && (is_behind_end || !framed && self.waiting.is_empty())
        {
            self.expects = Expects::Head;
        }
    }

    /// Parses what is buffered. Gives the place behind what was understood; `None`: it is not whole.
    fn advance(
        &mut self,
        is_cut: bool,
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
        match heads::request(&self.buffer, is_cut)? {
            Head::Partial => Ok(None),
            Head::Whole { length, head } => {
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

    fn written(&mut self, record: &SocketRecord, sink: &mut impl FnMut(HttpEvent)) {
        let head = &record.head;
        let (mut at, mut bytes) = (head.offset, &record.bytes[..]);
        while at >= self.response_end && !self.waiting.is_empty() {
            let Some((length, status)) = heads::status(bytes) else {
                return;
            };
            let Status { code, body_bytes } = status;
            let end = at + length as u64;
            if !(100..200).contains(&code) || code == 101 {
                let Some(waiting) = self.waiting.pop_front() else {
                    return;
                };
                let has_body = !waiting.is_head && !matches!(code, 101 | 204 | 304);
                let body_bytes = body_bytes.filter(|_| has_body).unwrap_or(0);
                self.response_end = end.saturating_add(body_bytes);
                if code == 101 || waiting.is_connect && (200..300).contains(&code) {
                    // Another protocol from here on.
                    self.expects = Expects::Nothing;
                }
                sink(HttpEvent {
                    at_ns: head.at_ns,
                    pid: waiting.pid,
                    tid: Tid(head.tid),
                    what: HttpWhat::Answered {
                        id: waiting.id,
                        request: waiting.request,
                        status: code,
                        duration_ns: head.at_ns.saturating_sub(waiting.began_ns),
                    },
                });
            } else {
                self.response_end = end;
            }
            // Another one may have been written together with it.
            let behind = self.response_end.saturating_sub(at);
            let Some(rest) = usize::try_from(behind)
                .ok()
                .and_then(|behind| bytes.get(behind..))
            else {
                return;
            };
            (at, bytes) = (self.response_end, rest);
        }
    }

    /// No response will come.
    fn abandon(&self, at_ns: u64, sink: &mut impl FnMut(HttpEvent)) {
        for waiting in &self.waiting {
            sink(HttpEvent {
                at_ns,
                pid: waiting.pid,
                tid: Tid(0),
                what: HttpWhat::Abandoned { id: waiting.id },
            });
        }
    }
}

fn event(record: &SocketRecord, what: HttpWhat) -> HttpEvent {
    HttpEvent {
        at_ns: record.head.at_ns,
        pid: Pid(record.head.tgid),
        tid: Tid(record.head.tid),
        what,
    }
}

/// What the first bytes of a connection are, if they are no request.
fn not_http(bytes: &[u8]) -> NotParsed {
    match bytes {
        // Any record of TLS.
        [20..=23, 3, 0..=4, ..] => NotParsed::Tls,
        _ => NotParsed::Other,
    }
}

/// The method, where everybody knows it.
fn known_method(method: &str) -> &str {
    const KNOWN: [&str; 9] = [
        "GET", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT",
    ];
    match KNOWN.contains(&method) {
        true => method,
        false => "_OTHER",
    }
}
