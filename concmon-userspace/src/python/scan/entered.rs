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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::layout::{Version, row};
    use crate::python::objects::synthetic::Segments;

    const STATE: u64 = 0x10_0000;
    const PLACE: u32 = 56;
    const IDENT: u32 = 136;
    const MAIN: u64 = 0x5000_0000;
    const ONE: u64 = 0x2000_0000;
    const OTHER: u64 = 0x2004_0000;
    const MAIN_STACK: std::ops::Range<u64> = 0x7fff_0000..0x7fff_9000;

    fn thread(tid: u32, ident: u64, main: bool) -> PyThread {
        PyThread {
            tid: Tid(tid),
            ident,
            name: None,
            daemon: None,
            entry: None,
            stack_size_bytes: Some(0x8000),
            main,
            pool: false,
            stack: Vec::new(),
            stack_torn: false,
            waiting_for: None,
        }
    }

    fn whose_is(place: u64, ident: u64) -> Whose {
        let version = Version {
            major: 3,
            minor: 12,
        };
        let fields = row(version).unwrap().walk.thread;
        let mut memory = Segments::default();
        let mut words = vec![0; 64];
        words[PLACE as usize / 8] = place;
        words[IDENT as usize / 8] = ident;
        memory.put_words(STATE, &words);
        let record = ThreadRecord::read(&memory, STATE, &fields).unwrap();
        let known = [
            thread(1, MAIN, true),
            thread(2, ONE, false),
            thread(3, OTHER, false),
        ];
        let on_main = |place| MAIN_STACK.contains(&place);
        whose(&record, &fields, &known, on_main)
    }

    #[test]
    fn the_stack_that_runs_an_interpreter_says_whose_its_state_is() {
        assert_eq!(whose_is(ONE - 0x700, ONE), Whose::Named);
        assert_eq!(whose_is(OTHER - 0x700, ONE), Whose::Other(Tid(3)));
        assert_eq!(whose_is(ONE - 0x700, MAIN), Whose::Other(Tid(2)));
        assert_eq!(whose_is(MAIN_STACK.start, ONE), Whose::Other(Tid(1)));
        assert_eq!(whose_is(MAIN_STACK.start, MAIN), Whose::Named);
        // Nobody runs it, or who does is not known.
        assert_eq!(whose_is(STATE + 0x100, MAIN), Whose::Nobodys);
        assert_eq!(whose_is(0x9000_0000, MAIN), Whose::Named);
        // It has begun the thread itself.
        assert_eq!(whose_is(ONE - 0x700, 0x3000_0000), Whose::Named);
    }
}
