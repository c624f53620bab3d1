//! Lists, deques, tuples and weak references.

use super::{Kind, OBJECT_SIZE, OBJECT_TYPE, Reader};
use crate::python::memory::{Batch, at, word};

/// How many tuples are read at once.
const TUPLES_AT_ONCE: usize = 1 << 16;

impl Reader<'_> {
    /// The count of a list's or deque's elements.
    pub(crate) fn length(&mut self, address: u64) -> Option<u64> {
        let info = self.types_of(&[address]).pop()??;
        matches!(info.kind, Kind::List | Kind::Deque)
            .then(|| self.pointer(at(address, OBJECT_SIZE)).ok())?
    }

    /// The elements of a list, at most `limit`.
    pub(crate) fn list(&mut self, address: u64, limit: u64) -> Option<Vec<u64>> {
        let info = self.types_of(&[address]).pop()??;
        (info.kind == Kind::List).then_some(())?;
        let count = self.pointer(at(address, OBJECT_SIZE)).ok()?.min(limit);
        if count == 0 {
            return Some(Vec::new());
        }
        let items = self
            .pointer(at(address, self.walk.containers.list_items))
            .ok()?;
        let bytes = self.bytes(items, count as usize * 8).ok()?;
        bytes.chunks_exact(8).map(|item| word(item, 0)).collect()
    }

    /// The elements of a tuple, at most `limit`.
    pub(crate) fn tuple(&mut self, address: u64, limit: u64) -> Option<Vec<u64>> {
        let info = self.types_of(&[address]).pop()??;
        (info.kind == Kind::Tuple).then_some(())?;
        let count = self.pointer(at(address, OBJECT_SIZE)).ok()?.min(limit);
        if count == 0 {
            return Some(Vec::new());
        }
        let items = at(address, self.walk.containers.tuple_items);
        let bytes = self.bytes(items, count as usize * 8).ok()?;
        bytes.chunks_exact(8).map(|item| word(item, 0)).collect()
    }

    /// How many elements each list has, and the first of them, at most `limit`.
    pub(crate) fn lists(&mut self, addresses: &[u64], limit: u64) -> Vec<Option<(u64, Vec<u64>)>> {
        let place = self.walk.containers.list_items;
        let mut heads = Batch::new();
        for address in addresses {
            heads.push(*address, place.max(OBJECT_SIZE) as usize + 8);
        }
        self.fetch(&mut heads);
        self.load_types((0..addresses.len()).filter_map(|i| word(heads.prefix(i), OBJECT_TYPE)));
        let mut items = Batch::new();
        let counts: Vec<Option<u64>> = (0..addresses.len())
            .map(|index| {
                let bytes = heads.prefix(index);
                let is_list = self.kind(bytes) == Some(Kind::List);
                let count = word(bytes, OBJECT_SIZE).filter(|_| is_list);
                let len = count.unwrap_or(0).min(limit) as usize * 8;
                items.push(word(bytes, place).unwrap_or(0), len);
                count
            })
            .collect();
        self.fetch(&mut items);
        counts
            .into_iter()
            .enumerate()
            .map(|(index, count)| match count? {
                0 => Some((0, Vec::new())),
                count => Some((count, words(items.whole(index)?))),
            })
            .collect()
    }

    /// The elements of each tuple, at most `limit`, which is to be small: so many are read of each.
    pub(crate) fn tuples(&mut self, addresses: &[u64], limit: u64) -> Vec<Option<Vec<u64>>> {
        let place = self.walk.containers.tuple_items as usize;
        let mut tuples = Vec::with_capacity(addresses.len());
        for addresses in addresses.chunks(TUPLES_AT_ONCE) {
            let mut batch = Batch::new();
            for address in addresses {
                batch.push(*address, place + limit as usize * 8);
            }
            self.fetch(&mut batch);
            let types = (0..addresses.len()).filter_map(|i| word(batch.prefix(i), OBJECT_TYPE));
            self.load_types(types);
            tuples.extend((0..addresses.len()).map(|index| {
                let bytes = batch.prefix(index);
                (self.kind(bytes)? == Kind::Tuple).then_some(())?;
                let count = word(bytes, OBJECT_SIZE)?.min(limit) as usize;
                Some(words(bytes.get(place..place + count * 8)?))
            }));
        }
        tuples
    }

    /// What the weak references refer to; a dead one refers to `None`, which is an object too.
    pub(crate) fn referents(&mut self, references: &[u64]) -> Vec<Option<u64>> {
        let offset = self.walk.containers.weakref_object;
        let mut batch = Batch::new();
        for reference in references {
            batch.push(*reference, offset as usize + 8);
        }
        self.fetch(&mut batch);
        self.load_types((0..references.len()).filter_map(|i| word(batch.prefix(i), OBJECT_TYPE)));
        (0..references.len())
            .map(|index| {
                let bytes = batch.whole(index)?;
                (self.kind(bytes)? == Kind::Weakref).then(|| word(bytes, offset))?
            })
            .collect()
    }
}

/// The addresses that lie one after the other in `bytes`.
fn words(bytes: &[u8]) -> Vec<u64> {
    bytes
        .chunks_exact(8)
        .filter_map(|item| word(item, 0))
        .collect()
}
