//! Events of several CPUs in the order of time, within bounded memory.
//!
//! Each CPU's batches, of slices and of samples, arrive when they are full or old enough, so events of one stream overtake those
//! of another. They are held until a horizon has passed before which nothing is outstanding.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

/// Lanes at most: two for each CPU.
const MAX_LANES: usize = 8_192;
/// Room for strays that is kept.
const STRAYS: usize = 16_384;

/// Holds items until their time has come.
///
/// Items of the same instant come out by stream, those of the same stream in the order of arrival.
#[derive(Clone, Debug)]
pub struct Orderer<T> {
    /// One for each stream: its items mostly come in their order.
    lanes: Vec<Lane<T>>,
    places: BTreeMap<u32, usize>,
    /// The lanes that hold something, a heap by their first: none is before its parent, which is
    /// at `(i - 1) / 2`.
    fronts: Vec<Front>,
    /// Those that came behind later ones of their stream: by key, then arrival.
    strays: BinaryHeap<Reverse<Stray<T>>>,
    /// What the items that are held weigh, at most, and each of them.
    held: usize,
    most: usize,
    weigh: fn(&T) -> usize,
    arrived: u64,
    /// The latest instant that has been passed on.
    passed_ns: u64,
    early: u64,
    late: u64,
}

/// Instant, stream.
type Key = (u64, u32);

#[derive(Clone, Debug)]
struct Lane<T> {
    stream: u32,
    items: VecDeque<(u64, T)>,
    /// Of these, how many have been passed on by the release that is under way.
    passed: usize,
}

/// Where the earliest item is.
#[derive(Clone, Copy, Debug)]
enum Next {
    Stray,
    Lane(usize),
}

/// The first item of a lane, and the lane's place.
#[derive(Clone, Copy, Debug)]
struct Front {
    key: Key,
    place: usize,
}

#[derive(Clone, Debug)]
struct Stray<T> {
    key: Key,
    arrival: u64,
    item: T,
}

impl<T> Ord for Stray<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.key, self.arrival).cmp(&(other.key, other.arrival))
    }
}

impl<T> PartialOrd for Stray<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Stray<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for Stray<T> {}

impl<T> Orderer<T> {
    /// One that holds at most `most` items.
    pub fn new(most: usize) -> Self {
        Self::weighing(most, |_| 1)
    }

    /// One that holds items that weigh at most `most` together.
    pub fn weighing(most: usize, weigh: fn(&T) -> usize) -> Self {
        Orderer {
            lanes: Vec::new(),
            places: BTreeMap::new(),
            fronts: Vec::new(),
            strays: BinaryHeap::new(),
            held: 0,
            most,
            weigh,
            arrived: 0,
            passed_ns: 0,
            early: 0,
            late: 0,
        }
    }

    /// Takes in an item of `stream` at `at_ns`. Where that is too much, the earliest items are
    /// passed on at once, and counted as early.
    pub fn push(&mut self, at_ns: u64, stream: u32, item: T, mut early: impl FnMut(&T)) {
        if at_ns < self.passed_ns {
            self.late += 1;
        }
        self.held += (self.weigh)(&item);
        match self.place(stream) {
            Some(place) => self.hold(place, at_ns, item),
            None => self.stray((at_ns, stream), item),
        }
        while self.held > self.most
            && let Some(item) = self.pop()
        {
            self.early += 1;
            early(&item);
        }
    }

    /// The lane of a stream; `None`: there is no room for one.
    fn place(&mut self, stream: u32) -> Option<usize> {
        // Mostly streams have their numbers as places.
        let guess = stream as usize;
        if self
            .lanes
            .get(guess)
            .is_some_and(|lane| lane.stream == stream)
        {
            return Some(guess);
        }
        if let Some(place) = self.places.get(&stream) {
            return Some(*place);
        }
        let place = self.lanes.len();
        if place >= MAX_LANES {
            return None;
        }
        self.places.insert(stream, place);
        self.lanes.push(Lane {
            stream,
            items: VecDeque::new(),
            passed: 0,
        });
        Some(place)
    }

    fn hold(&mut self, place: usize, at_ns: u64, item: T) {
        let lane = &mut self.lanes[place];
        let key = (at_ns, lane.stream);
        match lane.items.back() {
            Some((last_ns, _)) if *last_ns > at_ns => self.stray(key, item),
            Some(_) => lane.items.push_back((at_ns, item)),
            None => {
                lane.items.push_back((at_ns, item));
                self.fronts.push(Front { key, place });
                self.sift_up();
            }
        }
    }

    fn stray(&mut self, key: Key, item: T) {
        let arrival = self.arrived;
        self.arrived += 1;
        self.strays.push(Reverse(Stray { key, arrival, item }));
    }

    /// Passes the items up to and including `until_ns` on, earliest first.
    pub fn release(&mut self, until_ns: u64, mut sink: impl FnMut(&T)) {
        loop {
            match self.next(until_ns) {
                None => break,
                Some(Next::Stray) => {
                    if let Some(stray) = self.take_stray() {
                        sink(&stray);
                    }
                }
                // Items are large, and stay where they are until all have been passed on.
                Some(Next::Lane(place)) => {
                    let lane = &mut self.lanes[place];
                    let Some((at_ns, item)) = lane.items.get(lane.passed) else {
                        break;
                    };
                    sink(item);
                    self.held -= (self.weigh)(item);
                    lane.passed += 1;
                    self.passed_ns = self.passed_ns.max(*at_ns);
                    self.advance(place);
                }
            }
        }
        for lane in &mut self.lanes {
            lane.items.drain(..lane.passed);
            lane.passed = 0;
        }
        // What was held once by each lane in turn is more than may be held at a time.
        let room: usize = self.lanes.iter().map(|lane| lane.items.capacity()).sum();
        if room > self.most.saturating_mul(2).max(MAX_LANES) {
            self.lanes
                .iter_mut()
                .for_each(|lane| lane.items.shrink_to_fit());
        }
        if self.strays.capacity() > 2 * STRAYS && self.strays.len() < STRAYS {
            self.strays.shrink_to(STRAYS);
        }
    }

    /// Takes the earliest item out.
    fn pop(&mut self) -> Option<T> {
        match self.next(u64::MAX)? {
            Next::Stray => self.take_stray(),
            Next::Lane(place) => {
                let (at_ns, item) = self.lanes[place].items.pop_front()?;
                self.held -= (self.weigh)(&item);
                self.passed_ns = self.passed_ns.max(at_ns);
                self.advance(place);
                Some(item)
            }
        }
    }

    /// Where the earliest item is, unless it is after `until_ns`.
    fn next(&self, until_ns: u64) -> Option<Next> {
        let front = self.fronts.first().filter(|front| front.key.0 <= until_ns);
        let stray = self.strays.peek().map(|Reverse(stray)| stray.key);
        match (front, stray.filter(|key| key.0 <= until_ns)) {
            // Of a lane's item and a stray with the same key, the stray came later.
            (Some(front), Some(stray)) if stray < front.key => Some(Next::Stray),
            (Some(front), _) => Some(Next::Lane(front.place)),
            (None, Some(_)) => Some(Next::Stray),
            (None, None) => None,
        }
    }

    fn take_stray(&mut self) -> Option<T> {
        let Reverse(stray) = self.strays.pop()?;
        self.held -= (self.weigh)(&stray.item);
        self.passed_ns = self.passed_ns.max(stray.key.0);
        Some(stray.item)
    }

    /// The first of the lanes by their fronts, which is that at `place`, has another first item.
    fn advance(&mut self, place: usize) {
        let lane = &self.lanes[place];
        match lane.items.get(lane.passed) {
            Some((at_ns, _)) => self.fronts[0].key.0 = *at_ns,
            None => drop(self.fronts.swap_remove(0)),
        }
        self.sift_down();
    }

    /// Puts the last of the heap in its place.
    fn sift_up(&mut self) {
        let mut at = self.fronts.len() - 1;
        while at > 0 {
            let parent = (at - 1) / 2;
            if self.fronts[parent].key <= self.fronts[at].key {
                break;
            }
            self.fronts.swap(at, parent);
            at = parent;
        }
    }

    /// Puts the first of the heap in its place.
    fn sift_down(&mut self) {
        let fronts = self.fronts.as_mut_slice();
        let mut at = 0;
        loop {
            let mut least = 2 * at + 1;
            let Some(left) = fronts.get(least) else {
                break;
            };
            if let Some(right) = fronts.get(least + 1)
                && right.key < left.key
            {
                least += 1;
            }
            if fronts[at].key <= fronts[least].key {
                break;
            }
            fronts.swap(at, least);
            at = least;
        }
    }

    /// What is held weighs so much.
    pub fn len(&self) -> usize {
        self.held
    }

    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Items passed on before their time, for lack of room.
    pub const fn early(&self) -> u64 {
        self.early
    }

    /// Items that arrived when later ones had been passed on: each came out of order.
    pub const fn late(&self) -> u64 {
        self.late
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;

    fn released<T: Clone>(orderer: &mut Orderer<T>, until_ns: u64) -> Vec<T> {
        let mut released = Vec::new();
        orderer.release(until_ns, |item| released.push(item.clone()));
        released
    }

    #[test]
    fn order_and_ties() {
        let mut orderer = Orderer::new(100);
        for (at_ns, cpu, item) in [
            (30, 0, "f"),
            (10, 1, "b"),
            (10, 0, "a"),
            (20, 2, "d"),
            (10, 1, "c"),
            (20, 3, "e"),
        ] {
            orderer.push(at_ns, cpu, item, |_| unreachable!());
        }
        assert!(released(&mut orderer, 9).is_empty());
        assert_eq!(released(&mut orderer, 20).concat(), "abcde");
        assert_eq!((orderer.len(), orderer.is_empty()), (1, false));
        assert_eq!(released(&mut orderer, u64::MAX), ["f"]);
        assert_eq!((orderer.early(), orderer.late()), (0, 0));
    }

    #[test]
    fn late_ones_are_counted() {
        let mut orderer = Orderer::new(100);
        orderer.push(10, 0, "a", |_| {});
        assert_eq!(released(&mut orderer, 50), ["a"]);
        // Nothing after 10 was passed on: 20 is in order, though before the horizon.
        orderer.push(20, 0, "b", |_| {});
        orderer.push(10, 0, "c", |_| {});
        assert_eq!(orderer.late(), 0);
        orderer.push(9, 1, "d", |_| {});
        assert_eq!(orderer.late(), 1);
        assert_eq!(released(&mut orderer, 50).concat(), "dcb");
    }

    #[test]
    fn no_room_at_all() {
        let mut orderer = Orderer::new(0);
        let mut early = Vec::new();
        orderer.push(5, 0, "x", |item| early.push(*item));
        assert_eq!(early, ["x"]);
        assert_eq!((orderer.len(), orderer.early()), (0, 1));
    }

    /// Streams of several CPUs, each in order, batched at random; the horizon is the least that is
    /// still outstanding. However it is cut, all comes out once and in order.
    #[test]
    fn streams_are_merged() {
        let mut rng = Rng::new(6);
        for _ in 0..300 {
            let cpus = 1 + rng.below(20);
            let mut now = vec![0u64; cpus];
            let mut orderer = Orderer::new(usize::MAX);
            let (mut pushed, mut out) = (Vec::new(), Vec::new());
            for _ in 0..rng.below(60) {
                let cpu = rng.below(cpus);
                for _ in 0..rng.below(20) {
                    now[cpu] += rng.below(3) as u64;
                    let item = (now[cpu], cpu as u32, pushed.len());
                    pushed.push(item);
                    orderer.push(item.0, item.1, item, |_| unreachable!());
                }
                if rng.below(4) == 0 {
                    // An instant that a CPU may still add to is not over.
                    let horizon = *now.iter().min().unwrap();
                    if let Some(until_ns) = horizon.checked_sub(1) {
                        out.extend(released(&mut orderer, until_ns));
                    }
                }
            }
            out.extend(released(&mut orderer, u64::MAX));
            pushed.sort();
            assert_eq!(out, pushed);
            assert_eq!((orderer.late(), orderer.early()), (0, 0));
        }
    }

    /// Under pressure nothing is lost or doubled, memory stays bounded, and every step back in
    /// time is accounted for.
    #[test]
    fn bounded() {
        let mut rng = Rng::new(7);
        for _ in 0..300 {
            let most = rng.below(30);
            let mut orderer = Orderer::new(most);
            let (mut count, mut out, mut early) = (0u64, Vec::new(), 0);
            for _ in 0..rng.below(300) {
                let at_ns = rng.below(1000) as u64;
                orderer.push(at_ns, rng.below(4) as u32, (at_ns, count), |item| {
                    out.push(*item);
                    early += 1;
                });
                count += 1;
                assert!(orderer.len() <= most);
                if rng.below(50) == 0 {
                    out.extend(released(&mut orderer, rng.below(1000) as u64));
                }
            }
            out.extend(released(&mut orderer, u64::MAX));
            assert_eq!(orderer.early(), early);
            let back = out.windows(2).filter(|pair| pair[0].0 > pair[1].0).count() as u64;
            assert!(
                back <= orderer.late(),
                "{back} steps back, {} late",
                orderer.late()
            );
            out.sort_by_key(|item| item.1);
            assert!(out.iter().map(|item| item.1).eq(0..count));
        }
    }
}
