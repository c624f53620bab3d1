//! The turns of event loops, as samples tell of them: for asyncio and trio the function that is one, and
//! what its local variables say; for uvloop, whose loop has no frames, the count that libuv keeps.

use std::collections::HashMap;

use concmon_ebpf::{NO_OFFSET, SampleHead};

use crate::event::Iteration;
use crate::python::layout::Layout;
use crate::python::memory::{at, plausible, word};
use crate::python::objects::Reader;
use crate::python::walk::thread_states::ThreadRecord;
use crate::python::walk::{loops, thread_locals, trio};

/// Local variables of `_run_once` that tell about its turn (Lib/asyncio/base_events.py).
const ASYNCIO_LOCALS: [&str; 3] = ["end_time", "i", "ntodo"];
/// Of trio's `unrolled_run` (trio/_core/_run.py): only the time when the turn began, by the loop's clock.
const TRIO_LOCALS: [&str; 3] = ["now"; 3];
/// Local variables of a function, at most.
const MAX_LOCALS: u64 = 256;
/// Where a uvloop object has its `uv_loop_t`: among its first fields.
const LOOP_BYTES: usize = 64;
/// In a `uv_loop_t`: the pointer to its internal fields, behind `data`, `active_handles`, `handle_queue` and
/// `active_reqs`; in these: `uv_metrics_t.loop_count` behind the flags (libuv 1.45 and later, uvloop 0.18).
const UV_INTERNAL: u32 = 40;
const UV_LOOP_COUNT: u32 = 8;

/// The function that is one turn of a loop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) code: u64,
    pub(super) locals: [u32; 3],
    /// It does not count its callbacks.
    is_plain: bool,
}

/// Where a loop counts its turns.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TurnCount {
    /// The thread state of the thread that runs it.
    pub(super) thread: u64,
    pub(super) address: u64,
}

/// What is known of the turns of a process's loops.
#[derive(Debug, Default)]
pub(super) struct Turns {
    asyncio: Option<Turn>,
    trio: Option<Turn>,
    /// How much trio's clocks are ahead of `CLOCK_MONOTONIC`, seconds, by thread state; empty: trio does not run,
    /// or asyncio runs beside it, whose turns are preferred.
    ahead: HashMap<u64, f64>,
    pub(super) count: TurnCount,
}

impl Turns {
    /// Looks for what has been imported, and begun to run, since the last time.
    pub(super) fn find(
        &mut self,
        reader: &mut Reader<'_>,
        states: &[ThreadRecord],
        interpreter: u64,
        layout: &Layout,
        has_uvloop: bool,
    ) {
        let modules = reader.pointer(at(interpreter, layout.interpreter.modules));
        let found = modules.ok().and_then(|modules| {
            reader.dict_values(modules, &["asyncio.base_events", trio::MODULE])
        });
        let [asyncio, trio] = match found.as_deref() {
            Some([asyncio, trio]) => [*asyncio, *trio],
            _ => [None; 2],
        };
        if self.asyncio.is_none() {
            self.asyncio = asyncio.and_then(|module| asyncio_turn(reader, module));
        }
        if self.trio.is_none() {
            self.trio = trio.and_then(|module| trio_turn(reader, module));
        }
        self.count = TurnCount::default();
        self.ahead.clear();
        if !has_uvloop && trio.is_none() {
            return;
        }
        let running = loops::running(reader, states);
        if let Some(module) = trio.filter(|_| running.iter().all(Option::is_none)) {
            self.ahead = clocks(reader, module, states).unwrap_or_default();
        }
        if has_uvloop {
            let running = states.iter().zip(running);
            let mut counts = running.filter_map(|(state, id)| {
                let address = turn_count(reader, id?)?;
                let thread = state.address;
                Some(TurnCount { thread, address })
            });
            self.count = counts.next().unwrap_or_default();
        }
    }

    /// The function whose frames are to be looked for.
    pub(super) fn function(&self) -> Option<Turn> {
        match self.ahead.is_empty() {
            true => self.asyncio,
            false => self.trio,
        }
    }

    /// The turn that a sample has met.
    pub(super) fn iteration(&self, head: &SampleHead) -> Option<Iteration> {
        let ahead = match self.ahead.is_empty() {
            true => 0.0,
            false => *self.ahead.get(&head.thread_state)?,
        };
        let turn = iteration(head, ahead)?;
        let is_plain = self.function().is_some_and(|turn| turn.is_plain);
        Some(match is_plain {
            true => Iteration {
                index: None,
                count: None,
                ..turn
            },
            false => turn,
        })
    }
}

/// One turn of asyncio's loop.
fn asyncio_turn(reader: &mut Reader<'_>, module: u64) -> Option<Turn> {
    let module = reader.module_dict(module)?;
    let class = reader.dict_values(module, &["BaseEventLoop"])?[0]?;
    reader.load_types([class]);
    let dict = reader.type_info(class)?.dict;
    let function = reader.dict_values(dict, &["_run_once"])?[0]?;
    turn(reader, function, ASYNCIO_LOCALS)
}

/// The function that trio's turns are in.
fn trio_turn(reader: &mut Reader<'_>, module: u64) -> Option<Turn> {
    let module = reader.module_dict(module)?;
    let function = reader.dict_values(module, &["unrolled_run"])?[0]?;
    turn(reader, function, TRIO_LOCALS)
}

fn turn(reader: &mut Reader<'_>, function: u64, locals: [&str; 3]) -> Option<Turn> {
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
    let [start, index, count] = locals.map(local);
    Some(Turn {
        code,
        locals: [start?, index?, count?],
        is_plain: start == index,
    })
}

/// How much the clocks of trio's runs are ahead, by thread state. Those of another class are no clocks that
/// could be compared with ours.
fn clocks(
    reader: &mut Reader<'_>,
    module: u64,
    states: &[ThreadRecord],
) -> Option<HashMap<u64, f64>> {
    let module = reader.module_dict(module)?;
    let context = reader.dict_values(module, &["GLOBAL_RUN_CONTEXT"])?[0]?;
    let mut found = HashMap::new();
    for values in thread_locals::values(reader, context, states)? {
        let ahead = |reader: &mut Reader<'_>| {
            let runner = reader.dict_values(values.dict, &["runner"])?[0]?;
            let clock = reader.members_of(runner, &["clock"])?[0]?;
            let class = reader.types_of(&[clock]).pop()??;
            (&*class.name == "SystemClock").then_some(())?;
            let offset = reader.members_of(clock, &["offset"])?[0]?;
            reader.read_number(offset)
        };
        let state = values.thread.and_then(|thread| states.get(thread));
        if let Some((state, ahead)) = state.zip(ahead(reader)) {
            found.insert(state.address, ahead);
        }
    }
    Some(found)
}

/// Where a loop of uvloop counts its turns. Its `uv_loop_t` is known by pointing back to it.
fn turn_count(reader: &mut Reader<'_>, id: u64) -> Option<u64> {
    let info = reader.types_of(&[id]).pop()??;
    (reader.has_base(&info, |name| name.starts_with("uvloop."))).then_some(())?;
    let head = reader.bytes(id, LOOP_BYTES).ok()?;
    let fields = (0..head.len() as u32).step_by(8);
    let uv_loop = fields
        .filter_map(|offset| word(&head, offset))
        .filter(|field| plausible(*field))
        .find(|field| reader.pointer(*field).ok() == Some(id))?;
    let internal = reader.pointer(at(uv_loop, UV_INTERNAL)).ok()?;
    let address = at(
        Some(internal).filter(|internal| plausible(*internal))?,
        UV_LOOP_COUNT,
    );
    // Older ones have something else there, which is 0 where nobody asks for it.
    (reader.pointer(address).ok()? > 0).then_some(address)
}

/// `ahead`: how much the clock is, seconds.
fn iteration(head: &SampleHead, ahead: f64) -> Option<Iteration> {
    let seconds = f64::from_bits(head.turn_start) - ahead;
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
            turns: 0,
            at_ns: 2_000_000_000,
            context: 0,
            context_version: 0,
            turn_start: 1.5f64.to_bits(),
            ip: 0,
            thread_state: 0,
        };
        let turn = iteration(&head, 0.0).expect("a turn");
        assert_eq!((turn.start_ns, turn.index), (1_500_000_000, Some(3)));
        assert_eq!(turn.count, None);
        let turn = iteration(&head, 0.25).expect("a turn of another clock");
        assert_eq!(turn.start_ns, 1_250_000_000);
        head.turn_start = f64::NAN.to_bits();
        assert!(iteration(&head, 0.0).is_none());
        head.turn_start = 9f64.to_bits();
        assert_eq!(
            iteration(&head, 0.0).map(|turn| turn.start_ns),
            Some(2_000_000_000)
        );
    }
}
