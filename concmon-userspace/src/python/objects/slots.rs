//! Attributes that a class declares in `__slots__`: fields of its instances.

use std::sync::Arc;

use super::containers::DictPlace;
use super::{OBJECT_TYPE, Reader, Slots, flags};
use crate::python::memory::{Batch, int, word};

/// The longest method resolution order that is searched.
const MAX_MRO: u64 = 64;
/// The largest instance whose slots are read, bytes.
const MAX_INSTANCE_BYTES: u64 = 1 << 16;
/// `T_OBJECT_EX` of `structmember.h`: what a slot is.
const OBJECT_SLOT: i32 = 16;

impl Reader<'_> {
    /// The slots of a class and its bases; read once in a scan.
    pub(crate) fn slots(&mut self, class: u64) -> Arc<Slots> {
        if let Some(known) = self.slots.get(&class) {
            return known.clone();
        }
        let found = Arc::new(self.read_slots(class).unwrap_or_default());
        self.slots.insert(class, found.clone());
        found
    }

    fn read_slots(&mut self, class: u64) -> Option<Slots> {
        self.load_types([class]);
        let info = self.type_info(class)?.clone();
        let bases = self.tuple(info.mro, MAX_MRO)?;
        self.load_types(bases.iter().copied());
        let (bases, places): (Vec<u64>, Vec<DictPlace>) = bases
            .into_iter()
            .filter_map(|base| {
                let info = self.type_info(base)?;
                // What built-in types have in their dicts are no slots.
                (info.flags & flags::HEAP_TYPE != 0).then_some((base, DictPlace::Object(info.dict)))
            })
            .unzip();
        let mut owned = Vec::new();
        for (base, entries) in bases.into_iter().zip(self.dicts(&places)) {
            let entries = entries.unwrap_or_default();
            owned.extend(entries.into_iter().map(|(name, value)| (base, name, value)));
        }
        self.load_texts(owned.iter().map(|(_, name, _)| *name));
        let descriptors: Vec<(u64, u64)> = owned
            .iter()
            .map(|(base, _, value)| (*base, *value))
            .collect();
        let offsets = self.slot_offsets(&descriptors);
        let mut slots = Slots::new();
        for ((_, name, _), offset) in owned.iter().zip(offsets) {
            let fits = |offset: &u32| {
                let end = u64::from(*offset) + 8;
                end <= info.basic_size && end <= MAX_INSTANCE_BYTES
            };
            // The class itself comes before its bases.
            if let (Some(name), Some(offset)) = (self.text(*name), offset.filter(fits)) {
                slots.entry(name.clone()).or_insert(offset);
            }
        }
        Some(slots)
    }

    /// Where the slot of each (class, descriptor) is; `None` for what is no slot of the class.
    fn slot_offsets(&mut self, descriptors: &[(u64, u64)]) -> Vec<Option<u32>> {
        let fields = self.walk.slot;
        let mut batch = Batch::new();
        for (_, descriptor) in descriptors {
            batch.push(*descriptor, fields.definition as usize + 8);
        }
        self.fetch(&mut batch);
        self.load_types((0..batch.len()).filter_map(|slot| word(batch.prefix(slot), OBJECT_TYPE)));
        let mut definitions = Batch::new();
        for (slot, (class, _)) in descriptors.iter().enumerate() {
            let bytes = batch.prefix(slot);
            let definition = word(bytes, OBJECT_TYPE)
                .and_then(|descriptor_class| self.type_info(descriptor_class))
                .filter(|info| &*info.name == "member_descriptor")
                .filter(|_| word(bytes, fields.class) == Some(*class))
                .and_then(|_| word(bytes, fields.definition));
            definitions.push(definition.unwrap_or(0), fields.offset as usize + 8);
        }
        self.fetch(&mut definitions);
        (0..definitions.len())
            .map(|slot| {
                let bytes = definitions.whole(slot)?;
                (int(bytes, fields.value_type)? == OBJECT_SLOT).then_some(())?;
                u32::try_from(word(bytes, fields.offset)?).ok()
            })
            .collect()
    }

    /// The attributes `names` of each object, from its slots, else from its dict; `None` where
    /// there is no living object.
    pub(crate) fn members(
        &mut self,
        objects: &[u64],
        names: &[&str],
    ) -> Vec<Option<Vec<Option<u64>>>> {
        let classes = self.classes_of(objects);
        self.members_in(objects, &classes, names)
    }

    /// As [`members`](Self::members), of objects whose classes were just read.
    pub(crate) fn members_in(
        &mut self,
        objects: &[u64],
        classes: &[Option<u64>],
        names: &[&str],
    ) -> Vec<Option<Vec<Option<u64>>>> {
        let offsets: Vec<Vec<Option<u32>>> = classes
            .iter()
            .map(|class| {
                let slots = class.map(|class| self.slots(class));
                names
                    .iter()
                    .map(|name| slots.as_ref()?.get(*name).copied())
                    .collect()
            })
            .collect();
        let mut batch = Batch::new();
        for (object, offsets) in objects.iter().zip(&offsets) {
            let last = offsets
                .iter()
                .flatten()
                .max()
                .copied()
                .unwrap_or(OBJECT_TYPE);
            batch.push(*object, last as usize + 8);
        }
        self.fetch(&mut batch);
        let mut found: Vec<Option<Vec<Option<u64>>>> = (0..objects.len())
            .map(|slot| {
                let bytes = batch.whole(slot)?;
                (word(bytes, 0)? as u32 != 0).then_some(())?;
                // The address may have gone to another object since its class was read.
                (word(bytes, OBJECT_TYPE) == classes[slot]).then_some(())?;
                let value =
                    |offset: &Option<u32>| word(bytes, (*offset)?).filter(|value| *value != 0);
                Some(offsets[slot].iter().map(value).collect())
            })
            .collect();
        let others: Vec<usize> = (0..objects.len())
            .filter(|slot| found[*slot].is_some() && offsets[*slot].contains(&None))
            .collect();
        if others.is_empty() {
            return found;
        }
        let with_dict: Vec<u64> = others.iter().map(|slot| objects[*slot]).collect();
        let attributes = self.attributes(&with_dict, names);
        for (slot, attributes) in others.into_iter().zip(attributes) {
            let (Some(found), Some(attributes)) = (&mut found[slot], attributes) else {
                continue;
            };
            for (value, attribute) in found.iter_mut().zip(attributes) {
                *value = value.or(attribute);
            }
        }
        found
    }

    /// The attributes `names` of one object, as [`members`](Self::members).
    pub(crate) fn members_of(&mut self, object: u64, names: &[&str]) -> Option<Vec<Option<u64>>> {
        self.members(&[object], names).pop()?
    }
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::{Noise, World, set_word};
    use super::*;

    /// A descriptor of a class for values of a type, at an offset.
    fn descriptor(world: &mut World, kind: &str, class: u64, value_type: i32, offset: u64) -> u64 {
        let fields = world.walk.slot;
        let mut definition = vec![0; 40];
        definition[fields.value_type as usize..][..4].copy_from_slice(&value_type.to_le_bytes());
        set_word(&mut definition, fields.offset, offset);
        let definition = world.put(&definition);
        let descriptor_class = world.class(kind, 0, 72);
        let mut bytes = World::object(descriptor_class, 72);
        set_word(&mut bytes, fields.class, class);
        set_word(&mut bytes, fields.definition, definition);
        world.put(&bytes)
    }

    fn class_with(
        world: &mut World,
        address: u64,
        size: u64,
        bases: &[u64],
        attributes: &[(&str, u64)],
    ) {
        let entries: Vec<(u64, u64)> = attributes
            .iter()
            .map(|(name, value)| (world.text(name), *value))
            .collect();
        let keys = world.keys(1, &entries);
        let dict = world.dict(keys, 0);
        let mro: Vec<u64> = std::iter::once(address)
            .chain(bases.iter().copied())
            .collect();
        let mro = world.tuple(&mro);
        let fields = world.walk.types;
        let more = [(fields.dict, dict), (fields.mro, mro)];
        world.class_at(address, "C", flags::HEAP_TYPE, size, &more);
    }

    #[test]
    fn values_are_found_in_slots_of_the_class_and_its_bases() {
        const MEMBER: &str = "member_descriptor";
        for minor in 8..=15 {
            let mut world = World::new(minor);
            let (base, class) = (world.reserve(), world.reserve());
            let inherited = descriptor(&mut world, MEMBER, base, OBJECT_SLOT, 16);
            let hidden = descriptor(&mut world, MEMBER, base, OBJECT_SLOT, 16);
            class_with(
                &mut world,
                base,
                24,
                &[],
                &[("one", inherited), ("two", hidden)],
            );
            let own = descriptor(&mut world, MEMBER, class, OBJECT_SLOT, 24);
            let empty = descriptor(&mut world, MEMBER, class, OBJECT_SLOT, 32);
            let outside = descriptor(&mut world, MEMBER, class, OBJECT_SLOT, 40);
            let far = descriptor(&mut world, MEMBER, class, OBJECT_SLOT, 1 << 40);
            let number = descriptor(&mut world, MEMBER, class, 1, 24);
            let foreign = descriptor(&mut world, MEMBER, base, OBJECT_SLOT, 24);
            let other = descriptor(&mut world, "getset_descriptor", class, OBJECT_SLOT, 24);
            let attributes = [
                ("two", own),
                ("empty", empty),
                ("outside", outside),
                ("far", far),
                ("number", number),
                ("foreign", foreign),
                ("other", other),
                ("garbage", 7),
            ];
            class_with(&mut world, class, 40, &[base], &attributes);
            let mut bytes = World::object(class, 40);
            set_word(&mut bytes, 16, 0x1111);
            set_word(&mut bytes, 24, 0x2222);
            let object = world.put(&bytes);
            let names: Vec<&str> = ["one"]
                .into_iter()
                .chain(attributes.iter().map(|(name, _)| *name))
                .collect();
            let mut reader = world.reader();
            let found = reader.members_of(object, &names).expect("an object");
            let mut expected = vec![None; names.len()];
            (expected[0], expected[1]) = (Some(0x1111), Some(0x2222));
            assert_eq!(found, expected, "3.{minor}");
            assert_eq!(reader.members_of(0x7777_0000, &names), None, "3.{minor}");
        }
    }

    #[test]
    fn attributes_without_slots_are_found_in_the_dict() {
        let mut world = World::new(13);
        let name = world.text("one");
        let keys = world.keys(1, &[(name, 0x1111)]);
        let dict = world.dict(keys, 0);
        let fields = world.walk.types;
        let class = world.reserve();
        let mro = world.tuple(&[class]);
        let more = [(fields.dict_offset, 16), (fields.mro, mro)];
        world.class_at(class, "C", flags::HEAP_TYPE, 24, &more);
        let mut bytes = World::object(class, 24);
        set_word(&mut bytes, 16, dict);
        let object = world.put(&bytes);
        let found = world.reader().members_of(object, &["one", "two"]);
        assert_eq!(found, Some(vec![Some(0x1111), None]));
    }

    #[test]
    fn reading_noise_ends() {
        for seed in 0..100 {
            let minor = 8 + (seed % 8) as u8;
            let memory = Noise::new(minor, seed);
            let walk = World::new(minor).walk;
            let mut reader = Reader::new(&memory, walk, 1 << 20);
            let objects: Vec<u64> = (0..200).map(|index| memory.address(index)).collect();
            let found = reader.members(&objects, &["one", "two"]);
            assert_eq!(found.len(), objects.len());
        }
    }
}
