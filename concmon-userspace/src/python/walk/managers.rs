//! Context managers that are generators (`contextlib.contextmanager` and `asynccontextmanager`): what each stack or
//! coroutine that is inside of one has by that. The frame of its generator is in no stack, and awaited by nobody.

use std::collections::HashSet;

use super::holders::{self, BOUND_SELF, Kept, Place, inside, own_values};
use super::locals;
use super::stacks::StackFrame;
use crate::python::memory::addresses::{AddressMap, AddressSet};
use crate::python::memory::{Batch, at, plausible};
use crate::python::objects::{Kind, Reader};

/// The classes, and their generator.
const MANAGERS: &[&str] = &["_GeneratorContextManager", "_AsyncGeneratorContextManager"];
const GENERATOR: &str = "gen";
/// Managers inside of managers.
const MAX_NESTED: usize = 4;
/// By one of these a generator puts back what it has taken.
const PUTS: &[&str] = &["put", "put_nowait"];
const MAX_NAMES: u64 = 256;

/// A call of a generator's function: its code, and the values of its variables.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Call {
    code: u64,
    values: Vec<u64>,
}

impl Call {
    /// A later call of the same function for the same things: what it has by now, the other one has.
    fn repeats(&self, earlier: &Call) -> bool {
        let same = |(own, other): (&u64, &u64)| *own == 0 || own == other;
        self.code == earlier.code
            && self.values.len() <= earlier.values.len()
            && self.values.iter().zip(&earlier.values).all(same)
    }
}

/// Which of `stacks` are inside a `with` statement of a manager whose function each of `entering` calls once more; none
/// where nobody has called it with the same arguments and variables, or where it puts nothing back.
pub(crate) fn again(
    reader: &mut Reader<'_>,
    stacks: &[&[StackFrame]],
    entering: &[StackFrame],
) -> Vec<Vec<usize>> {
    let variables = locals::variables(reader, entering);
    let calls = entering
        .iter()
        .zip(variables)
        .map(|(frame, variables)| Call {
            code: frame.position.code,
            values: variables.own().to_vec(),
        });
    let calls: Vec<Call> = calls.collect();
    let frames = of_stacks(reader, stacks);
    holders_of_each(reader, &calls, &frames, stacks.len())
}

/// As [`again`], of suspended coroutines. `entering` is which coroutine waits, and how many frames lie inside of the
/// generator's own.
pub(crate) fn again_awaited(
    reader: &mut Reader<'_>,
    frames: &[Kept],
    count: usize,
    entering: &[(usize, usize)],
) -> Vec<Vec<usize>> {
    let counts = holders::variable_counts(reader, frames);
    let call = |(coroutine, inner): &(usize, usize)| {
        let own = frames.iter().filter(|frame| frame.coroutine == *coroutine);
        let chain: Vec<&Kept> = own.filter(|frame| frame.place == Place::Chain).collect();
        let index = chain.len().checked_sub(inner + 1)?;
        Some(Call::of(chain.get(index)?, &counts))
    };
    // Where the chain has become another one, nobody calls that.
    let nobodys = || Call {
        code: 0,
        values: Vec::new(),
    };
    let calls = entering.iter().map(|one| call(one).unwrap_or_else(nobodys));
    let calls: Vec<Call> = calls.collect();
    holders_of_each(reader, &calls, frames, count)
}

/// The locks that threads wait for of which each stack is inside a `with` statement by way of a manager.
pub(crate) fn held(
    reader: &mut Reader<'_>,
    stacks: &[&[StackFrame]],
    waits_for: &[Option<u64>],
) -> Vec<Vec<u64>> {
    let locks: AddressSet = waits_for.iter().flatten().copied().collect();
    let frames = of_stacks(reader, stacks);
    let values = holders::behind_variables(reader, &frames, stacks.len());
    inside(reader, &values, &locks, "__exit__")
}

/// The frames of each suspended coroutine, and of the generators of the managers that these have, and so on.
pub(crate) fn kept(reader: &mut Reader<'_>, coroutines: &[u64]) -> Vec<Kept> {
    let mut frames = holders::kept(reader, coroutines);
    // One that is being entered is awaited, too.
    let seen = frames.iter();
    let mut seen: HashSet<(usize, u64)> = seen
        .map(|frame| (frame.coroutine, frame.generator))
        .collect();
    let mut from = 0;
    for _ in 0..MAX_NESTED {
        if reader.is_over() {
            break;
        }
        let words = frames[from..].iter().flat_map(|frame| &frame.words);
        let words: AddressSet = words.copied().collect();
        let managers = managers(reader, words);
        let addresses: Vec<u64> = managers.values().copied().collect();
        let generators = generators(reader, addresses);
        let mut next = Vec::new();
        for frame in &frames[from..] {
            let of_frame = frame.words.iter().filter_map(|word| managers.get(word));
            for generator in of_frame.filter_map(|manager| generators.get(manager)) {
                if seen.insert((frame.coroutine, *generator)) {
                    next.push((frame.coroutine, *generator));
                }
            }
        }
        if next.is_empty() {
            break;
        }
        from = frames.len();
        let addresses: Vec<u64> = next.iter().map(|(_, generator)| *generator).collect();
        for mut frame in holders::kept(reader, &addresses) {
            let (coroutine, generator) = next[frame.coroutine];
            frame.coroutine = coroutine;
            frame.place = match frame.generator == generator {
                true => Place::Manager,
                false => Place::Behind,
            };
            if frame.place == Place::Manager || seen.insert((coroutine, frame.generator)) {
                frames.push(frame);
            }
        }
    }
    frames
}

impl Call {
    fn of(frame: &Kept, counts: &AddressMap<usize>) -> Self {
        let variables = counts.get(&frame.code).copied().unwrap_or(0);
        let values = frame.words.iter().take(variables);
        Call {
            code: frame.code,
            values: values.copied().collect(),
        }
    }
}

fn holders_of_each(
    reader: &mut Reader<'_>,
    calls: &[Call],
    frames: &[Kept],
    count: usize,
) -> Vec<Vec<usize>> {
    let counts = holders::variable_counts(reader, frames);
    let mut of_each: Vec<Vec<Call>> = vec![Vec::new(); count];
    for frame in frames.iter().filter(|frame| frame.place == Place::Manager) {
        of_each[frame.coroutine].push(Call::of(frame, &counts));
    }
    let returning = returning(reader, calls.iter().map(|call| call.code).collect());
    let holders = calls
        .iter()
        .map(|call| match returning.contains(&call.code) {
            true => holders_of(call, &of_each),
            false => Vec::new(),
        });
    holders.collect()
}

/// Where some stack is inside of the same call, all are taken that are inside of one of the same function: with other
/// variables, too, they may have what is waited for.
fn holders_of(call: &Call, of_stacks: &[Vec<Call>]) -> Vec<usize> {
    let are_some = of_stacks.iter().flatten().any(|one| call.repeats(one));
    let inside = of_stacks.iter().enumerate();
    let inside = inside.filter(|(_, earlier)| earlier.iter().any(|one| one.code == call.code));
    inside.filter(|_| are_some).map(|(slot, _)| slot).collect()
}

/// The code objects that put something somewhere, by their names of attributes.
fn returning(reader: &mut Reader<'_>, codes: AddressSet) -> AddressSet {
    let codes: Vec<u64> = codes.into_iter().collect();
    let place = reader.walk.code.names();
    let mut batch = Batch::new();
    for code in &codes {
        batch.push(at(*code, place), 8);
    }
    reader.fetch(&mut batch);
    let names = reader.tuples(&batch.words(), MAX_NAMES);
    let all = names.iter().flatten().flatten().copied();
    reader.load_texts(all.collect::<Vec<_>>());
    let puts = |name: &u64| {
        let name = reader.text(*name);
        name.is_some_and(|name| PUTS.contains(&&**name))
    };
    let named = codes.into_iter().zip(names);
    named
        .filter(|(_, names)| names.iter().flatten().any(puts))
        .map(|(code, _)| code)
        .collect()
}

/// The frames of the generators whose managers each stack is inside of, by the number of the stack.
fn of_stacks(reader: &mut Reader<'_>, stacks: &[&[StackFrame]]) -> Vec<Kept> {
    let values = own_values(reader, stacks);
    let words = values.iter().flatten().map(|value| value.word).collect();
    let wanted: AddressSet = managers(reader, words).into_values().collect();
    let entered = inside(reader, &values, &wanted, "__exit__");
    let all: AddressSet = entered.iter().flatten().copied().collect();
    let generators = generators(reader, all.into_iter().collect());
    let (mut slots, mut addresses) = (Vec::new(), Vec::new());
    for (slot, managers) in entered.iter().enumerate() {
        for generator in managers
            .iter()
            .filter_map(|manager| generators.get(manager))
        {
            slots.push(slot);
            addresses.push(*generator);
        }
    }
    let mut frames = kept(reader, &addresses);
    for frame in &mut frames {
        if frame.generator == addresses[frame.coroutine] {
            frame.place = Place::Manager;
        }
        frame.coroutine = slots[frame.coroutine];
    }
    frames
}

/// The managers among words, and those that methods among them are bound to, by the word.
fn managers(reader: &mut Reader<'_>, words: AddressSet) -> AddressMap<u64> {
    let is_address = |word: &u64| plausible(*word) && word.is_multiple_of(8);
    let words: Vec<u64> = words.into_iter().filter(is_address).collect();
    let kinds = reader.types_of(&words);
    let mut found: AddressMap<u64> = AddressMap::default();
    let (mut methods, mut batch) = (Vec::new(), Batch::new());
    for (word, info) in words.into_iter().zip(kinds) {
        match info {
            Some(info) if info.kind == Kind::Method => {
                methods.push(word);
                batch.push(at(word, BOUND_SELF), 8);
            }
            Some(info) if MANAGERS.contains(&&*info.name) => {
                found.insert(word, word);
            }
            _ => {}
        }
    }
    reader.fetch(&mut batch);
    let bound = batch.words();
    let kinds = reader.types_of(&bound);
    let bound = methods.into_iter().zip(bound.into_iter().zip(kinds));
    found.extend(bound.filter_map(|(method, (object, info))| {
        let info = info?;
        MANAGERS.contains(&&*info.name).then_some((method, object))
    }));
    found
}

/// The generator of each manager that has one.
fn generators(reader: &mut Reader<'_>, managers: Vec<u64>) -> AddressMap<u64> {
    let found = reader.attributes(&managers, &[GENERATOR]);
    let found = managers.into_iter().zip(found);
    found
        .filter_map(|(manager, found)| Some((manager, found?.pop()??)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_repeats_another_one_with_the_same_variables() {
        let call = |code: u64, values: &[u64]| Call {
            code,
            values: values.to_vec(),
        };
        let earlier = call(1, &[0x10, 0x20, 0x30]);
        // It has not got what it waits for yet.
        assert!(call(1, &[0x10, 0, 0x30]).repeats(&earlier));
        assert!(call(1, &[]).repeats(&earlier));
        assert!(!call(2, &[0x10, 0, 0x30]).repeats(&earlier));
        assert!(!call(1, &[0x11, 0, 0x30]).repeats(&earlier));
        assert!(!call(1, &[0x10, 0, 0x30, 0]).repeats(&earlier));
    }

    #[test]
    fn whoever_may_have_an_item_is_a_holder() {
        let call = |code: u64, value: u64| Call {
            code,
            values: vec![value],
        };
        let stacks = [
            vec![call(1, 0x10)],
            vec![call(1, 0x20)],
            vec![call(2, 0x10)],
        ];
        assert_eq!(holders_of(&call(1, 0x10), &stacks), [0, 1]);
        assert_eq!(holders_of(&call(1, 0x30), &stacks), [0; 0]);
    }
}
