//! Dicts and sets.

use std::collections::HashMap;

use super::{Kind, OBJECT_TYPE, Reader};
use crate::python::layout::KeysShape;
use crate::python::memory::{Batch, ReadError, at, byte, word};

/// How often a container that changes while it is read is read again.
const MAX_TRIES: usize = 3;
/// The most entries of a dict that are taken over, and of all that are read together.
const MAX_DICT_ENTRIES: u64 = 1 << 16;
const MAX_ENTRIES: usize = 1 << 18;
/// The most slots of a set's table. It keeps its size when most members have left it.
const MAX_SET_SLOTS: u64 = 1 << 23;
/// The most members of a set that are taken over.
const MAX_MEMBERS: usize = 1 << 20;
/// How many slots of a set are read at once.
const SLOTS_AT_ONCE: u64 = 1 << 16;
/// `dk_kind` of keys whose entries have a hash in front.
const KEYS_GENERAL: u8 = 0;

/// Where the entries of a dict are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DictPlace {
    Object(u64),
    /// An instance's values without a dict: shared keys, and the array of values.
    Values {
        keys: u64,
        values: u64,
    },
}

/// Keys and values of a dict, as addresses.
pub(crate) type Entries = Vec<(u64, u64)>;

/// Where a dict's entries were at one instant. As long as they stay there, entries come and go in
/// place, so only another place means that reading was in vain.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct DictHead {
    pub(super) keys: u64,
    pub(super) values: u64,
}

/// How many bytes the index of a table of keys has, and whether its entries have a hash in front.
fn key_index(shape: KeysShape, header: &[u8]) -> Option<(u64, bool)> {
    match shape {
        KeysShape::Size { size, .. } => {
            let size = word(header, size)?;
            let width = match size {
                0..=0xff => 1,
                0x100..=0xffff => 2,
                0x1_0000..=0xffff_ffff => 4,
                _ => 8,
            };
            Some((size.checked_mul(width)?, true))
        }
        KeysShape::Log {
            log2_bytes, kind, ..
        } => {
            let bytes = 1u64.checked_shl(byte(header, log2_bytes)?.into())?;
            Some((bytes, byte(header, kind)? == KEYS_GENERAL))
        }
    }
}

impl Reader<'_> {
    pub(super) fn dict_heads(&mut self, places: &[DictPlace]) -> Vec<Option<DictHead>> {
        let fields = self.walk.containers;
        let first_value = fields.split_values.first;
        let mut batch = Batch::new();
        for place in places {
            match place {
                DictPlace::Object(address) => batch.push(*address, fields.dict_values as usize + 8),
                DictPlace::Values { .. } => batch.push(0, 0),
            };
        }
        self.fetch(&mut batch);
        self.load_types((0..places.len()).filter_map(|i| word(batch.prefix(i), OBJECT_TYPE)));
        places
            .iter()
            .enumerate()
            .map(|(index, place)| match place {
                DictPlace::Object(_) => {
                    let bytes = batch.whole(index)?;
                    (self.kind(bytes)? == Kind::Dict).then_some(())?;
                    let values = word(bytes, fields.dict_values)?;
                    Some(DictHead {
                        keys: word(bytes, fields.dict_keys)?,
                        values: if values == 0 {
                            0
                        } else {
                            at(values, first_value)
                        },
                    })
                }
                DictPlace::Values { keys, values } => Some(DictHead {
                    keys: *keys,
                    values: at(*values, first_value),
                }),
            })
            .collect()
    }

    /// The entries of each dict; `None` for what is no dict, or kept changing.
    pub(crate) fn dicts(&mut self, places: &[DictPlace]) -> Vec<Option<Entries>> {
        let mut result: Vec<Option<Entries>> = vec![None; places.len()];
        let mut open: Vec<usize> = (0..places.len()).collect();
        for _ in 0..MAX_TRIES {
            if open.is_empty() {
                break;
            }
            let now: Vec<DictPlace> = open.iter().map(|index| places[*index]).collect();
            let before = self.dict_heads(&now);
            let entries = self.dict_entries(&before);
            let after = self.dict_heads(&now);
            let mut again = Vec::new();
            for (slot, entries) in entries.into_iter().enumerate() {
                if before[slot].is_none() {
                    continue;
                }
                if before[slot] == after[slot] && entries.is_some() {
                    result[open[slot]] = entries;
                } else {
                    again.push(open[slot]);
                }
            }
            open = again;
        }
        self.failed += open.len() as u64;
        result
    }

    fn dict_entries(&mut self, heads: &[Option<DictHead>]) -> Vec<Option<Entries>> {
        let keys = self.key_tables(heads.iter().flatten().map(|head| head.keys));
        let mut values = Batch::new();
        let slots: Vec<Option<usize>> = heads
            .iter()
            .map(|head| {
                let head = (*head)?;
                let table = keys.get(&head.keys)?;
                (head.values != 0).then(|| values.push(head.values, table.len() * 8))
            })
            .collect();
        self.fetch(&mut values);
        // Many dicts may share one large table.
        let mut left = MAX_ENTRIES;
        heads
            .iter()
            .zip(slots)
            .map(|(head, slot)| {
                let table = keys.get(&(*head)?.keys)?;
                left = left.checked_sub(table.len())?;
                let is_used = |(key, value): &(u64, u64)| *key != 0 && *value != 0;
                Some(match slot {
                    None => table.iter().copied().filter(is_used).collect(),
                    Some(_) if table.is_empty() => Vec::new(),
                    Some(slot) => table
                        .iter()
                        .zip(values.whole(slot)?.chunks_exact(8))
                        .filter_map(|((key, _), value)| Some((*key, word(value, 0)?)))
                        .filter(is_used)
                        .collect(),
                })
            })
            .collect()
    }

    /// Where the first entry of a table of keys has its key, how many bytes lie between two, and the entries, unused
    /// ones included.
    pub(super) fn key_table(&mut self, address: u64) -> Option<(u64, u32, Entries)> {
        let shape = self.walk.containers.keys;
        let header = self.bytes(address, shape.header() as usize).ok()?;
        let (index_bytes, general) = key_index(shape, &header)?;
        let table = self.key_tables(std::iter::once(address)).remove(&address)?;
        let first = at(address, shape.header()).wrapping_add(index_bytes);
        Some(match general {
            true => (at(first, 8), 24, table),
            false => (first, 16, table),
        })
    }

    /// The entries of each table of keys, unused ones included; values of split tables are 0.
    fn key_tables(&mut self, addresses: impl Iterator<Item = u64>) -> HashMap<u64, Entries> {
        let mut addresses: Vec<u64> = addresses.collect();
        addresses.sort_unstable();
        addresses.dedup();
        let mut headers = Batch::new();
        let shape = self.walk.containers.keys;
        for address in &addresses {
            headers.push(*address, shape.header() as usize);
        }
        self.fetch(&mut headers);
        let mut entries = Batch::new();
        let mut left = MAX_ENTRIES;
        let shapes: Vec<Option<(usize, bool)>> = addresses
            .iter()
            .enumerate()
            .map(|(index, address)| {
                let header = headers.whole(index)?;
                let (index_bytes, general) = key_index(shape, header)?;
                let count = word(header, shape.count())?;
                if count > MAX_DICT_ENTRIES || index_bytes > MAX_DICT_ENTRIES * 8 {
                    return None;
                }
                left = left.checked_sub(count as usize)?;
                let size = if general { 24 } else { 16 };
                let start = at(*address, shape.header()).wrapping_add(index_bytes);
                entries.push(start, count as usize * size);
                Some((count as usize, general))
            })
            .collect();
        self.fetch(&mut entries);
        let mut slot = 0;
        let mut tables = HashMap::new();
        for (address, shape) in addresses.into_iter().zip(shapes) {
            let Some((count, general)) = shape else {
                continue;
            };
            let (size, skip) = if general { (24, 8) } else { (16, 0) };
            let table = match entries.whole(slot) {
                _ if count == 0 => Some(Vec::new()),
                None => None,
                Some(bytes) => bytes
                    .chunks_exact(size)
                    .map(|entry| Some((word(entry, skip)?, word(entry, skip + 8)?)))
                    .collect(),
            };
            slot += 1;
            if let Some(table) = table {
                tables.insert(address, table);
            }
        }
        tables
    }

    /// The entries of one dict object.
    pub(crate) fn dict(&mut self, address: u64) -> Option<Entries> {
        self.dicts(&[DictPlace::Object(address)]).pop()?
    }

    /// What identifies the state of a dict cheaply: its address, keys, and counts.
    pub(crate) fn dict_fingerprint(&mut self, address: u64) -> Option<[u64; 4]> {
        let head = self.dict_heads(&[DictPlace::Object(address)]).pop()??;
        let count = self
            .pointer(at(head.keys, self.walk.containers.keys.count()))
            .ok()?;
        let used = self
            .pointer(at(address, self.walk.containers.dict_used))
            .ok()?;
        Some([address, head.keys, used, count])
    }

    /// How many entries a dict has.
    pub(crate) fn dict_length(&mut self, address: u64) -> Option<u64> {
        let info = self.types_of(&[address]).pop()??;
        (info.kind == Kind::Dict).then_some(())?;
        let used = at(address, self.walk.containers.dict_used);
        self.pointer(used).ok()
    }

    /// The dict of a module object.
    pub(crate) fn module_dict(&mut self, module: u64) -> Option<u64> {
        let info = self.types_of(&[module]).pop()??;
        (info.kind == Kind::Module).then(|| {
            self.pointer(at(module, self.walk.containers.module_dict))
                .ok()
        })?
    }

    /// The values for `names` in a dict with string keys.
    pub(crate) fn dict_values(&mut self, address: u64, names: &[&str]) -> Option<Vec<Option<u64>>> {
        let entries = self.dict(address)?;
        self.load_texts(entries.iter().map(|(key, _)| *key));
        Some(self.pick(&entries, names))
    }

    pub(crate) fn pick(&self, entries: &Entries, names: &[&str]) -> Vec<Option<u64>> {
        let mut found = vec![None; names.len()];
        for (key, value) in entries {
            if let Some(text) = self.text(*key)
                && let Some(index) = names.iter().position(|name| *name == &**text)
            {
                found[index] = Some(*value);
            }
        }
        found
    }

    /// The members of a set, some of which may have left it since. While a set is not resized its
    /// members come and go in place, so only a new table means that reading was in vain.
    pub(crate) fn set(&mut self, address: u64) -> Result<Vec<u64>, ReadError> {
        let fields = self.walk.containers;
        let len = fields.set_mask.max(fields.set_table) as usize + 8;
        for _ in 0..MAX_TRIES {
            let before = self.bytes(address, len)?;
            self.load_types(word(&before, OBJECT_TYPE));
            let head = |bytes: &[u8]| {
                Some([
                    word(bytes, fields.set_mask)?,
                    word(bytes, fields.set_table)?,
                ])
            };
            let implausible = ReadError::Implausible {
                what: "set",
                address,
            };
            let [mask, table] = head(&before)
                .filter(|[mask, _]| *mask < MAX_SET_SLOTS)
                .ok_or(implausible)?;
            if self.kind(&before) != Some(Kind::Set) {
                return Err(implausible);
            }
            let members = self.set_table(table, mask + 1);
            let after = self.bytes(address, len)?;
            if let Ok(members) = members
                && head(&before) == head(&after)
            {
                return Ok(members);
            }
        }
        Err(ReadError::Torn {
            what: "set",
            address,
        })
    }

    /// The objects in a set's table of so many slots.
    fn set_table(&mut self, table: u64, slots: u64) -> Result<Vec<u64>, ReadError> {
        let mut members = Vec::new();
        for first in (0..slots).step_by(SLOTS_AT_ONCE as usize) {
            let count = SLOTS_AT_ONCE.min(slots - first);
            let start = table.wrapping_add(first * 16);
            let entries = self.bytes(start, count as usize * 16)?;
            let used = entries
                .chunks_exact(16)
                .filter(|entry| word(entry, 0) != Some(0) && word(entry, 8) != Some(u64::MAX))
                .filter_map(|entry| word(entry, 0));
            members.extend(used.take(MAX_MEMBERS - members.len()));
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::super::OBJECT_SIZE;
    use super::super::synthetic::{World, set_word};
    use super::*;

    #[test]
    fn dicts_of_every_form_give_their_entries() {
        for minor in 8..=15 {
            let mut world = World::new(minor);
            let (one, two) = (world.text("one"), world.text("two"));
            let general = world.keys(0, &[(one, 11), (0, 0), (two, 22), (one, 0)]);
            let strings = world.keys(1, &[(one, 11), (0, 7), (two, 22)]);
            let shared = world.keys(2, &[(one, 0), (two, 0), (two, 0)]);
            let values = world.values(&[11, 22, 0]);
            for (keys, values) in [(general, 0), (strings, 0), (shared, values)] {
                let dict = world.dict(keys, values);
                let mut reader = world.reader();
                assert_eq!(
                    reader.dict(dict),
                    Some(vec![(one, 11), (two, 22)]),
                    "3.{minor}"
                );
                let found = reader.dict_values(dict, &["two", "three", "one"]);
                assert_eq!(found, Some(vec![Some(22), None, Some(11)]), "3.{minor}");
                assert_eq!(reader.failed, 0);
            }
        }
    }

    #[test]
    fn an_empty_dict_has_no_entries_and_what_is_no_dict_has_none() {
        let mut world = World::new(13);
        let keys = world.keys(1, &[]);
        let dict = world.dict(keys, 0);
        let text = world.text("no dict");
        let mut reader = world.reader();
        assert_eq!(reader.dict(dict), Some(vec![]));
        assert_eq!(reader.dict(text), None);
        assert_eq!(reader.dict(0x7777_0000), None);
        assert_eq!(reader.failed, 0, "none of this is a failed read of a dict");
    }

    #[test]
    fn damaged_keys_are_a_failed_read() {
        let mut world = World::new(13);
        let count = world.keys(1, &[]);
        let mut absurd = vec![0; 40];
        absurd[10] = 1;
        set_word(&mut absurd, 24, 1 << 40);
        let absurd_count = world.put(&absurd);
        absurd[9] = 255;
        let absurd_index = world.put(&absurd);
        for keys in [absurd_count, absurd_index, 0x7777_0000, u64::MAX] {
            let dict = world.dict(keys, 0);
            let mut reader = world.reader();
            assert_eq!(reader.dict(dict), None);
            assert_eq!(reader.failed, 1);
        }
        let dict = world.dict(count, u64::MAX);
        assert_eq!(world.reader().dict(dict), Some(vec![]));
    }

    #[test]
    fn a_scan_that_has_read_as_much_as_it_may_says_so() {
        let mut world = World::new(13);
        let text = world.text("x");
        let keys = world.keys(1, &[(text, 1); 100]);
        let dict = world.dict(keys, 0);
        let mut reader = Reader::new(&world.memory, world.walk, 2000);
        assert_eq!(reader.dict(dict), None);
        assert!(reader.failed > 0);
        assert!(reader.limits["python"].contains("as much as it may"));
    }

    #[test]
    fn members_of_sets_and_tuples() {
        let mut world = World::new(14);
        let fields = world.walk.containers;
        let class = world.class("set", 0, 200);
        let deleted = u64::MAX;
        let table = world.put_words(&[0, 0, 0x5000, 1, 0x6000, deleted, 0x7000, 0]);
        let mut bytes = World::object(class, 64);
        set_word(&mut bytes, fields.set_mask, 3);
        set_word(&mut bytes, fields.set_table, table);
        let set = world.put(&bytes);
        assert_eq!(world.reader().set(set), Ok(vec![0x5000, 0x7000]));
        set_word(&mut bytes, fields.set_mask, u64::MAX);
        let absurd = world.put(&bytes);
        assert!(world.reader().set(absurd).is_err());

        let class = world.class("tuple", super::super::flags::TUPLE_SUBCLASS, 32);
        let mut bytes = World::object(class, fields.tuple_items as usize);
        set_word(&mut bytes, OBJECT_SIZE, 3);
        bytes.extend([1u64, 2, 3].iter().flat_map(|item| item.to_le_bytes()));
        let tuple = world.put(&bytes);
        assert_eq!(world.reader().tuple(tuple, 64), Some(vec![1, 2, 3]));
        assert_eq!(world.reader().tuple(tuple, 2), Some(vec![1, 2]));
    }
}
