//! Types of objects: read with all their bases, which decide on their kind.

use std::sync::Arc;

use super::kinds::{FLAGGED_KINDS, NAMED_KINDS};
use super::{Kind, OBJECT_TYPE, Reader, TypeInfo, expected_size, flags};
use crate::python::memory::{Batch, word};

/// The longest type name, bytes.
const MAX_NAME_BYTES: usize = 128;
/// What a type costs to keep, bytes.
const TYPE_BYTES: usize = 320;
/// The longest chain of base types.
const MAX_BASES: usize = 32;

impl Reader<'_> {
    /// Makes the types at these addresses known, with all their bases.
    pub(crate) fn load_types(&mut self, addresses: impl IntoIterator<Item = u64>) {
        // Most of many objects have the type of the one before.
        let mut before = 0;
        let mut wanted: Vec<u64> = addresses
            .into_iter()
            .filter(|address| {
                let is_new = *address != before;
                before = *address;
                is_new
            })
            .collect();
        let mut loaded = Vec::new();
        for _ in 0..MAX_BASES {
            wanted.retain(|address| !matches!(self.types.get(address), Some(Some(_))));
            wanted.sort_unstable();
            wanted.dedup();
            if wanted.is_empty() {
                break;
            }
            let infos = self.read_types(&wanted);
            let mut next = Vec::new();
            for (address, info) in wanted.iter().zip(infos) {
                if !self.may_keep(TYPE_BYTES) {
                    return;
                }
                if let Some(info) = &info {
                    next.extend([info.base, info.metatype].into_iter().filter(|a| *a != 0));
                    loaded.push(*address);
                }
                self.types.insert(*address, info.map(Arc::new));
            }
            wanted = next;
        }
        for address in loaded {
            let kind = self.kind_by_bases(address);
            let is_type = self.has_metatype(address);
            if let Some(Some(info)) = self.types.get_mut(&address) {
                let info = Arc::make_mut(info);
                info.kind = kind;
                info.is_type = is_type;
            }
        }
    }

    fn has_metatype(&self, address: u64) -> bool {
        let loaded = |address: &u64| self.types.get(address).and_then(Option::as_ref);
        loaded(&address)
            .and_then(|info| loaded(&info.metatype))
            .is_some_and(|metatype| metatype.flags & flags::TYPE_SUBCLASS != 0)
    }

    fn read_types(&mut self, addresses: &[u64]) -> Vec<Option<TypeInfo>> {
        let fields = self.walk.types;
        let static_len = fields.mro as usize + 8;
        let heap_len = fields.cached_keys.max(fields.qualname) as usize + 8;
        let mut batch = Batch::new();
        for address in addresses {
            batch.push(*address, heap_len.max(static_len));
        }
        self.fetch(&mut batch);
        let mut names = Batch::new();
        for index in 0..addresses.len() {
            names.push(
                word(batch.prefix(index), fields.name).unwrap_or(0),
                MAX_NAME_BYTES,
            );
        }
        self.fetch(&mut names);
        (0..addresses.len())
            .map(|index| {
                let bytes = batch.prefix(index);
                let name = names.prefix(index);
                let end = name.iter().position(|byte| *byte == 0)?;
                let name = std::str::from_utf8(&name[..end]).ok()?;
                let flags = word(bytes, fields.flags)?;
                let heap = |offset| {
                    (flags & flags::HEAP_TYPE != 0)
                        .then(|| word(bytes, offset))
                        .flatten()
                        .unwrap_or(0)
                };
                let dict_offset = word(bytes, fields.dict_offset)? as i64;
                Some(TypeInfo {
                    name: name.into(),
                    kind: Kind::Other,
                    basic_size: word(bytes, fields.basic_size)?,
                    flags,
                    dict_offset: u32::try_from(dict_offset).ok().filter(|offset| *offset > 0),
                    base: word(bytes, fields.base)?,
                    dict: word(bytes, fields.dict)?,
                    mro: word(bytes, fields.mro)?,
                    cached_keys: heap(fields.cached_keys),
                    qualname: heap(fields.qualname),
                    metatype: word(bytes, OBJECT_TYPE)?,
                    is_type: false,
                })
            })
            .collect()
    }

    /// A type is one whose own type is a metatype; its kind is its first base's that has one.
    fn kind_by_bases(&mut self, address: u64) -> Kind {
        let mut next = address;
        for _ in 0..MAX_BASES {
            let Some(Some(info)) = self.types.get(&next) else {
                return Kind::Other;
            };
            if let Some((_, kind)) = FLAGGED_KINDS
                .iter()
                .find(|(flag, _)| info.flags & flag != 0)
            {
                return *kind;
            }
            let is_static = info.flags & flags::HEAP_TYPE == 0;
            let named = NAMED_KINDS
                .iter()
                .find(|(name, _)| *name == &*info.name && (is_static || name.contains('.')));
            if let Some((name, kind)) = named {
                let size = info.basic_size;
                return match expected_size(&self.walk, *kind) {
                    Some(expected) if !expected.fits(size) => {
                        let expected = expected.bytes;
                        let reason = format!(
                            "an object of type {name} has {size} bytes where {expected} are known"
                        );
                        self.limits.insert(format!("layout.{name}"), reason);
                        Kind::Mistrusted
                    }
                    _ => *kind,
                };
            }
            next = info.base;
        }
        Kind::Other
    }

    /// Whether the type or one of its bases has a name that `accept` takes.
    pub(crate) fn has_base(&self, info: &TypeInfo, accept: impl Fn(&str) -> bool) -> bool {
        let mut base = Some(info);
        for _ in 0..MAX_BASES {
            match base {
                Some(info) if accept(&info.name) => return true,
                Some(info) => base = self.types.get(&info.base).and_then(|base| base.as_deref()),
                None => return false,
            }
        }
        false
    }

    /// The type at an address, when it was loaded and is one.
    pub(crate) fn type_info(&self, address: u64) -> Option<&Arc<TypeInfo>> {
        self.types
            .get(&address)?
            .as_ref()
            .filter(|info| info.is_type)
    }

    /// The kind of the object that begins with `bytes`, if it is alive and its type was loaded.
    pub(crate) fn kind(&self, bytes: &[u8]) -> Option<Kind> {
        if word(bytes, 0)? as u32 == 0 {
            return None;
        }
        Some(self.type_info(word(bytes, OBJECT_TYPE)?)?.kind)
    }

    /// The class of each object, `None` where there is no living one.
    pub(crate) fn classes_of(&mut self, objects: &[u64]) -> Vec<Option<u64>> {
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

    /// The types of the objects at these addresses, `None` where there is no living object.
    pub(crate) fn types_of(&mut self, objects: &[u64]) -> Vec<Option<Arc<TypeInfo>>> {
        let classes = self.classes_of(objects);
        classes
            .into_iter()
            .map(|class| self.type_info(class?).cloned())
            .collect()
    }
}
