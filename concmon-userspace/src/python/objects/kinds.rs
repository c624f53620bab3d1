//! What an object is, as far as walkers care: kinds, the types that have them, and what is known of a type.

use std::collections::HashMap;
use std::sync::Arc;

use crate::python::layout::{GeneratorFrame, Instructions, WalkLayout};
use crate::python::memory::byte;

/// `ob_type` of every object of a build with a GIL, 3.8 to 3.15; the reference count is before it.
pub(crate) const OBJECT_TYPE: u32 = 8;
/// `ob_size` of every object that has one.
pub(crate) const OBJECT_SIZE: u32 = 16;

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
    pub(super) metatype: u64,
    /// Its own type is one whose instances are types.
    pub(super) is_type: bool,
}

/// Where instances of a class keep what is in slots, bytes from the object, by name.
pub(crate) type Slots = HashMap<Arc<str>, u32>;

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

    pub(super) fn fits(self, size: u64) -> bool {
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
