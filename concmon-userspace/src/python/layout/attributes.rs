//! Attributes that are in no dict of the object's own: slots, and values per thread.

use serde::Serialize;

use super::Since;

/// `PyMemberDescrObject` and the `PyMemberDef` that it points to: one slot of a class.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SlotLayout {
    /// The class that the descriptor is for.
    pub class: u32,
    pub definition: u32,
    /// Of the definition: which type of value the slot has.
    pub value_type: u32,
    /// Of the definition: where instances keep the value.
    pub offset: u32,
}

pub(super) const SLOT: Since<SlotLayout> = &[(
    8,
    SlotLayout {
        class: 16,
        definition: 40,
        value_type: 8,
        offset: 16,
    },
)];

/// `_thread._local`: an object with other attributes in each thread.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LocalLayout {
    /// What `tp_basicsize` must be for the rest to hold.
    pub size: u32,
    /// A dict whose values are the threads' dicts of attributes.
    pub dicts: u32,
    pub key: LocalKey,
}

/// What the keys of the dict of dicts have to do with the threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum LocalKey {
    /// Weak references to an object that is a value in the dict of the thread, too. The number is
    /// where the thread state has that dict.
    ReferentInDict(u32),
    /// An object that the thread state points to. Where it does drifts between patch releases
    /// (`threading_local_key`, the last fields but one before asyncio's).
    InState,
}

pub(super) const LOCAL: Since<LocalLayout> = &[
    (8, local(LocalKey::ReferentInDict(152))),
    (11, local(LocalKey::ReferentInDict(128))),
    (12, local(LocalKey::ReferentInDict(112))),
    (
        13,
        LocalLayout {
            size: 56,
            dicts: 40,
            key: LocalKey::InState,
        },
    ),
];

const fn local(key: LocalKey) -> LocalLayout {
    LocalLayout {
        size: 64,
        dicts: 48,
        key,
    }
}
