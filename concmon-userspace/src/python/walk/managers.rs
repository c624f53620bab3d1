//! Context managers that are generators (`contextlib.contextmanager`): which of them each stack is inside of.

use super::holders::{BOUND_SELF, inside, kept, own_values};
use super::locals;
use super::stacks::StackFrame;
use crate::python::memory::addresses::{AddressMap, AddressSet};
use crate::python::memory::{Batch, at, plausible};
use crate::python::objects::{Kind, Reader};

/// The class, and its generator.
const MANAGER: &str = "_GeneratorContextManager";
const GENERATOR: &str = "gen";

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
/// where nobody has called it with the same arguments and variables.
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
    let of_stacks = of_stacks(reader, stacks);
    calls
        .iter()
        .map(|call| holders_of(call, &of_stacks))
        .collect()
}

/// Where some stack is inside of the same call, all are taken that are inside of one of the same function: with other
/// variables, too, they may have what is waited for.
fn holders_of(call: &Call, of_stacks: &[Vec<Call>]) -> Vec<usize> {
    let are_some = of_stacks.iter().flatten().any(|one| call.repeats(one));
    let inside = of_stacks.iter().enumerate();
    let inside = inside.filter(|(_, earlier)| earlier.iter().any(|one| one.code == call.code));
    inside.filter(|_| are_some).map(|(slot, _)| slot).collect()
}

/// The calls of suspended generators whose managers each stack is inside of.
fn of_stacks(reader: &mut Reader<'_>, stacks: &[&[StackFrame]]) -> Vec<Vec<Call>> {
    let values = own_values(reader, stacks);
    let words: AddressSet = values.iter().flatten().map(|value| value.word).collect();
    let words: Vec<u64> = words
        .into_iter()
        .filter(|word| plausible(*word) && word % 8 == 0)
        .collect();
    let kinds = reader.types_of(&words);
    let (mut managers, mut batch) = (Vec::new(), Batch::new());
    for (word, info) in words.into_iter().zip(kinds) {
        match info {
            Some(info) if info.kind == Kind::Method => {
                batch.push(at(word, BOUND_SELF), 8);
            }
            Some(info) if &*info.name == MANAGER => managers.push(word),
            _ => {}
        }
    }
    reader.fetch(&mut batch);
    let bound = batch.words();
    let kinds = reader.types_of(&bound);
    let bound = bound.into_iter().zip(kinds);
    let is_one = |info: &str| info == MANAGER;
    managers.extend(
        bound
            .filter(|(_, info)| info.as_ref().is_some_and(|info| is_one(&info.name)))
            .map(|(object, _)| object),
    );
    managers.sort_unstable();
    managers.dedup();
    let generators = reader.attributes(&managers, &[GENERATOR]);
    let generators: Vec<u64> = generators
        .into_iter()
        .map(|found| found.and_then(|found| found[0]).unwrap_or(0))
        .collect();
    let mut calls: AddressMap<Call> = AddressMap::default();
    for frame in kept(reader, &generators) {
        // The first one is its own, those behind it are what it delegates to.
        calls.entry(managers[frame.coroutine]).or_insert(Call {
            code: frame.code,
            values: frame.words,
        });
    }
    let wanted: AddressSet = calls.keys().copied().collect();
    let found = inside(reader, &values, &wanted, "__exit__");
    let found = found.into_iter().map(|managers| {
        let calls = managers.iter().filter_map(|manager| calls.get(manager));
        calls.cloned().collect()
    });
    found.collect()
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
