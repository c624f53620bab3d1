//! Contexts of variables: `Context`, and the tree that it keeps its values in (`Python/hamt.c`).

use serde::Serialize;

use super::Since;

/// `PyContext`, `PyContextVar`, `PyHamtObject` and its nodes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ContextLayout {
    /// What `tp_basicsize` of a context must be for the rest to hold.
    pub size: u32,
    /// Of a context: its tree.
    pub variables: u32,
    /// Of a tree: its root.
    pub root: u32,
    /// Of a node with up to 16 entries: how many words, and where they begin. They come in pairs,
    /// of a variable and a value, or of null and another node.
    pub pairs_count: u32,
    pub pairs: u32,
    /// Of a node with up to 32 other nodes.
    pub children: u32,
    /// Of a node whose variables have equal hashes.
    pub collisions: u32,
    /// Of a variable.
    pub name: u32,
}

pub(super) const CONTEXT: Since<ContextLayout> = &[(
    8,
    ContextLayout {
        size: 48,
        variables: 24,
        root: 16,
        pairs_count: 16,
        pairs: 32,
        children: 16,
        collisions: 32,
        name: 16,
    },
)];
