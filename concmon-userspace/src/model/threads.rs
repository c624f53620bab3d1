//! The threads of a process: found by identity in order, and by place at once.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::thread::{Thread, ThreadKey};

/// The threads of a process, each once.
///
/// Slices come by the million, and threads change places only where some are forgotten: whoever
/// remembers a thread's place finds it there without a search.
#[derive(Clone, Debug, Default)]
pub(crate) struct Threads {
    slots: Vec<Thread>,
    places: BTreeMap<ThreadKey, usize>,
}

impl Threads {
    /// Adds a thread that is not among them; gives its place.
    pub(crate) fn insert(&mut self, thread: Thread) -> usize {
        let place = self.slots.len();
        self.places.insert(thread.key, place);
        self.slots.push(thread);
        place
    }

    /// A thread has another identity from now on; gives its place.
    pub(crate) fn renumber(&mut self, old: ThreadKey, new: ThreadKey) -> Option<usize> {
        let place = self.places.remove(&old)?;
        self.slots.get_mut(place)?.key = new;
        self.places.insert(new, place);
        Some(place)
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn contains(&self, key: ThreadKey) -> bool {
        self.places.contains_key(&key)
    }

    pub(crate) fn place(&self, key: ThreadKey) -> Option<usize> {
        self.places.get(&key).copied()
    }

    pub(crate) fn get(&self, key: ThreadKey) -> Option<&Thread> {
        self.slots.get(self.place(key)?)
    }

    pub(crate) fn get_mut(&mut self, key: ThreadKey) -> Option<&mut Thread> {
        let place = self.place(key)?;
        self.slots.get_mut(place)
    }

    /// The thread, which probably is at this place.
    pub(crate) fn at_mut(&mut self, place: usize, key: ThreadKey) -> Option<&mut Thread> {
        match self.slots.get(place) {
            Some(thread) if thread.key == key => self.slots.get_mut(place),
            _ => self.get_mut(key),
        }
    }

    /// Those with these identities, in order.
    pub(crate) fn range(
        &self,
        keys: RangeInclusive<ThreadKey>,
    ) -> impl DoubleEndedIterator<Item = &Thread> {
        let places = self.places.range(keys);
        places.filter_map(|(_, place)| self.slots.get(*place))
    }

    /// All, in the order of their identities.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Thread> {
        let places = self.places.values();
        places.filter_map(|place| self.slots.get(*place))
    }

    /// All, in the order in which they became known.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Thread> {
        self.slots.iter_mut()
    }

    /// Forgets those of which `stays` is not true.
    pub(crate) fn retain(&mut self, stays: impl FnMut(&mut Thread) -> bool) {
        let known = self.slots.len();
        self.slots.retain_mut(stays);
        if self.slots.len() < known {
            let threads = self.slots.iter().enumerate();
            self.places = threads.map(|(place, thread)| (thread.key, place)).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Tid;

    fn key(tid: u32, start_boottime_ns: u64) -> ThreadKey {
        ThreadKey {
            tid: Tid(tid),
            start_boottime_ns,
        }
    }

    #[test]
    fn each_is_found_wherever_it_has_moved() {
        let mut threads = Threads::default();
        let keys = [key(9, 1), key(3, 5), key(3, 2), key(4, 4)];
        let places: Vec<_> = keys
            .iter()
            .map(|key| threads.insert(Thread::new(*key, 0)))
            .collect();
        let of = |threads: &Threads| threads.iter().map(|thread| thread.key).collect::<Vec<_>>();
        assert_eq!(of(&threads), [key(3, 2), key(3, 5), key(4, 4), key(9, 1)]);
        let of_3 = threads.range(key(3, 0)..=key(3, u64::MAX));
        assert!(of_3.map(|thread| thread.key).eq([key(3, 2), key(3, 5)]));

        let place = threads.place(keys[3]);
        assert_eq!(threads.renumber(keys[3], key(5, 4)), place);
        assert_eq!(
            threads.get(key(5, 4)).map(|thread| thread.key),
            Some(key(5, 4))
        );
        assert_eq!(threads.renumber(keys[3], key(6, 4)), None);
        assert_eq!(threads.renumber(key(5, 4), keys[3]), place);

        threads.retain(|thread| thread.key != keys[0]);
        assert_eq!(of(&threads), [key(3, 2), key(3, 5), key(4, 4)]);
        for (key, place) in keys.into_iter().zip(places) {
            let found = threads.at_mut(place, key).map(|thread| thread.key);
            let stays = key != keys[0];
            assert_eq!(found, Some(key).filter(|_| stays), "{key:?}");
            assert_eq!(threads.contains(key), stays);
            assert_eq!(threads.get(key).is_some(), stays);
            let place = threads.place(key);
            assert_eq!(place.is_some(), stays);
            assert_eq!(
                place.map(|place| threads.slots[place].key),
                Some(key).filter(|_| stays)
            );
        }
    }
}
