//! The threads of an interpreter: who they are, where their stacks are, and what they wait for.

use std::collections::{HashMap, HashSet};

use super::entered::{self, Whose};
use super::others::{MAX_SEARCHED, Others};
use super::pass::Scan;
use super::permits;
use super::remembered::THREADING;
use super::statements::Statements;
use crate::event::{PyThread, PyWait, PythonFact, Tid, WaitKind, WaitPurpose};
use crate::python::memory::at;
use crate::python::objects::Reader;
use crate::python::walk::pool_parts::{Worker, Workers};
use crate::python::walk::stacks::{self, Stack, StackFrame};
use crate::python::walk::thread_states::{self, ThreadRecord};
use crate::python::walk::threads::{self, ThreadAccount};
use crate::python::walk::waits::{self, Blocked};
use crate::python::walk::{holders, managers};

/// Who takes a lock in this function, or in that file, does so for a while, and gives it back.
const ENTER: &str = "__enter__";
const THREADING_FILE: &str = "/threading.py";

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
        let is_fork = self.process.is_fork();
        let mut tids = Vec::with_capacity(records.len());
        for record in records {
            let ident = record.field(fields.ident);
            // A state whose thread has not begun yet has no ids.
            if ident == 0 || fields.native_id.is_some_and(|id| record.field(id) == 0) {
                tids.push(None);
                continue;
            }
            if self.is_entered {
                let process = &mut *self.process;
                let is_on_main_stack = |place| process.is_on_main_stack(place);
                match entered::whose(record, &fields, &fact.threads, is_on_main_stack) {
                    Whose::Named => {}
                    Whose::Other(tid) => {
                        tids.push(Some(tid));
                        continue;
                    }
                    Whose::Nobodys => {
                        tids.push(None);
                        continue;
                    }
                }
            }
            let account = accounts.remove(&ident).unwrap_or_default();
            // After a fork, what `threading` has may still be the parent's; so may what the state has, where
            // Python was not told of the fork.
            let native = match fields.native_id.map(|offset| record.field(offset)) {
                Some(native) if !is_fork || self.process.is_thread(native) => Some(native),
                Some(_) => self.process.described_id(ident),
                None => {
                    let noted = account.native_id;
                    let noted = noted.filter(|id| !is_fork || self.process.is_thread(*id));
                    self.process.described_id(ident).or(noted)
                }
            };
            let tid = native.and_then(|native| self.process.tid(native));
            tids.push(tid);
            let Some(tid) = tid else {
                // In a fork, states of threads that only the parent has may be left over.
                reader.failed += u64::from(!is_fork);
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

    pub(super) fn accounts(&mut self, reader: &mut Reader<'_>) -> HashMap<u64, ThreadAccount> {
        let Some(threading) = self.remembered.module(THREADING) else {
            reader.limits.insert(
                "threads.name".to_owned(),
                "the program has not imported threading".to_owned(),
            );
            return HashMap::new();
        };
        let accounts = reader
            .known_values(threading, &["_active"], &mut self.remembered.of_threading)
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
        let mut waits = waits::waits(reader, &blocked, &by_ident);
        let stand_still: HashSet<Tid> = stacks::stand_still(reader, records, stacks)
            .into_iter()
            .zip(tids)
            .filter_map(|(stands, tid)| tid.filter(|_| stands))
            .collect();
        // A thread that is not known may have anything.
        let is_cut = reader.limits.contains_key("threads") || reader.is_over();
        let knows_all = !is_cut && tids.iter().all(Option::is_some);
        let known: HashSet<Tid> = blocked.iter().map(|thread| thread.tid).collect();
        let is_other = |tid: &Option<Tid>| tid.is_none_or(|tid| !known.contains(&tid));
        let others: Vec<&[StackFrame]> = tids
            .iter()
            .zip(stacks)
            .filter(|(tid, stack)| is_other(tid) && !stack.torn)
            .map(|(_, stack)| &*stack.frames)
            .collect();
        let is_whole =
            |stack: &Stack| !stack.cut && !stack.torn && stack.frames.len() <= holders::MAX_FRAMES;
        let others = Others {
            all: knows_all && blocked.len() + others.len() == tids.len(),
            stacks: others,
            whole: stacks.iter().all(is_whole),
        };
        self.add_owners(reader, &blocked, &mut waits, &others);
        permits::add_holders(reader, &blocked, &mut waits, &others);
        self.doubt_gone(reader, &mut waits, knows_all);
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

    /// Says who has the locks that do not say it, as far as those wait themselves; in a fork in which all threads wait
    /// at statements of locks, which of them nobody has who is there.
    fn add_owners(
        &self,
        reader: &mut Reader<'_>,
        blocked: &[Blocked<'_>],
        waits: &mut [Option<PyWait>],
        others: &Others<'_>,
    ) {
        let is_plain =
            |wait: &&PyWait| (wait.kind, wait.purpose) == (WaitKind::Lock, WaitPurpose::Contended);
        let plain = |wait: &Option<PyWait>| wait.as_ref().filter(is_plain)?.object;
        let waits_for: Vec<Option<u64>> = waits.iter().map(plain).collect();
        let stacks = blocked.iter().map(|thread| thread.frames);
        let mut stacks: Vec<&[StackFrame]> = stacks.chain(others.stacks.iter().copied()).collect();
        let all = others.all && stacks.len() <= MAX_SEARCHED;
        stacks.truncate(MAX_SEARCHED);
        if waits_for.iter().all(Option::is_none) {
            return;
        }
        let (inside, knows_all) = managers::inside_of(reader, &stacks, &waits_for);
        let all = all && knows_all;
        let found = Statements { inside, waits_for };
        let all_wait = all && others.whole && found.all_wait() && self.process.is_fork();
        for (slot, wait) in waits.iter_mut().enumerate() {
            let lock = found.waits_for[slot];
            let Some((wait, lock)) = wait.as_mut().zip(lock) else {
                continue;
            };
            wait.at_statement = found.waits_to_enter(slot);
            let place = blocked[slot].places.first();
            let gives_back = place.is_some_and(|place| {
                place.function.ends_with(ENTER) || place.file.ends_with(THREADING_FILE)
            });
            if found.is_signal(slot) && !gives_back {
                wait.purpose = WaitPurpose::Item;
            }
            // What is left over in one stack may be what another thread has by now.
            let owner = found.owner(lock).filter(|_| all);
            wait.owner = owner.map(|slot| blocked[slot].tid);
            wait.inferred = wait.owner.is_some();
            wait.owner_gone = all_wait && found.is_nobodys(lock);
        }
    }

    /// Takes back that the owners of RLocks are gone unless all threads are known and none of them has such an identity:
    /// of those that there are by now, too.
    fn doubt_gone(&self, reader: &mut Reader<'_>, waits: &mut [Option<PyWait>], knows_all: bool) {
        let says_so = |wait: &&mut PyWait| wait.owner_gone && wait.kind == WaitKind::RLock;
        let mut gone: Vec<&mut PyWait> = waits.iter_mut().flatten().filter(says_so).collect();
        if gone.is_empty() {
            return;
        }
        let owners = |reader: &mut Reader<'_>, gone: &[&mut PyWait]| -> Vec<Option<u64>> {
            let place = reader.walk.lock.owner;
            let locks = gone.iter().map(|wait| wait.object);
            locks
                .map(|lock| reader.pointer(at(lock?, place)).ok())
                .collect()
        };
        let before = owners(reader, &gone);
        let fields = reader.walk.thread;
        let head = self.layout.interpreter.threads_head;
        let records = thread_states::threads(self.memory, self.interpreter, head, &fields, &[]);
        let idents = records.map(|records| {
            let idents = records.iter().map(|record| record.field(fields.ident));
            idents.collect::<Vec<u64>>()
        });
        let after = owners(reader, &gone);
        for (slot, wait) in gone.iter_mut().enumerate() {
            let idents = idents.as_deref().unwrap_or_default();
            wait.owner_gone = knows_all && is_gone(before[slot], idents, after[slot]);
        }
    }
}

/// Whether the owner that a lock names, before and after the identities of all threads were read, is none of them.
/// A thread that has not begun has no identity yet.
fn is_gone(before: Option<u64>, idents: &[u64], after: Option<u64>) -> bool {
    let owner = before.filter(|owner| *owner != 0 && Some(*owner) == after);
    let is_none = |owner: u64| idents.iter().all(|ident| *ident != 0 && *ident != owner);
    !idents.is_empty() && owner.is_some_and(is_none)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only of a lock that names nobody who is there, twice.
    #[test]
    fn an_owner_is_gone_whom_no_thread_is() {
        assert!(is_gone(Some(7), &[5, 6], Some(7)));
        assert!(!is_gone(Some(7), &[5, 7], Some(7)));
        // It has been released, or has gone from one to the other, meanwhile.
        assert!(!is_gone(Some(7), &[5, 6], Some(0)));
        assert!(!is_gone(Some(7), &[5, 6], Some(8)));
        assert!(!is_gone(Some(0), &[5, 6], Some(0)));
        // A thread that begins, or threads that could not be read.
        assert!(!is_gone(Some(7), &[5, 0], Some(7)));
        assert!(!is_gone(Some(7), &[], Some(7)));
        assert!(!is_gone(None, &[5], None));
    }
}
