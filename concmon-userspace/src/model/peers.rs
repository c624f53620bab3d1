//! For whom threads waited on the network: waits at connections that the process has made, by peer.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::add::Add;
use super::fine::Fine;
use super::window::{Cumulative, Growth, Scope};
use crate::event::{Cause, HttpPeer, Tid};
use crate::schema;

/// Peers of a process, and those that are shown, the ones that were waited for most; the others are told together.
const MAX_PEERS: usize = 256;
const MAX_SHOWN: usize = 20;
/// Peers of a service: those that come first, for these sums never fall.
const MAX_OF_SERVICE: usize = 64;
/// Threads of which the latest wait is remembered.
const MAX_THREADS: usize = 4_096;

/// What was waited for one peer.
#[derive(Clone, Debug, Default)]
struct Row {
    waits: Fine,
    /// What of them lies in requests that the same thread served, ns.
    in_requests_ns: u64,
    /// Connections to it were seen to be made.
    made: bool,
}

impl Growth for Row {
    fn since(&self, base: &Self) -> Self {
        Self {
            waits: self.waits.since(&base.waits),
            in_requests_ns: self.in_requests_ns.saturating_sub(base.in_requests_ns),
            made: self.made,
        }
    }

    fn catch_up(&mut self, now: &Self) {
        if self.waits.count() != now.waits.count() {
            self.clone_from(now);
        }
    }
}

impl Add for Row {
    fn add(&mut self, other: &Self) {
        self.waits.add(&other.waits);
        self.in_requests_ns = self.in_requests_ns.saturating_add(other.in_requests_ns);
        self.made |= other.made;
    }
}

/// The peers of one process; `None` stands for all for which there is no room.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peers {
    rows: BTreeMap<Option<HttpPeer>, Cumulative<Row>>,
    /// When the latest wait of each thread began: one wait is for one peer, whichever was read from first.
    told: BTreeMap<Tid, u64>,
    /// Threads that run event loops: in `poll` they wait for all of their sockets.
    loops: BTreeSet<Tid>,
}

/// A wait for a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerWait {
    pub(crate) tid: Tid,
    pub(crate) peer: HttpPeer,
    pub(crate) made: bool,
    pub(crate) cause: Cause,
    pub(crate) from_ns: u64,
    pub(crate) wait_ns: u64,
    /// What of it lies in a request that the thread serves, ns.
    pub(crate) in_request_ns: u64,
}

impl Peers {
    pub(crate) fn take(&mut self, wait: &PeerWait) {
        if wait.cause == Cause::Poll && self.loops.contains(&wait.tid) {
            return;
        }
        if self
            .told
            .get(&wait.tid)
            .is_some_and(|told| *told >= wait.from_ns)
        {
            return;
        }
        if self.told.len() >= MAX_THREADS && !self.told.contains_key(&wait.tid) {
            self.told.clear();
        }
        self.told.insert(wait.tid, wait.from_ns);
        let key = Some(wait.peer);
        let has_room = self.rows.len() < MAX_PEERS || self.rows.contains_key(&key);
        let row = self.rows.entry(if has_room { key } else { None });
        let row = &mut row.or_default().now;
        row.waits.record(wait.wait_ns, 1);
        row.in_requests_ns = row.in_requests_ns.saturating_add(wait.in_request_ns);
        row.made |= wait.made;
    }

    /// The threads that run event loops now.
    pub(crate) fn look(&mut self, loops: impl Iterator<Item = Tid>) {
        self.loops = loops.take(MAX_THREADS).collect();
    }

    /// Begins a window.
    pub(crate) fn roll(&mut self) {
        self.rows.values_mut().for_each(Cumulative::roll);
    }

    pub(crate) fn add_to(&self, delta: &mut PeersDelta) {
        let rows = self.rows.iter();
        let mut rows: Vec<_> = rows
            .map(|(peer, row)| (*peer, row.over(Scope::Window)))
            .collect();
        // Room is for those that were waited for most.
        rows.sort_by_key(|(_, row)| Reverse(row.waits.sum_ns()));
        for (peer, row) in rows {
            delta.put(peer, &row);
        }
    }

    pub(crate) fn report(&self, scope: Scope) -> Vec<schema::Peer> {
        let rows = self.rows.iter();
        let rows = rows.map(|(peer, row)| (*peer, row.over(scope)));
        report(rows.collect(), MAX_SHOWN)
    }
}

/// What processes have added.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeersDelta(BTreeMap<Option<HttpPeer>, Row>);

impl PeersDelta {
    fn put(&mut self, peer: Option<HttpPeer>, row: &Row) {
        if row.waits.count() == 0 {
            return;
        }
        let has_room = self.0.len() < MAX_OF_SERVICE || self.0.contains_key(&peer);
        let of = self.0.entry(if has_room { peer } else { None });
        of.or_default().add(row);
    }

    pub(crate) fn report(&self) -> Vec<schema::Peer> {
        let rows = self.0.iter().map(|(peer, row)| (*peer, row.clone()));
        report(rows.collect(), MAX_OF_SERVICE)
    }
}

impl Add for PeersDelta {
    fn add(&mut self, other: &Self) {
        for (peer, row) in &other.0 {
            self.put(*peer, row);
        }
    }
}

/// Those that were waited for most come first; behind them all others together.
fn report(mut rows: Vec<(Option<HttpPeer>, Row)>, most: usize) -> Vec<schema::Peer> {
    rows.retain(|(_, row)| row.waits.count() > 0);
    rows.sort_by_key(|(peer, row)| (peer.is_none(), Reverse(row.waits.sum_ns()), *peer));
    let named = rows.iter().take_while(|(peer, _)| peer.is_some()).count();
    let mut others = Row::default();
    for (_, row) in rows.drain(named.min(most)..) {
        others.add(&row);
    }
    rows.push((None, others));
    let rows = rows.into_iter();
    rows.filter_map(|(peer, row)| {
        Some(schema::Peer {
            address: peer.map(|peer| match peer.address {
                Some(address) => address.to_string(),
                None => "<redacted>".to_owned(),
            }),
            port: peer.map(|peer| peer.port),
            direction: row.made.then_some(schema::Direction::Out),
            wait_ns: row.waits.sum_ns(),
            in_requests_ns: row.in_requests_ns,
            waits: row.waits.report()?,
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(tid: u32, port: u16, from_ns: u64, wait_ns: u64) -> PeerWait {
        PeerWait {
            tid: Tid(tid),
            peer: HttpPeer {
                address: Some([127, 0, 0, 1].into()),
                port,
            },
            made: true,
            cause: Cause::Poll,
            from_ns,
            wait_ns,
            in_request_ns: wait_ns / 2,
        }
    }

    #[test]
    fn one_wait_is_for_one_peer() {
        let mut peers = Peers::default();
        peers.look([Tid(3)].into_iter());
        // The second has answered meanwhile, and is read from next; a loop's thread waits for all of its sockets.
        for one in [
            wait(1, 10, 100, 50),
            wait(1, 11, 100, 50),
            wait(2, 11, 100, 70),
            wait(3, 12, 100, 900),
            PeerWait {
                cause: Cause::Io,
                ..wait(3, 13, 1_000, 5)
            },
        ] {
            peers.take(&one);
        }
        let told = |peers: &Peers, scope| -> Vec<(Option<u16>, u64)> {
            let rows = peers.report(scope).into_iter();
            rows.map(|row| (row.port, row.wait_ns)).collect()
        };
        let wanted = [(Some(11), 70), (Some(10), 50), (Some(13), 5)];
        assert_eq!(told(&peers, Scope::Window), wanted);
        assert_eq!(peers.report(Scope::Window)[0].in_requests_ns, 35);
        peers.roll();
        peers.take(&wait(1, 10, 300, 1));
        assert_eq!(told(&peers, Scope::Window), [(Some(10), 1)]);
        assert_eq!(told(&peers, Scope::Whole)[1], (Some(10), 51));
    }

    #[test]
    fn what_is_left_out_is_told_together() {
        let mut peers = Peers::default();
        let mut sum = 0;
        for index in 0..400 {
            let wait_ns = u64::from(index) + 1;
            peers.take(&wait(1, index + 1, 10 * u64::from(index) + 10, wait_ns));
            sum += wait_ns;
        }
        let rows = peers.report(Scope::Whole);
        assert_eq!(rows.len(), MAX_SHOWN + 1);
        assert_eq!(rows.iter().map(|row| row.wait_ns).sum::<u64>(), sum);
        assert_eq!(rows.iter().filter(|row| row.port.is_none()).count(), 1);
        let mut delta = PeersDelta::default();
        peers.add_to(&mut delta);
        let twice = delta.clone();
        delta.add(&twice);
        let rows = delta.report();
        assert_eq!(rows.iter().map(|row| row.wait_ns).sum::<u64>(), 2 * sum);
    }
}
