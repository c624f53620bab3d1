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

mod connection;
mod heads;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use concmon_ebpf::{SocketHead, socket_flags, socket_kind};

use super::sockets::SocketRecord;
use crate::event::http::{METHODS, OTHER_METHOD};
use crate::event::{Cause, HttpEvent, HttpPeer, HttpRequest, HttpWhat, NotParsed, Pid, Tid};
use connection::{Connection, Expects, Waiting};
use heads::Request;

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
    header_names: Arc<[String]>,
    requests: u64,
    dropped: u64,
}

impl Assembler {
    /// One that keeps the values of these headers.
    pub fn new(header_names: Vec<String>) -> Self {
        Self {
            connections: BTreeMap::new(),
            waiting: 0,
            ended: VecDeque::new(),
            header_names: header_names.into(),
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
            socket_kind::WAITED => {
                if let Some(what) = waited(&record.head) {
                    sink(event(record, what));
                }
            }
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
        let names = Arc::clone(&self.header_names);
        let connection = self.connection(record, sink);
        connection.follow(record, sink);
        let remark = connection.read(record, &names, |request, queue_ns| {
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
            method: known_method(&head.method).into(),
            path: Some(crate::event::paths::fold(&head.path).into()),
            queue_ns,
        };
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
        let client_port = Some(record.head.peer_port).filter(|port| *port != 0);
        let what = HttpWhat::Began {
            id,
            request,
            ids: head.headers,
            client_port,
        };
        sink(event(record, what));
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

/// What a wait was for; `None`: that cannot be told.
fn waited(head: &SocketHead) -> Option<HttpWhat> {
    Some(HttpWhat::Waited {
        peer: HttpPeer {
            address: Some(address(head)?),
            port: head.peer_port,
        },
        made: head.flags & socket_flags::MADE != 0,
        cause: Cause::from_wire(u8::try_from(head.tail).ok()?)?,
        from_ns: head.ready_ns,
        wait_ns: head.offset,
    })
}

/// The address of a peer, one of IPv4 as such also where it is written as one of IPv6.
fn address(head: &SocketHead) -> Option<IpAddr> {
    let words = head.peer.map(u32::to_ne_bytes);
    match i32::from(head.family) {
        libc::AF_INET => Some(IpAddr::from(words[0])),
        libc::AF_INET6 => {
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Some(IpAddr::from(bytes).to_canonical())
        }
        _ => None,
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
fn known_method(method: &str) -> &'static str {
    let mut known = METHODS.into_iter();
    known.find(|known| *known == method).unwrap_or(OTHER_METHOD)
}
