//! Which tasks wait for a task: as the task says itself, or as the callbacks tell that it will call
//! when it is done.

use super::addresses::{AddressMap, AddressSet, PlacedSet};
use super::memory::{Batch, byte, plausible, word};
use super::object::{Kind, OBJECT_TYPE, Reader};

/// How many futures may lie between a task and one that waits for it (`gather`, `shield`, ...).
const MAX_DEPTH: usize = 6;
/// Tasks that are told for one.
const MAX_WAITERS: usize = 64;
/// Callbacks of one future that are looked at, and things that one of them refers to.
const MAX_CALLBACKS: u64 = 64;
const MAX_REFERENCES: u64 = 16;
/// What a future calls to wake the task that waits for it.
const WAKEUP: &str = "task_wakeup";
/// An attribute of `asyncio.TaskGroup`.
const PARENT_TASK: &str = "_parent_task";

/// What a future or task says of those that wait for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Waiters {
    /// One that waits, or a set of them.
    pub(super) awaited_by: u64,
    pub(super) is_set: bool,
    pub(super) callback: u64,
    pub(super) callbacks: u64,
}

impl Waiters {
    /// Of the bytes of a `FutureObj` or `TaskObj`.
    pub(super) fn of(reader: &Reader<'_>, bytes: &[u8]) -> Option<Self> {
        let fields = reader.walk.task;
        let (awaited_by, is_set) = match fields.awaited_by {
            Some(place) => (
                word(bytes, place.object)?,
                byte(bytes, place.is_set)? & 1 == 1,
            ),
            None => (0, false),
        };
        Some(Self {
            awaited_by,
            is_set,
            callback: word(bytes, fields.callback)?,
            callbacks: word(bytes, fields.callbacks)?,
        })
    }
}

/// What is behind a callback.
enum Behind {
    Task(u64),
    /// More to be looked at: futures, or a group of tasks.
    Objects(Vec<u64>),
}

/// The tasks that wait for each of `tasks`, by their own words. `known` are tasks: those written in
/// Python cannot be told by their type.
pub(super) fn awaited_by(
    reader: &mut Reader<'_>,
    tasks: &[(u64, Waiters)],
    known: &AddressSet,
) -> Vec<Vec<u64>> {
    let mut found: Vec<Vec<u64>> = vec![Vec::new(); tasks.len()];
    let mut seen = PlacedSet::default();
    let mut front: Vec<(usize, Waiters)> = (0..).zip(tasks.iter().map(|(_, w)| *w)).collect();
    let mut definitions = AddressMap::default();
    for _ in 0..MAX_DEPTH {
        if front.is_empty() {
            break;
        }
        let references = references(reader, &front, &mut definitions);
        let mut futures = Vec::new();
        let types = reader.types_of(&references.iter().map(|(_, o)| *o).collect::<Vec<_>>());
        for ((slot, object), info) in references.into_iter().zip(types) {
            let Some(info) = info else { continue };
            // Some callbacks refer to the future that calls them, too.
            let is_own = tasks[slot].0 == object;
            if is_own || found[slot].len() >= MAX_WAITERS || !seen.insert((slot, object)) {
                continue;
            }
            if info.kind == Kind::Task || known.contains(&object) {
                found[slot].push(object);
            } else if info.kind == Kind::Future {
                futures.push((slot, object));
            } else if &*info.name == "TaskGroup" {
                let parent = reader.attributes_of(object, &[PARENT_TASK]);
                found[slot].extend(parent.and_then(|found| found[0]));
            }
        }
        front = read_futures(reader, &futures);
    }
    found
}

fn read_futures(reader: &mut Reader<'_>, futures: &[(usize, u64)]) -> Vec<(usize, Waiters)> {
    let mut batch = Batch::new();
    for (_, future) in futures {
        batch.push(*future, reader.walk.task.future_size as usize);
    }
    reader.fetch(&mut batch);
    futures
        .iter()
        .enumerate()
        .filter_map(|(index, (slot, _))| {
            let bytes = batch.whole(index)?;
            (reader.kind(bytes)? == Kind::Future).then_some(())?;
            Some((*slot, Waiters::of(reader, bytes)?))
        })
        .collect()
}

/// What each of `front` refers to: tasks, futures and groups that wait for it.
fn references(
    reader: &mut Reader<'_>,
    front: &[(usize, Waiters)],
    definitions: &mut AddressMap<bool>,
) -> Vec<(usize, u64)> {
    let mut found = Vec::new();
    if reader.walk.task.awaited_by.is_some() {
        for (slot, waiters) in front {
            if !plausible(waiters.awaited_by) {
                continue;
            }
            let members = if waiters.is_set {
                reader.set(waiters.awaited_by).unwrap_or_default()
            } else {
                vec![waiters.awaited_by]
            };
            found.extend(members.into_iter().take(MAX_WAITERS).map(|m| (*slot, m)));
        }
        return found;
    }
    let mut callbacks: Vec<(usize, u64)> = Vec::new();
    for (slot, waiters) in front {
        if plausible(waiters.callback) {
            callbacks.push((*slot, waiters.callback));
        }
        if plausible(waiters.callbacks) {
            callbacks.extend(
                listed(reader, waiters.callbacks)
                    .into_iter()
                    .map(|c| (*slot, c)),
            );
        }
    }
    let behind = behind(reader, &callbacks, definitions);
    for ((slot, _), behind) in callbacks.iter().zip(behind) {
        match behind {
            Some(Behind::Task(task)) => found.push((*slot, task)),
            Some(Behind::Objects(objects)) => {
                found.extend(objects.into_iter().map(|object| (*slot, object)));
            }
            None => {}
        }
    }
    found
}

/// The callbacks of a list of pairs: a callback, and the context to call it in.
fn listed(reader: &mut Reader<'_>, callbacks: u64) -> Vec<u64> {
    let pairs = reader.list(callbacks, MAX_CALLBACKS).unwrap_or_default();
    pairs
        .into_iter()
        .filter_map(|pair| reader.tuple(pair, 2)?.first().copied())
        .collect()
}

fn behind(
    reader: &mut Reader<'_>,
    callbacks: &[(usize, u64)],
    definitions: &mut AddressMap<bool>,
) -> Vec<Option<Behind>> {
    /// The first fields of every kind of callback are in there.
    const HEAD_BYTES: usize = 80;
    let mut batch = Batch::new();
    for (_, callback) in callbacks {
        batch.push(*callback, HEAD_BYTES);
    }
    reader.fetch(&mut batch);
    reader.load_types((0..batch.len()).filter_map(|slot| word(batch.prefix(slot), OBJECT_TYPE)));
    (0..callbacks.len())
        .map(|slot| {
            let bytes = batch.prefix(slot);
            let fields = reader.walk.callable;
            match reader.kind(bytes)? {
                Kind::Builtin => {
                    let definition = word(bytes, fields.builtin_definition)?;
                    let wakes = *definitions.entry(definition).or_insert_with(|| {
                        reader.definition_name(definition).as_deref() == Some(WAKEUP)
                    });
                    wakes.then(|| word(bytes, fields.builtin_self).map(Behind::Task))?
                }
                // `TaskWakeupMethWrapper.ww_task` is its first field.
                Kind::TaskWakeup => word(bytes, super::object::OBJECT_SIZE).map(Behind::Task),
                Kind::Method => {
                    let owner = word(bytes, fields.method_self)?;
                    Some(Behind::Objects(vec![owner]))
                }
                Kind::Function => {
                    let closure = word(bytes, fields.function_closure)?;
                    let cells = reader.tuple(closure, MAX_REFERENCES)?;
                    Some(Behind::Objects(reader.cell_contents(&cells)))
                }
                Kind::Partial => {
                    let arguments = word(bytes, fields.partial_arguments)?;
                    reader.tuple(arguments, MAX_REFERENCES).map(Behind::Objects)
                }
                _ => None,
            }
        })
        .collect()
}

impl Reader<'_> {
    /// What the cells hold, those that hold anything.
    fn cell_contents(&mut self, cells: &[u64]) -> Vec<u64> {
        /// `PyCellObject.ob_ref` is its first field.
        const CONTENT: u32 = super::object::OBJECT_SIZE;
        let mut batch = Batch::new();
        for cell in cells {
            batch.push(*cell, CONTENT as usize + 8);
        }
        self.fetch(&mut batch);
        self.load_types((0..batch.len()).filter_map(|i| word(batch.prefix(i), OBJECT_TYPE)));
        (0..batch.len())
            .filter_map(|slot| {
                let bytes = batch.whole(slot)?;
                (self.kind(bytes)? == Kind::Cell).then(|| word(bytes, CONTENT))?
            })
            .filter(|content| plausible(*content))
            .collect()
    }
}

/// Tasks that are written in Python keep those that wait for them in attributes.
pub(super) fn of_python_task(
    reader: &mut Reader<'_>,
    callbacks: Option<u64>,
    awaited_by: Option<u64>,
) -> Waiters {
    let is_none = |reader: &mut Reader<'_>, object: u64| {
        let info = reader.types_of(&[object]).pop().flatten();
        info.is_none_or(|info| &*info.name == "NoneType")
    };
    let present = |reader: &mut Reader<'_>, object: Option<u64>| {
        object
            .filter(|object| !is_none(reader, *object))
            .unwrap_or(0)
    };
    Waiters {
        awaited_by: present(reader, awaited_by),
        is_set: true,
        callback: 0,
        callbacks: present(reader, callbacks),
    }
}
