//! From what sockets read and wrote to HTTP events, in the order of time.
//!
//! One connection may be used on several CPUs, whose batches arrive one after the other: records wait for the same
//! horizon as slices before anything is concluded from them. What is concluded is what captures keep: bytes of heads
//! are in none.

use concmon_ebpf::socket_kind;

use crate::{
    decode::{
        http::Assembler,
        sockets::{SocketRecord, sockets},
    },
    event::{Event, HttpEvent, HttpWhat, Pid, Tid},
    source::order::Orderer,
};

/// How much is held, counted as below.
const MOST_HELD: usize = 64_000;
/// A record weighs as much as one without bytes for each so many of them.
const HELD_BYTES: usize = 128;
/// The stream that these events have for themselves where slices and samples are ordered.
pub const STREAM: u32 = 0x7fff_0000;

/// What waits for its time.
#[derive(Debug)]
enum Item {
    Record(SocketRecord),
    /// So many records before this instant never arrived.
    Lost {
        at_ns: u64,
        records: u64,
    },
}

/// The way of records of sockets.
#[derive(Debug)]
pub struct Requests {
    order: Orderer<Item>,
    assembler: Assembler,
    /// By CPU, how many records there were up to the last batch.
    produced: Vec<u64>,
    damaged: u64,
    lost: u64,
    /// Since when sockets tell, after a time in which they did not.
    since_ns: u64,
}

impl Requests {
    /// Keeps the values of these headers of requests.
    pub fn new(header_names: Vec<String>) -> Self {
        let weight = |item: &Item| match item {
            Item::Record(record) => 1 + record.bytes.len() / HELD_BYTES,
            Item::Lost { .. } => 1,
        };
        Self {
            order: Orderer::weighing(MOST_HELD, weight),
            assembler: Assembler::new(header_names),
            produced: Vec::new(),
            damaged: 0,
            lost: 0,
            since_ns: 0,
        }
    }

    /// Takes the bytes of a batch.
    pub fn take(&mut self, bytes: &[u8], mut sink: impl FnMut(Event)) {
        let batch = match sockets(bytes) {
            Ok(batch) => batch,
            Err(error) => {
                log::debug!("a damaged batch of sockets: {error}");
                self.damaged += 1;
                return;
            }
        };
        self.damaged += batch.invalid;
        let header = &batch.header;
        let cpu = header.cpu as usize;
        // No kernel has as many.
        if cpu >= 8_192 {
            self.damaged += 1;
            return;
        }
        if self.produced.len() <= cpu {
            self.produced.resize(cpu + 1, 0);
        }
        let missing = header.produced_before.saturating_sub(self.produced[cpu]);
        self.produced[cpu] = header
            .produced_before
            .saturating_add(u64::from(header.count));
        self.lost = self.lost.saturating_add(missing);
        let at_ns = header.opened_ns;
        let lost = Item::Lost {
            at_ns,
            records: missing,
        };
        let lost = (missing > 0).then_some((at_ns, lost));
        let since_ns = self.since_ns;
        let records = batch.records.into_iter();
        let records = records.map(|mut record| {
            if record.head.kind == socket_kind::READ && record.head.ready_ns < since_ns {
                record.head.ready_ns = 0;
            }
            (record.head.at_ns, Item::Record(record))
        });
        let assembler = &mut self.assembler;
        for (at_ns, item) in lost.into_iter().chain(records) {
            self.order.push(at_ns, header.cpu, item, |item| {
                pass_on(assembler, item, &mut sink);
            });
        }
    }

    /// Passes on what happened up to and including `until_ns`.
    pub fn release(&mut self, until_ns: u64, mut sink: impl FnMut(Event)) {
        let assembler = &mut self.assembler;
        self.order
            .release(until_ns, |item| pass_on(assembler, item, &mut sink));
        assembler.age(until_ns, |event| sink(boxed(event)));
    }

    /// Sockets tell nothing from here on: what is under way is not known any more.
    pub fn pause(&mut self, now_ns: u64, mut sink: impl FnMut(Event)) {
        self.release(now_ns, &mut sink);
        lose(&mut self.assembler, now_ns, 0, &mut sink);
    }

    /// Sockets tell again. When bytes became readable that nobody had read by the last pause is not to be taken for when
    /// those of the next request did.
    pub const fn resume(&mut self, now_ns: u64) {
        self.since_ns = now_ns;
    }

    /// Records that never arrived.
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// What went wrong on the way, by declared name.
    pub const fn faults(&self) -> [(&'static str, u64); 2] {
        [
            ("damaged-socket-records", self.damaged),
            ("http-no-room", self.assembler.dropped()),
        ]
    }
}

/// Takes what has its time.
fn pass_on(assembler: &mut Assembler, item: &Item, sink: &mut impl FnMut(Event)) {
    match item {
        Item::Record(record) => assembler.take(record, |event| sink(boxed(event))),
        Item::Lost { at_ns, records } => {
            lose(assembler, *at_ns, *records, sink);
        }
    }
}

/// So many records before this instant never arrived: what was under way is not known any more.
fn lose(assembler: &mut Assembler, at_ns: u64, records: u64, sink: &mut impl FnMut(Event)) {
    assembler.lost();
    sink(boxed(HttpEvent {
        at_ns,
        pid: Pid(0),
        tid: Tid(0),
        what: HttpWhat::Lost { records },
    }));
}

fn boxed(event: HttpEvent) -> Event {
    Event::Http(Box::new(event))
}

#[cfg(test)]
mod tests {
    use concmon_ebpf::{BatchHeader, WIRE_VERSION, socket_flags, socket_kind};

    use super::*;

    /// A batch with one record, as the kernel side writes it.
    fn batch(cpu: u32, before: u64, opened_ns: u64, at_ns: u64, kind: u8, text: &[u8]) -> Vec<u8> {
        ready_since(0, cpu, before, opened_ns, at_ns, kind, text)
    }

    /// The same, with bytes that were readable since then.
    fn ready_since(
        ready_ns: u64,
        cpu: u32,
        before: u64,
        opened_ns: u64,
        at_ns: u64,
        kind: u8,
        text: &[u8],
    ) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(WIRE_VERSION.to_le_bytes());
        bytes.extend(1u16.to_le_bytes());
        bytes.extend(cpu.to_le_bytes());
        bytes.extend([before, opened_ns].map(u64::to_le_bytes).concat());
        assert_eq!(bytes.len(), size_of::<BatchHeader>());
        bytes.extend([kind, socket_flags::START]);
        bytes.extend((text.len() as u16).to_le_bytes());
        let words = [12, 11, text.len() as u32];
        bytes.extend(words.map(u32::to_le_bytes).concat());
        bytes.extend([at_ns, ready_ns, 7, 0, 0].map(u64::to_le_bytes).concat());
        // Its peer.
        bytes.extend([0; 24]);
        bytes.extend(text);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    /// What was lost is behind what waits for its time, and before what came with the batch that tells.
    #[test]
    fn losses_have_their_time() {
        let mut requests = Requests::new(Vec::new());
        let request = b"GET / HTTP/1.1\r\n\r\n";
        let response = b"HTTP/1.1 200 OK\r\n\r\n";
        let mut events = Vec::new();
        for bytes in [
            batch(0, 0, 100, 100, socket_kind::READ, request),
            batch(1, 5, 500, 600, socket_kind::WRITTEN, response),
        ] {
            requests.take(&bytes, |event| events.push(event));
        }
        assert!(events.is_empty() && requests.lost() == 5);
        requests.release(1_000, |event| events.push(event));
        let told: Vec<_> = events
            .iter()
            .map(|event| match event {
                Event::Http(event) => (event.at_ns, event.what.clone()),
                _ => panic!("{event:?}"),
            })
            .collect();
        assert!(matches!(told[0], (100, HttpWhat::Began { .. })), "{told:?}");
        assert_eq!(told[1..], [(500, HttpWhat::Lost { records: 5 })]);
    }

    /// A request that was under way when sockets fell silent is not known any more, and when bytes became readable
    /// before or meanwhile is not when those of the next one did.
    #[test]
    fn after_a_pause_nothing_of_before_counts() {
        let mut requests = Requests::new(Vec::new());
        let request = b"GET / HTTP/1.1\r\n\r\n";
        let mut told = Vec::new();
        let mut sink = |event| match event {
            Event::Http(event) => told.push(event.what),
            _ => panic!("{event:?}"),
        };
        requests.take(
            &batch(0, 0, 100, 100, socket_kind::READ, request),
            &mut sink,
        );
        requests.pause(200, &mut sink);
        requests.resume(1_000);
        for (before, ready_ns, at_ns) in [(1, 150, 1_100), (2, 1_150, 1_200)] {
            let kind = socket_kind::READ;
            let mut bytes = ready_since(ready_ns, 0, before, at_ns, at_ns, kind, request);
            // Of another connection.
            let cookie = size_of::<BatchHeader>() + 32;
            assert_eq!(bytes[cookie], 7);
            bytes[cookie] += before as u8;
            requests.take(&bytes, &mut sink);
            requests.release(at_ns, &mut sink);
        }
        let queued: Vec<_> = told
            .iter()
            .map(|what| match what {
                HttpWhat::Began { request, .. } => Some(request.queue_ns),
                HttpWhat::Lost { records: 0 } => None,
                _ => panic!("{what:?}"),
            })
            .collect();
        assert_eq!(queued, [Some(None), None, Some(None), Some(Some(50))]);
        assert_eq!(requests.lost(), 0);
    }
}
