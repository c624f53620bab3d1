//! Python objects as memory has them: their types, attributes, containers, texts and code.

pub(super) mod attributes;
pub(super) mod code;
pub(super) mod containers;
pub(super) mod lines;
pub(super) mod names;
pub(super) mod object;
pub(super) mod slots;
#[cfg(test)]
pub(super) mod synthetic;
pub(super) mod text;
