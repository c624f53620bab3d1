//! The attributes of instances, in whichever of the forms that releases have found for them.

use super::containers::DictPlace;
use super::{Reader, TypeInfo, flags};
use crate::python::layout::InstanceShape;
use crate::python::memory::{Batch, at, plausible, word};

impl Reader<'_> {
    /// The attributes `names` of each instance's own dict; `None` where the object has none.
    pub(crate) fn attributes(
        &mut self,
        objects: &[u64],
        names: &[&str],
    ) -> Vec<Option<Vec<Option<u64>>>> {
        let places = self.attribute_places(objects);
        let known: Vec<DictPlace> = places.iter().flatten().copied().collect();
        let entries = self.dicts(&known);
        self.load_texts(
            entries
                .iter()
                .flatten()
                .flat_map(|entries| entries.iter().map(|(key, _)| *key))
                .collect::<Vec<_>>(),
        );
        let mut picked = entries
            .iter()
            .map(|entries| entries.as_ref().map(|entries| self.pick(entries, names)));
        places
            .iter()
            .map(|place| (*place).and_then(|_| picked.next().flatten()))
            .collect()
    }

    /// The attributes `names` of one instance.
    pub(crate) fn attributes_of(
        &mut self,
        object: u64,
        names: &[&str],
    ) -> Option<Vec<Option<u64>>> {
        self.attributes(&[object], names).pop()?
    }

    fn attribute_places(&mut self, objects: &[u64]) -> Vec<Option<DictPlace>> {
        let types = self.types_of(objects);
        // Two words at most decide; each is an area of its own, 0 where there is none to read.
        let mut batch = Batch::new();
        for (object, info) in objects.iter().zip(&types) {
            let words = info
                .as_ref()
                .map_or([0, 0], |info| self.deciding_words(*object, info));
            for address in words {
                batch.push(address, if address == 0 { 0 } else { 8 });
            }
        }
        self.fetch(&mut batch);
        objects
            .iter()
            .zip(&types)
            .enumerate()
            .map(|(index, (object, info))| {
                let word_of = |which: usize| {
                    batch
                        .whole(index * 2 + which)
                        .and_then(|bytes| word(bytes, 0))
                };
                self.place(*object, info.as_ref()?, word_of(0), word_of(1))
            })
            .collect()
    }

    fn deciding_words(&self, object: u64, info: &TypeInfo) -> [u64; 2] {
        if info.flags & flags::MANAGED_DICT == 0 {
            return [info.dict_offset.map_or(0, |offset| at(object, offset)), 0];
        }
        let before = |offset: u32| object.wrapping_sub(u64::from(offset));
        match self.walk.instance {
            InstanceShape::TwoPointers { values, dict } => [before(dict), before(values)],
            InstanceShape::TaggedPointer { word } => [before(word), 0],
            InstanceShape::Unmanaged => [0, 0],
            InstanceShape::Inline { dict, .. } if info.flags & flags::INLINE_VALUES != 0 => {
                [before(dict), object.wrapping_add(info.basic_size)]
            }
            InstanceShape::Inline { dict, .. } => [before(dict), 0],
        }
    }

    fn place(
        &self,
        object: u64,
        info: &TypeInfo,
        first: Option<u64>,
        second: Option<u64>,
    ) -> Option<DictPlace> {
        let first = first?;
        let values = |values: u64| {
            (plausible(values) && info.cached_keys != 0).then_some(DictPlace::Values {
                keys: info.cached_keys,
                values,
            })
        };
        if info.flags & flags::MANAGED_DICT == 0 {
            return (first != 0).then_some(DictPlace::Object(first));
        }
        match self.walk.instance {
            InstanceShape::TaggedPointer { .. } if first & 1 == 1 => values(at(first, 1)),
            _ if first != 0 => Some(DictPlace::Object(first)),
            InstanceShape::TwoPointers { .. } => values(second?),
            InstanceShape::TaggedPointer { .. } | InstanceShape::Unmanaged => None,
            InstanceShape::Inline { valid, .. } => {
                let is_valid = second?.to_le_bytes().get(valid as usize) == Some(&1);
                is_valid
                    .then(|| values(object.wrapping_add(info.basic_size)))
                    .flatten()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::{World, set_word};
    use super::*;

    /// An object with `before` right in front of it and `after` behind its 16 bytes.
    fn instance(world: &mut World, class: u64, before: [u64; 4], after: &[u8]) -> u64 {
        let mut bytes: Vec<u8> = before.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend(World::object(class, 16));
        bytes.extend(after);
        world.put(&bytes) + 32
    }

    fn check(world: &World, object: u64, expected: Option<[Option<u64>; 2]>, label: &str) {
        let found = world.reader().attributes_of(object, &["one", "two"]);
        assert_eq!(found, expected.map(|expected| expected.to_vec()), "{label}");
    }

    #[test]
    fn attributes_are_found_wherever_a_release_keeps_them() {
        const HEAP: u64 = flags::HEAP_TYPE;
        const MANAGED: u64 = HEAP | flags::MANAGED_DICT;
        for minor in 11..=15 {
            let label = format!("3.{minor}");
            let mut world = World::new(minor);
            let (one, two) = (world.text("one"), world.text("two"));
            let shared = world.keys(2, &[(one, 0), (two, 0)]);
            let own = world.keys(1, &[(two, 4), (one, 3)]);
            let dict = world.dict(own, 0);
            let values = world.values(&[1, 2]);
            let class = world.class_with_keys("C", MANAGED, 16, shared);
            let plain = world.class("P", HEAP, 16);
            let (in_values, in_dict, neither) = match world.walk.instance {
                InstanceShape::TwoPointers { .. } => {
                    ([values, 0, 0, 0], [values, dict, 0, 0], [0; 4])
                }
                InstanceShape::TaggedPointer { .. } => {
                    ([0, values - 1, 0, 0], [0, dict, 0, 0], [0; 4])
                }
                InstanceShape::Inline { .. } => ([0; 4], [0, dict, 0, 0], [0; 4]),
                InstanceShape::Unmanaged => unreachable!("not from 3.11 on"),
            };
            let object = instance(&mut world, class, in_dict, &[]);
            check(&world, object, Some([Some(3), Some(4)]), &label);
            let object = instance(&mut world, plain, neither, &[]);
            check(&world, object, None, &label);
            if let InstanceShape::Inline { valid, .. } = world.walk.instance {
                let class = world.class_with_keys("I", MANAGED | flags::INLINE_VALUES, 16, shared);
                let mut inline = vec![0; 24];
                set_word(&mut inline, 8, 1);
                set_word(&mut inline, 16, 2);
                let object = instance(&mut world, class, neither, &inline);
                check(&world, object, None, &label);
                inline[valid as usize] = 1;
                let object = instance(&mut world, class, neither, &inline);
                check(&world, object, Some([Some(1), Some(2)]), &label);
            } else {
                let object = instance(&mut world, class, in_values, &[]);
                check(&world, object, Some([Some(1), Some(2)]), &label);
                let object = instance(&mut world, class, neither, &[]);
                check(&world, object, None, &label);
            }
        }
    }
}
