//! Where threads note their thread state, so that kernel programs find it: searched for in their TLS.

use std::collections::{BTreeSet, HashMap};

use crate::python::memory::{Batch, plausible, word};
use crate::python::objects::Reader;
use crate::python::walk::thread_states::ThreadRecord;

/// How far below and above a thread's TLS base its thread state may be noted: static TLS lies
/// below, the C library's own thread structure with the values of thread-specific keys above it.
const TLS_BELOW: u64 = 4096;
const TLS_ABOVE: u64 = 1536;
/// Where glibc keeps the first values of thread-specific keys (`specific_1stblock` of `struct
/// pthread` in nptl/descr.h of 2.36 and 2.43); only a preference, each offset is verified.
const KEYS: std::ops::Range<i64> = 784..1312;
/// Threads whose TLS is searched in one go.
const MAX_THREADS: usize = 16;
/// In how many scans the state of one thread is found in its TLS: what lies there by chance changes.
const SEARCHES: u8 = 3;

/// Where thread states were found so far.
#[derive(Debug, Default)]
pub(super) struct ThreadPlaces {
    /// Distances from a thread's TLS base at which every thread so far had its thread state.
    tls: Option<BTreeSet<i64>>,
    /// Threads whose state was found in their TLS, by its base and their state, and in how many scans.
    searched: HashMap<(u64, u64), u8>,
}

impl ThreadPlaces {
    /// Keeps the offsets at which each of these threads has its state, too.
    pub(super) fn narrow(&mut self, reader: &mut Reader<'_>, states: &[ThreadRecord]) {
        let ident = reader.walk.thread.ident;
        let place = |record: &ThreadRecord| (record.field(ident), record.address);
        let before = std::mem::take(&mut self.searched);
        self.searched = states
            .iter()
            .map(place)
            .filter_map(|place| Some((place, *before.get(&place)?)))
            .collect();
        let mut batch = Batch::new();
        let mut searched = Vec::new();
        for record in states {
            let (base, state) = place(record);
            let is_stack = plausible(base) && base > TLS_BELOW;
            let times = self.searched.get(&(base, state)).copied().unwrap_or(0);
            if !is_stack || times >= SEARCHES {
                continue;
            }
            if searched.len() == MAX_THREADS {
                break;
            }
            // Apart, for static TLS of a small program may be shorter than this.
            for page in 0..TLS_BELOW / 512 {
                batch.push(base - TLS_BELOW + page * 512, 512);
            }
            batch.push(base, TLS_ABOVE as usize);
            searched.push((base, state));
        }
        if searched.is_empty() {
            return;
        }
        reader.fetch(&mut batch);
        let pieces = (TLS_BELOW / 512) as usize + 1;
        for (thread, (base, state)) in searched.iter().enumerate() {
            let mut found = BTreeSet::new();
            for piece in 0..pieces {
                let start = match piece + 1 == pieces {
                    true => 0,
                    false => piece as i64 * 512 - TLS_BELOW as i64,
                };
                let bytes = batch.prefix(thread * pieces + piece);
                for offset in (0..bytes.len() as u32).step_by(8) {
                    if word(bytes, offset) == Some(*state) {
                        found.insert(start + i64::from(offset));
                    }
                }
            }
            let narrowed = match &self.tls {
                Some(known) => known.intersection(&found).copied().collect(),
                None => found,
            };
            // A state without any is that of a thread that is ending, or was made elsewhere.
            if !narrowed.is_empty() {
                *self.searched.entry((*base, *state)).or_default() += 1;
                self.tls = Some(narrowed);
            }
        }
    }

    /// A thread-specific key first: interpreters that have one always keep it.
    pub(super) fn tls_offset(&self) -> Option<i64> {
        let found = self.tls.as_ref()?;
        found
            .iter()
            .find(|offset| KEYS.contains(*offset))
            .or_else(|| found.first())
            .copied()
    }
}
