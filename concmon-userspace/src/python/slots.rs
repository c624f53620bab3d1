//! Attributes that a class declares in `__slots__`: fields of its instances.

use std::collections::HashMap;
use std::sync::Arc;

use super::containers::DictPlace;
use super::memory::{Batch, int, word};
use super::object::{OBJECT_TYPE, Reader, flags};

/// The longest method resolution order that is searched.
const MAX_MRO: u64 = 64;
/// The largest instance whose slots are read, bytes.
const MAX_INSTANCE_BYTES: u64 = 1 << 16;
/// `T_OBJECT_EX` of `structmember.h`: what a slot is.
const OBJECT_SLOT: i32 = 16;

/// Where instances of a class keep what is in slots, bytes from the object, by name.
pub(super) type Slots = HashMap<Arc<str>, u32>;

impl Reader<'_> {
    /// The slots of a class and its bases; read once in a look.
    pub(super) fn slots(&mut self, class: u64) -> Arc<Slots> {
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
    pub(super) fn members(
        &mut self,
        objects: &[u64],
        names: &[&str],
    ) -> Vec<Option<Vec<Option<u64>>>> {
        let classes = self.classes_of(objects);
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
    pub(super) fn members_of(&mut self, object: u64, names: &[&str]) -> Option<Vec<Option<u64>>> {
        self.members(&[object], names).pop()?
    }

    /// The class of each object, `None` where there is no living one.
    pub(super) fn classes_of(&mut self, objects: &[u64]) -> Vec<Option<u64>> {
        let mut batch = Batch::new();
        for object in objects {
            batch.push(*object, 16);
        }
        self.fetch(&mut batch);
        let classes: Vec<Option<u64>> = (0..objects.len())
            .map(|slot| {
                let bytes = batch.whole(slot)?;
                (word(bytes, 0)? as u32 != 0).then(|| word(bytes, OBJECT_TYPE))?
            })
            .collect();
        self.load_types(classes.iter().flatten().copied());
        classes
            .into_iter()
            .map(|class| class.filter(|class| self.type_info(*class).is_some()))
            .collect()
    }
}
