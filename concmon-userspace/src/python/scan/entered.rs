//! Which thread is in an interpreter. Up to Python 3.12 the state of the thread that has made an interpreter stands for
//! whichever thread runs it: its evaluation loop says by its place on the C stack which one that is.

use crate::event::{PyThread, Tid};
use crate::python::layout::{FrameRoot, ThreadLayout};
use crate::python::walk::thread_states::ThreadRecord;

/// No thread state is longer, bytes.
const MAX_STATE_BYTES: u64 = 1024;
/// What a thread's stack may have besides its size: the guard, and what lies beside the descriptor.
const MAX_BESIDE: u64 = 16 * 4096;

/// Whose a thread state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// The thread's that it names.
    Named,
    /// Another known thread's.
    Other(Tid),
    /// No thread runs anything by it.
    Nobodys,
}

/// Whose a state is. `known` are the main interpreter's threads, of which one is on the stack that `is_on_main_stack`
/// tells of.
pub(super) fn whose(
    record: &ThreadRecord,
    fields: &ThreadLayout,
    known: &[PyThread],
    is_on_main_stack: impl FnOnce(u64) -> bool,
) -> Whose {
    let ident = record.field(fields.ident);
    // A thread that this interpreter has begun is in no other one.
    if !known.iter().any(|thread| thread.ident == ident) {
        return Whose::Named;
    }
    let Some(place) = fields.loop_place.map(|field| record.field(field)) else {
        return match fields.frame {
            // Where a state says no more than that, it may be taken for the thread's that it names.
            FrameRoot::Field(frame) if fields.native_id.is_none() && record.field(frame) == 0 => {
                Whose::Nobodys
            }
            _ => Whose::Named,
        };
    };
    // Nobody has entered it: the state points to what stands in for a place on the stack, inside itself.
    if place.wrapping_sub(record.address) < MAX_STATE_BYTES {
        return Whose::Nobodys;
    }
    let depth = |thread: &PyThread| {
        let most = thread
            .stack_size_bytes
            .unwrap_or(0)
            .checked_add(MAX_BESIDE)?;
        let depth = thread.ident.checked_sub(place)?;
        (!thread.main && depth < most).then_some(depth)
    };
    let nearest = known
        .iter()
        .filter_map(|thread| Some((depth(thread)?, thread)));
    let nearest = nearest.min_by_key(|(depth, _)| *depth);
    let found = match nearest {
        Some((_, found)) => Some(found),
        None if is_on_main_stack(place) => known.iter().find(|thread| thread.main),
        None => None,
    };
    match found {
        Some(found) if found.ident != ident => Whose::Other(found.tid),
        _ => Whose::Named,
    }
}
