//! HTTP/1 out of what sockets read and wrote: requests, each with its response.
//!
//! Kernel programs hand over the beginnings of what may be heads, with where they lie in the stream. A body is passed
//! over by its length, or by the framing of its chunks as far as that was seen, so what lies in one is taken for no
//! head. Where the end of a body was not seen, the next head must begin a read, behind the end of a message.
//!
//! Responses belong to requests in their order. So where heads may have gone unseen while requests wait (records that
//! were lost, places that go back because the kernel side had no room, more written at once than is handed over), those
//! are given up, and the next request is one that begins a read when none waits.
//!
//! Everything is bounded: connections, requests that wait, and bytes of a head.

mod heads;
mod paths;

#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};

use concmon_ebpf::{SOCKET_BYTES, socket_flags, socket_kind};

use super::sockets::SocketRecord;
use crate::event::{HttpEvent, HttpRequest, HttpWhat, NotParsed, Pid, Tid};
use heads::{Body, Chunk, Head, Request, Status};

/// Connections that are followed at a time.
const MAX_CONNECTIONS: usize = 65_536;
/// As many make room, when there is none for one more.
const EVICTED: usize = 1_024;
/// Requests that wait for their responses: of one connection, and of all.
const MAX_WAITING: usize = 256;
const MAX_WAITING_IN_ALL: usize = 65_536;
/// A request whose peer sends nothing more has a response within this time, or none. TCP tells when it is closed; unix
/// sockets do not.
const ENDED_NS: u64 = 10_000_000_000;

/// Follows connections.
#[derive(Debug)]
pub struct Assembler {
    /// By cookie.
    connections: BTreeMap<u64, Connection>,
    /// Requests that wait, on all of them.
    waiting: usize,
    /// When the peers of connections sent their last, with the cookies.
    ended: VecDeque<(u64, u64)>,
    /// Headers whose values go along with requests.
    header_names: Vec<String>,
    requests: u64,
    dropped: u64,
}

/// What is known of a connection.
#[derive(Debug, Default)]
struct Connection {
    expects: Expects,
    /// Nothing but its beginning says that what is expected is a head.
    is_guessed: bool,
    /// Bytes of a head, or of a chunk's, that is not whole; where they lie; when the first could be read and was.
    buffer: Vec<u8>,
    buffer_at: u64,
    ready_ns: u64,
    read_ns: u64,
    waiting: VecDeque<Waiting>,
    /// Where the next head of a response is, in what is written; `None`: somewhere.
    response_end: Option<u64>,
    /// How far both streams were seen.
    received: u64,
    sent: u64,
    used_ns: u64,
    /// When its peer had sent its last; 0: it has not.
    ended_ns: u64,
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
            waiting: 0,
            ended: VecDeque::new(),
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
        // What speaks something else still does.
        self.connections
            .retain(|_, connection| connection.expects == Expects::Nothing);
        for connection in self.connections.values_mut() {
            connection.waiting.clear();
        }
        self.waiting = 0;
        self.ended.clear();
    }

    /// Takes the next record, in the order of time.
    pub fn take(&mut self, record: &SocketRecord, mut sink: impl FnMut(HttpEvent)) {
        let cookie = record.head.cookie;
        let before = self.waiting_of(cookie);
        match record.head.kind {
            socket_kind::READ => self.read(record, &mut sink),
            socket_kind::WRITTEN => self.written(record, &mut sink),
            socket_kind::OTHER => {
                let connection = self.connection(record, &mut sink);
                connection.forget(record.head.at_ns, &mut sink);
                connection.expects = Expects::Nothing;
                sink(event(record, HttpWhat::Unparsed(not_http(&record.bytes))));
            }
            socket_kind::CLOSED => {
                if let Some(connection) = self.connections.remove(&cookie) {
                    connection.abandon(record.head.at_ns, &mut sink);
                }
            }
            // The peer may wait for the response all the same.
            socket_kind::END => self.end(cookie, record.head.at_ns),
            _ => {}
        }
        let after = self.waiting_of(cookie);
        self.waiting = (self.waiting + after).saturating_sub(before);
    }

    /// Requests of a connection that wait.
    fn waiting_of(&self, cookie: u64) -> usize {
        let connection = self.connections.get(&cookie);
        connection.map_or(0, |connection| connection.waiting.len())
    }

    fn end(&mut self, cookie: u64, at_ns: u64) {
        if let Some(connection) = self.connections.get_mut(&cookie)
            && connection.ended_ns == 0
        {
            connection.ended_ns = at_ns.max(1);
            self.ended.push_back((connection.ended_ns, cookie));
        }
    }

    /// Gives up requests whose peers sent their last long before `now_ns`, and have no response.
    pub fn age(&mut self, now_ns: u64, mut sink: impl FnMut(HttpEvent)) {
        while let Some((ended_ns, cookie)) = self.ended.front().copied()
            && (now_ns.saturating_sub(ended_ns) > ENDED_NS || self.ended.len() > MAX_CONNECTIONS)
        {
            self.ended.pop_front();
            let connection = self.connections.get(&cookie);
            if connection.is_some_and(|connection| connection.ended_ns == ended_ns)
                && let Some(connection) = self.connections.remove(&cookie)
            {
                self.waiting = self.waiting.saturating_sub(connection.waiting.len());
                connection.abandon(now_ns, &mut sink);
            }
        }
    }

    /// The connection that this record is of; others may be forgotten for it.
    fn connection(
        &mut self,
        record: &SocketRecord,
        sink: &mut impl FnMut(HttpEvent),
    ) -> &mut Connection {
        let head = &record.head;
        if self.connections.len() >= MAX_CONNECTIONS && !self.connections.contains_key(&head.cookie)
        {
            self.make_room(head.at_ns, sink);
        }
        self.connections.entry(head.cookie).or_insert_with(|| {
            // Its beginning was not seen, or it does not begin like a request.
            let is_joined = head.offset > 0 || head.flags & socket_flags::START == 0;
            let mut connection = Connection::default();
            if is_joined {
                connection.expects = Expects::Unknown { framed: false };
            }
            connection
        })
    }

    /// Forgets connections: first those on which nothing waits, which is no loss, the least recently used before others.
    fn make_room(&mut self, at_ns: u64, sink: &mut impl FnMut(HttpEvent)) {
        let each = self.connections.iter();
        let mut each: Vec<_> = each
            .map(|(cookie, connection)| (connection.is_busy(), connection.used_ns, *cookie))
            .collect();
        let count = EVICTED.min(each.len() - 1);
        each.select_nth_unstable(count);
        for (is_busy, _, cookie) in &each[..count] {
            let Some(mut connection) = self.connections.remove(cookie) else {
                continue;
            };
            self.dropped += u64::from(*is_busy);
            self.waiting = self.waiting.saturating_sub(connection.waiting.len());
            connection.give_up(at_ns, sink);
        }
    }

    fn read(&mut self, record: &SocketRecord, sink: &mut impl FnMut(HttpEvent)) {
        let mut heads = Vec::new();
        let connection = self.connection(record, sink);
        connection.follow(record, sink);
        let remark = connection.read(record, |request, queue_ns| {
            heads.push((request, queue_ns));
        });
        if connection.buffer.is_empty() {
            // Most connections rest, and there are many.
            connection.buffer = Vec::new();
        }
        let waiting = connection.waiting.len();
        let room = MAX_WAITING
            .saturating_sub(waiting)
            .min(MAX_WAITING_IN_ALL.saturating_sub(self.waiting));
        if heads.len() > room {
            self.dropped += (heads.len() - room) as u64;
            heads.truncate(room);
            if let Some(connection) = self.connections.get_mut(&record.head.cookie) {
                // Responses will come to requests that are not among those that wait.
                connection.lose_track();
            }
        }
        for (request, queue_ns) in heads {
            self.began(record, request, queue_ns, sink);
        }
        if let Some(what) = remark {
            sink(event(record, what));
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
        if connection.waiting.is_empty() {
            // What was written meanwhile may not have been told, as by sendfile.
            connection.response_end = None;
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
        connection.follow(record, sink);
        connection.written(record, sink);
        if connection.ended_ns != 0 && connection.waiting.is_empty() {
            self.connections.remove(&record.head.cookie);
        }
    }
}

impl Connection {
    /// Something is lost if it is forgotten.
    fn is_busy(&self) -> bool {
        !self.waiting.is_empty() || !self.buffer.is_empty()
    }

    /// Notes how far the record's stream has come. Where it goes back, the kernel side had forgotten the connection, and
    /// counts anew.
    fn follow(&mut self, record: &SocketRecord, sink: &mut impl FnMut(HttpEvent)) {
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
    fn forget(&mut self, at_ns: u64, sink: &mut impl FnMut(HttpEvent)) {
        self.give_up(at_ns, sink);
        self.lose_track();
        (self.received, self.sent, self.response_end) = (0, 0, None);
    }

    /// The next head must begin a read.
    fn lose_track(&mut self) {
        self.buffer = Vec::new();
        if self.expects != Expects::Nothing {
            self.expects = Expects::Unknown { framed: false };
        }
    }

    /// It cannot be told which responses those are that come.
    fn give_up(&mut self, at_ns: u64, sink: &mut impl FnMut(HttpEvent)) {
        for waiting in self.waiting.drain(..) {
            let id = Some(waiting.id);
            sink(waiting.event(at_ns, HttpWhat::Unclear { id }));
        }
    }

    /// Gives heads that are whole, each with how long its first byte had been readable; returns what else there is to
    /// tell.
    fn read(
        &mut self,
        record: &SocketRecord,
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
                    match self.advance(is_cut, &mut sink) {
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

    fn written(&mut self, record: &SocketRecord, sink: &mut impl FnMut(HttpEvent)) {
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
    fn abandon(&self, at_ns: u64, sink: &mut impl FnMut(HttpEvent)) {
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
