//! The head of a loop's queue: which callbacks are ready, and what each is called for.

use std::collections::HashMap;
use std::time::Duration;

use crate::event::{Pid, PyDescriptor, PyQueue, PyReady};
use crate::procfs::{clocks::monotonic_ns, now};
use crate::python::memory::{at, plausible, word};
use crate::python::objects::text::as_bool;
use crate::python::objects::{Kind, OBJECT_SIZE, Reader, TypeInfo};

/// Callbacks that are told.
const MAX_READY: u64 = 8;
/// Descriptors among which those of the callbacks are searched for.
const MAX_DESCRIPTORS: u64 = 1_024;
/// How often an empty queue is read again while it changes, to meet it filled, and after which pause: the
/// loop may have to wait for the CPU that reads it.
const MAX_TRIES: usize = 32;
const PAUSE: Duration = Duration::from_micros(100);
/// How often the head of a queue is read whose callbacks are gone by then.
const MAX_HEADS: usize = 8;
/// What takes longer does not show one instant, ns.
const INSTANT_NS: u64 = 20_000_000;
/// `dequeobject` (Modules/_collectionsmodule.c, 3.8 to 3.15): its first block, the index of its first
/// item there, and a number that each change increments.
const FIRST_BLOCK: u32 = 24;
const FIRST_INDEX: u32 = 40;
const CHANGES: u32 = 56;
const DEQUE_BYTES: usize = 64;
/// `struct BLOCK` of the same file: a link, then the items.
const BLOCK_ITEMS: u32 = 8;
const BLOCK_LEN: u64 = 64;
/// Where the wrappers of a task's steps, of both kinds, keep the task (Modules/_asynciomodule.c).
const WRAPPED_TASK: u32 = 16;
const STEP_WRAPPER: &str = "TaskStepMethWrapper";
/// The method of a task that wakes it, where that has no type of its own.
const WAKEUP: &str = "task_wakeup";
/// Words of a compiled handle among which its callback is.
const HANDLE_WORDS: u32 = 24;
/// Bytes of uvloop's loop among which its table of polled descriptors is: enough for 0.14 to 0.23.
const UVLOOP_BYTES: usize = 512;
/// How that table's values are called, and how many of them are read.
const UVLOOP_POLL: &str = "uvloop.loop.UVPoll";
const MAX_POLLS: usize = 32;

/// What is in the queue of a loop of process `pid`; `None`: it cannot be read.
pub(crate) fn read(reader: &mut Reader<'_>, pid: Pid, id: u64, queue: u64) -> Option<PyQueue> {
    let (mut read_ns, mut live) = (0, Vec::new());
    for _ in 0..MAX_HEADS {
        let (at_ns, handles) = head(reader, queue)?;
        let is_empty = handles.is_empty();
        let known = handles
            .into_iter()
            .filter_map(|handle| Some((handle, callback(reader, handle)?)));
        (read_ns, live) = (at_ns, known.collect());
        // What was there may have been called before it was read.
        let is_told = |reader: &mut Reader<'_>, callback| {
            task_of(reader, callback).is_some() || reader.callable_name(callback).is_some()
        };
        if is_empty
            || reader.is_over()
            || live.iter().any(|(_, callback)| is_told(reader, *callback))
        {
            break;
        }
    }
    let descriptors = match live.is_empty() {
        true => HashMap::new(),
        false => descriptors(reader, id, &live).unwrap_or_default(),
    };
    (monotonic_ns().saturating_sub(read_ns) < INSTANT_NS).then_some(())?;
    let ready = live.into_iter().map(|(handle, callback)| {
        let task = task_of(reader, callback);
        let descriptor = descriptors
            .get(&handle)
            .map(|(number, writes)| PyDescriptor {
                number: *number,
                writes: *writes,
                kind: now::descriptor_kind(pid, *number),
            });
        PyReady {
            function: match task {
                Some(_) => None,
                None => reader.callable_name(callback),
            },
            task,
            descriptor,
        }
    });
    let ready = ready.collect();
    let watched = polls(reader, id).unwrap_or_default();
    let watched = watched.into_iter().filter_map(|(handle, number, writes)| {
        let callback = callback(reader, handle)?;
        Some(PyReady {
            function: reader.callable_name(callback),
            task: None,
            descriptor: Some(PyDescriptor {
                number,
                writes,
                kind: now::descriptor_kind(pid, number),
            }),
        })
    });
    Some(PyQueue {
        read_ns,
        ready,
        watched: watched.collect(),
    })
}

/// The handles of the descriptors that uvloop polls for `add_reader` and `add_writer`; `None`: it is
/// another loop.
fn polls(reader: &mut Reader<'_>, id: u64) -> Option<Vec<(u64, u32, bool)>> {
    let info = reader.types_of(&[id]).pop()??;
    reader
        .has_base(&info, |name| name.starts_with("uvloop."))
        .then_some(())?;
    let head = reader.bytes(id, UVLOOP_BYTES).ok()?;
    let fields = words(&head, 0);
    let types = reader.types_of(&fields);
    let dicts = fields.into_iter().zip(types);
    let dicts: Vec<u64> = dicts
        .filter(|(_, info)| info.as_ref().is_some_and(|info| info.kind == Kind::Dict))
        .map(|(field, _)| field)
        .collect();
    for dict in dicts {
        // `ma_used` of a dict: others of these may be large.
        let count = reader.pointer(at(dict, OBJECT_SIZE)).unwrap_or(0);
        if count == 0 || count > MAX_DESCRIPTORS {
            continue;
        }
        let Some(entries) = reader.dict(dict) else {
            continue;
        };
        let first: Vec<u64> = entries.iter().take(1).map(|(_, value)| *value).collect();
        let Some(first) = reader.types_of(&first).pop().flatten() else {
            continue;
        };
        if &*first.name == UVLOOP_POLL {
            let len = first.basic_size.min(u64::from(HANDLE_WORDS) * 8) as usize;
            let polls = entries.iter().take(MAX_POLLS);
            let found = polls.filter_map(|(key, poll)| handles_of_poll(reader, *key, *poll, len));
            return Some(found.flatten().collect());
        }
    }
    None
}

/// The handles in a `UVPoll` (uvloop/handles/poll.pxd): behind its descriptor are the one that reads and
/// the one that writes, or `None`.
fn handles_of_poll(
    reader: &mut Reader<'_>,
    key: u64,
    poll: u64,
    len: usize,
) -> Option<Vec<(u64, u32, bool)>> {
    let number = u32::try_from(reader.integers(&[key]).pop()??).ok()?;
    let bytes = reader.bytes(poll, len).ok()?;
    let fields: Vec<u64> = bytes.chunks_exact(8).filter_map(|b| word(b, 0)).collect();
    let types = reader.types_of(&words(&bytes, 0));
    let name = |index: usize| types.get(index)?.as_ref().map(|info| info.name.clone());
    let is_handle = |index| name(index).is_some_and(|name| &*name == "uvloop.loop.Handle");
    let is_either =
        |index| is_handle(index) || name(index).is_some_and(|name| &*name == "NoneType");
    let place = (0..fields.len()).find(|index| {
        let is_number = fields[*index] as u32 == number && types[*index].is_none();
        is_number && is_either(index + 1) && is_either(index + 2)
    })?;
    let sides = [(place + 1, false), (place + 2, true)].into_iter();
    let found = sides.filter(|(index, _)| is_handle(*index));
    Some(
        found
            .map(|(index, writes)| (fields[index], number, writes))
            .collect(),
    )
}

/// The words from `first` on, as far as they may be addresses; 0 for what is none.
fn words(bytes: &[u8], first: usize) -> Vec<u64> {
    let words = bytes.get(first..).unwrap_or_default().chunks_exact(8);
    let words = words.filter_map(|bytes| word(bytes, 0));
    words
        .map(|word| if plausible(word) { word } else { 0 })
        .collect()
}

/// The first items of a deque, and when they began to be read. One that is empty may be filled for a
/// moment in each turn of its loop.
fn head(reader: &mut Reader<'_>, deque: u64) -> Option<(u64, Vec<u64>)> {
    let mut read_ns = monotonic_ns();
    let mut changes = None;
    for _ in 0..MAX_TRIES {
        read_ns = monotonic_ns();
        let (number, items) = first_items(reader, deque)?;
        if !items.is_empty() {
            return Some((read_ns, items));
        }
        let before = changes.replace(number);
        if before == changes || reader.is_over() {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    Some((read_ns, Vec::new()))
}

/// The number of changes of a deque so far, and its first items.
pub(super) fn first_items(reader: &mut Reader<'_>, deque: u64) -> Option<(u64, Vec<u64>)> {
    let info = reader.types_of(&[deque]).pop()??;
    (info.kind == Kind::Deque && info.basic_size >= DEQUE_BYTES as u64).then_some(())?;
    let bytes = reader.bytes(deque, DEQUE_BYTES).ok()?;
    let changes = word(&bytes, CHANGES)?;
    let count = word(&bytes, OBJECT_SIZE)?;
    if count == 0 {
        return Some((changes, Vec::new()));
    }
    let (block, index) = (word(&bytes, FIRST_BLOCK)?, word(&bytes, FIRST_INDEX)?);
    (plausible(block) && index < BLOCK_LEN).then_some(())?;
    let count = count.min(MAX_READY).min(BLOCK_LEN - index);
    let first = at(block, BLOCK_ITEMS + index as u32 * 8);
    let items = reader.bytes(first, count as usize * 8).ok()?;
    Some((changes, words(&items, 0)))
}

/// What a handle is to call; `None`: nothing any more.
fn callback(reader: &mut Reader<'_>, handle: u64) -> Option<u64> {
    let members = reader.members_of(handle, &["_callback", "_cancelled"])?;
    if let Some(callback) = members[0] {
        let cancelled = members[1].and_then(|flag| as_bool(reader.integers(&[flag])[0]));
        return (cancelled != Some(true)).then_some(callback);
    }
    // One that is compiled keeps it where only its type tells.
    let info = reader.types_of(&[handle]).pop()??;
    info.name.starts_with("uvloop.").then_some(())?;
    let len = info.basic_size.min(u64::from(HANDLE_WORDS) * 8) as usize;
    let bytes = reader.bytes(handle, len).ok()?;
    let words = words(&bytes, OBJECT_SIZE as usize);
    let types = reader.types_of(&words);
    let called = |info: &TypeInfo| {
        use Kind::{Builtin, Function, Method, Partial, TaskWakeup};
        let known = [Builtin, Function, Method, Partial, TaskWakeup];
        known.contains(&info.kind) || info.name.ends_with(STEP_WRAPPER)
    };
    let mut words = words.into_iter().zip(types);
    words
        .find(|(_, info)| info.as_ref().is_some_and(|info| called(info)))
        .map(|(word, _)| word)
}

/// The task whose step a callback is.
fn task_of(reader: &mut Reader<'_>, callback: u64) -> Option<u64> {
    let fields = reader.walk.callable;
    let info = reader.types_of(&[callback]).pop()??;
    let place = match info.kind {
        Kind::TaskWakeup => WRAPPED_TASK,
        Kind::Builtin => {
            let definition = at(callback, fields.builtin_definition);
            let definition = reader.pointer(definition).ok()?;
            (reader.definition_name(definition)? == WAKEUP).then_some(fields.builtin_self)?
        }
        Kind::Method => fields.method_self,
        _ if info.name.ends_with(STEP_WRAPPER) => WRAPPED_TASK,
        _ => return None,
    };
    let task = reader.pointer(at(callback, place)).ok()?;
    let info = reader.types_of(&[task]).pop()??;
    (info.kind == Kind::Task || reader.has_base(&info, |name| name == "_asyncio.Task"))
        .then_some(task)
}

/// For which descriptors the loop calls these handles, and whether to write, by the table of its
/// selector (`Lib/asyncio/selector_events.py`: the data of a key are the reader's and the writer's
/// handle).
fn descriptors(
    reader: &mut Reader<'_>,
    id: u64,
    handles: &[(u64, u64)],
) -> Option<HashMap<u64, (u32, bool)>> {
    let selector = reader.attributes_of(id, &["_selector"])?[0]?;
    let table = reader.attributes_of(selector, &["_fd_to_key"])?[0]?;
    // `ma_used` of a dict.
    let count = reader.pointer(at(table, OBJECT_SIZE)).ok()?;
    (count <= MAX_DESCRIPTORS).then_some(())?;
    let keys: Vec<u64> = reader
        .dict(table)?
        .into_iter()
        .map(|(_, key)| key)
        .collect();
    // The object, its descriptor, the events, the data.
    let keys: Vec<Vec<u64>> = reader.tuples(&keys, 4).into_iter().flatten().collect();
    let data: Vec<u64> = keys
        .iter()
        .map(|key| key.get(3).copied().unwrap_or(0))
        .collect();
    let data = reader.tuples(&data, 2);
    let mut found = HashMap::new();
    for (key, data) in keys.iter().zip(data) {
        for (side, handle) in data.into_iter().flatten().enumerate() {
            if !handles.iter().any(|(known, _)| *known == handle) {
                continue;
            }
            let number = reader.integers(&[*key.get(1)?])[0];
            if let Some(number) = number.and_then(|number| u32::try_from(number).ok()) {
                found.insert(handle, (number, side == 1));
            }
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::objects::synthetic::{World, set_word};

    const CHANGED: u64 = 7;

    /// A deque whose first block has these items from `index` on.
    fn deque(world: &mut World, index: u64, items: &[u64]) -> u64 {
        let mut block = vec![0; index as usize + 1];
        block.extend(items);
        let block = world.put_words(&block);
        let class = world.class("collections.deque", 0, 80);
        let mut bytes = World::object(class, 80);
        set_word(&mut bytes, OBJECT_SIZE, items.len() as u64);
        set_word(&mut bytes, FIRST_BLOCK, block);
        set_word(&mut bytes, FIRST_INDEX, index);
        set_word(&mut bytes, CHANGES, CHANGED);
        world.put(&bytes)
    }

    #[test]
    fn the_first_items_of_a_deque_are_found_in_its_first_block() {
        for minor in 8..=15 {
            let mut world = World::new(minor);
            for (index, items, expected) in [
                (31, vec![], 0),
                (31, vec![0x1000, 0x2000], 2),
                // The rest is in the next block.
                (62, vec![0x1000, 0x2000, 0x3000], 2),
                (0, (1..=20).map(|item| item * 0x1000).collect(), 8),
            ] {
                let deque = deque(&mut world, index, &items);
                let found = head(&mut world.reader(), deque).expect("a deque");
                assert_eq!(found.1, items[..expected], "3.{minor}");
            }
            let wrong = deque(&mut world, BLOCK_LEN, &[0x1000]);
            assert_eq!(head(&mut world.reader(), wrong), None);
            let item = world.text("no deque");
            assert_eq!(head(&mut world.reader(), item), None);
        }
    }

    #[test]
    fn the_step_of_a_task_is_told_by_who_it_belongs_to() {
        let mut world = World::new(13);
        let class = world.class("_asyncio.Task", 0, world.walk.task.size.into());
        let size = world.walk.task.size as usize;
        let task = world.put(&World::object(class, size));
        let wrapper = world.class("_asyncio.TaskStepMethWrapper", 0, 32);
        let wrapped = |world: &mut World, task: u64| {
            let mut bytes = World::object(wrapper, 32);
            set_word(&mut bytes, WRAPPED_TASK, task);
            world.put(&bytes)
        };
        let step = wrapped(&mut world, task);
        let other = world.text("no task");
        let stray = wrapped(&mut world, other);
        let mut reader = world.reader();
        assert_eq!(task_of(&mut reader, step), Some(task));
        assert_eq!(task_of(&mut reader, stray), None);
        assert_eq!(task_of(&mut reader, other), None);
    }
}
