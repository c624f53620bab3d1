//! What is in queues, and how much: those of `_queue`, and `queue.Queue`.

use std::collections::BTreeMap;

use crate::python::layout::QueueShape;
use crate::python::memory::{Batch, at, word};
use crate::python::objects::Reader;

/// Queues of which it is asked who has their items.
const MAX_QUEUES: usize = 256;
/// The end of a queue that is searched for signals to the workers.
const MAX_SIGNALS: u64 = 64;

/// How many items are in a `queue.Queue`.
pub(crate) fn plain_queue_length(reader: &mut Reader<'_>, queue: u64) -> Option<u64> {
    let items = reader.attributes_of(queue, &["queue"])?[0]?;
    reader.length(items)
}

/// The queues that more than one waits for, where each says its own, of those that take so many items at most, by this
/// attribute. Who waits alone is an idle consumer, most of the time.
pub(crate) fn bounded_of_several(
    reader: &mut Reader<'_>,
    wanted: impl Iterator<Item = u64>,
    name: &str,
) -> Vec<(u64, Option<u64>)> {
    let queues = of_several(wanted);
    if queues.is_empty() {
        return Vec::new();
    }
    let bounds = bounds(reader, &queues, name);
    let bounded = queues.into_iter().zip(bounds);
    bounded.filter(|(_, bound)| bound.is_some()).collect()
}

fn of_several(wanted: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for queue in wanted {
        *counts.entry(queue).or_default() += 1;
    }
    let several = counts.into_iter().filter(|(_, count)| *count > 1);
    several.map(|(queue, _)| queue).take(MAX_QUEUES).collect()
}

/// How many items each queue takes at most, by this attribute; `None`: any number, or it does not say.
pub(crate) fn bounds(reader: &mut Reader<'_>, queues: &[u64], name: &str) -> Vec<Option<u64>> {
    let found = reader.attributes(queues, &[name]);
    let numbers = found.into_iter().map(|found| found?.pop()?);
    let numbers: Vec<u64> = numbers.map(|number| number.unwrap_or(0)).collect();
    let bounds = reader.integers(&numbers).into_iter();
    let bound = |most: Option<i64>| u64::try_from(most?).ok().filter(|most| *most > 0);
    bounds.map(bound).collect()
}

/// Where the items of a queue are: that many from the first on, around the end of the room for them.
struct Items {
    count: u64,
    address: u64,
    first: u64,
    capacity: u64,
}

impl Items {
    /// The addresses of some items, by their places in the queue.
    fn read(&self, reader: &mut Reader<'_>, places: std::ops::Range<u64>) -> Vec<u64> {
        let mut batch = Batch::new();
        for index in places {
            let place = self.first.wrapping_add(index) % self.capacity;
            batch.push(self.address.wrapping_add(place.wrapping_mul(8)), 8);
        }
        reader.fetch(&mut batch);
        (0..batch.len())
            .map(|index| word(batch.prefix(index), 0).unwrap_or(0))
            .collect()
    }
}

fn items(reader: &mut Reader<'_>, queue: u64) -> Option<Items> {
    let fields = reader.walk.executors;
    let info = reader.types_of(&[queue]).pop()??;
    let is_known =
        &*info.name == "_queue.SimpleQueue" && info.basic_size == u64::from(fields.queue_size);
    is_known.then_some(())?;
    let bytes = reader.bytes(queue, fields.queue_size as usize).ok()?;
    let (count, address, first, capacity) = match fields.queue {
        QueueShape::List { list, taken } => {
            let list = word(&bytes, list)?;
            let length = reader.length(list)?;
            let taken = word(&bytes, taken)?;
            let items = at(list, reader.walk.containers.list_items);
            let items = reader.pointer(items).ok()?;
            (length.checked_sub(taken)?, items, taken, u64::MAX)
        }
        QueueShape::Ring {
            items,
            put,
            capacity,
            count,
        } => {
            let capacity = word(&bytes, capacity)?;
            let count = word(&bytes, count)?;
            let put = word(&bytes, put)?;
            (count <= capacity && put <= capacity).then_some(())?;
            let first = put.wrapping_sub(count).wrapping_add(capacity);
            (count, word(&bytes, items)?, first, capacity.max(1))
        }
    };
    Some(Items {
        count,
        address,
        first,
        capacity,
    })
}

/// The addresses of the first items of a `_queue.SimpleQueue`, so many at most; none where it cannot be read.
pub(crate) fn first_items(reader: &mut Reader<'_>, queue: u64, most: u64) -> Vec<u64> {
    match items(reader, queue) {
        Some(items) => items.read(reader, 0..items.count.min(most)),
        None => Vec::new(),
    }
}

/// How much work is in a `_queue.SimpleQueue`. When its pool `ends`, signals to the workers may be
/// behind the work, which are none.
pub(crate) fn queue_length(reader: &mut Reader<'_>, queue: u64, ends: bool) -> Option<u64> {
    let items = items(reader, queue)?;
    let count = items.count;
    if !ends || count == 0 {
        return Some(count);
    }
    let last = items.read(reader, count.saturating_sub(MAX_SIGNALS)..count);
    let signals = reader
        .types_of(&last)
        .into_iter()
        .rev()
        .take_while(|info| info.as_ref().is_some_and(|info| &*info.name == "NoneType"))
        .count();
    Some(count - signals as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::objects::synthetic::{World, set_word};
    use crate::python::objects::{OBJECT_SIZE, flags};

    /// A queue of these items; of a list, one more was taken from it.
    fn queue(world: &mut World, items: &[u64]) -> u64 {
        let fields = world.walk.executors;
        let class = world.class("_queue.SimpleQueue", 0, fields.queue_size.into());
        let mut bytes = World::object(class, fields.queue_size as usize);
        let count = items.len() as u64;
        match fields.queue {
            QueueShape::List { list, taken } => {
                let all: Vec<u64> = [&[0], items].concat();
                let all = world.put_words(&all);
                let class = world.class("list", flags::LIST_SUBCLASS, 40);
                let mut object = World::object(class, 40);
                set_word(&mut object, OBJECT_SIZE, count + 1);
                set_word(&mut object, world.walk.containers.list_items, all);
                let object = world.put(&object);
                set_word(&mut bytes, list, object);
                set_word(&mut bytes, taken, 1);
            }
            QueueShape::Ring {
                items: place,
                put,
                capacity,
                count: length,
            } => {
                // The first one lies at the end of the ring, the others at its beginning.
                let mut ring = items.to_vec();
                ring.rotate_left(1);
                let last = ring.pop().unwrap_or(0);
                ring.resize(9, 0);
                ring.push(last);
                let ring = world.put_words(&ring);
                set_word(&mut bytes, place, ring);
                set_word(&mut bytes, put, count - 1);
                set_word(&mut bytes, capacity, 10);
                set_word(&mut bytes, length, count);
            }
        }
        world.put(&bytes)
    }

    #[test]
    fn signals_in_a_queue_are_no_work() {
        for minor in 8..=15 {
            let mut world = World::new(minor);
            let none = world.class("NoneType", 0, 16);
            let none = world.put(&World::object(none, 16));
            let item = world.text("an item");
            for (items, expected) in [
                (vec![item], 1),
                (vec![none], 0),
                (vec![item, item, none], 2),
                (vec![item, item, item, none, none], 3),
            ] {
                let queue = queue(&mut world, &items);
                let mut reader = world.reader();
                assert_eq!(queue_length(&mut reader, queue, true), Some(expected));
                let all = Some(items.len() as u64);
                assert_eq!(queue_length(&mut reader, queue, false), all, "3.{minor}");
                assert_eq!(first_items(&mut reader, queue, 64), items, "3.{minor}");
                assert_eq!(first_items(&mut reader, queue, 1), items[..1], "3.{minor}");
            }
        }
    }

    #[test]
    fn a_queue_of_another_form_has_no_length() {
        let mut world = World::new(13);
        let item = world.text("an item");
        let class = world.class("_queue.SimpleQueue", 0, 80);
        let larger = world.put(&World::object(class, 80));
        let whole = queue(&mut world, &[item]);
        world.walk.executors.queue_size = 64;
        for queue in [larger, item, whole, 0] {
            assert_eq!(queue_length(&mut world.reader(), queue, true), None);
        }
    }
}
