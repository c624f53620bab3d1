//! The accounts of threads, as user space reads them in place, and the slots they are in.

use std::{collections::BTreeSet, time::Duration};

use aya::maps::{MapData, Stack};
use concmon_ebpf::{Control, Ledger, MAX_GILS, SlotPage, state};

use crate::{
    event::{Pid, Tid},
    source::shared::{LedgerHead, SharedArray},
};

/// How many never-used slots in a row end the search for used ones.
const UNUSED_RUN: usize = 64;

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

/// All accounts of a watch.
pub(super) struct Accounts {
    ledgers: SharedArray<Ledger>,
    control: SharedArray<Control>,
    slots: SharedArray<SlotPage>,
    free: Stack<MapData, u32>,
    highest_slot: usize,
    /// Accounts that could not be read in one piece.
    pub(super) reads_failed: u64,
    /// Slots whose account was found broken.
    pub(super) healed: BTreeSet<usize>,
}

impl Accounts {
    pub(super) fn new(
        ledgers: SharedArray<Ledger>,
        control: SharedArray<Control>,
        slots: SharedArray<SlotPage>,
        free: Stack<MapData, u32>,
    ) -> Self {
        Self {
            ledgers,
            control,
            slots,
            free,
            highest_slot: 0,
            reads_failed: 0,
            healed: BTreeSet::new(),
        }
    }

    /// How often thread `tid` gives a stack when it blocks, in the long run.
    pub(super) fn set_stack_interval(&mut self, pid: Pid, tid: Tid, interval: Duration) {
        if let Some(slot) = self.slots.slot_of(tid.0) {
            let interval_ns = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
            self.ledgers.set_stack_interval(slot, pid.0, interval_ns);
        }
    }

    pub(super) fn set_gils(&mut self, pid: Pid, gils: &[u64; MAX_GILS]) {
        for slot in 1..=self.find_highest_slot() {
            if self.ledgers.is_used(slot) {
                self.ledgers.set_gils(slot, pid.0, gils);
            }
        }
    }

    /// Reads every account in use, or only those of ended threads. `visit` gets a consistent copy and
    /// says whether a dead one's slot can be given back.
    pub(super) fn read(&mut self, ended_only: bool, mut visit: impl FnMut(&Ledger) -> Collected) {
        for slot in 1..=self.find_highest_slot() {
            let state = self.ledgers.state(slot);
            if state == state::FREE || (ended_only && state != state::DEAD) {
                continue;
            }
            let Some((ledger, healed)) = self.ledgers.read(slot) else {
                self.reads_failed += 1;
                continue;
            };
            if healed {
                self.healed.insert(slot);
            }
            if ledger.state == state::FREE {
                continue;
            }
            match visit(&ledger) {
                Collected::Free if ledger.state == state::DEAD => self.free_slot(slot),
                Collected::Abandon => {
                    self.slots.untie(ledger.tid, slot);
                    self.free_slot(slot);
                }
                Collected::Free | Collected::Keep => {}
            }
        }
    }

    /// Reads the heads of all accounts in use.
    pub(super) fn read_heads(&mut self, mut visit: impl FnMut(&LedgerHead)) {
        for slot in 1..=self.find_highest_slot() {
            if !self.ledgers.is_used(slot) {
                continue;
            }
            match self.ledgers.head(slot) {
                Some(head) => visit(&head),
                None => self.reads_failed += 1,
            }
        }
    }

    /// The head of one thread's account; `None`: it has none, or it could not be read.
    pub(super) fn head(&self, pid: Pid, tid: Tid) -> Option<LedgerHead> {
        let head = self.ledgers.head(self.slots.slot_of(tid.0)?)?;
        (head.tid == tid.0 && head.tgid == pid.0 && head.lives()).then_some(head)
    }

    fn free_slot(&mut self, slot: usize) {
        self.ledgers.clear(slot);
        if self.free.push(slot as u32, 0).is_ok() {
            self.control.slot_freed();
        } else {
            self.reads_failed += 1;
        }
    }

    /// Slots are handed out lowest first, so used ones lie together.
    fn find_highest_slot(&mut self) -> usize {
        let mut unused = 0;
        let mut slot = self.highest_slot + 1;
        while slot < self.ledgers.len() && unused < UNUSED_RUN {
            if self.ledgers.is_used(slot) {
                self.highest_slot = slot;
                unused = 0;
            } else {
                unused += 1;
            }
            slot += 1;
        }
        self.highest_slot
    }
}
