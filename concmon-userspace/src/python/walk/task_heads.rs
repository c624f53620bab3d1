//! What a task says of itself, in its own struct or, written in Python, in its attributes.

use super::callbacks::{self, Waiters};
use crate::python::layout::FutureFlags;
use crate::python::memory::{Batch, byte, int, plausible, word};
use crate::python::objects::text::as_bool;
use crate::python::objects::{Kind, OBJECT_TYPE, Reader};

/// The attributes of a task written in Python.
const ATTRIBUTES: &[&str] = &[
    "_coro",
    "_loop",
    "_name",
    "_state",
    "_fut_waiter",
    "_context",
    "_exception",
    "_Future__log_traceback",
    "_must_cancel",
    "_num_cancels_requested",
    "_callbacks",
    "_Future__asyncio_awaited_by",
];

/// What a task says of itself; equal before and after, its chain was read in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TaskHead {
    class: u64,
    /// Of asyncio's C type.
    pub(crate) native: bool,
    pub(crate) loop_object: u64,
    pub(crate) coroutine: u64,
    pub(crate) name: u64,
    pub(crate) context: u64,
    /// The future that it waits for; 0: none.
    pub(crate) waiter: u64,
    pub(crate) done: bool,
    pub(crate) cancelled: bool,
    /// 0: none.
    pub(crate) exception: u64,
    /// Nobody has asked for the exception.
    pub(crate) unretrieved: bool,
    pub(crate) cancel_requested: bool,
    pub(crate) waiters: Waiters,
}

/// What each task says; `None` for what is no task, or no more.
pub(crate) fn read_heads(reader: &mut Reader<'_>, tasks: &[u64]) -> Vec<Option<TaskHead>> {
    let fields = reader.walk.task;
    let mut batch = Batch::new();
    for task in tasks {
        batch.push(*task, fields.size as usize);
    }
    reader.fetch(&mut batch);
    reader.load_types((0..tasks.len()).filter_map(|slot| word(batch.prefix(slot), OBJECT_TYPE)));
    let mut heads = vec![None; tasks.len()];
    let mut others = Vec::new();
    for (slot, head) in heads.iter_mut().enumerate() {
        let bytes = batch.prefix(slot);
        match reader.kind(bytes) {
            Some(Kind::Task) => *head = native_head(reader, bytes),
            Some(Kind::Other) => others.push(slot),
            _ => {}
        }
    }
    if others.is_empty() {
        return heads;
    }
    let objects: Vec<u64> = others.iter().map(|slot| tasks[*slot]).collect();
    let attributes = reader.attributes(&objects, ATTRIBUTES);
    let states: Vec<u64> = attributes
        .iter()
        .filter_map(|found| found.as_ref()?[3])
        .collect();
    reader.load_texts(states);
    for (slot, found) in others.into_iter().zip(attributes) {
        let class = word(batch.prefix(slot), OBJECT_TYPE).unwrap_or(0);
        heads[slot] = found.and_then(|found| python_head(reader, class, &found));
    }
    heads
}

fn native_head(reader: &Reader<'_>, bytes: &[u8]) -> Option<TaskHead> {
    /// `fut_state`: 0 pending, 1 cancelled, 2 finished.
    const CANCELLED: i32 = 1;
    const LAST_STATE: i32 = 2;
    /// Bits of the byte that newer releases keep flags in.
    const UNRETRIEVED: u8 = 1;
    const MUST_CANCEL: u8 = 1 << 2;
    let fields = reader.walk.task;
    let state = int(bytes, fields.state)?;
    let coroutine = word(bytes, fields.coroutine)?;
    ((0..=LAST_STATE).contains(&state) && (state != 0 || plausible(coroutine))).then_some(())?;
    let (unretrieved, must_cancel) = match fields.flags {
        FutureFlags::Integers {
            unretrieved,
            must_cancel,
        } => (int(bytes, unretrieved)? != 0, int(bytes, must_cancel)? != 0),
        FutureFlags::Bits(place) => {
            let bits = byte(bytes, place)?;
            (bits & UNRETRIEVED != 0, bits & MUST_CANCEL != 0)
        }
    };
    let cancels = match fields.cancels {
        Some(place) => int(bytes, place)?,
        None => 0,
    };
    Some(TaskHead {
        class: word(bytes, OBJECT_TYPE)?,
        native: true,
        loop_object: word(bytes, fields.loop_object)?,
        coroutine,
        name: word(bytes, fields.name)?,
        context: word(bytes, fields.context)?,
        waiter: word(bytes, fields.awaited_future)?,
        done: state != 0,
        cancelled: state == CANCELLED,
        exception: word(bytes, fields.exception)?,
        unretrieved,
        cancel_requested: must_cancel || cancels > 0,
        waiters: Waiters::of(reader, bytes)?,
    })
}

fn python_head(reader: &mut Reader<'_>, class: u64, found: &[Option<u64>]) -> Option<TaskHead> {
    let [
        coroutine,
        loop_object,
        name,
        state,
        waiter,
        context,
        exception,
        unretrieved,
        must_cancel,
        cancels,
        callbacks,
        awaited_by,
    ] = *<&[Option<u64>; ATTRIBUTES.len()]>::try_from(found).ok()?;
    let state = state.and_then(|state| reader.text(state)).cloned();
    let flag = |reader: &mut Reader<'_>, object: Option<u64>| {
        object.is_some_and(|object| as_bool(reader.integers(&[object])[0]) == Some(true))
    };
    let cancels = cancels.and_then(|cancels| reader.integers(&[cancels])[0]);
    let class_of_exception = reader.types_of(&[exception.unwrap_or(0)]).pop().flatten();
    Some(TaskHead {
        class,
        native: false,
        coroutine: coroutine?,
        loop_object: loop_object?,
        name: name?,
        context: context.unwrap_or(0),
        waiter: waiter.unwrap_or(0),
        // The state is an attribute of the class until it changes.
        done: state.as_ref().is_some_and(|state| &**state != "PENDING"),
        cancelled: state.as_ref().is_some_and(|state| &**state == "CANCELLED"),
        exception: exception
            .filter(|_| class_of_exception.is_some_and(|info| &*info.name != "NoneType"))
            .unwrap_or(0),
        unretrieved: flag(reader, unretrieved),
        cancel_requested: flag(reader, must_cancel) || cancels.is_some_and(|cancels| cancels > 0),
        waiters: callbacks::of_python_task(reader, callbacks, awaited_by),
    })
}
