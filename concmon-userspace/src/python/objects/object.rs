//! What every walker needs to know about an object: its type, and what kind of thing that makes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::slots::Slots;
use crate::python::layout::{GeneratorFrame, Instructions, WalkLayout};
use crate::python::memory::addresses::AddressMap;
use crate::python::memory::{Batch, Memory, ReadError, byte, word};

/// `ob_type` of every object of a build with a GIL, 3.8 to 3.15; the reference count is before it.
pub(crate) const OBJECT_TYPE: u32 = 8;
/// `ob_size` of every object that has one.
pub(crate) const OBJECT_SIZE: u32 = 16;
/// The longest type name, bytes.
const MAX_NAME_BYTES: usize = 128;
/// A scan keeps one byte of so many that it may read: what is kept at once is what memory it needs.
const KEPT_SHARE: usize = 8;
/// What a type costs to keep, bytes.
const TYPE_BYTES: usize = 320;
/// The longest chain of base types.
const MAX_BASES: usize = 32;

/// Bits of `tp_flags` (`Include/object.h`), the same from 3.11 to 3.15.
pub(crate) mod flags {
    pub(crate) const INLINE_VALUES: u64 = 1 << 2;
    pub(crate) const MANAGED_DICT: u64 = 1 << 4;
    pub(crate) const HEAP_TYPE: u64 = 1 << 9;
    pub(crate) const LONG_SUBCLASS: u64 = 1 << 24;
    pub(crate) const LIST_SUBCLASS: u64 = 1 << 25;
    pub(crate) const TUPLE_SUBCLASS: u64 = 1 << 26;
    pub(crate) const BYTES_SUBCLASS: u64 = 1 << 27;
    pub(crate) const UNICODE_SUBCLASS: u64 = 1 << 28;
    pub(crate) const DICT_SUBCLASS: u64 = 1 << 29;
    pub(crate) const EXCEPTION_SUBCLASS: u64 = 1 << 30;
    pub(crate) const TYPE_SUBCLASS: u64 = 1 << 31;
}

/// What an object is, as far as walkers care.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Text,
    Integer,
    Float,
    Bytes,
    Dict,
    List,
    Tuple,
    Set,
    Deque,
    Weakref,
    Module,
    Type,
    Function,
    Method,
    Builtin,
    Partial,
    Code,
    /// Coroutine, generator or asynchronous generator.
    Generator,
    /// Stands for the generator at the first field.
    GeneratorProxy,
    FutureIterator,
    Future,
    Task,
    /// A bound method of a task, in releases that have a type for it.
    TaskWakeup,
    Cell,
    Context,
    ContextVar,
    Hamt,
    HamtPairs,
    HamtNodes,
    HamtCollision,
    /// Known by name, but not of the size that the layout was made for.
    Mistrusted,
    Other,
}

/// Types by name; those without a dot are static, so a class of the same name is not meant.
pub(crate) const NAMED_KINDS: &[(&str, Kind)] = &[
    ("float", Kind::Float),
    ("set", Kind::Set),
    ("frozenset", Kind::Set),
    ("collections.deque", Kind::Deque),
    ("weakref", Kind::Weakref),
    ("weakref.ReferenceType", Kind::Weakref),
    ("module", Kind::Module),
    ("function", Kind::Function),
    ("method", Kind::Method),
    ("builtin_function_or_method", Kind::Builtin),
    ("functools.partial", Kind::Partial),
    ("code", Kind::Code),
    ("coroutine", Kind::Generator),
    ("generator", Kind::Generator),
    ("async_generator", Kind::Generator),
    ("coroutine_wrapper", Kind::GeneratorProxy),
    ("async_generator_asend", Kind::GeneratorProxy),
    ("async_generator_athrow", Kind::GeneratorProxy),
    ("anext_awaitable", Kind::GeneratorProxy),
    ("_asyncio.FutureIter", Kind::FutureIterator),
    ("_asyncio.Future", Kind::Future),
    ("_asyncio.Task", Kind::Task),
    ("TaskWakeupMethWrapper", Kind::TaskWakeup),
    ("cell", Kind::Cell),
    ("Context", Kind::Context),
    ("_contextvars.Context", Kind::Context),
    ("ContextVar", Kind::ContextVar),
    ("_contextvars.ContextVar", Kind::ContextVar),
    ("hamt", Kind::Hamt),
    ("hamt_bitmap_node", Kind::HamtPairs),
    ("hamt_array_node", Kind::HamtNodes),
    ("hamt_collision_node", Kind::HamtCollision),
];

pub(crate) const FLAGGED_KINDS: &[(u64, Kind)] = &[
    (flags::LONG_SUBCLASS, Kind::Integer),
    (flags::LIST_SUBCLASS, Kind::List),
    (flags::TUPLE_SUBCLASS, Kind::Tuple),
    (flags::BYTES_SUBCLASS, Kind::Bytes),
    (flags::UNICODE_SUBCLASS, Kind::Text),
    (flags::DICT_SUBCLASS, Kind::Dict),
    (flags::TYPE_SUBCLASS, Kind::Type),
];

/// What is known about a type.
#[derive(Clone, Debug)]
pub(crate) struct TypeInfo {
    pub(crate) name: Arc<str>,
    pub(crate) kind: Kind,
    pub(crate) basic_size: u64,
    pub(crate) flags: u64,
    /// `None`: the interpreter manages the dict, or there is none.
    pub(crate) dict_offset: Option<u32>,
    pub(crate) base: u64,
    pub(crate) dict: u64,
    pub(crate) mro: u64,
    pub(crate) cached_keys: u64,
    pub(crate) qualname: u64,
    metatype: u64,
    /// Its own type is one whose instances are types.
    is_type: bool,
}

/// Why a scan ends early that keeps too much.
pub(crate) const KEPT_ALL: &str = "the scan has kept as much as it may";

/// How much a scan keeps that may read so many bytes.
pub(crate) fn kept_of(bytes: usize) -> usize {
    bytes / KEPT_SHARE
}

/// One scan's view of a process: the memory, the layout, and what has been read so far.
pub(crate) struct Reader<'a> {
    pub(crate) walk: WalkLayout,
    /// Reads that failed or were torn beyond retry.
    pub(crate) failed: u64,
    /// What this scan does not cover.
    pub(crate) limits: BTreeMap<String, String>,
    memory: &'a dyn Memory,
    /// Why the scan could not go on, from some point of it on.
    cut: Option<String>,
    /// How much more may be read.
    bytes_left: usize,
    /// How much more may be kept.
    keep_left: usize,
    types: AddressMap<Option<Arc<TypeInfo>>>,
    pub(crate) slots: AddressMap<Arc<Slots>>,
    pub(crate) texts: AddressMap<Option<Arc<str>>>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(memory: &'a dyn Memory, walk: WalkLayout, bytes: usize) -> Self {
        Self {
            bytes_left: bytes,
            keep_left: kept_of(bytes),
            walk,
            failed: 0,
            limits: BTreeMap::new(),
            memory,
            cut: None,
            types: AddressMap::default(),
            slots: AddressMap::default(),
            texts: AddressMap::default(),
        }
    }

    /// Goes on with another layout: what was judged by the old one is forgotten.
    pub(crate) fn set_layout(&mut self, walk: WalkLayout) {
        self.walk = walk;
        self.types.clear();
        self.slots.clear();
    }

    /// Reads a batch. When the process as a whole cannot be read any more, or the scan has read
    /// as much as it may, all areas stay short.
    pub(crate) fn fetch(&mut self, batch: &mut Batch) {
        if self.may_read(batch.size())
            && let Err(error) = self.memory.read_batch(batch)
        {
            self.unread(error);
        }
    }

    /// As [`fetch`](Self::fetch), one area after the other as they were added.
    pub(crate) fn fetch_in_order(&mut self, batch: &mut Batch) {
        if self.may_read(batch.size())
            && let Err(error) = self.memory.read_in_order(batch)
        {
            self.unread(error);
        }
    }

    fn unread(&mut self, error: ReadError) {
        if error != ReadError::Over || !self.is_over() {
            self.limits.insert("python".to_owned(), error.to_string());
        }
    }

    /// Whether the scan has to end: loops that do not read ask, and whoever would read again.
    pub(crate) fn is_over(&mut self) -> bool {
        match self.memory.over() {
            Some(reason) => {
                self.end_early(reason);
                true
            }
            None => false,
        }
    }

    /// Says of a part of the scan that it may not be whole, if the scan could not go on.
    pub(crate) fn note_cut(&mut self, field: &str) {
        if let Some(reason) = &self.cut {
            let limit = self.limits.entry(field.to_owned());
            limit.or_insert_with(|| reason.clone());
        }
    }

    /// Why the scan could not go on.
    pub(crate) fn cut(&self) -> Option<&str> {
        self.cut.as_deref()
    }

    fn end_early(&mut self, reason: String) {
        self.limits.insert("python".to_owned(), reason.clone());
        self.cut.get_or_insert(reason);
    }

    fn may_read(&mut self, bytes: usize) -> bool {
        match self.bytes_left.checked_sub(bytes) {
            Some(left) => self.bytes_left = left,
            None => {
                self.end_early("the scan has read as much as it may".to_owned());
                self.failed += 1;
                return false;
            }
        }
        true
    }

    /// Whether so many more bytes may be kept for the rest of the scan.
    pub(crate) fn may_keep(&mut self, bytes: usize) -> bool {
        match self.keep_left.checked_sub(bytes) {
            Some(left) => {
                self.keep_left = left;
                true
            }
            None => {
                self.end_early(KEPT_ALL.to_owned());
                false
            }
        }
    }

    /// So many bytes are not kept any more.
    pub(crate) fn give_back(&mut self, bytes: usize) {
        self.keep_left += bytes;
    }

    /// Reads one area.
    pub(crate) fn bytes(&mut self, address: u64, len: usize) -> Result<Vec<u8>, ReadError> {
        let mut batch = Batch::new();
        batch.push(address, len);
        self.fetch(&mut batch);
        match batch.whole(0) {
            Some(bytes) => Ok(bytes.to_vec()),
            None => Err(ReadError::Unmapped { address, len }),
        }
    }

    /// Reads one area up to the first byte that cannot be read.
    pub(crate) fn prefix(&mut self, address: u64, len: usize) -> Vec<u8> {
        let mut batch = Batch::new();
        batch.push(address, len);
        self.fetch(&mut batch);
        batch.prefix(0).to_vec()
    }

    pub(crate) fn pointer(&mut self, address: u64) -> Result<u64, ReadError> {
        if !self.may_read(8) {
            return Err(ReadError::Unmapped { address, len: 8 });
        }
        self.memory.read_u64(address)
    }

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

    /// The types of the objects at these addresses, `None` where there is no living object.
    pub(crate) fn types_of(&mut self, objects: &[u64]) -> Vec<Option<Arc<TypeInfo>>> {
        let mut batch = Batch::new();
        for object in objects {
            batch.push(*object, 16);
        }
        self.fetch(&mut batch);
        let heads: Vec<Option<u64>> = (0..objects.len())
            .map(|index| {
                let bytes = batch.whole(index)?;
                (word(bytes, 0)? as u32 != 0).then(|| word(bytes, OBJECT_TYPE))?
            })
            .collect();
        self.load_types(heads.iter().flatten().copied());
        heads
            .into_iter()
            .map(|head| self.type_info(head?).cloned())
            .collect()
    }
}

/// What `tp_basicsize` must be for a kind's layout to be trusted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExpectedSize {
    pub(crate) bytes: u32,
    /// Others of the kind have more fields behind.
    at_least: bool,
}

impl ExpectedSize {
    fn exactly(bytes: u32) -> Self {
        Self {
            bytes,
            at_least: false,
        }
    }

    fn fits(self, size: u64) -> bool {
        let bytes = u64::from(self.bytes);
        size == bytes || self.at_least && size > bytes
    }
}

/// What is known of the size of a kind; `None` when it does not matter.
pub(crate) fn expected_size(walk: &WalkLayout, kind: Kind) -> Option<ExpectedSize> {
    match (kind, walk.generator.frame, walk.code.instructions) {
        (Kind::Task, _, _) => Some(ExpectedSize::exactly(walk.task.size)),
        (Kind::Future, _, _) => Some(ExpectedSize::exactly(walk.task.future_size)),
        (Kind::Context, _, _) => Some(ExpectedSize::exactly(walk.context.size)),
        (Kind::Generator, GeneratorFrame::Inside(frame), _) => {
            Some(ExpectedSize::exactly(frame + walk.frame.locals))
        }
        (Kind::Generator, GeneratorFrame::Object { size, .. }, _) => Some(ExpectedSize {
            bytes: size,
            at_least: true,
        }),
        (Kind::Code, _, Instructions::Bytes { size, .. } | Instructions::Inside(size)) => {
            Some(ExpectedSize::exactly(size))
        }
        _ => None,
    }
}

/// The single byte at an offset, as the signed number that state bytes are.
pub(crate) fn signed_byte(bytes: &[u8], offset: u32) -> Option<i8> {
    byte(bytes, offset).map(|value| value as i8)
}
