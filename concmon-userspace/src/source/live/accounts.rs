//! The accounts of threads, as user space reads them in place, and the room for them.

use std::{collections::BTreeSet, io, time::Duration};

use aya::maps::MapError;
use concmon_ebpf::{
    Control, HIST_CHUNKS, HISTS_PER_CHUNK, Hists, LEDGER_CHUNKS, LEDGERS_PER_CHUNK, Ledger,
    MAX_GILS, SlotPage, state,
};

use super::chunks::{Change, Chunks, Helper, Shape};
use crate::{
    decode::ledger::is_woken,
    event::{Cause, Pid, Tid},
    source::shared::{LedgerHead, SharedArray, TRIES},
};

/// `BPF_F_MMAPABLE` (include/uapi/linux/bpf.h).
const MMAPABLE: u32 = 1 << 10;

/// How accounts lie in the kernel. What is ready is more than are born between two looks.
pub(super) const LEDGERS: Shape = Shape {
    per_chunk: LEDGERS_PER_CHUNK,
    most: LEDGER_CHUNKS,
    flags: MMAPABLE,
    ready: 3_000,
    by_calls: false,
};

/// The same for histograms, which are read by calls: mapped, they would count as the tool's memory.
pub(super) const HISTS: Shape = Shape {
    per_chunk: HISTS_PER_CHUNK,
    most: HIST_CHUNKS,
    flags: MMAPABLE,
    ready: 700,
    by_calls: true,
};

/// So often it is tried to read an account with its histograms by calls. A thread that switches all the
/// time is too quick for that: the chunk is mapped for it.
const TRIES_BY_CALL: usize = 8;

/// What an account's slot is good for after it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collected {
    /// The thread lives, or its account is a sum that goes on.
    Keep,
    /// The thread is dead and has been accounted for: give the slot back.
    Free,
    /// The thread is gone although its account does not say so: give the slot back.
    Abandon,
}

/// Which accounts are to be read, and how much of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Those of ended threads.
    Ended,
    /// All, histograms where the account has moved since it was read last.
    Moved,
    /// All of all.
    Whole,
}

/// A chunk of accounts.
struct Chunk {
    ledgers: SharedArray<Ledger>,
    /// The sequence number with which each was read last; an odd one: never.
    read: Box<[u32]>,
}

/// Never a sequence number that was read.
const UNREAD: u32 = u32::MAX;

/// All accounts of a watch.
pub(super) struct Accounts {
    room: Chunks<Ledger>,
    /// By index, like the chunks in the kernel.
    chunks: Vec<Option<Chunk>>,
    hists: Chunks<Hists>,
    control: SharedArray<Control>,
    /// By the ids that we know.
    slots: SharedArray<SlotPage>,
    /// By the kernel's, where those are others.
    kernel_slots: Option<SharedArray<SlotPage>>,
    /// Accounts that could not be read in one piece, and chunks that there was no memory for.
    pub(super) reads_failed: u64,
    /// Slots whose account was found broken.
    pub(super) healed: BTreeSet<usize>,
}

impl Accounts {
    /// Accounts with room for the first threads.
    ///
    /// # Errors
    /// The kernel has no memory for it, or does not allow for it.
    pub(super) fn new(
        room: Chunks<Ledger>,
        hists: Chunks<Hists>,
        control: SharedArray<Control>,
        slots: SharedArray<SlotPage>,
        kernel_slots: Option<SharedArray<SlotPage>>,
        threads: usize,
    ) -> Result<Self, MapError> {
        let mut accounts = Self {
            room,
            chunks: Vec::new(),
            hists,
            control,
            slots,
            kernel_slots,
            reads_failed: 0,
            healed: BTreeSet::new(),
        };
        accounts.fill(threads as u64)?;
        Ok(accounts)
    }

    /// From now on, a thread waits while the kernel puts room in its place, with the rights of the calling one.
    ///
    /// # Errors
    /// There can be no thread.
    pub(super) fn start_helper(&mut self) -> io::Result<()> {
        let helper = Helper::start()?;
        self.room.set_helper(helper.clone());
        self.hists.set_helper(helper);
        Ok(())
    }

    /// Makes room before it is needed: for so many threads that are `coming` at once, and those that may be born.
    pub(super) fn make_room(&mut self, coming: u64) {
        if let Err(error) = self.fill(coming) {
            log::debug!("no more room for threads: {error}");
            self.reads_failed += 1;
        }
    }

    fn fill(&mut self, coming: u64) -> Result<(), MapError> {
        let (slots, hists) = (self.control.slots_used(), self.control.hists_used());
        let chunks = &mut self.chunks;
        let filled = self
            .room
            .fill(slots, coming, |change| follow(chunks, change));
        let room = self.room.room();
        // Threads are folded when there can be no more room.
        let fold_above = match self.room.is_full() || filled.is_err() {
            true => room - room / 8,
            false => u64::MAX,
        };
        self.control.set_fold_above(fold_above);
        filled?;
        // Who only waits needs none.
        self.hists.fill(hists, coming.min(HISTS.ready), |_| Ok(()))
    }

    /// Gives back room that nobody has used for a while.
    pub(super) fn give_room_back(&mut self) {
        let (slots, hists) = (self.control.slots_used(), self.control.hists_used());
        let chunks = &mut self.chunks;
        let done = self.room.shrink(slots, |change| follow(chunks, change));
        if let Err(error) = done.and_then(|()| self.hists.shrink(hists, |_| Ok(()))) {
            log::debug!("room for threads stays: {error}");
            self.reads_failed += 1;
        }
    }

    /// Room for accounts and for sets of histograms, in use or not.
    pub(super) fn room(&self) -> (u64, u64) {
        (self.room.room(), self.hists.room())
    }

    /// Where the account in `slot` is.
    fn at(&self, slot: usize) -> Option<(&SharedArray<Ledger>, usize)> {
        let chunk = self.chunks.get(slot / LEDGERS_PER_CHUNK)?.as_ref()?;
        Some((&chunk.ledgers, slot % LEDGERS_PER_CHUNK))
    }

    /// Tells since when switches are not told, on purpose, ns; 0: they are.
    pub(super) fn set_detached(&self, since_ns: u64) {
        self.control.set_detached(since_ns);
    }

    /// Slots in use.
    fn used(&self) -> impl Iterator<Item = usize> {
        let chunks = self.chunks.iter().enumerate();
        chunks.flat_map(|(index, chunk)| {
            let ledgers = chunk.as_ref().map(|chunk| &chunk.ledgers);
            let elements = 0..ledgers.map_or(0, SharedArray::len);
            let used = elements.filter(move |&at| ledgers.is_some_and(|all| all.is_used(at)));
            used.map(move |at| index * LEDGERS_PER_CHUNK + at)
        })
    }

    /// How often thread `tid` gives a stack when it blocks, in the long run.
    pub(super) fn set_stack_interval(&mut self, pid: Pid, tid: Tid, interval: Duration) {
        let slot = self.slots.slot_of(tid.0);
        if let Some((ledgers, at)) = slot.and_then(|slot| self.at(slot)) {
            let interval_ns = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
            ledgers.set_stack_interval(at, pid.0, interval_ns);
        }
    }

    /// Threads give a stack when they block so seldom, in the long run, unless it was said how often. Those that have
    /// not been read yet do not: they may turn out to run loops. Those of the processes in `but` give them as if nothing had been
    /// said.
    pub(super) fn ration_stacks(&mut self, interval: Duration, but: &BTreeSet<Pid>) {
        let interval_ns = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        for slot in self.used() {
            let (index, at) = (slot / LEDGERS_PER_CHUNK, slot % LEDGERS_PER_CHUNK);
            if let Some(Some(chunk)) = self.chunks.get(index)
                && chunk.read[at] != UNREAD
            {
                let is_free = but.contains(&Pid(chunk.ledgers.tgid(at)));
                let (from, to) = if is_free {
                    (interval_ns, 0)
                } else {
                    (0, interval_ns)
                };
                chunk.ledgers.change_stack_interval(at, from, to);
            }
        }
    }

    /// Of threads that `enough` says, sums are enough; of the others, all slices are told.
    pub(super) fn suit_slices(&self, enough: impl Fn(Pid, Tid) -> bool) {
        for slot in self.used() {
            if let Some((ledgers, at)) = self.at(slot)
                && let Some(head) = ledgers.head(at)
                && head.lives()
            {
                let enough = enough(Pid(head.tgid), Tid(head.tid));
                ledgers.set_sums_only(at, head.tgid, enough);
            }
        }
    }

    /// All slices of thread `tid` are told.
    pub(super) fn tell_slices(&self, pid: Pid, tid: Tid) {
        let slot = self.slots.slot_of(tid.0);
        if let Some((ledgers, at)) = slot.and_then(|slot| self.at(slot)) {
            ledgers.set_sums_only(at, pid.0, false);
        }
    }

    pub(super) fn set_gils(&mut self, pid: Pid, gils: &[u64; MAX_GILS]) {
        for slot in self.used() {
            if let Some((ledgers, at)) = self.at(slot) {
                ledgers.set_gils(at, pid.0, gils);
            }
        }
    }

    /// Where thread `tid`, which has entered another interpreter, has its state, and the GILs that it may wait for.
    pub(super) fn set_entered(
        &self,
        pid: Pid,
        tid: Tid,
        thread_state: u64,
        gils: &[u64; MAX_GILS],
    ) {
        let slot = self.slots.slot_of(tid.0);
        if let Some((ledgers, at)) = slot.and_then(|slot| self.at(slot)) {
            ledgers.set_thread_state(at, pid.0, thread_state);
            ledgers.set_gils(at, pid.0, gils);
        }
    }

    /// The processes of which no account has moved since it was read last: each of their threads still waits for
    /// what it waited for then.
    pub(super) fn still(&self) -> BTreeSet<Pid> {
        let (mut still, mut moved) = (BTreeSet::new(), BTreeSet::new());
        let mut last = None;
        for chunk in self.chunks.iter().flatten() {
            for (at, &read) in chunk.read.iter().enumerate() {
                if !chunk.ledgers.is_used(at) {
                    continue;
                }
                let head = chunk.ledgers.head(at);
                let stands = head.as_ref().is_some_and(|head| {
                    let waits = head.blocked().is_some_and(|cause| cause != Cause::Gil);
                    waits && head.seq == read
                });
                // One that cannot be read is of somebody who runs.
                let tgid = head.map_or_else(|| chunk.ledgers.tgid(at), |head| head.tgid);
                // Most lie beside others of their process.
                if last.replace((tgid, stands)) != Some((tgid, stands)) {
                    let of = if stands { &mut still } else { &mut moved };
                    of.insert(Pid(tgid));
                }
            }
        }
        still.retain(|pid| !moved.contains(pid));
        still
    }

    /// Reads accounts in use, but for those of the processes in `but`. `visit` gets a consistent copy of each, with its
    /// histograms where `reading` asks for them, and says whether a dead one's slot can be given back.
    pub(super) fn read(
        &mut self,
        reading: Reading,
        but: &BTreeSet<Pid>,
        mut visit: impl FnMut(&Ledger, Option<&Hists>) -> Collected,
    ) {
        let mut slots: Vec<usize> = self.used().collect();
        // One that could not be read is tried again after the others: whoever writes it may have lost its CPU to the
        // host meanwhile.
        for is_last in [false, true] {
            for slot in std::mem::take(&mut slots) {
                let Some((ledgers, at)) = self.at(slot) else {
                    continue;
                };
                if reading == Reading::Ended && ledgers.state(at) != state::DEAD {
                    continue;
                }
                if !but.is_empty() && but.contains(&Pid(ledgers.tgid(at))) {
                    continue;
                }
                let Some((ledger, hists)) = self.read_one(slot, reading) else {
                    if is_last {
                        self.reads_failed += 1;
                    } else {
                        slots.push(slot);
                    }
                    continue;
                };
                if ledger.state == state::FREE {
                    continue;
                }
                match visit(&ledger, hists.as_deref()) {
                    Collected::Free if ledger.state == state::DEAD => self.free_slot(slot, &ledger),
                    Collected::Abandon => {
                        self.slots.untie(ledger.tid, slot);
                        if let Some(kernel_slots) = &self.kernel_slots {
                            kernel_slots.untie_all(slot);
                        }
                        self.free_slot(slot, &ledger);
                    }
                    Collected::Free | Collected::Keep => {}
                }
            }
        }
    }

    /// One account and its histograms in one piece; the latter where they may be others than at the last
    /// reading.
    fn read_one(&mut self, slot: usize, reading: Reading) -> Option<(Ledger, Option<Box<Hists>>)> {
        let (index, at) = (slot / LEDGERS_PER_CHUNK, slot % LEDGERS_PER_CHUNK);
        let chunk = self.chunks.get_mut(index)?.as_mut()?;
        let (hists, read) = (&self.hists, chunk.read[at]);
        let stands =
            |ledger: &Ledger| ledger.seq == read && !is_woken(ledger) && reading == Reading::Moved;
        // Of one that has none yet, and of one whose number was read while it changed, nothing is found.
        let by_call = chunk.ledgers.read_with(at, TRIES_BY_CALL, |ledger| {
            (!stands(ledger)).then(|| Box::new(hists.get(ledger.hists).unwrap_or(Hists::ZERO)))
        });
        // One that looks broken may be read while it is written, on another CPU.
        let by_call = by_call.filter(|(_, _, healed)| !healed);
        let (ledger, hists, healed) = by_call.or_else(|| {
            let number = chunk.ledgers.hists(at);
            let mapped = hists.mapped(number).ok()?;
            chunk.ledgers.read_with(at, TRIES, |ledger| {
                let (sets, place) = (&mapped.0, mapped.1);
                // SAFETY: inside the mapping. What kernel programs wrote meanwhile shows in the account.
                let read = || Box::new(unsafe { sets.pointer(place).read_volatile() });
                (!stands(ledger)).then(|| match ledger.hists == number {
                    true => read(),
                    false => Box::new(Hists::ZERO),
                })
            })
        })?;
        // What a wakeup adds is not in the account yet.
        chunk.read[at] = if is_woken(&ledger) {
            UNREAD
        } else {
            ledger.seq
        };
        if healed {
            self.healed.insert(slot);
        }
        Some((ledger, hists))
    }

    /// Reads the heads of all accounts in use.
    pub(super) fn read_heads(&mut self, mut visit: impl FnMut(&LedgerHead)) {
        let mut failed = 0;
        for slot in self.used() {
            match self.at(slot).and_then(|(ledgers, at)| ledgers.head(at)) {
                Some(head) => visit(&head),
                None => failed += 1,
            }
        }
        self.reads_failed += failed;
    }

    /// The head of one thread's account; `None`: it has none, or it could not be read.
    pub(super) fn head(&self, pid: Pid, tid: Tid) -> Option<LedgerHead> {
        let (ledgers, at) = self.at(self.slots.slot_of(tid.0)?)?;
        let head = ledgers.head(at)?;
        (head.tid == tid.0 && head.tgid == pid.0 && head.lives()).then_some(head)
    }

    /// `ledger` is what was read in `slot`.
    fn free_slot(&mut self, slot: usize, ledger: &Ledger) {
        if ledger.hists != 0 {
            match self.hists.set(ledger.hists, Hists::ZERO) {
                Ok(()) => {
                    self.hists.give_back(ledger.hists);
                    self.control.hists_freed();
                }
                Err(error) => {
                    log::debug!("histograms {}: {error}", ledger.hists);
                    self.reads_failed += 1;
                }
            }
        }
        if let Some(Some(chunk)) = self.chunks.get_mut(slot / LEDGERS_PER_CHUNK) {
            let at = slot % LEDGERS_PER_CHUNK;
            chunk.ledgers.clear(at);
            chunk.read[at] = UNREAD;
            self.room.give_back(slot as u32);
            self.control.slot_freed();
        }
    }
}

/// Maps a chunk that was added, and forgets one that is gone.
fn follow(chunks: &mut Vec<Option<Chunk>>, change: Change<'_>) -> Result<(), MapError> {
    match change {
        Change::Added(index, map) => {
            if chunks.len() <= index {
                chunks.resize_with(index + 1, || None);
            }
            chunks[index] = Some(Chunk {
                ledgers: SharedArray::new(map, LEDGERS_PER_CHUNK)?,
                read: vec![UNREAD; LEDGERS_PER_CHUNK].into(),
            });
        }
        Change::Gone(index) => chunks[index] = None,
    }
    Ok(())
}
