//! Interpreters and their thread states: the linked lists from the runtime down.

use std::collections::{HashMap, HashSet};

use crate::python::layout::{FrameRoot, Layout, RunningLoop, ThreadLayout};
use crate::python::memory::{Batch, Memory, ReadError, at, plausible, word};

/// The most interpreters of a process that are followed.
pub(crate) const MAX_INTERPRETERS: usize = 64;
/// The most threads of an interpreter that are followed.
pub(crate) const MAX_THREADS: usize = 16_384;
/// The most that is read of a thread state, bytes: where its fields are, the target says itself.
const MAX_RECORD_BYTES: usize = 2048;
/// How often a list that changes while it is walked is walked again.
const MAX_TRIES: usize = 4;

/// A thread state, read in one piece.
#[derive(Clone, Debug)]
pub(crate) struct ThreadRecord {
    pub(crate) address: u64,
    bytes: Vec<u8>,
}

impl ThreadRecord {
    pub(crate) fn read(
        memory: &dyn Memory,
        address: u64,
        fields: &ThreadLayout,
    ) -> Result<Self, ReadError> {
        let mut bytes = vec![0; record_len(fields)];
        memory.read(address, &mut bytes)?;
        Ok(Self { address, bytes })
    }

    /// Whether one of the pointers is this one.
    pub(crate) fn points_to(&self, address: u64) -> bool {
        self.bytes
            .chunks_exact(8)
            .any(|chunk| word(chunk, 0) == Some(address))
    }

    /// The pointer or number at an offset; 0 when it was not read.
    pub(crate) fn field(&self, offset: u32) -> u64 {
        word(&self.bytes, offset).unwrap_or(0)
    }
}

/// The interpreters of a runtime, the main one first.
pub(crate) fn interpreters(
    memory: &dyn Memory,
    runtime: u64,
    layout: &Layout,
) -> Result<Vec<u64>, ReadError> {
    let mut found = Vec::new();
    let mut next = memory.read_u64(at(runtime, layout.runtime.interpreters_head))?;
    while plausible(next) && found.len() < MAX_INTERPRETERS && !found.contains(&next) {
        found.push(next);
        next = memory.read_u64(at(next, layout.interpreter.next))?;
    }
    // A new interpreter is put in front of the list, so the first one ever made is the last.
    found.reverse();
    Ok(found)
}

/// How much of a thread state the walkers look at.
fn record_len(fields: &ThreadLayout) -> usize {
    let running_loop = match fields.running_loop {
        RunningLoop::DictHolder { dict, .. } | RunningLoop::Dict { dict } => dict,
        RunningLoop::Field(offset) => offset,
    };
    let last = [
        fields.prev,
        fields.next,
        fields.interpreter,
        fields.ident,
        fields.native_id.unwrap_or(0),
        running_loop,
        fields.running_task.unwrap_or(0),
    ]
    .into_iter()
    .max()
    .unwrap_or(0);
    (last as usize + 8).min(MAX_RECORD_BYTES)
}

/// The thread states of an interpreter, the newest first. `known` are addresses of the scan
/// before: they are read together instead of one after the other.
pub(crate) fn threads(
    memory: &dyn Memory,
    interpreter: u64,
    threads_head: u32,
    fields: &ThreadLayout,
    known: &[u64],
) -> Result<Vec<ThreadRecord>, ReadError> {
    let mut error = ReadError::Torn {
        what: "list of threads",
        address: interpreter,
    };
    for attempt in 0..MAX_TRIES {
        let known = if attempt == 0 { known } else { &[] };
        match walk(memory, interpreter, threads_head, fields, known) {
            Ok(found) => return Ok(found),
            Err(failed @ (ReadError::Gone | ReadError::NoPermission | ReadError::Over)) => {
                return Err(failed);
            }
            Err(failed) => error = failed,
        }
    }
    Err(error)
}

fn walk(
    memory: &dyn Memory,
    interpreter: u64,
    threads_head: u32,
    fields: &ThreadLayout,
    known: &[u64],
) -> Result<Vec<ThreadRecord>, ReadError> {
    let len = record_len(fields);
    let mut ahead = HashMap::new();
    if !known.is_empty() {
        let mut batch = Batch::new();
        for address in known.iter().take(MAX_THREADS) {
            batch.push(*address, len);
        }
        memory.read_batch(&mut batch)?;
        for (index, address) in known.iter().take(MAX_THREADS).enumerate() {
            ahead.extend(batch.whole(index).map(|bytes| (*address, bytes.to_vec())));
        }
    }
    let mut found = Vec::new();
    let mut previous = 0;
    let mut next = memory.read_u64(at(interpreter, threads_head))?;
    while next != 0 && found.len() < MAX_THREADS {
        let record = match ahead.remove(&next) {
            Some(bytes) => ThreadRecord {
                address: next,
                bytes,
            },
            None => ThreadRecord::read(memory, next, fields)?,
        };
        // A state that was freed, or moved in the list meanwhile, does not fit its neighbours.
        if record.field(fields.interpreter) != interpreter || record.field(fields.prev) != previous
        {
            return Err(ReadError::Torn {
                what: "list of threads",
                address: next,
            });
        }
        previous = next;
        next = record.field(fields.next);
        found.push(record);
    }
    Ok(found)
}

/// Drops the states of threads that are not there, as of a parent's, whose stacks were given to threads that are. That
/// alone is told by two with one identity: up to 3.11 a state has its maker's ids until its thread begins. Where states have
/// no other id, up to 3.10, the newest that has frames is the thread's: new ones are put in front of the list.
pub(crate) fn drop_replaced(
    records: &mut Vec<ThreadRecord>,
    fields: &ThreadLayout,
    mut is_thread: impl FnMut(u64) -> bool,
) {
    let Some(native_id) = fields.native_id else {
        let (FrameRoot::Field(frame) | FrameRoot::Indirect { pointer: frame, .. }) = fields.frame;
        let mut running = HashSet::new();
        records.retain(|record| {
            let ident = record.field(fields.ident);
            let is_older = ident != 0 && running.contains(&ident);
            if record.field(frame) != 0 {
                running.insert(ident);
            }
            !is_older
        });
        return;
    };
    let mut by_ident: HashMap<u64, Vec<(u64, u64)>> = HashMap::new();
    for record in records.iter().filter(|one| one.field(fields.ident) != 0) {
        let of_ident = by_ident.entry(record.field(fields.ident)).or_default();
        of_ident.push((record.address, record.field(native_id)));
    }
    let mut gone = HashSet::new();
    for of_ident in by_ident.values().filter(|of_ident| of_ident.len() > 1) {
        let there = of_ident.iter().map(|(_, native)| is_thread(*native));
        let there: Vec<bool> = there.collect();
        if there.contains(&true) {
            let absent = of_ident.iter().zip(there).filter(|(_, there)| !there);
            gone.extend(absent.map(|((address, _), _)| *address));
        }
    }
    records.retain(|record| !gone.contains(&record.address));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::layout::{Version, row};
    use crate::python::objects::synthetic::{Segments, set_word};

    const INTERPRETER: u64 = 0x10_0000;

    fn list(links: &[(u64, u64, u64)]) -> (Segments, Layout) {
        let layout = row(Version {
            major: 3,
            minor: 13,
        })
        .unwrap();
        let fields = layout.walk.thread;
        let mut memory = Segments::default();
        let head = links.first().map_or(0, |link| link.0);
        memory.put_words(at(INTERPRETER, layout.interpreter.threads_head), &[head]);
        for (address, previous, next) in links {
            let mut words = vec![0; record_len(&fields) / 8];
            words[0] = *previous;
            words[1] = *next;
            words[2] = INTERPRETER;
            memory.put_words(*address, &words);
        }
        (memory, layout)
    }

    fn walked(links: &[(u64, u64, u64)], known: &[u64]) -> Result<Vec<u64>, ReadError> {
        let (memory, layout) = list(links);
        let fields = layout.walk.thread;
        let head = layout.interpreter.threads_head;
        threads(&memory, INTERPRETER, head, &fields, known)
            .map(|found| found.iter().map(|record| record.address).collect())
    }

    #[test]
    fn a_list_is_walked_to_its_end_with_and_without_foreknowledge() {
        let links = [
            (0x2000, 0, 0x3000),
            (0x3000, 0x2000, 0x4000),
            (0x4000, 0x3000, 0),
        ];
        for known in [&[][..], &[0x3000, 0x9000, 0x2000]] {
            assert_eq!(walked(&links, known), Ok(vec![0x2000, 0x3000, 0x4000]));
        }
        assert_eq!(walked(&[], &[]), Ok(vec![]));
    }

    #[test]
    fn only_states_of_threads_that_are_not_there_are_replaced() {
        let left = |version: (u8, u8), states: &[(u64, u64)]| {
            let (major, minor) = version;
            let fields = row(Version { major, minor }).unwrap().walk.thread;
            let record = |(index, (ident, native)): (usize, &(u64, u64))| {
                let mut bytes = vec![0; record_len(&fields)];
                set_word(&mut bytes, fields.ident, *ident);
                if let Some(native_id) = fields.native_id {
                    set_word(&mut bytes, native_id, *native);
                }
                let address = index as u64;
                ThreadRecord { address, bytes }
            };
            let mut records = states.iter().enumerate().map(record).collect();
            drop_replaced(&mut records, &fields, |native| native < 10);
            records.iter().map(|one| one.address).collect::<Vec<_>>()
        };
        for version in [(3, 11), (3, 12)] {
            // A new thread has the stack of one that only the parent has.
            assert_eq!(left(version, &[(0x7000, 2), (0x7000, 90)]), [0]);
            assert_eq!(left(version, &[(0x7000, 90), (0x7000, 2)]), [1]);
            // A thread has made a state, and its own is the second.
            assert_eq!(left(version, &[(0x7000, 2), (0x7000, 2)]), [0, 1]);
            assert_eq!(left(version, &[(0x7000, 90), (0x7000, 91)]), [0, 1]);
            assert_eq!(left(version, &[(0, 0), (0, 0), (0x8000, 91)]), [0, 1, 2]);
        }
    }

    #[test]
    fn without_other_ids_the_newest_state_with_frames_is_the_threads() {
        for minor in [8, 9, 10] {
            let version = Version { major: 3, minor };
            let fields = row(version).unwrap().walk.thread;
            let FrameRoot::Field(frame) = fields.frame else {
                panic!("frames are elsewhere");
            };
            let left = |states: &[(u64, u64)]| {
                let record = |(address, (ident, innermost)): (u64, &(u64, u64))| {
                    let mut bytes = vec![0; record_len(&fields)];
                    set_word(&mut bytes, fields.ident, *ident);
                    set_word(&mut bytes, frame, *innermost);
                    ThreadRecord { address, bytes }
                };
                let mut records = (0..).zip(states).map(record).collect();
                drop_replaced(&mut records, &fields, |_| true);
                records.iter().map(|one| one.address).collect::<Vec<_>>()
            };
            // The second one's thread is only in the parent.
            assert_eq!(left(&[(0x7000, 1), (0x7000, 2), (0x8000, 3)]), [0, 2]);
            // The first one's thread has not begun, and has its maker's identity.
            assert_eq!(left(&[(0x7000, 0), (0x7000, 2), (0x7000, 3)]), [0, 1]);
            assert_eq!(left(&[(0, 1), (0, 2)]), [0, 1]);
        }
    }

    #[test]
    fn broken_lists_are_errors() {
        let wrong_previous = [(0x2000, 0, 0x3000), (0x3000, 0x5000, 0)];
        assert!(matches!(
            walked(&wrong_previous, &[]),
            Err(ReadError::Torn { .. })
        ));
        let circle = [(0x2000, 0, 0x3000), (0x3000, 0x2000, 0x2000)];
        assert!(matches!(walked(&circle, &[]), Err(ReadError::Torn { .. })));
        let into_nothing = [(0x2000, 0, 0x7777_0000)];
        assert!(matches!(
            walked(&into_nothing, &[]),
            Err(ReadError::Unmapped { .. })
        ));
    }
}
