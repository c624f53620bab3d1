//! What `/proc` and the C library add to threads: their ids in our PID namespace, the sizes of
//! their stacks.

use std::collections::HashMap;

use super::process_source::ProcessSource;
use crate::event::{Pid, Tid};
use crate::procfs::maps::{self, Mapping};
use crate::python::memory::{Batch, Memory, int, word};

const PAGE: u64 = 4096;
/// `struct pthread`, which a thread's identity is the address of, has this many bytes
/// (glibc 2.28 to 2.43) and lies at the top of the stack.
const DESCRIPTOR_BYTES: u64 = 2304;
/// `struct pthread.tid` (glibc 2.28 to 2.43): the thread's id, an `int`.
const DESCRIPTOR_TID: u32 = 720;
/// How far the end of a stack can be above its thread's descriptor.
const MAX_ABOVE_DESCRIPTOR: u64 = 4 * PAGE;
const MAX_STACK: u64 = 1 << 40;
/// What `/proc/PID/maps` calls it.
const MAIN_STACK: &str = "[stack]";

/// What is known of a process beside its memory.
#[derive(Debug)]
pub(crate) struct ProcessView {
    pid: Pid,
    source: Box<dyn ProcessSource>,
    /// The target uses other ids than we do.
    foreign_ids: bool,
    tids: HashMap<u32, Tid>,
    may_read_tids: bool,
    main_stack_bytes: Option<u64>,
    /// By thread identity, of the threads of this scan.
    stacks: HashMap<u64, Option<u64>>,
    /// Thread ids as the C library has them, by thread identity.
    described_ids: HashMap<u64, u64>,
    mappings: Vec<Mapping>,
    may_read_mappings: bool,
}

impl ProcessView {
    pub(crate) fn of(source: Box<dyn ProcessSource>) -> Self {
        Self {
            pid: source.pid(),
            foreign_ids: source.has_foreign_ids(),
            tids: HashMap::new(),
            may_read_tids: true,
            main_stack_bytes: source.stack_limit(),
            source,
            stacks: HashMap::new(),
            described_ids: HashMap::new(),
            mappings: Vec::new(),
            may_read_mappings: true,
        }
    }

    /// A new scan begins: what is missing may be read again, once.
    pub(crate) fn begin(&mut self) {
        self.may_read_tids = true;
        self.may_read_mappings = true;
    }

    /// Our id of the thread that calls itself `native`.
    pub(crate) fn tid(&mut self, native: u64) -> Option<Tid> {
        let native = u32::try_from(native).ok()?;
        if !self.foreign_ids {
            return Some(Tid(native));
        }
        if !self.tids.contains_key(&native) && self.may_read_tids {
            self.may_read_tids = false;
            self.tids = self.source.native_tids();
        }
        self.tids.get(&native).copied()
    }

    /// Address of asyncio's own offset table.
    pub(crate) fn asyncio_table(&self) -> Option<u64> {
        self.source.asyncio_table()
    }

    pub(crate) fn is_main(&self, tid: Tid) -> bool {
        tid.0 == self.pid.0
    }

    /// Finds the stacks of the threads with these identities.
    pub(crate) fn find_stacks(&mut self, memory: &dyn Memory, idents: impl Iterator<Item = u64>) {
        let idents: Vec<u64> = idents.collect();
        let known = std::mem::take(&mut self.stacks);
        let mut batch = Batch::new();
        let mut fresh = Vec::new();
        for ident in idents {
            if let Some(size) = known.get(&ident) {
                self.stacks.insert(ident, *size);
            } else if ident != 0 {
                batch.push(ident, DESCRIPTOR_BYTES as usize);
                fresh.push(ident);
            }
        }
        if memory.read_batch(&mut batch).is_err() {
            return;
        }
        for (index, ident) in fresh.into_iter().enumerate() {
            let size =
                described_stack(ident, batch.prefix(index)).or_else(|| self.mapped_stack(ident));
            self.stacks.insert(ident, size);
            let described = int(batch.prefix(index), DESCRIPTOR_TID);
            let described = described.and_then(|id| u64::try_from(id).ok());
            self.described_ids.extend(described.map(|id| (ident, id)));
        }
        let stacks = &self.stacks;
        self.described_ids
            .retain(|ident, _| stacks.contains_key(ident));
    }

    /// The id that a thread has for itself, as the C library keeps it; `None` when what is kept
    /// there is no thread of the process.
    pub(crate) fn described_id(&mut self, ident: u64) -> Option<u64> {
        let native = *self.described_ids.get(&ident)?;
        let tid = self.tid(native)?;
        self.source.is_thread(tid).then_some(native)
    }

    /// Whether the process has a thread that calls itself `native`.
    pub(crate) fn is_thread(&mut self, native: u64) -> bool {
        let tid = self.tid(native);
        tid.is_some_and(|tid| self.source.is_thread(tid))
    }

    /// Everything that is mapped now.
    pub(crate) fn all_mappings(&self) -> Vec<Mapping> {
        self.source.mappings()
    }

    /// Whether the process has been forked and runs the program of its parent.
    pub(crate) fn is_fork(&self) -> bool {
        self.source.is_fork()
    }

    /// The futex that a thread is blocked on.
    pub(crate) fn blocking_futex(&self, tid: Tid) -> std::io::Result<Option<u64>> {
        self.source.blocking_futex(tid)
    }

    /// Whether a thread is blocked on this futex, and was given no time after which it goes on anyway.
    pub(crate) fn waits_for_ever(&self, tid: Tid, futex: u64) -> bool {
        self.source.waits_for_ever(tid, futex)
    }

    /// Bytes of the stack of a thread, without its guard; of the main thread's, how far it may
    /// grow, `None` when that is not limited.
    pub(crate) fn stack_size(&self, ident: u64, main: bool) -> Option<u64> {
        if main {
            return self.main_stack_bytes;
        }
        self.stacks.get(&ident).copied().flatten()
    }

    /// Whether an address is in the stack of the main thread.
    pub(crate) fn is_on_main_stack(&mut self, address: u64) -> bool {
        let mapping = self.mapping(address);
        mapping.is_some_and(|mapping| mapping.path == MAIN_STACK)
    }

    fn mapping(&mut self, address: u64) -> Option<&Mapping> {
        if maps::containing(&self.mappings, address).is_none() && self.may_read_mappings {
            self.may_read_mappings = false;
            self.mappings = self.source.mappings();
        }
        maps::containing(&self.mappings, address)
    }

    fn mapped_stack(&mut self, ident: u64) -> Option<u64> {
        let mapping = self.mapping(ident)?;
        // A mapping that goes on above is the stack joined with other memory.
        (mapping.end - ident <= MAX_ABOVE_DESCRIPTOR).then_some(mapping.end - mapping.start)
    }
}

/// The size of a stack as glibc's descriptor has it: three words one after the other, the lowest
/// address, the size and the size of the guard, which add up to the end of the stack just above
/// the descriptor. Their place differs between releases. (The mapping says less: since glibc 2.42
/// and Linux 6.13 the guard is no mapping of its own, and neighbouring stacks are one mapping.)
fn described_stack(ident: u64, bytes: &[u8]) -> Option<u64> {
    (0..bytes.len() as u32).step_by(8).find_map(|offset| {
        let block = word(bytes, offset)?;
        let size = word(bytes, offset + 8)?;
        let guard = word(bytes, offset + 16)?;
        let end = block.checked_add(size)?;
        let fits = [block, size, guard].iter().all(|value| value % PAGE == 0)
            && (PAGE..MAX_STACK).contains(&size)
            && guard < size
            && block < ident
            && end > ident
            && end - ident <= MAX_ABOVE_DESCRIPTOR;
        fits.then(|| size - guard)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_are_found_in_descriptors_by_their_shape() {
        let ident = 0x7f00_0080_0000 - 0x900;
        let descriptor = |words: [u64; 3]| {
            let mut bytes = vec![0xff; 0x690];
            bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
            described_stack(ident, &bytes)
        };
        let (block, size) = (0x7f00_0000_0000 - 0x1000, 0x80_1000);
        assert_eq!(descriptor([block, size, 0x1000]), Some(0x80_0000));
        assert_eq!(descriptor([block, size, 0]), Some(0x80_1000));
        assert_eq!(descriptor([block, size + 0x10_0000, 0x1000]), None);
        assert_eq!(descriptor([block, size, size]), None);
        assert_eq!(descriptor([block + 8, size - 8, 0x1000]), None);
        assert_eq!(described_stack(ident, &[]), None);
    }
}
