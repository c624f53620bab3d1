//! What blocked threads wait for.
//!
//! The kernel says which futex a thread is blocked on. An object belongs to it when the address in
//! the object is that of the futex, or when the address in front of the futex is that in the
//! object; where nothing says that, nothing is told: a thread may have gone on since its stack was
//! read.

use std::collections::HashMap;
use std::sync::Arc;

use super::locals::{self, Variables};
use super::stacks::StackFrame;
use super::wait_rules::{CALLERS, ENTRIES, FunctionRule, HOLDERS, LOCKS, WAIT, WAITER, is_loop};
use crate::event::{PyFrame, PyWait, Tid, WaitKind, WaitPurpose};
use crate::python::memory::addresses::{AddressMap, AddressSet};
use crate::python::memory::{Batch, at, int, plausible, word};
use crate::python::objects::{Reader, TypeInfo};

/// How many frames are looked at: a wait that is made of more functions than this is not known.
const MAX_FRAMES: usize = 6;
/// Bytes of an object that are looked at: its type, the lock in it, what a method is bound to.
const HEAD_BYTES: usize = 32;
/// Where a bound method, of C or of Python, has its object.
const BOUND_SELF: u32 = 24;
/// Of a thread object.
const IDENT: &str = "_ident";

/// A thread that is blocked on a futex.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocked<'a> {
    pub(crate) tid: Tid,
    pub(crate) futex: u64,
    /// Its stack and where that is in the source, the innermost frame first.
    pub(crate) frames: &'a [StackFrame],
    pub(crate) places: &'a [PyFrame],
}

/// A function on a stack that rules know by name.
struct KnownFunction {
    /// Those that fit, should the class of `self` do so, too.
    rules: Vec<&'static FunctionRule>,
    variables: Variables,
    /// The object that it is a method of, and its type.
    this: Option<(u64, Arc<TypeInfo>)>,
    /// It has a `self`, but that is no living object: the thread has gone on.
    gone: bool,
}

impl KnownFunction {
    fn rule(&self, reader: &Reader<'_>) -> Option<&'static FunctionRule> {
        self.rules
            .iter()
            .copied()
            .find(|rule| match (rule.class, &self.this) {
                (None, _) => true,
                (Some(class), Some((_, info))) => reader.has_base(info, |name| name == class),
                (Some(_), None) => false,
            })
    }
}

/// What each thread waits for. `tids` are those of the threads of the interpreter by identity.
pub(crate) fn waits(
    reader: &mut Reader<'_>,
    blocked: &[Blocked<'_>],
    tids: &HashMap<u64, Tid>,
) -> Vec<Option<PyWait>> {
    let parked = parked(reader, blocked);
    let known = known_functions(reader, blocked);
    let innermost = innermost(reader, blocked, &known);
    let objects = objects(reader, blocked, &parked, &innermost);
    blocked
        .iter()
        .enumerate()
        .map(|(slot, thread)| {
            let mut wait = match &objects[slot] {
                Some((object, info)) => by_object(reader, *object, info, tids),
                None => ended_thread(reader, parked[slot], tids),
            }?;
            wait.futex = thread.futex;
            if known[slot].iter().any(|known| known.gone) {
                return None;
            }
            let taken = by_functions(reader, &known[slot], &mut wait, tids);
            let mut ways = thread.places.iter().take(taken + 1);
            if wait.purpose == WaitPurpose::Item
                && ways.any(|way| is_loop(&way.function, &way.file))
            {
                wait.purpose = WaitPurpose::Work;
            }
            // A handle is no object with a type: that it is one, functions must say, too.
            let is_known = objects[slot].is_some() || wait.kind == WaitKind::Join;
            // Who has it by now does not wait for it any more.
            (is_known && wait.owner != Some(thread.tid)).then_some(wait)
        })
        .collect()
}

/// What is in front of each futex: where a thread waits in the interpreter's parking lot, the
/// address of what it waits for.
fn parked(reader: &mut Reader<'_>, blocked: &[Blocked<'_>]) -> Vec<u64> {
    let before = u64::from(reader.walk.lock.before_futex);
    let mut batch = Batch::new();
    for thread in blocked {
        batch.push(thread.futex.wrapping_sub(before), 8);
    }
    reader.fetch(&mut batch);
    (0..blocked.len())
        .map(|slot| batch.whole(slot).and_then(|bytes| word(bytes, 0)))
        .map(|found| found.filter(|address| plausible(*address)).unwrap_or(0))
        .collect()
}

/// The innermost functions of each stack, as long as rules know them by name.
fn known_functions(reader: &mut Reader<'_>, blocked: &[Blocked<'_>]) -> Vec<Vec<KnownFunction>> {
    let mut rules: Vec<Vec<Vec<&'static FunctionRule>>> = Vec::with_capacity(blocked.len());
    let mut frames = Vec::new();
    for thread in blocked {
        let named: Vec<Vec<&'static FunctionRule>> = thread
            .places
            .iter()
            .take(MAX_FRAMES)
            .map(|place| {
                std::iter::once(&WAIT)
                    .chain(ENTRIES)
                    .chain(HOLDERS)
                    .chain(CALLERS)
                    .filter(|rule| rule.names(&place.function, &place.file))
                    .collect()
            })
            .take_while(|rules: &Vec<_>| !rules.is_empty())
            .collect();
        frames.extend(thread.frames.iter().take(named.len()).copied());
        rules.push(named);
    }
    let mut variables = locals::variables(reader, &frames).into_iter();
    let mut known: Vec<Vec<KnownFunction>> = rules
        .into_iter()
        .map(|named| {
            named
                .into_iter()
                .zip(&mut variables)
                .map(|(rules, variables)| KnownFunction {
                    rules,
                    variables,
                    this: None,
                    gone: false,
                })
                .collect()
        })
        .collect();
    let selves: Vec<Option<u64>> = known
        .iter()
        .flatten()
        .map(|known| known.variables.named(reader, "self"))
        .collect();
    let addresses: Vec<u64> = selves.iter().map(|this| this.unwrap_or(0)).collect();
    let infos = reader.types_of(&addresses);
    for ((known, this), info) in known.iter_mut().flatten().zip(selves).zip(infos) {
        known.this = this.zip(info);
        // Where a class decides, there must be one.
        known.gone = this.is_some()
            && known.this.is_none()
            && known.rules.iter().all(|rule| rule.class.is_some());
    }
    known
}

/// The variables of each thread's innermost frame.
fn innermost(
    reader: &mut Reader<'_>,
    blocked: &[Blocked<'_>],
    known: &[Vec<KnownFunction>],
) -> Vec<Variables> {
    let missing: Vec<StackFrame> = blocked
        .iter()
        .zip(known)
        .filter(|(_, known)| known.is_empty())
        .filter_map(|(thread, _)| thread.frames.first().copied())
        .collect();
    let mut read = locals::variables(reader, &missing).into_iter();
    blocked
        .iter()
        .zip(known)
        .map(|(thread, known)| match known.first() {
            Some(known) => known.variables.clone(),
            None if thread.frames.is_empty() => Variables::default(),
            None => read.next().unwrap_or_default(),
        })
        .collect()
}

/// The object that each thread is blocked on, with its type.
fn objects(
    reader: &mut Reader<'_>,
    blocked: &[Blocked<'_>],
    parked: &[u64],
    innermost: &[Variables],
) -> Vec<Option<(u64, Arc<TypeInfo>)>> {
    let offset = reader.walk.lock.lock;
    let mut heads: AddressMap<Vec<u8>> = AddressMap::default();
    let values = innermost.iter().flat_map(|variables| &variables.values);
    read_heads(reader, values.copied(), &mut heads);
    let is_it = |heads: &AddressMap<Vec<u8>>, slot: usize, object: &u64| {
        let points_there = heads
            .get(object)
            .and_then(|head| word(head, offset))
            .is_some_and(|semaphore| semaphore == blocked[slot].futex);
        points_there || at(*object, offset) == parked[slot]
    };
    let mut found: Vec<Option<u64>> = innermost
        .iter()
        .enumerate()
        .map(|(slot, variables)| {
            let mut values = variables.values.iter().copied();
            values.find(|object| is_it(&heads, slot, object))
        })
        .collect();
    // Of a `with` statement there may be no more than the method that will open the lock again.
    let selves = |heads: &AddressMap<Vec<u8>>, slot: usize| -> Vec<u64> {
        let values = innermost[slot].values.iter();
        values
            .filter_map(|value| word(heads.get(value)?, BOUND_SELF))
            .collect()
    };
    let missing: Vec<usize> = (0..found.len())
        .filter(|slot| found[*slot].is_none())
        .collect();
    let bound: Vec<u64> = missing
        .iter()
        .flat_map(|slot| selves(&heads, *slot))
        .collect();
    read_heads(reader, bound.into_iter(), &mut heads);
    for slot in missing {
        let mut selves = selves(&heads, slot).into_iter();
        found[slot] = selves.find(|object| is_it(&heads, slot, object));
    }
    let found: Vec<u64> = found
        .into_iter()
        .zip(parked)
        .enumerate()
        .map(|(slot, (found, parked))| match found {
            Some(object) => object,
            // What a thread is parked on needs no frame to be found, but what it is for does.
            None if blocked[slot].frames.is_empty() => parked.wrapping_sub(u64::from(offset)),
            None => 0,
        })
        .collect();
    let infos = reader.types_of(&found);
    found
        .into_iter()
        .zip(infos)
        .map(|(object, info)| Some((object, info.filter(|info| lock_rule(info).is_some())?)))
        .collect()
}

/// Reads the beginnings of objects that are not there yet.
fn read_heads(
    reader: &mut Reader<'_>,
    objects: impl Iterator<Item = u64>,
    heads: &mut AddressMap<Vec<u8>>,
) {
    let wanted: AddressSet = objects
        .filter(|object| plausible(*object) && object % 8 == 0 && !heads.contains_key(object))
        .collect();
    let mut batch = Batch::new();
    for object in &wanted {
        batch.push(*object, HEAD_BYTES);
    }
    reader.fetch(&mut batch);
    for (index, object) in wanted.into_iter().enumerate() {
        heads.extend(batch.whole(index).map(|bytes| (object, bytes.to_vec())));
    }
}

fn lock_rule(info: &TypeInfo) -> Option<&'static super::wait_rules::LockRule> {
    LOCKS.iter().find(|rule| *rule.name == *info.name)
}

/// A wait as the object itself tells it.
fn by_object(
    reader: &mut Reader<'_>,
    object: u64,
    info: &TypeInfo,
    tids: &HashMap<u64, Tid>,
) -> Option<PyWait> {
    let rule = lock_rule(info)?;
    let owner = rule
        .has_owner
        .then(|| reader.pointer(at(object, reader.walk.lock.owner)).ok())
        .flatten();
    let tid = owner.and_then(|ident| tids.get(&ident).copied());
    // A semaphore with one permit is a lock.
    let has_permits = |reader: &mut Reader<'_>| {
        let permits = reader.bytes(at(object, reader.walk.lock.permits), 4).ok();
        permits.is_some_and(|bytes| int(&bytes, 0) != Some(1))
    };
    let purpose = match rule.kind {
        WaitKind::Semaphore if has_permits(reader) => WaitPurpose::Item,
        _ => rule.purpose,
    };
    Some(PyWait {
        kind: rule.kind,
        purpose,
        object: Some(object),
        owner: tid,
        futex: 0,
        inferred: false,
        owner_gone: tid.is_none() && owner.is_some_and(|ident| ident != 0),
        at_statement: false,
        holders: Vec::new(),
    })
}

/// A wait for the end of a thread, if what the thread is parked on is the handle of one.
fn ended_thread(reader: &mut Reader<'_>, parked: u64, tids: &HashMap<u64, Tid>) -> Option<PyWait> {
    let handle = reader.walk.lock.handle?;
    let address = parked.wrapping_sub(u64::from(handle.event));
    let ident = reader.pointer(at(address, handle.ident)).ok()?;
    Some(PyWait {
        kind: WaitKind::Lock,
        purpose: WaitPurpose::Join,
        object: None,
        owner: Some(*tids.get(&ident)?),
        futex: 0,
        inferred: false,
        owner_gone: false,
        at_statement: false,
        holders: Vec::new(),
    })
}

/// What the functions that lead to a wait make of it; how many of the innermost ones are a part of it.
fn by_functions(
    reader: &mut Reader<'_>,
    known: &[KnownFunction],
    wait: &mut PyWait,
    tids: &HashMap<u64, Tid>,
) -> usize {
    let is_of = |rule: &FunctionRule, rules: &[FunctionRule]| {
        rules.iter().any(|one| std::ptr::eq(rule, one))
    };
    let is_entry = |known: &&KnownFunction| {
        let rule = known.rule(reader);
        rule.is_some_and(|rule| is_of(rule, ENTRIES))
    };
    let entries = known.iter().take_while(is_entry).count();
    let Some((first, others)) = known.get(entries..).and_then(<[_]>::split_first) else {
        return entries;
    };
    let Some(rule) = first.rule(reader) else {
        return entries;
    };
    let mut taken = entries;
    let take = |wait: &mut PyWait, rule: &FunctionRule, known: &KnownFunction| {
        (wait.kind, wait.purpose) = (rule.kind, rule.purpose);
        wait.owner_gone = false;
        wait.object = known.this.as_ref().map(|(this, _)| *this);
    };
    if std::ptr::eq(rule, &WAIT) {
        if first.variables.named(reader, WAITER) != wait.object {
            return entries;
        }
        take(wait, rule, first);
        taken += 1;
        for caller in others {
            let Some(rule) = caller.rule(reader) else {
                break;
            };
            take(wait, rule, caller);
            taken += 1;
        }
    } else if is_of(rule, HOLDERS) {
        take(wait, rule, first);
        if wait.kind == WaitKind::Join {
            let ident = wait
                .object
                .and_then(|thread| reader.attributes_of(thread, &[IDENT])?[0])
                .and_then(|ident| reader.integers(&[ident])[0]);
            let owner = ident.and_then(|ident| tids.get(&(ident as u64)).copied());
            wait.owner = owner.or(wait.owner);
        }
        taken += 1;
    }
    taken
}
