//! Who waits in `asyncio.as_completed`: what is done goes into a queue, and those that wait are waiters of that.

use super::ready;
use crate::python::memory::addresses::{AddressMap, AddressSet};
use crate::python::objects::Reader;

/// What calls back when one is done: a function that knows the queue, or a method of an object that has it.
const CALLBACK: &str = "as_completed.<locals>._on_completion";
const ITERATOR: &str = "_AsCompletedIterator";
const QUEUE: &str = "_done";
/// What a queue keeps those in that wait for its next item.
const GETTERS: &str = "_getters";

/// The queues behind callbacks, each beside its callback's number. `names` are those of functions, `contents` what
/// functions know, `objects` those of methods.
pub(super) fn queues(
    reader: &mut Reader<'_>,
    names: &[(usize, u64)],
    contents: &[(usize, u64)],
    objects: &[(usize, u64)],
) -> Vec<(usize, u64)> {
    reader.load_texts(names.iter().map(|(_, name)| *name));
    let is_meant = |name: u64| reader.text(name).is_some_and(|name| &**name == CALLBACK);
    let meant = names.iter().filter(|(_, name)| is_meant(*name));
    let meant: AddressSet = meant.map(|(slot, _)| *slot as u64).collect();
    let known = contents.iter().copied();
    let mut queues: Vec<(usize, u64)> = known
        .filter(|(slot, _)| meant.contains(&(*slot as u64)))
        .collect();
    let mut iterators: Vec<u64> = objects.iter().map(|(_, object)| *object).collect();
    iterators.sort_unstable();
    iterators.dedup();
    let types = reader.types_of(&iterators);
    let mut types = types.into_iter();
    iterators.retain(|_| {
        types
            .next()
            .flatten()
            .is_some_and(|info| &*info.name == ITERATOR)
    });
    let of_iterators = values(reader, &iterators, QUEUE);
    let had = objects.iter();
    queues.extend(had.filter_map(|(slot, object)| Some((*slot, *of_iterators.get(object)?))));
    queues
}

/// The futures on which others wait for the next item of each queue.
pub(super) fn getters(reader: &mut Reader<'_>, queues: &[(usize, u64)]) -> Vec<(usize, u64)> {
    let mut each: Vec<u64> = queues.iter().map(|(_, queue)| *queue).collect();
    each.sort_unstable();
    each.dedup();
    let mut waiting: AddressMap<Vec<u64>> = AddressMap::default();
    for (queue, getters) in values(reader, &each, GETTERS) {
        let (_, futures) = ready::first_items(reader, getters).unwrap_or_default();
        waiting.insert(queue, futures);
    }
    let found = queues.iter().flat_map(|(slot, queue)| {
        let futures = waiting.get(queue).into_iter().flatten();
        futures.map(|future| (*slot, *future))
    });
    found.collect()
}

/// One attribute of each of `objects`, of those that have it.
fn values(reader: &mut Reader<'_>, objects: &[u64], name: &str) -> AddressMap<u64> {
    if objects.is_empty() {
        return AddressMap::default();
    }
    let found = reader.attributes(objects, &[name]).into_iter();
    let found = objects.iter().zip(found);
    found
        .filter_map(|(object, found)| Some((*object, found?[0]?)))
        .collect()
}
