//! A few entries of a dict that is asked for the same names by each scan: a module's.

use super::containers::DictPlace;
use super::{Kind, OBJECT_TYPE, Reader};
use crate::python::memory::{Batch, at, word};

/// Where a dict had the entries for some names. They stay there for as long as it has the same table of keys.
#[derive(Clone, Debug)]
pub(crate) struct KnownEntries {
    keys: u64,
    /// How many entries the table had: a name that was missing is missing still while none has come.
    count: u64,
    /// The address of each entry's key, and the key; `None`: there was no such name.
    entries: Vec<Option<(u64, u64)>>,
}

impl Reader<'_> {
    /// The same as [`Self::dict_values`], which reads all of a dict and the texts of its keys: here that is done once,
    /// and again when `known`, of the same dict and names, does not hold any more.
    pub(crate) fn known_values(
        &mut self,
        address: u64,
        names: &[&str],
        known: &mut Option<KnownEntries>,
    ) -> Option<Vec<Option<u64>>> {
        let held = known
            .take()
            .filter(|held| held.entries.len() == names.len());
        if let Some(held) = held
            && let Some(values) = self.values_at(address, &held)
        {
            *known = Some(held);
            return Some(values);
        }
        if let Some(found) = self.find_entries(address, names)
            && let Some(values) = self.values_at(address, &found)
        {
            *known = Some(found);
            return Some(values);
        }
        // It has no table of its own, or changes right now.
        self.dict_values(address, names)
    }

    /// The values of these entries; `None`: they are not there any more.
    fn values_at(&mut self, address: u64, known: &KnownEntries) -> Option<Vec<Option<u64>>> {
        let fields = self.walk.containers;
        let mut batch = Batch::new();
        let head = batch.push(address, fields.dict_values as usize + 8);
        let count = batch.push(at(known.keys, fields.keys.count()), 8);
        let places: Vec<Option<usize>> = known
            .entries
            .iter()
            .map(|entry| Some(batch.push((*entry)?.0, 16)))
            .collect();
        self.fetch(&mut batch);
        let bytes = batch.whole(head)?;
        self.load_types(word(bytes, OBJECT_TYPE));
        let is_same = self.kind(bytes)? == Kind::Dict
            && word(bytes, fields.dict_keys)? == known.keys
            && word(bytes, fields.dict_values)? == 0
            && word(batch.whole(count)?, 0)? == known.count;
        is_same.then_some(())?;
        let values = known.entries.iter().zip(places);
        let values: Option<Vec<Option<u64>>> = values
            .map(|(entry, place)| {
                let Some(((_, key), place)) = entry.zip(place) else {
                    return Some(None);
                };
                let bytes = batch.whole(place)?;
                (word(bytes, 0)? == key).then_some(())?;
                Some(word(bytes, 8).filter(|value| *value != 0))
            })
            .collect();
        // Where it has got another table meanwhile, that was read in vain.
        let keys = self.pointer(at(address, fields.dict_keys)).ok()?;
        values.filter(|_| keys == known.keys)
    }

    /// Where they are in the dict's own table.
    fn find_entries(&mut self, address: u64, names: &[&str]) -> Option<KnownEntries> {
        let head = self.dict_heads(&[DictPlace::Object(address)]).pop()??;
        (head.values == 0).then_some(())?;
        let (first, size, table) = self.key_table(head.keys)?;
        let is_used = |(key, value): &&(u64, u64)| *key != 0 && *value != 0;
        self.load_texts(table.iter().filter(is_used).map(|(key, _)| *key));
        let entries = names.iter().map(|name| {
            let place = table.iter().position(|entry| {
                is_used(&entry) && self.text(entry.0).is_some_and(|text| *name == &**text)
            })?;
            Some((at(first, size * place as u32), table[place].0))
        });
        Some(KnownEntries {
            keys: head.keys,
            count: table.len() as u64,
            entries: entries.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::World;

    const NAMES: [&str; 3] = ["two", "three", "one"];

    #[test]
    fn what_is_known_is_read_again_and_given_up_when_it_does_not_hold() {
        for minor in 8..=15 {
            for kind in [0, 1] {
                let mut world = World::new(minor);
                let texts = ["one", "two", "three"].map(|text| world.text(text));
                let [one, two, three] = texts;
                let keys = world.keys(kind, &[(one, 11), (0, 0), (two, 22)]);
                let dict = world.dict(keys, 0);
                let mut known = None;
                let first = world.reader().known_values(dict, &NAMES, &mut known);
                assert_eq!(first, Some(vec![Some(22), None, Some(11)]), "3.{minor}");
                let held = known.clone().expect("a table of its own");
                // A value is another one.
                let (at_two, _) = held.entries[0].expect("a place");
                world.memory.put_words(at_two, &[two, 33]);
                let again = world.reader().values_at(dict, &held);
                assert_eq!(again, Some(vec![Some(33), None, Some(11)]), "3.{minor}");
                // The entry is another one's.
                world.memory.put_words(at_two, &[three, 44]);
                assert_eq!(world.reader().values_at(dict, &held), None, "3.{minor}");
                // As long as it changes whenever it is read, nothing is known.
                let again = world.reader().known_values(dict, &NAMES, &mut known);
                assert_eq!(
                    (again.is_some(), known.is_none()),
                    (true, true),
                    "3.{minor}"
                );
            }
        }
    }

    #[test]
    fn another_table_and_one_that_has_grown_are_searched_again() {
        let mut world = World::new(13);
        let texts = ["one", "two", "three"].map(|text| world.text(text));
        let [one, two, three] = texts;
        let small = world.keys(1, &[(one, 11), (two, 22)]);
        let large = world.keys(1, &[(one, 11), (two, 22), (three, 33)]);
        let (before, after) = (world.dict(small, 0), world.dict(large, 0));
        let mut known = None;
        let mut reader = world.reader();
        let found = reader.known_values(before, &NAMES, &mut known);
        assert_eq!(found, Some(vec![Some(22), None, Some(11)]));
        let found = reader.known_values(after, &NAMES, &mut known);
        assert_eq!(found, Some(vec![Some(22), Some(33), Some(11)]));
        // What has a table in common with others is read as a whole.
        let shared = world.keys(2, &[(one, 0), (two, 0)]);
        let values = world.values(&[1, 2]);
        let split = world.dict(shared, values);
        let found = world.reader().known_values(split, &NAMES, &mut known);
        assert_eq!(found, Some(vec![Some(2), None, Some(1)]));
        assert!(known.is_none());
    }
}
