//! From what sockets read and wrote to HTTP events, in the order of time.
//!
//! One connection may be used on several CPUs, whose batches arrive one after the other: records wait for the same
//! horizon as slices before anything is concluded from them. What is concluded is what captures keep: bytes of heads
//! are in none.

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

/// The way of records of sockets.
#[derive(Debug)]
pub struct Requests {
    order: Orderer<SocketRecord>,
    assembler: Assembler,
    /// By CPU, how many records there were up to the last batch.
    produced: Vec<u64>,
    damaged: u64,
    lost: u64,
}

impl Requests {
    /// Keeps the values of these headers of requests.
    pub fn new(header_names: Vec<String>) -> Self {
        let weight = |record: &SocketRecord| 1 + record.bytes.len() / HELD_BYTES;
        Self {
            order: Orderer::weighing(MOST_HELD, weight),
            assembler: Assembler::new(header_names),
            produced: Vec::new(),
            damaged: 0,
            lost: 0,
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
        if missing > 0 {
            self.lose(missing, header.opened_ns, &mut sink);
        }
        let assembler = &mut self.assembler;
        for record in batch.records {
            self.order
                .push(record.head.at_ns, header.cpu, record, |record| {
                    assembler.take(record, |event| sink(boxed(event)));
                });
        }
    }

    fn lose(&mut self, records: u64, at_ns: u64, sink: &mut impl FnMut(Event)) {
        self.lost = self.lost.saturating_add(records);
        self.assembler.lost();
        sink(boxed(HttpEvent {
            at_ns,
            pid: Pid(0),
            tid: Tid(0),
            what: HttpWhat::Lost { records },
        }));
    }

    /// Passes on what happened up to and including `until_ns`.
    pub fn release(&mut self, until_ns: u64, mut sink: impl FnMut(Event)) {
        let assembler = &mut self.assembler;
        self.order.release(until_ns, |record| {
            assembler.take(record, |event| sink(boxed(event)));
        });
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

fn boxed(event: HttpEvent) -> Event {
    Event::Http(Box::new(event))
}
