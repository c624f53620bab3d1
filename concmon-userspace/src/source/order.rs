//! Events of several CPUs in the order of time, within bounded memory.
//!
//! Each CPU's batches arrive when they are full or old enough, so events of one CPU overtake those
//! of another. They are held until a horizon has passed before which nothing is outstanding.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap, VecDeque, binary_heap::PeekMut};

/// CPUs that have a lane at most.
const MAX_LANES: usize = 4_096;

/// Holds items until their time has come.
///
/// Items of the same instant come out by CPU, those of the same CPU in the order of arrival.
#[derive(Clone, Debug)]
pub struct Orderer<T> {
    /// One for each CPU: its items mostly come in their order.
    lanes: Vec<VecDeque<Held<T>>>,
    places: BTreeMap<u32, usize>,
    /// The first of each lane, by key, with the lane's place.
    fronts: BinaryHeap<Reverse<(Key, usize)>>,
    /// Those that came behind later ones of their CPU.
    strays: BinaryHeap<Reverse<Held<T>>>,
    held: usize,
    most: usize,
    arrived: u64,
    /// The latest instant that has been passed on.
    passed_ns: u64,
    early: u64,
    late: u64,
}

/// Instant, CPU, arrival.
type Key = (u64, u32, u64);

#[derive(Clone, Debug)]
struct Held<T> {
    at_ns: u64,
    cpu: u32,
    arrival: u64,
    item: T,
}

impl<T> Held<T> {
    const fn key(&self) -> Key {
        (self.at_ns, self.cpu, self.arrival)
    }
}

impl<T> Ord for Held<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl<T> PartialOrd for Held<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Held<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<T> Eq for Held<T> {}

impl<T> Orderer<T> {
    /// One that holds at most `most` items.
    pub fn new(most: usize) -> Self {
        Orderer {
            lanes: Vec::new(),
            places: BTreeMap::new(),
            fronts: BinaryHeap::new(),
            strays: BinaryHeap::new(),
            held: 0,
            most,
            arrived: 0,
            passed_ns: 0,
            early: 0,
            late: 0,
        }
    }

    /// Takes in an item of `cpu` at `at_ns`. Where that is one too many, the earliest item is
    /// given back, to be passed on at once, and counted as early.
    pub fn push(&mut self, at_ns: u64, cpu: u32, item: T) -> Option<T> {
        if at_ns < self.passed_ns {
            self.late += 1;
        }
        let arrival = self.arrived;
        self.arrived += 1;
        self.hold(Held {
            at_ns,
            cpu,
            arrival,
            item,
        });
        if self.held <= self.most {
            return None;
        }
        self.early += 1;
        self.pop()
    }

    fn hold(&mut self, held: Held<T>) {
        self.held += 1;
        let place = match self.places.get(&held.cpu) {
            Some(place) => *place,
            None if self.lanes.len() < MAX_LANES => {
                self.places.insert(held.cpu, self.lanes.len());
                self.lanes.push(VecDeque::new());
                self.lanes.len() - 1
            }
            None => {
                self.strays.push(Reverse(held));
                return;
            }
        };
        let items = &mut self.lanes[place];
        match items.back() {
            Some(last) if last.at_ns > held.at_ns => self.strays.push(Reverse(held)),
            Some(_) => items.push_back(held),
            None => {
                self.fronts.push(Reverse((held.key(), place)));
                items.push_back(held);
            }
        }
    }

    /// The items up to and including `until_ns`, earliest first. What is not taken from the
    /// iterator stays.
    pub fn release(&mut self, until_ns: u64) -> impl Iterator<Item = T> {
        std::iter::from_fn(move || {
            if self.first()?.0 <= until_ns {
                self.pop()
            } else {
                None
            }
        })
    }

    /// The key of the earliest item.
    fn first(&self) -> Option<Key> {
        let front = self.fronts.peek().map(|Reverse((key, _))| *key);
        let stray = self.strays.peek().map(|Reverse(stray)| stray.key());
        match (front, stray) {
            (Some(front), Some(stray)) => Some(front.min(stray)),
            (front, stray) => front.or(stray),
        }
    }

    fn pop(&mut self) -> Option<T> {
        let first = self.first()?;
        let held = match self.fronts.peek_mut() {
            Some(mut top) if top.0.0 == first => {
                let place = top.0.1;
                let items = &mut self.lanes[place];
                let held = items.pop_front()?;
                match items.front() {
                    Some(next) => top.0.0 = next.key(),
                    None => {
                        PeekMut::pop(top);
                    }
                }
                held
            }
            _ => self.strays.pop()?.0,
        };
        self.held -= 1;
        self.passed_ns = self.passed_ns.max(held.at_ns);
        Some(held.item)
    }

    /// Items held.
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
            assert_eq!(orderer.push(at_ns, cpu, item), None);
        }
        assert_eq!(orderer.release(9).next(), None);
        assert_eq!(orderer.release(20).collect::<String>(), "abcde");
        assert_eq!((orderer.len(), orderer.is_empty()), (1, false));
        assert_eq!(orderer.release(u64::MAX).collect::<String>(), "f");
        assert_eq!((orderer.early(), orderer.late()), (0, 0));
    }

    #[test]
    fn what_is_not_taken_stays() {
        let mut orderer = Orderer::new(100);
        for at_ns in [3, 1, 2] {
            orderer.push(at_ns, 0, at_ns);
        }
        assert_eq!(orderer.release(3).next(), Some(1));
        assert_eq!(orderer.release(3).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn late_ones_are_counted() {
        let mut orderer = Orderer::new(100);
        orderer.push(10, 0, "a");
        assert_eq!(orderer.release(50).count(), 1);
        // Nothing after 10 was passed on: 20 is in order, though before the horizon.
        orderer.push(20, 0, "b");
        orderer.push(10, 0, "c");
        assert_eq!(orderer.late(), 0);
        orderer.push(9, 1, "d");
        assert_eq!(orderer.late(), 1);
        assert_eq!(orderer.release(50).collect::<String>(), "dcb");
    }

    #[test]
    fn no_room_at_all() {
        let mut orderer = Orderer::new(0);
        assert_eq!(orderer.push(5, 0, "x"), Some("x"));
        assert_eq!((orderer.len(), orderer.early()), (0, 1));
    }

    /// Streams of several CPUs, each in order, batched at random; the horizon is the least that is
    /// still outstanding. However it is cut, all comes out once and in order.
    #[test]
    fn streams_are_merged() {
        let mut rng = Rng::new(6);
        for _ in 0..300 {
            let cpus = 1 + rng.below(6);
            let mut now = vec![0u64; cpus];
            let mut orderer = Orderer::new(usize::MAX);
            let (mut pushed, mut out) = (Vec::new(), Vec::new());
            for _ in 0..rng.below(60) {
                let cpu = rng.below(cpus);
                for _ in 0..rng.below(20) {
                    now[cpu] += rng.below(3) as u64;
                    let item = (now[cpu], cpu as u32, pushed.len());
                    pushed.push(item);
                    assert_eq!(orderer.push(item.0, item.1, item), None);
                }
                if rng.below(4) == 0 {
                    // An instant that a CPU may still add to is not over.
                    let horizon = *now.iter().min().unwrap();
                    out.extend(
                        horizon
                            .checked_sub(1)
                            .iter()
                            .flat_map(|h| orderer.release(*h).collect::<Vec<_>>()),
                    );
                }
            }
            out.extend(orderer.release(u64::MAX));
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
                if let Some(item) = orderer.push(at_ns, rng.below(4) as u32, (at_ns, count)) {
                    out.push(item);
                    early += 1;
                }
                count += 1;
                assert!(orderer.len() <= most);
                if rng.below(50) == 0 {
                    out.extend(orderer.release(rng.below(1000) as u64));
                }
            }
            out.extend(orderer.release(u64::MAX));
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
