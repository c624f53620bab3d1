//! What a future or task itself keeps of who waits for it.

use crate::python::memory::{byte, word};
use crate::python::objects::Reader;

/// What a future or task says of those that wait for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiters {
    /// One that waits, or a set of them.
    pub(crate) awaited_by: u64,
    pub(crate) is_set: bool,
    pub(crate) callback: u64,
    pub(crate) callbacks: u64,
}

impl Waiters {
    /// Of the bytes of a `FutureObj` or `TaskObj`.
    pub(crate) fn of(reader: &Reader<'_>, bytes: &[u8]) -> Option<Self> {
        let fields = reader.walk.task;
        let (awaited_by, is_set) = match fields.awaited_by {
            Some(place) => (
                word(bytes, place.object)?,
                byte(bytes, place.is_set)? & 1 == 1,
            ),
            None => (0, false),
        };
        Some(Self {
            awaited_by,
            is_set,
            callback: word(bytes, fields.callback)?,
            callbacks: word(bytes, fields.callbacks)?,
        })
    }
}

/// Tasks that are written in Python keep those that wait for them in attributes.
pub(crate) fn of_python_task(
    reader: &mut Reader<'_>,
    callbacks: Option<u64>,
    awaited_by: Option<u64>,
) -> Waiters {
    let is_none = |reader: &mut Reader<'_>, object: u64| {
        let info = reader.types_of(&[object]).pop().flatten();
        info.is_none_or(|info| &*info.name == "NoneType")
    };
    let present = |reader: &mut Reader<'_>, object: Option<u64>| {
        object
            .filter(|object| !is_none(reader, *object))
            .unwrap_or(0)
    };
    Waiters {
        awaited_by: present(reader, awaited_by),
        is_set: true,
        callback: 0,
        callbacks: present(reader, callbacks),
    }
}
