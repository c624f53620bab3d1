//! Python objects as memory has them: their types, attributes, containers, texts and code.

pub(super) mod attributes;
pub(super) mod code;
pub(super) mod containers;
mod kinds;
mod known_entries;
pub(super) mod lines;
pub(super) mod names;
mod reader;
mod sequences;
mod slots;
#[cfg(test)]
pub(super) mod synthetic;
pub(super) mod text;
mod types;

pub(super) use kinds::{
    Kind, OBJECT_SIZE, OBJECT_TYPE, Slots, TypeInfo, expected_size, flags, signed_byte,
};
pub(super) use known_entries::KnownEntries;
pub(super) use reader::{KEPT_ALL, Reader, kept_of};
