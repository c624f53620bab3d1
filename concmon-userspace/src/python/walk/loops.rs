//! Event loops that run in threads right now.

use super::ready;
use super::thread_states::ThreadRecord;
use crate::event::{LoopKind, Pid, PyLoop, Tid};
use crate::python::layout::RunningLoop;
use crate::python::memory::{at, word};
use crate::python::objects::containers::DictPlace;
use crate::python::objects::text::as_bool;
use crate::python::objects::{Kind, Reader};

/// The key in a thread's dict (`Modules/_asynciomodule.c` of 3.11 and 3.12).
const DICT_KEY: &str = "__asyncio_running_event_loop__";
const ATTRIBUTES: &[&str] = &["_ready", "_scheduled", "slow_callback_duration", "_debug"];

/// The loop that each thread runs, by address.
pub(crate) fn running(reader: &mut Reader<'_>, threads: &[ThreadRecord]) -> Vec<Option<u64>> {
    let (dict, held) = match reader.walk.thread.running_loop {
        RunningLoop::Field(offset) => {
            let found: Vec<u64> = threads.iter().map(|thread| thread.field(offset)).collect();
            return without_none(reader, found);
        }
        RunningLoop::DictHolder { dict, held } => (dict, Some(held)),
        RunningLoop::Dict { dict } => (dict, None),
    };
    let having: Vec<(usize, DictPlace)> = threads
        .iter()
        .map(|thread| thread.field(dict))
        .enumerate()
        .filter(|(_, dict)| *dict != 0)
        .map(|(index, dict)| (index, DictPlace::Object(dict)))
        .collect();
    let places: Vec<DictPlace> = having.iter().map(|(_, place)| *place).collect();
    let entries = reader.dicts(&places);
    reader.load_texts(
        entries
            .iter()
            .flatten()
            .flat_map(|entries| entries.iter().map(|(key, _)| *key))
            .collect::<Vec<_>>(),
    );
    let mut found = vec![0; threads.len()];
    for ((index, _), entries) in having.iter().zip(entries) {
        let value = entries.and_then(|entries| reader.pick(&entries, &[DICT_KEY])[0]);
        found[*index] = match (value, held) {
            (Some(holder), Some(held)) => reader.pointer(at(holder, held)).unwrap_or(0),
            (Some(value), None) => value,
            (None, _) => 0,
        };
    }
    without_none(reader, found)
}

/// A thread whose loop has stopped may keep `None` in its place.
fn without_none(reader: &mut Reader<'_>, found: Vec<u64>) -> Vec<Option<u64>> {
    let types = reader.types_of(&found);
    found
        .into_iter()
        .zip(types)
        .map(|(found, info)| info.filter(|info| &*info.name != "NoneType").map(|_| found))
        .collect()
}

/// What a loop says of itself, its queue included.
pub(crate) fn read_whole(reader: &mut Reader<'_>, pid: Pid, id: u64, tid: Tid) -> PyLoop {
    let (found, queue) = read_with_queue(reader, id, tid);
    PyLoop {
        queue: queue.and_then(|queue| ready::read(reader, pid, id, queue)),
        ..found
    }
}

/// What a loop says of itself.
pub(crate) fn read(reader: &mut Reader<'_>, id: u64, tid: Tid) -> PyLoop {
    read_with_queue(reader, id, tid).0
}

/// What a loop says of itself, and where its queue is.
fn read_with_queue(reader: &mut Reader<'_>, id: u64, tid: Tid) -> (PyLoop, Option<u64>) {
    let is_uvloop = reader
        .types_of(&[id])
        .pop()
        .flatten()
        .is_some_and(|info| reader.has_base(&info, |name| name.starts_with("uvloop.")));
    let found = reader
        .attributes_of(id, ATTRIBUTES)
        .unwrap_or_else(|| vec![None; ATTRIBUTES.len()]);
    let ready = match found[0] {
        None if is_uvloop => only_deque(reader, id),
        ready => ready,
    };
    let fact = PyLoop {
        tid,
        id,
        kind: if is_uvloop {
            LoopKind::Uvloop
        } else {
            LoopKind::Asyncio
        },
        ready: ready.and_then(|ready| reader.length(ready)),
        scheduled: found[1].and_then(|scheduled| reader.length(scheduled)),
        stall_threshold_ns: found[2]
            .and_then(|seconds| reader.read_number(seconds))
            .and_then(nanoseconds),
        debug: found[3].and_then(|debug| as_bool(reader.integers(&[debug])[0])),
        tasks_created: None,
        queue: None,
    };
    let reason = if is_uvloop {
        "uvloop keeps this in a form that is not known"
    } else {
        "the loop has no such attribute that could be read"
    };
    for (field, known) in [
        ("loops.ready", fact.ready.is_some()),
        ("loops.scheduled", fact.scheduled.is_some()),
        (
            "loops.stall_threshold_ns",
            fact.stall_threshold_ns.is_some(),
        ),
        ("loops.debug", fact.debug.is_some()),
    ] {
        if !known {
            reader.limits.insert(field.to_owned(), reason.to_owned());
        }
    }
    (fact, ready)
}

/// The one deque that a compiled loop refers to in its first fields: what is ready to be called.
/// Where they are differs from release to release.
fn only_deque(reader: &mut Reader<'_>, id: u64) -> Option<u64> {
    /// Enough for uvloop 0.14, 0.18, 0.21 and 0.23.
    const HEAD_BYTES: usize = 512;
    let head = reader.bytes(id, HEAD_BYTES).ok()?;
    let fields: Vec<u64> = (0..head.len() as u32)
        .step_by(8)
        .filter_map(|offset| word(&head, offset))
        .collect();
    let types = reader.types_of(&fields);
    let mut deques = fields
        .into_iter()
        .zip(types)
        .filter(|(_, info)| info.as_ref().is_some_and(|info| info.kind == Kind::Deque))
        .map(|(field, _)| field);
    let found = deques.next()?;
    deques.next().is_none().then_some(found)
}

pub(super) fn nanoseconds(seconds: f64) -> Option<u64> {
    // Up to 584 years; what is negative, infinite or no number is no threshold.
    (0.0..1.8e10)
        .contains(&seconds)
        .then(|| (seconds * 1e9).round() as u64)
}
