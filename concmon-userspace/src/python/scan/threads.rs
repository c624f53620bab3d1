//! The threads of an interpreter: who they are, where their stacks are, and what they wait for.

use std::collections::{HashMap, HashSet};

use super::pass::Scan;
use super::remembered::THREADING;
use crate::event::{PyThread, PyWait, PythonFact, Tid, WaitKind, WaitPurpose};
use crate::python::memory::addresses::{AddressMap, AddressSet};
use crate::python::objects::Reader;
use crate::python::walk::holders;
use crate::python::walk::pool_parts::{Worker, Workers};
use crate::python::walk::stacks::{self, Stack, StackFrame};
use crate::python::walk::thread_states::ThreadRecord;
use crate::python::walk::threads::{self, ThreadAccount};
use crate::python::walk::waits::{self, Blocked};

/// Blocked threads whose stacks are searched for locks that they have.
const MAX_SEARCHED: usize = 256;

/// What is known beside the blocked threads, for those whose locks do not say who has them.
struct Owners<'a> {
    is_fork: std::cell::OnceCell<bool>,
    /// Threads that stand still for other reasons.
    others: Vec<(Tid, &'a [StackFrame])>,
    /// With those, all threads stand still.
    all: bool,
    /// The scan had to end early.
    is_cut: bool,
}

impl Scan<'_> {
    /// Gives our id of each record's thread.
    pub(super) fn add_threads(
        &mut self,
        reader: &mut Reader<'_>,
        records: &[ThreadRecord],
        fact: &mut PythonFact,
    ) -> Vec<Option<Tid>> {
        let fields = reader.walk.thread;
        let mut accounts = self.accounts(reader);
        let idents = records.iter().map(|record| record.field(fields.ident));
        self.process.find_stacks(self.memory, idents);
        let mut tids = Vec::with_capacity(records.len());
        for record in records {
            let ident = record.field(fields.ident);
            // A state whose thread has not begun yet has no ids.
            if ident == 0 || fields.native_id.is_some_and(|id| record.field(id) == 0) {
                tids.push(None);
                continue;
            }
            let account = accounts.remove(&ident).unwrap_or_default();
            let native = match fields.native_id {
                Some(offset) => Some(record.field(offset)),
                // After a fork, what `threading` has may still be the parent's.
                None => self.process.described_id(ident).or(account.native_id),
            };
            let tid = native.and_then(|native| self.process.tid(native));
            tids.push(tid);
            let Some(tid) = tid else {
                reader.failed += 1;
                continue;
            };
            let main = self.process.is_main(tid);
            let thread = PyThread {
                tid,
                ident,
                name: account.name,
                daemon: account.daemon,
                entry: account.entry,
                stack_size_bytes: self.process.stack_size(ident, main),
                main,
                pool: account.pool,
                stack: Vec::new(),
                stack_torn: false,
                waiting_for: None,
            };
            // A thread that has entered several interpreters has a state in each.
            match fact.threads.iter_mut().find(|known| known.tid == tid) {
                None => fact.threads.push(thread),
                Some(known) if known.name.is_none() && thread.name.is_some() => *known = thread,
                Some(_) => {}
            }
        }
        tids
    }

    pub(super) fn accounts(&self, reader: &mut Reader<'_>) -> HashMap<u64, ThreadAccount> {
        let Some(threading) = self.remembered.module(THREADING) else {
            reader.limits.insert(
                "threads.name".to_owned(),
                "the program has not imported threading".to_owned(),
            );
            return HashMap::new();
        };
        let accounts = reader
            .dict_values(threading, &["_active"])
            .and_then(|found| threads::accounts(reader, found[0]?));
        accounts.unwrap_or_else(|| {
            reader.failed += 1;
            reader.limits.insert(
                "threads.name".to_owned(),
                "threading._active could not be read".to_owned(),
            );
            HashMap::new()
        })
    }

    /// The threads that `threading` knows, by their objects.
    pub(super) fn living_threads(
        &self,
        reader: &mut Reader<'_>,
        records: &[ThreadRecord],
        tids: &[Option<Tid>],
    ) -> Workers {
        let active = self
            .remembered
            .module(THREADING)
            .and_then(|module| reader.dict_values(module, &["_active"]))
            .and_then(|found| reader.dict(found[0]?))
            .unwrap_or_default();
        let idents: Vec<u64> = active.iter().map(|(ident, _)| *ident).collect();
        let idents = reader.integers(&idents);
        let field = reader.walk.thread.ident;
        let states: HashMap<u64, Worker> = records
            .iter()
            .zip(tids)
            .filter_map(|(record, tid)| {
                let state = record.address;
                Some((
                    record.field(field),
                    Worker {
                        state,
                        tid: (*tid)?,
                    },
                ))
            })
            .collect();
        active
            .iter()
            .zip(idents)
            .filter_map(|((_, thread), ident)| Some((*thread, *states.get(&(ident? as u64))?)))
            .collect()
    }

    /// Gives the stack of each record's thread.
    pub(super) fn add_stacks(
        &mut self,
        reader: &mut Reader<'_>,
        records: &[ThreadRecord],
        tids: &[Option<Tid>],
        fact: &mut PythonFact,
    ) -> Vec<Stack> {
        if self.options.stack == 0 {
            return Vec::new();
        }
        let stacks = stacks::stacks(reader, self.codes, records, self.options.stack);
        let slots: HashMap<Tid, usize> = fact
            .threads
            .iter()
            .enumerate()
            .map(|(slot, thread)| (thread.tid, slot))
            .collect();
        for (stack, tid) in stacks.iter().zip(tids) {
            if reader.is_over() {
                break;
            }
            let slot = tid.and_then(|tid| slots.get(&tid));
            let Some(thread) = slot.and_then(|slot| fact.threads.get_mut(*slot)) else {
                continue;
            };
            // A thread that has gone from one interpreter to another has a part of its stack in
            // each; the one it went to was made later, and comes later here.
            let outer = std::mem::take(&mut thread.stack);
            thread.stack_torn |= stack.torn;
            if !thread.stack_torn {
                thread.stack = stack.places(reader, self.codes).unwrap_or_default();
                thread.stack.extend(outer);
            }
        }
        if stacks.iter().any(|stack| stack.cut) {
            reader.limits.insert(
                "threads.stack".to_owned(),
                format!(
                    "only the innermost {} frames of a stack are read",
                    self.options.stack
                ),
            );
        }
        stacks
    }

    /// Says what blocked threads wait for, by their stacks and the futexes that they are blocked on.
    pub(super) fn add_waits(
        &self,
        reader: &mut Reader<'_>,
        records: &[ThreadRecord],
        tids: &[Option<Tid>],
        stacks: &[Stack],
        fact: &mut PythonFact,
    ) {
        let ident = reader.walk.thread.ident;
        let by_ident: HashMap<u64, Tid> = records
            .iter()
            .zip(tids)
            .filter_map(|(record, tid)| Some((record.field(ident), (*tid)?)))
            .collect();
        let of_tid: HashMap<Tid, &Stack> = tids
            .iter()
            .zip(stacks)
            .filter_map(|(tid, stack)| Some(((*tid)?, stack)))
            .collect();
        let mut blocked = Vec::new();
        let mut slots = Vec::new();
        for (slot, thread) in fact.threads.iter().enumerate() {
            let Some(stack) = of_tid.get(&thread.tid) else {
                continue;
            };
            // A thread that has entered several interpreters is shown with the stack of one.
            if stack.torn || stack.frames.len() != thread.stack.len() {
                continue;
            }
            if reader.is_over() {
                break;
            }
            match self.process.blocking_futex(thread.tid) {
                Ok(Some(futex)) => {
                    slots.push(slot);
                    blocked.push(Blocked {
                        tid: thread.tid,
                        futex,
                        frames: &stack.frames,
                        places: &thread.stack,
                    });
                }
                Ok(None) => {}
                Err(error) => {
                    let is_gone = matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH));
                    if !is_gone {
                        let reason = format!("/proc does not say where threads wait: {error}");
                        reader
                            .limits
                            .insert("threads.waiting_for".to_owned(), reason);
                    }
                }
            }
        }
        let waits = waits::waits(reader, &blocked, &by_ident);
        let stand_still: HashSet<Tid> = stacks::stand_still(reader, records, stacks)
            .into_iter()
            .zip(tids)
            .filter_map(|(stands, tid)| tid.filter(|_| stands))
            .collect();
        let mut waits = waits;
        let is_cut = reader.limits.contains_key("threads") || reader.is_over();
        let mut others: Vec<(Tid, &[StackFrame])> = Vec::new();
        let known: HashSet<Tid> = blocked.iter().map(|thread| thread.tid).collect();
        for (tid, stack) in tids.iter().zip(stacks) {
            others.extend(
                tid.filter(|tid| !known.contains(tid) && stand_still.contains(tid))
                    .map(|tid| (tid, &*stack.frames)),
            );
        }
        let owners = Owners {
            is_fork: std::cell::OnceCell::new(),
            all: blocked.len() + others.len() == tids.len(),
            others,
            is_cut,
        };
        self.add_owners(reader, &blocked, &mut waits, &owners);
        for (slot, wait) in slots.into_iter().zip(waits) {
            let thread = &mut fact.threads[slot];
            // What was read in between is about a thread that stood still.
            thread.waiting_for = wait.filter(|wait| {
                let still = self.process.blocking_futex(thread.tid);
                stand_still.contains(&thread.tid)
                    && still.is_ok_and(|futex| futex == Some(wait.futex))
            });
        }
    }

    /// Says who has the locks that do not say it, as far as those wait themselves, and doubts those that do: after
    /// a fork, a new thread may have the ident of one that had a lock and is not there.
    fn add_owners(
        &self,
        reader: &mut Reader<'_>,
        blocked: &[Blocked<'_>],
        waits: &mut [Option<PyWait>],
        owners: &Owners<'_>,
    ) {
        let is_fork = || *owners.is_fork.get_or_init(|| self.process.is_fork());
        let is_open = |wait: &PyWait| match (wait.kind, wait.purpose) {
            (WaitKind::Lock, WaitPurpose::Contended) => wait.owner.is_none(),
            (WaitKind::RLock, _) => {
                wait.owner.is_some_and(|owner| !self.process.is_main(owner)) && is_fork()
            }
            _ => false,
        };
        let open = waits.iter().flatten().filter(|wait| is_open(wait));
        let locks: AddressSet = open.filter_map(|wait| wait.object).collect();
        for wait in waits.iter_mut().flatten() {
            wait.owner_gone &= !owners.is_cut;
        }
        if locks.is_empty() {
            return;
        }
        let mut searched: Vec<(Tid, &[StackFrame])> = blocked
            .iter()
            .map(|thread| (thread.tid, thread.frames))
            .collect();
        if is_fork() {
            searched.extend(&owners.others);
        }
        let all_searched = owners.all && searched.len() <= MAX_SEARCHED && !owners.is_cut;
        searched.truncate(MAX_SEARCHED);
        let stacks: Vec<&[StackFrame]> = searched.iter().map(|(_, frames)| *frames).collect();
        let inside = holders::of_stacks(reader, &stacks, &locks);
        let statements = |slot: usize, lock: u64| -> usize {
            let inside = inside.get(slot).into_iter().flatten();
            inside.filter(|held| **held == lock).count()
        };
        let owner_of = |lock: u64| {
            let waits_for_it = |slot: usize| {
                let wait = waits.get(slot).and_then(Option::as_ref);
                wait.is_some_and(|wait| wait.object == Some(lock))
            };
            let only = |waiting: bool, least: usize| {
                let mut owners = searched.iter().enumerate().filter(|(slot, _)| {
                    waits_for_it(*slot) == waiting && statements(*slot, lock) >= least
                });
                let (_, (owner, _)) = owners.next()?;
                owners.next().is_none().then_some(*owner)
            };
            // Who waits for it is in one statement of it by that.
            only(false, 1).or_else(|| only(true, 2))
        };
        let found: AddressMap<Option<Tid>> =
            locks.iter().map(|lock| (*lock, owner_of(*lock))).collect();
        for (slot, wait) in waits.iter_mut().enumerate() {
            let Some(wait) = wait.as_mut().filter(|wait| is_open(wait)) else {
                continue;
            };
            let Some(lock) = wait.object else {
                continue;
            };
            wait.at_statement = statements(slot, lock) > 0;
            if wait.kind == WaitKind::Lock {
                wait.owner = found.get(&lock).copied().flatten();
                wait.inferred = wait.owner.is_some();
                // All threads wait, and none of them is in a statement of it.
                let is_nobodys = wait.at_statement && wait.owner.is_none();
                wait.owner_gone = is_nobodys && all_searched && is_fork();
                continue;
            }
            // The program takes this one by statements, and who has its ident is in none of them.
            let mut threads = searched.iter();
            let owner = threads.position(|(tid, _)| Some(*tid) == wait.owner);
            let is_doubtful = owner.is_some_and(|owner| statements(owner, lock) == 0);
            if is_doubtful && wait.at_statement {
                (wait.owner, wait.owner_gone) = (None, !owners.is_cut);
            }
        }
    }
}
