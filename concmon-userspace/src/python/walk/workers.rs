//! What the workers of thread pools do: the local variables of the function that each one runs.

use std::collections::HashMap;

use super::frames::LAST_PYTHON_OWNER;
use crate::python::layout::FrameRoot;
use crate::python::memory::{Batch, at, byte, word};
use crate::python::objects::Reader;
use crate::python::objects::code::CodeCache;
use crate::python::objects::code::CodePosition;

/// The functions that workers run, the files that these are in, and the variable that has the work there. `true`: that is
/// `None` while a worker waits for the next.
const WORKER_FUNCTIONS: &[(&str, &str, &str, bool)] = &[
    (
        "_worker",
        "concurrent/futures/thread.py",
        "work_item",
        false,
    ),
    (
        "_worker",
        "distributed/threadpoolexecutor.py",
        "task",
        false,
    ),
    ("worker", "multiprocessing/pool.py", "task", true),
];
/// The deepest stack of a worker that is followed.
const MAX_FRAMES: usize = 1024;
/// The worker function has fewer local variables.
const MAX_LOCALS: u64 = 24;

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    /// It waits for work.
    Idle,
    /// It has this work item, which the variable at this address refers to.
    Working { item: u64, variable: u64 },
    /// Neither: it starts, ends, or runs its initializer.
    Other,
    /// Its frames changed while they were read.
    Torn,
}

/// A worker whose own frame has not been reached yet.
struct Walk {
    index: usize,
    frame: u64,
    innermost: bool,
}

/// By code object: where the variable with the work is, of the function of workers, and whether `None` is none.
type Variables = HashMap<u64, Option<(u32, bool)>>;

/// What the threads with these thread states do.
pub(crate) fn activities(
    reader: &mut Reader<'_>,
    codes: &mut CodeCache,
    threads: &[u64],
) -> Vec<Activity> {
    let mut found = vec![Activity::Torn; threads.len()];
    let mut walks = current_frames(reader, threads);
    // Those that wait if what they have is `None`.
    let mut rests = vec![false; threads.len()];
    let mut variables = Variables::new();
    for _ in 0..MAX_FRAMES {
        if walks.is_empty() {
            break;
        }
        walks = step(
            reader,
            codes,
            &mut variables,
            &walks,
            &mut found,
            &mut rests,
        );
    }
    let items: Vec<u64> = found
        .iter()
        .map(|activity| match activity {
            Activity::Working { item, .. } => *item,
            _ => 0,
        })
        .collect();
    // What tells a worker to end is no work. (An item without a type ended meanwhile.)
    let types = reader.types_of(&items);
    for ((activity, info), rests) in found.iter_mut().zip(types).zip(rests) {
        if info.is_some_and(|info| &*info.name == "NoneType") {
            *activity = match rests {
                true => Activity::Idle,
                false => Activity::Other,
            };
        }
    }
    found
}

/// Whether each variable still refers to what it did.
pub(crate) fn unchanged(reader: &mut Reader<'_>, activities: &[Activity]) -> Vec<bool> {
    let mut batch = Batch::new();
    for activity in activities {
        match activity {
            Activity::Working { variable, .. } => batch.push(*variable, 8),
            _ => batch.push(0, 0),
        };
    }
    reader.fetch(&mut batch);
    let frame = reader.walk.frame;
    activities
        .iter()
        .enumerate()
        .map(|(index, activity)| match activity {
            Activity::Working { item, .. } => batch
                .whole(index)
                .and_then(|bytes| word(bytes, 0))
                .is_some_and(|now| frame.untag(now) == *item),
            _ => true,
        })
        .collect()
}

fn current_frames(reader: &mut Reader<'_>, threads: &[u64]) -> Vec<Walk> {
    let root = reader.walk.thread.frame;
    let (FrameRoot::Field(first) | FrameRoot::Indirect { pointer: first, .. }) = root;
    let mut frames = words(reader, threads.iter().map(|thread| at(*thread, first)));
    if let FrameRoot::Indirect { frame, .. } = root {
        frames = words(reader, frames.into_iter().map(|place| at(place, frame)));
    }
    frames
        .into_iter()
        .enumerate()
        .map(|(index, frame)| Walk {
            index,
            frame,
            innermost: true,
        })
        .collect()
}

/// The words at these addresses; 0 where there is none.
fn words(reader: &mut Reader<'_>, addresses: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut batch = Batch::new();
    for address in addresses {
        batch.push(address, 8);
    }
    reader.fetch(&mut batch);
    (0..batch.len())
        .map(|index| word(batch.prefix(index), 0).unwrap_or(0))
        .collect()
}

/// Looks at one frame of each; gives those that go on with the frame that called it.
fn step(
    reader: &mut Reader<'_>,
    codes: &mut CodeCache,
    variables: &mut Variables,
    walks: &[Walk],
    found: &mut [Activity],
    rests: &mut [bool],
) -> Vec<Walk> {
    let fields = reader.walk.frame;
    let mut batch = Batch::new();
    for walk in walks {
        batch.push(
            walk.frame,
            (fields.locals as usize) + MAX_LOCALS as usize * 8,
        );
    }
    reader.fetch(&mut batch);
    let runs_python = |bytes: &[u8]| {
        fields
            .owner
            .is_none_or(|owner| byte(bytes, owner).is_some_and(|owner| owner <= LAST_PYTHON_OWNER))
    };
    let executables: Vec<u64> = (0..walks.len())
        .map(|slot| {
            let bytes = batch.prefix(slot);
            let executable = word(bytes, fields.executable).unwrap_or(0);
            if runs_python(bytes) {
                fields.untag(executable)
            } else {
                0
            }
        })
        .collect();
    load_codes(reader, codes, variables, &executables);
    let mut next = Vec::new();
    for (slot, walk) in walks.iter().enumerate() {
        let bytes = batch.prefix(slot);
        let Some(previous) = word(bytes, fields.previous) else {
            // At the end of a stack there is no frame; anywhere else it could not be read.
            if walk.frame == 0 {
                found[walk.index] = Activity::Other;
            }
            continue;
        };
        let variable = variables.get(&executables[slot]).copied().flatten();
        let Some((variable, may_rest)) = variable else {
            next.push(Walk {
                index: walk.index,
                frame: previous,
                innermost: walk.innermost && executables[slot] == 0,
            });
            continue;
        };
        rests[walk.index] = may_rest && walk.innermost;
        let place = fields.locals + variable * 8;
        let Some(item) = word(bytes, place).map(|item| fields.untag(item)) else {
            continue;
        };
        found[walk.index] = match item {
            // Nothing that was called by it still runs: it is in its wait for work.
            0 if walk.innermost => Activity::Idle,
            0 => Activity::Other,
            item => Activity::Working {
                item,
                variable: at(walk.frame, place),
            },
        };
    }
    next
}

/// Makes code objects known.
fn load_codes(
    reader: &mut Reader<'_>,
    codes: &mut CodeCache,
    variables: &mut Variables,
    addresses: &[u64],
) {
    let fields = reader.walk.code;
    codes.load(reader, addresses.iter().copied().filter(|code| *code != 0));
    for code in addresses {
        if *code == 0 || variables.contains_key(code) {
            continue;
        }
        let position = CodePosition {
            code: *code,
            offset: -1,
        };
        let work = codes.frame(position, fields.lines).and_then(|frame| {
            let is_it = |of: &&(&str, &str, &str, bool)| {
                *frame.function == *of.0 && frame.file.ends_with(of.1)
            };
            WORKER_FUNCTIONS.iter().find(is_it)
        });
        let found = work.and_then(|(.., name, may_rest)| {
            let names = reader.pointer(at(*code, fields.local_names)).ok()?;
            Some((variable(reader, names, name)?, *may_rest))
        });
        variables.insert(*code, found);
    }
}

/// Which of the local variables has the work.
fn variable(reader: &mut Reader<'_>, names: u64, work: &str) -> Option<u32> {
    let names = reader.tuple(names, MAX_LOCALS)?;
    reader.load_texts(names.iter().copied());
    names
        .iter()
        .position(|name| reader.text(*name).is_some_and(|name| &**name == work))
        .map(|index| index as u32)
}
