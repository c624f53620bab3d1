//! Exchanges as the kernel side hands them over, cut and joined in every way.

use concmon_ebpf::{
    BatchHeader, SOCKET_BYTES, SocketHead, WIRE_VERSION, socket_flags, socket_kind,
};

use super::*;
use crate::decode::sockets::sockets;
use crate::testing::Rng;

/// A connection as it is seen by the kernel side: both streams, and the time.
struct Peer {
    assembler: Assembler,
    events: Vec<HttpEvent>,
    cookie: u64,
    now: u64,
    received: u64,
    sent: u64,
    tail: u64,
}

impl Peer {
    fn new() -> Self {
        Self {
            assembler: Assembler::new(vec!["x-request-id".to_owned()]),
            events: Vec::new(),
            cookie: 7,
            now: 1_000,
            received: 0,
            sent: 0,
            tail: 0,
        }
    }

    fn record(&mut self, kind: u8, flags: u8, bytes: &[u8], seen: usize) {
        self.now += 100;
        let offset = match kind {
            socket_kind::WRITTEN => self.sent,
            _ => self.received,
        };
        let record = SocketRecord {
            head: SocketHead {
                kind,
                flags,
                bytes: seen as u16,
                tid: 12,
                tgid: 11,
                length: bytes.len() as u32,
                at_ns: self.now,
                ready_ns: self.now - 40,
                cookie: self.cookie,
                offset,
                tail: self.tail,
                peer: [0; 4],
                family: 2,
                peer_port: 40_000,
                reserved: 0,
            },
            bytes: bytes[..seen].to_vec(),
        };
        let events = &mut self.events;
        self.assembler.take(&record, |event| events.push(event));
    }

    /// The process reads; `seen` bytes are handed over.
    fn read_some(&mut self, bytes: &[u8], starts: bool, seen: usize) -> &mut Self {
        let flags = u8::from(starts) * socket_flags::START;
        self.record(socket_kind::READ, flags, bytes, seen.min(SOCKET_BYTES));
        self.pass(bytes);
        self
    }

    fn read(&mut self, bytes: &str, starts: bool) -> &mut Self {
        self.read_some(bytes.as_bytes(), starts, bytes.len())
    }

    /// The process reads what is not handed over.
    fn pass(&mut self, bytes: &[u8]) -> &mut Self {
        self.received += bytes.len() as u64;
        for byte in bytes {
            self.tail = self.tail >> 8 | u64::from(*byte) << 56;
        }
        self
    }

    fn write(&mut self, bytes: &str) -> &mut Self {
        let seen = bytes.len().min(SOCKET_BYTES);
        self.record(socket_kind::WRITTEN, 0, bytes.as_bytes(), seen);
        self.sent += bytes.len() as u64;
        self
    }

    /// What has come, in short.
    fn told(&self) -> Vec<String> {
        self.events.iter().map(|event| short(&event.what)).collect()
    }
}

fn short(what: &HttpWhat) -> String {
    match what {
        HttpWhat::Began { id, request, .. } => {
            let path = request.path.as_deref().unwrap_or("-");
            format!("{id} {} {path}", request.method)
        }
        HttpWhat::Answered { id, status, .. } => format!("{id} {status}"),
        HttpWhat::Abandoned { id } => format!("{id} abandoned"),
        HttpWhat::Unparsed(reason) => reason.name().to_owned(),
        HttpWhat::Lost { .. } => "lost".to_owned(),
        HttpWhat::Unclear { id: Some(id) } => format!("{id} unclear"),
        HttpWhat::Unclear { id: None } => "unclear".to_owned(),
        HttpWhat::Waited { .. } => "waited".to_owned(),
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

#[test]
fn keep_alive_and_times() {
    let mut peer = Peer::new();
    peer.read("GET /items/1 HTTP/1.1\r\nX-Request-Id: abc\r\n\r\n", true);
    peer.write(OK);
    peer.read("GET /items/2 HTTP/1.1\r\n\r\n", true);
    peer.write("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    let want = [
        "1 GET /items/{number}",
        "1 200",
        "2 GET /items/{number}",
        "2 404",
    ];
    assert_eq!(peer.told(), want);
    let HttpWhat::Began { request, ids, .. } = &peer.events[0].what else {
        panic!("{:?}", peer.events[0]);
    };
    assert_eq!(
        (request.queue_ns, &ids["x-request-id"][..]),
        (Some(40), "abc")
    );
    let HttpWhat::Answered { duration_ns, .. } = &peer.events[1].what else {
        panic!("{:?}", peer.events[1]);
    };
    assert_eq!(*duration_ns, 100);
    assert_eq!((peer.events[0].pid, peer.events[0].tid), (Pid(11), Tid(12)));
}

/// However a stream is cut into reads, the same requests come out, as long as all is handed over.
#[test]
fn any_cut_is_the_same() {
    let stream = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n\
                  POST /b HTTP/1.1\r\nContent-Length: 22\r\n\r\nGET /no HTTP/1.1\r\n\r\nxx\
                  POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
                  14\r\nGET /no HTTP/1.1\r\n\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
                  \r\nDELETE /d HTTP/1.0\r\n\r\n";
    let want = ["1 GET /a", "2 POST /b", "3 POST /c", "4 DELETE /d"];
    let mut rng = Rng::new(17);
    for round in 0..500 {
        let mut peer = Peer::new();
        let mut rest = stream;
        while !rest.is_empty() {
            let length = match round {
                0 => rest.len(),
                1 => 1,
                _ => 1 + rng.below(40).min(rest.len() - 1),
            };
            let (part, behind) = rest.split_at(length);
            // The kernel side sees no more than how a read begins.
            let starts = part.as_bytes()[0].is_ascii_uppercase();
            peer.read(part, starts);
            rest = behind;
        }
        assert_eq!(peer.told(), want);
    }
}

#[test]
fn responses_belong_to_requests_in_their_order() {
    let mut peer = Peer::new();
    peer.read(
        "GET /a HTTP/1.1\r\n\r\nHEAD /b HTTP/1.1\r\n\r\nGET /c HTTP/1.1\r\n\r\n",
        true,
    );
    // A body that looks like a head, one that HEAD does not have, and two that are written together.
    peer.write("HTTP/1.1 200 OK\r\nContent-Length: 38\r\n\r\n");
    peer.write("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
    peer.write("HTTP/1.1 201 B\r\nContent-Length: 900\r\n\r\nHTTP/1.1 202 C\r\n\r\n");
    peer.write("HTTP/1.1 503 Nobody asked\r\n\r\n");
    let want = [
        "1 GET /a",
        "2 HEAD /b",
        "3 GET /c",
        "1 200",
        "2 201",
        "3 202",
    ];
    assert_eq!(peer.told(), want);
}

#[test]
fn continue_and_upgrade() {
    let mut peer = Peer::new();
    peer.read(
        "PUT /a HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n",
        true,
    );
    peer.write("HTTP/1.1 100 Continue\r\n\r\n")
        .read("abc", false);
    peer.write("HTTP/1.1 204 No Content\r\n\r\n");
    peer.read("GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", true);
    peer.write("HTTP/1.1 101 Switching Protocols\r\n\r\n");
    peer.read("GET /frame HTTP/1.1\r\n\r\n", true);
    assert_eq!(peer.told(), ["1 PUT /a", "1 204", "2 GET /ws", "2 101"]);
}

#[test]
fn bodies_that_are_not_handed_over() {
    let mut peer = Peer::new();
    let head = "POST /big HTTP/1.1\r\nContent-Length: 5000\r\n\r\n";
    // With the head comes the first part of a body, of which one KiB is seen.
    let mut read = head.as_bytes().to_vec();
    read.extend(vec![b'x'; 2_000]);
    peer.read_some(&read, true, SOCKET_BYTES);
    peer.pass(&[b'y'; 1_000]);
    // A part of it that looks like a request, of which the kernel side knows no better.
    let mut fake = b"GET /no HTTP/1.1\r\n\r\n".to_vec();
    fake.resize(2_000, b'z');
    peer.read_some(&fake, true, SOCKET_BYTES);
    peer.write(OK).read("GET /next HTTP/1.1\r\n\r\n", true);
    assert_eq!(peer.told(), ["1 POST /big", "1 200", "2 GET /next"]);
}

/// Of chunks that were not seen, only the end of a message leads to the next head.
#[test]
fn chunks_that_are_not_handed_over() {
    let mut peer = Peer::new();
    let mut read = b"POST /up HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n800\r\n".to_vec();
    read.extend(vec![b'x'; 2_048]);
    read.extend(b"\r\n100\r\n");
    peer.read_some(&read, true, SOCKET_BYTES);
    // An early response, and a chunk that looks like a request.
    peer.write(OK).read("GET /no HTTP/1.1\r\n\r\n", true);
    peer.pass(&[b'x'; 0xec]).pass(b"\r\n0\r\n\r\n");
    peer.read("GET /next HTTP/1.1\r\n\r\n", true).write(OK);
    assert_eq!(peer.told(), ["1 POST /up", "1 200", "2 GET /next", "2 200"]);
}

#[test]
fn long_heads_are_cut() {
    let mut peer = Peer::new();
    let long = format!(
        "GET /long HTTP/1.1\r\nCookie: {}\r\n\r\n",
        "c".repeat(3_000)
    );
    peer.read_some(long.as_bytes(), true, SOCKET_BYTES)
        .write(OK);
    let path = format!("GET /p/{} HTTP/1.1\r\n\r\n", "p".repeat(3_000));
    peer.read_some(path.as_bytes(), true, SOCKET_BYTES)
        .write(OK);
    let query = format!("GET /q?{} HTTP/1.1\r\n\r\n", "q".repeat(3_000));
    peer.read_some(query.as_bytes(), true, SOCKET_BYTES)
        .write(OK);
    let many = format!("GET /many HTTP/1.1\r\n{}\r\n", "a:\r\n".repeat(300));
    peer.read_some(many.as_bytes(), true, SOCKET_BYTES)
        .write(OK);
    let want = [
        "1 GET /long",
        "1 200",
        "2 GET /p/{text}",
        "2 200",
        "3 GET /q",
        "3 200",
        "4 GET /many",
        "4 200",
    ];
    assert_eq!(peer.told(), want);
}

#[test]
fn what_is_no_request_is_said_once() {
    for (bytes, reason) in [
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http2"),
        ("\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}", "tls"),
        ("GET /old\r\n", "malformed"),
        ("GARBAGE\u{0}\u{1}\r\n\r\n", "malformed"),
        (
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "malformed",
        ),
        ("POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", "malformed"),
    ] {
        let mut peer = Peer::new();
        peer.read(bytes, true).write("HTTP/1.1 400 Bad\r\n\r\n");
        peer.read("GET / HTTP/1.1\r\n\r\n", true);
        assert_eq!(peer.told(), [reason], "{bytes:?}");
    }
    let mut peer = Peer::new();
    peer.record(socket_kind::OTHER, 0, &[23, 3, 3, 0], 4);
    peer.cookie += 1;
    peer.record(socket_kind::OTHER, 0, b"\x00abc", 4);
    assert_eq!(peer.told(), ["tls", "other"]);
}

#[test]
fn closed_and_lost() {
    let mut peer = Peer::new();
    peer.read("GET /a HTTP/1.1\r\n\r\n", true);
    peer.record(socket_kind::END, 0, b"", 0);
    peer.record(socket_kind::CLOSED, 0, b"", 0);
    assert_eq!(peer.told(), ["1 GET /a", "1 abandoned"]);
    assert!(peer.assembler.is_empty());
    peer.cookie += 1;
    peer.read("GET /b HTTP/1.1\r\n\r\n", true);
    peer.assembler.lost();
    peer.write(OK);
    assert_eq!(peer.told()[2..], ["2 GET /b"]);
}

#[test]
fn everything_is_bounded() {
    let mut peer = Peer::new();
    for _ in 0..MAX_CONNECTIONS + 10 {
        peer.cookie += 1;
        peer.received = 0;
        peer.read("G", true);
    }
    assert_eq!(peer.assembler.len(), MAX_CONNECTIONS - EVICTED + 10);
    assert_eq!(peer.assembler.dropped(), EVICTED as u64);
    let mut peer = Peer::new();
    for _ in 0..MAX_WAITING + 5 {
        peer.read("GET / HTTP/1.1\r\n\r\n", true);
    }
    assert_eq!(peer.assembler.dropped(), 1);
    // Those that came behind one that was not taken are not, either: their responses could not be told apart.
    assert_eq!(peer.told()[MAX_WAITING..], ["unclear"; 4]);
    peer.events.clear();
    for _ in 0..MAX_WAITING + 5 {
        peer.write(OK);
    }
    peer.read("GET /again HTTP/1.1\r\n\r\n", true).write(OK);
    let told = peer.told();
    assert_eq!(told.len(), MAX_WAITING + 2);
    assert_eq!(told[MAX_WAITING..], ["257 GET /again", "257 200"]);
    // A head that never ends.
    let mut peer = Peer::new();
    peer.read("GET / HTTP/1.1\r\n", true);
    for _ in 0..1_000 {
        peer.read("a: b\r\n", false);
    }
    assert_eq!(peer.told(), ["1 GET /"]);
}

const ASK: &str = "GET /a HTTP/1.1\r\n\r\n";

/// Connections that rest make room for others, those that were used least recently first, and nothing is lost by it.
#[test]
fn connections_that_rest_make_room() {
    let mut peer = Peer::new();
    let open = |peer: &mut Peer, cookie| {
        (peer.cookie, peer.received, peer.sent) = (cookie, 0, 0);
        peer.read(ASK, true);
    };
    open(&mut peer, 0);
    for cookie in 1..2 * MAX_CONNECTIONS as u64 {
        open(&mut peer, cookie);
        peer.write(OK);
    }
    assert!(peer.assembler.len() <= MAX_CONNECTIONS);
    assert_eq!(peer.assembler.dropped(), 0);
    (peer.cookie, peer.sent) = (0, 0);
    peer.events.clear();
    peer.write(OK);
    assert_eq!(peer.told(), ["1 200"]);
}

/// However many connections there are, so many requests wait.
#[test]
fn requests_that_wait_are_bounded_in_all() {
    let mut peer = Peer::new();
    for cookie in 0..MAX_WAITING_IN_ALL / MAX_WAITING + 1 {
        (peer.cookie, peer.received) = (cookie as u64, 0);
        for _ in 0..MAX_WAITING {
            peer.read(ASK, true);
        }
    }
    assert_eq!(peer.assembler.waiting, MAX_WAITING_IN_ALL);
    // The last connection has none: each is tried, as nothing waits before it.
    assert_eq!(peer.assembler.dropped(), MAX_WAITING as u64);
    peer.record(socket_kind::CLOSED, 0, b"", 0);
    peer.cookie = 0;
    peer.record(socket_kind::CLOSED, 0, b"", 0);
    assert_eq!(peer.assembler.waiting, MAX_WAITING_IN_ALL - MAX_WAITING);
}

/// The kernel side had no room for a connection, and counts anew.
#[test]
fn places_that_go_back() {
    let mut peer = Peer::new();
    let long = "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n";
    peer.read(ASK, true).write(long).read(ASK, true);
    (peer.received, peer.sent) = (0, 0);
    peer.read(ASK, true).write(OK);
    peer.read("POST /b HTTP/1.1\r\nContent-Length: 9999\r\n\r\n", true);
    peer.write(OK);
    (peer.received, peer.sent) = (0, 0);
    peer.read(ASK, true).write(OK);
    let want = [
        "1 GET /a",
        "1 200",
        "2 GET /a",
        "2 unclear",
        "3 GET /a",
        "3 200",
        "4 POST /b",
        "4 200",
        "5 GET /a",
        "5 200",
    ];
    assert_eq!(peer.told(), want);
}

/// What sendfile writes is not told by every kernel.
#[test]
fn bodies_that_are_not_told() {
    let mut peer = Peer::new();
    for _ in 0..2 {
        peer.read(ASK, true)
            .write("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
    }
    assert_eq!(peer.told(), ["1 GET /a", "1 200", "2 GET /a", "2 200"]);
}

/// A unix socket is never told to be closed.
#[test]
fn peers_that_have_ended() {
    let mut peer = Peer::new();
    peer.read(ASK, true);
    peer.record(socket_kind::END, 0, b"", 0);
    // A peer that has shut down its side only.
    peer.write(OK);
    assert!(peer.assembler.is_empty());
    peer.cookie += 1;
    peer.read(ASK, true);
    peer.record(socket_kind::END, 0, b"", 0);
    for (later_ns, count) in [(ENDED_NS, 3), (ENDED_NS + 1, 4)] {
        let events = &mut peer.events;
        let now_ns = peer.now + later_ns;
        peer.assembler.age(now_ns, |event| events.push(event));
        assert_eq!(peer.events.len(), count);
    }
    assert_eq!(peer.told()[2..], ["2 GET /a", "2 abandoned"]);
    assert!(peer.assembler.is_empty());
    assert_eq!(peer.assembler.waiting, 0);
}

/// Of responses that were written together, more than is handed over: those behind are not taken for later ones.
#[test]
fn responses_that_were_not_seen() {
    let many = |code: u16, count: usize| {
        format!("HTTP/1.1 {code} X\r\nContent-Length: 2\r\n\r\nhi").repeat(count)
    };
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    for (written, answered) in [
        (many(200, 3) + &many(500, 1), 4),
        (format!("{chunks}{OK}"), 1),
        (
            format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "a".repeat(300)),
            1,
        ),
    ] {
        let mut peer = Peer::new();
        peer.read(&ASK.repeat(4), true);
        peer.record(
            socket_kind::WRITTEN,
            0,
            written.as_bytes(),
            written.len().min(256),
        );
        peer.sent += written.len() as u64;
        peer.write(OK).read("GET /b HTTP/1.1\r\n\r\n", true);
        peer.write("HTTP/1.1 404 No\r\n\r\n");
        let told = peer.told();
        assert_eq!(told.last().map(|last| &**last), Some("5 404"), "{told:?}");
        let unclear = told.iter().filter(|told| told.contains("unclear")).count();
        assert_eq!(unclear, 4 - answered, "{told:?}");
    }
    // Seven in one write, of which not all are seen.
    let mut peer = Peer::new();
    peer.read(&ASK.repeat(8), true);
    let written = many(200, 7);
    peer.record(socket_kind::WRITTEN, 0, written.as_bytes(), 256);
    peer.sent += written.len() as u64;
    peer.write(&many(500, 1));
    assert!(peer.told().iter().all(|told| !told.contains("500")));
    // One behind a body, in the same write.
    let mut peer = Peer::new();
    peer.read(&ASK.repeat(3), true);
    peer.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n");
    peer.sent += 50;
    peer.write(&many(500, 1));
    assert_eq!(peer.told()[3..], ["1 200", "2 unclear", "3 unclear"]);
}

/// More requests than are handed over of one read: those behind them wait for those that were seen.
#[test]
fn requests_that_were_not_seen() {
    let mut peer = Peer::new();
    let asked = ASK.repeat(100);
    peer.read_some(asked.as_bytes(), true, SOCKET_BYTES);
    let seen = peer.events.len();
    assert_eq!(seen, SOCKET_BYTES / ASK.len() + 1);
    peer.read("GET /later HTTP/1.1\r\n\r\n", true);
    for _ in 0..101 {
        peer.write(OK);
    }
    peer.read("GET /b HTTP/1.1\r\n\r\n", true)
        .write("HTTP/1.1 404 No\r\n\r\n");
    let told = peer.told();
    assert_eq!(told[seen], "unclear");
    assert_eq!(told.len(), 2 * seen + 3, "{told:?}");
    assert_eq!(
        told[2 * seen + 1..],
        [format!("{} GET /b", seen + 1), format!("{} 404", seen + 1)]
    );
}

/// Where a connection is joined in the midst, what is no head is passed over.
#[test]
fn connections_joined_in_the_midst() {
    let want = ["1 GET /a", "1 200"];
    for (first, starts) in [("some body", false), ("GET a body\0\r\n\r\n", true)] {
        let mut peer = Peer::new();
        peer.received = 5_000;
        peer.read(first, starts).read(ASK, true).write(OK);
        assert_eq!(peer.told(), want, "{first}");
    }
    // The rest of a body, after a loss.
    let mut peer = Peer::new();
    peer.read("POST /up HTTP/1.1\r\nContent-Length: 30\r\n\r\n", true);
    peer.assembler.lost();
    peer.events.clear();
    peer.read("PUT what was said, and no head", true);
    peer.write(OK).read(ASK, true).write(OK);
    assert_eq!(peer.told(), ["2 GET /a", "2 200"]);
}

/// Whatever bytes come, as records or in the streams that these tell of: no panic, and no response without a request.
#[test]
fn noise() {
    let mut rng = Rng::new(23);
    let words = [
        "GET ",
        "/ ",
        "HTTP/1.1",
        "\r\n",
        "\r\n\r\n",
        "0\r\n",
        "ffffffffffffffff\r\n",
        ":",
        "POST ",
        "Content-Length: 18446744073709551615",
        "Transfer-Encoding: chunked",
        "HTTP/1.1 200 OK",
        "\0",
    ];
    for _ in 0..3_000 {
        let mut peer = Peer::new();
        for _ in 0..rng.below(20) {
            let mut text = String::new();
            for _ in 0..rng.below(12) {
                text += words[rng.below(words.len())];
            }
            peer.cookie = rng.below(3) as u64;
            match rng.below(6) {
                0 => peer.write(&text),
                1 => {
                    peer.received = rng.next();
                    peer.sent = rng.next();
                    peer.received = peer.received.min(u64::MAX / 2);
                    peer.sent = peer.sent.min(u64::MAX / 2);
                    &mut peer
                }
                _ => peer.read_some(
                    text.as_bytes(),
                    rng.below(2) == 0,
                    rng.below(text.len() + 1),
                ),
            };
        }
        let count = |is: fn(&HttpWhat) -> bool| {
            let events = peer.events.iter();
            events.filter(|event| is(&event.what)).count()
        };
        let began = count(|what| matches!(what, HttpWhat::Began { .. }));
        let answered = count(|what| matches!(what, HttpWhat::Answered { .. }));
        assert!(answered <= began);
    }
}

/// A batch as the kernel side writes it.
fn batch(rng: &mut Rng, records: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(WIRE_VERSION.to_le_bytes());
    bytes.extend(records.to_le_bytes());
    bytes.resize(size_of::<BatchHeader>(), 0);
    for record in 0..records {
        let text = b"GET / HTTP/1.1\r\n\r\n";
        bytes.extend([socket_kind::READ, socket_flags::START]);
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(
            [12u32, 11, text.len() as u32]
                .map(u32::to_le_bytes)
                .concat(),
        );
        let cookie = u64::from(record) + rng.below(2) as u64;
        bytes.extend([500, 400, cookie, 0, 0].map(u64::to_le_bytes).concat());
        // Its peer.
        bytes.extend([0; 24]);
        bytes.extend(text);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    bytes
}

#[test]
fn batches_are_total() {
    let mut rng = Rng::new(31);
    let bytes = batch(&mut rng, 3);
    let whole = sockets(&bytes).expect("a batch");
    assert_eq!((whole.records.len(), whole.invalid), (3, 0));
    assert_eq!(whole.records[2].bytes, b"GET / HTTP/1.1\r\n\r\n");
    for length in 0..bytes.len() {
        assert!(sockets(&bytes[..length]).is_err(), "{length}");
    }
    let mut assembler = Assembler::new(Vec::new());
    for _ in 0..5_000 {
        let mut bytes = batch(&mut rng, 3);
        for _ in 0..4 {
            let at = rng.below(bytes.len());
            bytes[at] = rng.next() as u8;
        }
        if let Ok(batch) = sockets(&bytes) {
            for record in &batch.records {
                assembler.take(record, |_| {});
            }
        }
    }
}

/// What a thread waited for a peer, whichever way its address is written.
#[test]
fn waits_for_peers() {
    let loopback = u32::from_ne_bytes([127, 0, 0, 1]);
    let mapped = [0, 0, 0xffff_u32.to_be(), loopback];
    for (family, peer, address) in [
        (2, [loopback, 0, 0, 0], Some("127.0.0.1")),
        (10, mapped, Some("127.0.0.1")),
        (10, [0, 0, 0, 1u32.to_be()], Some("::1")),
        (1, [0; 4], None),
    ] {
        let record = SocketRecord {
            head: SocketHead {
                kind: socket_kind::WAITED,
                flags: socket_flags::MADE,
                bytes: 0,
                tid: 12,
                tgid: 11,
                length: 0,
                at_ns: 1_000,
                ready_ns: 400,
                cookie: 7,
                offset: 500,
                tail: u64::from(concmon_ebpf::cause::IO),
                peer,
                family,
                peer_port: 5_432,
                reserved: 0,
            },
            bytes: Vec::new(),
        };
        let mut told = Vec::new();
        let mut assembler = Assembler::new(Vec::new());
        assembler.take(&record, |event| told.push(event.what));
        let wanted = address.map(|address| HttpWhat::Waited {
            peer: HttpPeer {
                address: Some(address.parse().expect("an address")),
                port: 5_432,
            },
            made: true,
            cause: Cause::Io,
            from_ns: 400,
            wait_ns: 500,
        });
        assert_eq!(told, Vec::from_iter(wanted));
        assert!(assembler.is_empty());
    }
}
