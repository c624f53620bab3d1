//! The turns of asyncio's loop: the function that is one, and what its local variables tell.

use concmon_ebpf::{NO_OFFSET, SampleHead};

use crate::event::Iteration;
use crate::python::layout::Layout;
use crate::python::memory::at;
use crate::python::objects::Reader;

/// Local variables of `_run_once` that tell about its turn (Lib/asyncio/base_events.py).
const TURN_LOCALS: [&str; 3] = ["end_time", "i", "ntodo"];
/// Local variables of a function, at most.
const MAX_LOCALS: u64 = 256;

/// The function that is one turn of an asyncio loop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) code: u64,
    pub(super) locals: [u32; 3],
}

/// Finds the function that is one turn of asyncio's loop.
pub(super) fn find_turn(
    reader: &mut Reader<'_>,
    interpreter: u64,
    layout: &Layout,
) -> Option<Turn> {
    let modules = reader
        .pointer(at(interpreter, layout.interpreter.modules))
        .ok()?;
    let module = reader.dict_values(modules, &["asyncio.base_events"])?[0]?;
    let module = reader.module_dict(module)?;
    let class = reader.dict_values(module, &["BaseEventLoop"])?[0]?;
    reader.load_types([class]);
    let dict = reader.type_info(class)?.dict;
    let function = reader.dict_values(dict, &["_run_once"])?[0]?;
    let code = reader
        .pointer(at(function, reader.walk.callable.function_code))
        .ok()?;
    let names = reader
        .pointer(at(code, reader.walk.code.local_names))
        .ok()?;
    let names = reader.tuple(names, MAX_LOCALS)?;
    reader.load_texts(names.iter().copied());
    let local = |wanted: &str| {
        let mut names = names.iter();
        let index = names.position(|name| reader.text(*name).is_some_and(|text| **text == *wanted));
        index.and_then(|index| u32::try_from(index).ok())
    };
    let [start, index, count] = TURN_LOCALS.map(local);
    Some(Turn {
        code,
        locals: [start?, index?, count?],
    })
}

pub(super) fn iteration(head: &SampleHead) -> Option<Iteration> {
    let seconds = f64::from_bits(head.turn_start);
    let told = |number: u32| Some(number).filter(|number| *number != NO_OFFSET);
    (head.turn_start != 0 && (0.0..1.8e10).contains(&seconds)).then(|| Iteration {
        start_ns: ((seconds * 1e9) as u64).min(head.at_ns),
        index: told(head.turn_index),
        count: told(head.turn_count),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_implausible_turn_is_none() {
        let mut head = SampleHead {
            flags: 0,
            cause: 0,
            frames: 0,
            tid: 1,
            tgid: 1,
            turn_index: 3,
            turn_count: NO_OFFSET,
            reserved: 0,
            at_ns: 2_000_000_000,
            context: 0,
            context_version: 0,
            turn_start: 1.5f64.to_bits(),
            ip: 0,
            thread_state: 0,
        };
        let turn = iteration(&head).expect("a turn");
        assert_eq!((turn.start_ns, turn.index), (1_500_000_000, Some(3)));
        assert_eq!(turn.count, None);
        head.turn_start = f64::NAN.to_bits();
        assert!(iteration(&head).is_none());
        head.turn_start = 9f64.to_bits();
        assert_eq!(
            iteration(&head).map(|turn| turn.start_ns),
            Some(2_000_000_000)
        );
    }
}
