//! Who holds a lock that does not say so: whoever is inside a `with` or `async with` statement of it.
//!
//! Up to the end of the statement its frame keeps the method that will give the lock back, bound to the lock, or beside
//! it. So does the frame of who still waits to get in, in most versions: that one is not counted. Frames also
//! have leftovers: a method that has been given up has no references any more, or is another one by now, of who has
//! got the memory next. So one that several have is nobody's.

use super::entering;
use super::frames::StackFrame;
use super::locals::{self, Variables};
use super::suspended::{Pieces, Step};
use crate::python::layout::EnterShape;
use crate::python::memory::addresses::{AddressMap, AddressSet};
use crate::python::memory::{Batch, at, plausible, word};
use crate::python::objects::{Kind, OBJECT_SIZE, OBJECT_TYPE, Reader};

/// Frames of one stack that are searched, and coroutines of one chain.
pub(crate) const MAX_FRAMES: usize = 64;
const MAX_DEPTH: usize = 32;
/// Words behind a frame's variables that are its own, or nobody's: the head of the next frame is longer. What is behind
/// that may be of a thread that is no more, which had the same memory.
const TEMPORARIES: usize = 8;
/// Bytes of a suspended frame that are read.
const VALUES_BYTES: u32 = 1024;
/// Nobody but the frame has the method of a statement; one that is the argument of a call, the function has, too.
const REFERENCES: u64 = 1;
/// Of a bound method: references, type, function, object.
const METHOD_BYTES: usize = 32;
pub(super) const BOUND_SELF: u32 = 24;
/// Of a method of a type that is written in C.
const DESCRIPTOR_NAME: u32 = 24;

/// A word of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) word: u64,
    /// It lies below the top of its frame's stack, so it is no leftover.
    is_sure: bool,
}

/// What one stack says about `with` statements of locks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inside {
    /// The locks that it is inside of, once for each statement.
    pub(crate) locks: Vec<u64>,
    /// It waits at a statement of the lock that it waits for, and is not inside of that one.
    pub(crate) waits_to_enter: bool,
    /// It waits in a call.
    pub(crate) waits_in_call: bool,
}

/// Which of the locks that threads wait for each stack is inside of. What each thread waits for comes in the order of
/// their stacks; those behind wait for none.
pub(crate) fn of_stacks(
    reader: &mut Reader<'_>,
    stacks: &[&[StackFrame]],
    waits_for: &[Option<u64>],
) -> Vec<Inside> {
    let locks: AddressSet = waits_for.iter().flatten().copied().collect();
    let wanted = |slot: usize| waits_for.get(slot).copied().flatten();
    let innermost = |slot: usize| wanted(slot).and_then(|_| stacks[slot].first().copied());
    let innermost: Vec<Option<StackFrame>> = (0..stacks.len()).map(innermost).collect();
    let mut enter = entering::enter(reader, &innermost);
    let lengths: Vec<usize> = stacks.iter().map(|one| one.len().min(MAX_FRAMES)).collect();
    let frames: Vec<StackFrame> = stacks
        .iter()
        .flat_map(|one| one.iter().take(MAX_FRAMES).copied())
        .collect();
    let now = entering::now(reader, &frames);
    let variables = locals::variables(reader, &frames).into_iter();
    let mut variables = variables.zip(now);
    let keeps_exit = !matches!(
        reader.walk.frame.enter,
        EnterShape::Instruction {
            keeps_exit: false,
            ..
        }
    );
    let mut is_object_there = vec![false; stacks.len()];
    let mut values: Vec<Vec<Value>> = Vec::with_capacity(stacks.len());
    for (slot, length) in lengths.into_iter().enumerate() {
        let mut of_stack = Vec::new();
        for (index, (frame, now)) in variables.by_ref().take(length).enumerate() {
            if index == 0 && !now.is_there {
                enter[slot] = None;
            }
            // What is to be entered is on top of the stack.
            let entered =
                wanted(slot).filter(|_| index == 0 && enter[slot] == Some(true) && !keeps_exit);
            let top = entered.and_then(|lock| frame.first_temporary(lock));
            is_object_there[slot] |= top.is_some();
            of_stack.extend(words(&frame, top.or(now.depth)));
            let lock = wanted(slot).filter(|_| index == 0 && enter[slot] == Some(false));
            if lock.is_some_and(|lock| calls_enter(reader, &of_stack, lock)) {
                enter[slot] = Some(true);
            }
        }
        values.push(of_stack);
    }
    let found = inside(reader, &values, &locks, "__exit__").into_iter();
    let found = found.enumerate().map(|(slot, mut locks)| {
        let is_own = |lock: &u64| Some(*lock) == wanted(slot);
        let waits_to_enter = match enter[slot] {
            Some(true) if keeps_exit => {
                let own = locks.iter().position(is_own);
                own.map(|own| locks.remove(own)).is_some()
            }
            Some(true) => is_object_there[slot],
            Some(false) => false,
            // One of them may be the one that it waits at by now.
            None => {
                locks.retain(|lock| !is_own(lock));
                false
            }
        };
        Inside {
            locks,
            waits_to_enter,
            waits_in_call: enter[slot] == Some(false),
        }
    });
    found.collect()
}

/// What the frames of each stack have of their own behind their variables.
pub(super) fn own_values(reader: &mut Reader<'_>, stacks: &[&[StackFrame]]) -> Vec<Vec<Value>> {
    let mut values = Vec::with_capacity(stacks.len());
    for stack in stacks {
        let frames = &stack[..stack.len().min(MAX_FRAMES)];
        let now = entering::now(reader, frames);
        let variables = locals::variables(reader, frames);
        let of_frames = variables.iter().zip(now);
        values.push(
            of_frames
                .flat_map(|(frame, now)| words(frame, now.depth))
                .collect(),
        );
    }
    values
}

/// What a frame has of its own behind its variables: these may have anything.
fn words(frame: &Variables, depth: Option<usize>) -> Vec<Value> {
    let is_sure = frame.is_possible(depth);
    let own = frame.temporaries(TEMPORARIES, depth).iter();
    own.map(|word| Value {
        word: *word,
        is_sure,
    })
    .collect()
}

/// Which of `locks` each of so many suspended coroutines is inside of, once for each statement.
pub(crate) fn of_coroutines(
    reader: &mut Reader<'_>,
    frames: &[Kept],
    count: usize,
    locks: &AddressSet,
) -> Vec<Vec<u64>> {
    let values = behind_variables(reader, frames, count);
    inside(reader, &values, locks, "__aexit__")
}

/// What the frames of each of so many coroutines keep behind their variables.
pub(super) fn behind_variables(
    reader: &mut Reader<'_>,
    frames: &[Kept],
    count: usize,
) -> Vec<Vec<Value>> {
    let counts = variable_counts(reader, frames);
    let mut values: Vec<Vec<Value>> = vec![Vec::new(); count];
    for frame in frames {
        let variables = counts.get(&frame.code).copied().unwrap_or(usize::MAX);
        values[frame.coroutine].extend(sure(frame.words.iter().copied().skip(variables)));
    }
    values
}

/// How many variables the frames of each code object have.
pub(super) fn variable_counts(reader: &mut Reader<'_>, frames: &[Kept]) -> AddressMap<usize> {
    let mut codes: Vec<u64> = frames.iter().map(|frame| frame.code).collect();
    codes.sort_unstable();
    codes.dedup();
    locals::counts(reader, &codes)
}

/// Where a frame is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In what the coroutine awaits.
    Chain,
    /// It is the first one of a generator that a context manager drives.
    Manager,
    /// In what such a generator awaits.
    Behind,
}

/// What a frame of a suspended coroutine keeps: its variables, and what is behind them.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(super) coroutine: usize,
    /// Whose frame it is.
    pub(super) generator: u64,
    pub(super) place: Place,
    pub(super) has_begun: bool,
    pub(super) code: u64,
    pub(super) frame: StackFrame,
    pub(super) words: Vec<u64>,
}

/// The frames of each suspended coroutine, down to the innermost one.
pub(super) fn kept(reader: &mut Reader<'_>, coroutines: &[u64]) -> Vec<Kept> {
    let mut frames = Vec::new();
    let mut front: Vec<(usize, u64)> = coroutines.iter().copied().enumerate().collect();
    let length = reader.walk.frame.locals + VALUES_BYTES;
    for _ in 0..MAX_DEPTH {
        if front.is_empty() || reader.is_over() {
            break;
        }
        let addresses: Vec<u64> = front.iter().map(|(_, address)| *address).collect();
        let pieces = Pieces::read(reader, &addresses, &vec![length; front.len()]);
        let steps = pieces.steps(reader);
        let mut next = Vec::new();
        for (slot, step) in steps.into_iter().enumerate() {
            let (index, generator) = front[slot];
            if let Step::Next(position, _) | Step::NextIf(position, _) | Step::Last(position) =
                &step
            {
                frames.push(Kept {
                    coroutine: index,
                    generator,
                    place: Place::Chain,
                    has_begun: pieces.has_begun(&reader.walk, slot),
                    code: position.code,
                    frame: StackFrame {
                        address: pieces.frame(&reader.walk, slot).0,
                        position: *position,
                    },
                    words: pieces.values(&reader.walk, slot),
                });
            }
            match step {
                Step::Next(_, awaited) | Step::NextIf(_, awaited) => next.push((index, awaited)),
                Step::Through(inner) => next.push((index, inner)),
                Step::Last(_) | Step::Longer(_) | Step::Leaf | Step::Executing | Step::Torn => {}
            }
        }
        front = next;
    }
    frames
}

/// The locks whose method of this name is among the values, once for each such object.
pub(super) fn inside(
    reader: &mut Reader<'_>,
    values: &[Vec<Value>],
    locks: &AddressSet,
    name: &str,
) -> Vec<Vec<u64>> {
    let wanted: AddressSet = values
        .iter()
        .flatten()
        .map(|value| value.word)
        .filter(|value| plausible(*value) && value % 8 == 0)
        .collect();
    let mut batch = Batch::new();
    for value in &wanted {
        batch.push(*value, METHOD_BYTES);
    }
    reader.fetch(&mut batch);
    let bound: Vec<(u64, Vec<u8>)> = wanted
        .into_iter()
        .enumerate()
        .filter_map(|(slot, value)| {
            let bytes = batch.whole(slot)?;
            let is_one = locks.contains(&word(bytes, BOUND_SELF)?) && word(bytes, 0)? == REFERENCES;
            is_one.then(|| (value, bytes.to_vec()))
        })
        .collect();
    reader.load_types(
        bound
            .iter()
            .filter_map(|(_, bytes)| word(bytes, OBJECT_TYPE)),
    );
    let mut methods: AddressMap<u64> = AddressMap::default();
    for (value, bytes) in bound {
        let function = word(&bytes, OBJECT_SIZE).unwrap_or(0);
        let called = match reader.kind(&bytes) {
            Some(Kind::Builtin) => reader.definition_name(function),
            Some(Kind::Method) => function_name(reader, function),
            _ => None,
        };
        let last = called.as_deref().and_then(|name| name.rsplit('.').next());
        if last == Some(name) {
            methods.extend(word(&bytes, BOUND_SELF).map(|lock| (value, lock)));
        }
    }
    let mut found = of_one_each(values, &methods);
    if let EnterShape::Loaded { .. } = reader.walk.frame.enter {
        for (found, beside) in found.iter_mut().zip(beside(reader, values, locks, name)) {
            found.extend(beside);
            found.sort_unstable();
        }
    }
    found
}

/// The locks that lie directly behind a method of this name that is not bound to any, below the top of the stack.
fn beside(
    reader: &mut Reader<'_>,
    values: &[Vec<Value>],
    locks: &AddressSet,
    name: &str,
) -> Vec<Vec<u64>> {
    let pairs = |values: &[Value]| -> Vec<(u64, u64)> {
        let sure = values.windows(2).filter_map(|pair| match pair {
            [method, lock] if method.is_sure && lock.is_sure => Some((method.word, lock.word)),
            _ => None,
        });
        sure.filter(|(method, lock)| locks.contains(lock) && plausible(*method))
            .collect()
    };
    let pairs: Vec<Vec<(u64, u64)>> = values.iter().map(|values| pairs(values)).collect();
    let mut methods: AddressMap<bool> = AddressMap::default();
    for (method, _) in pairs.iter().flatten() {
        if !methods.contains_key(method) {
            let called = method_name(reader, *method);
            let last = called.as_deref().and_then(|name| name.rsplit('.').next());
            methods.insert(*method, last == Some(name));
        }
    }
    let is_one = |method: &u64| methods.get(method) == Some(&true);
    pairs
        .into_iter()
        .map(|pairs| {
            let own = pairs.into_iter().filter(|(method, _)| is_one(method));
            own.map(|(_, lock)| lock).collect()
        })
        .collect()
}

/// Whether a stack ends with a call of `__enter__` behind what a statement of this lock keeps: a tracer may have put
/// another instruction in the place of the one that would tell.
fn calls_enter(reader: &mut Reader<'_>, words: &[Value], lock: u64) -> bool {
    let (EnterShape::Loaded { .. }, [.., kept, method, object]) = (reader.walk.frame.enter, words)
    else {
        return false;
    };
    let is_sure = [kept, method, object].iter().all(|value| value.is_sure);
    is_sure
        && (kept.word, object.word) == (lock, lock)
        && method_name(reader, method.word)
            .is_some_and(|name| name.rsplit('.').next() == Some("__enter__"))
}

/// The name of a function of Python, or of one of C that is an attribute of its type.
fn method_name(reader: &mut Reader<'_>, method: u64) -> Option<String> {
    let info = reader.types_of(&[method]).pop()??;
    match info.kind {
        Kind::Function => function_name(reader, method),
        _ if &*info.name == "method_descriptor" => {
            let name = reader.pointer(at(method, DESCRIPTOR_NAME)).ok()?;
            reader.read_text(name).map(|name| name.to_string())
        }
        _ => None,
    }
}

/// What a suspended frame keeps.
fn sure(words: impl IntoIterator<Item = u64>) -> impl Iterator<Item = Value> {
    let sure = |word| Value {
        word,
        is_sure: true,
    };
    words.into_iter().map(sure)
}

/// The locks of the methods that each has, without those that several have: of these, only one may have it for sure.
fn of_one_each(values: &[Vec<Value>], methods: &AddressMap<u64>) -> Vec<Vec<u64>> {
    let of_each: Vec<AddressMap<bool>> = values
        .iter()
        .map(|values| {
            let mut of_one = AddressMap::default();
            for value in values.iter().filter(|of| methods.contains_key(&of.word)) {
                *of_one.entry(value.word).or_default() |= value.is_sure;
            }
            of_one
        })
        .collect();
    // How many have it at all, and for sure.
    let mut counts: AddressMap<(usize, usize)> = AddressMap::default();
    for (method, is_sure) in of_each.iter().flatten() {
        let (all, sure) = counts.entry(*method).or_default();
        (*all, *sure) = (*all + 1, *sure + usize::from(*is_sure));
    }
    of_each
        .iter()
        .map(|of_one| {
            let own = of_one.iter().filter(|(method, is_sure)| {
                let count = counts.get(*method);
                matches!((count, **is_sure), (Some((_, 1)), true) | (Some((1, 0)), _))
            });
            let mut inside: Vec<u64> = own
                .filter_map(|(method, _)| methods.get(method).copied())
                .collect();
            inside.sort_unstable();
            inside
        })
        .collect()
}

fn function_name(reader: &mut Reader<'_>, function: u64) -> Option<String> {
    let place = u64::from(reader.walk.callable.function_qualname);
    let name = reader.pointer(function.wrapping_add(place)).ok()?;
    reader.read_text(name).map(|name| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::objects::synthetic::{World, set_word};

    #[test]
    fn a_stack_shows_that_a_statement_is_entered() {
        const LOCK: u64 = 0x5100_0000;
        for (minor, is_loaded) in [(13, false), (14, true), (15, true)] {
            let mut world = World::new(minor);
            let class = world.class("method_descriptor", 0, 64);
            let mut method = |name: &str| {
                let mut bytes = World::object(class, 64);
                set_word(&mut bytes, DESCRIPTOR_NAME, world.text(name));
                world.put(&bytes)
            };
            let (exit, enter, acquire) =
                (method("__exit__"), method("__enter__"), method("acquire"));
            for (words, expected) in [
                (vec![exit, LOCK, enter, LOCK], is_loaded),
                (vec![7, exit, LOCK, enter, LOCK], is_loaded),
                (vec![exit, LOCK, acquire, LOCK], false),
                (vec![exit, LOCK, enter, 7], false),
                (vec![exit, 7, enter, LOCK], false),
                (vec![enter, LOCK], false),
            ] {
                let words: Vec<Value> = sure(words).collect();
                assert_eq!(calls_enter(&mut world.reader(), &words, LOCK), expected);
                let left_over: Vec<Value> = words
                    .into_iter()
                    .map(|value| Value {
                        is_sure: false,
                        ..value
                    })
                    .collect();
                assert!(!calls_enter(&mut world.reader(), &left_over, LOCK));
            }
        }
    }

    /// What is left over in one stack is what another has by now: it is not told whose it is.
    #[test]
    fn a_method_that_several_stacks_have_is_nobodys() {
        let methods: AddressMap<u64> = [(1, 0x10), (2, 0x10), (3, 0x20)].into_iter().collect();
        let value = |word| Value {
            word,
            is_sure: false,
        };
        let sure = |word| Value {
            word,
            is_sure: true,
        };
        let inside = |stacks: &[&[Value]]| {
            let stacks: Vec<Vec<Value>> = stacks.iter().map(|one| one.to_vec()).collect();
            of_one_each(&stacks, &methods)
        };
        let (one, two, three, none) = (value(1), value(2), value(3), value(9));
        assert_eq!(
            inside(&[&[one, one, none], &[two, three, none]]),
            [vec![0x10], vec![0x10, 0x20]]
        );
        assert_eq!(
            inside(&[&[one, two], &[two, three]]),
            [vec![0x10], vec![0x20]]
        );
        assert_eq!(inside(&[&[one, two], &[]]), [vec![0x10, 0x10], vec![]]);
        // What lies below the top of a stack is no leftover.
        assert_eq!(inside(&[&[one], &[sure(1)]]), [vec![], vec![0x10]]);
        assert_eq!(inside(&[&[sure(1)], &[sure(1)]]), [vec![0u64; 0], vec![]]);
    }
}
