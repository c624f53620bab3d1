//! Local variables and temporary values of frames that are on a stack.

use super::stacks::StackFrame;
use crate::python::memory::addresses::AddressMap;
use crate::python::memory::{Batch, at, word};
use crate::python::objects::{OBJECT_SIZE, Reader};

/// The most variables of a frame that are read.
const MAX_VARIABLES: u64 = 128;
/// How many words behind the variables are taken for temporary values: most frames have fewer, so
/// what is there may also be left over, or not be theirs.
const TEMPORARIES: usize = 24;

/// What a frame holds, as addresses of objects; 0 where there is nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Variables {
    /// Addresses of the names of the first values.
    names: Vec<u64>,
    /// These are the names of all variables.
    knows_all: bool,
    pub(crate) values: Vec<u64>,
}

impl Variables {
    /// The variables' own values, as many as are known.
    pub(crate) fn own(&self) -> &[u64] {
        let known = self
            .values
            .get(..self.names.len())
            .filter(|_| self.knows_all);
        known.unwrap_or_default()
    }

    /// What is on the stack behind the variables: up to `depth` words with these, or so many words where that is not
    /// known. None where it is not known how many variables there are.
    pub(crate) fn temporaries(&self, count: usize, depth: Option<usize>) -> &[u64] {
        let first = self.names.len();
        let known = depth.filter(|_| self.is_possible(depth));
        let end = known.unwrap_or(first + count).min(self.values.len());
        let behind = self.values.get(first..end).filter(|_| self.knows_all);
        behind.unwrap_or_default()
    }

    /// The place of a value among those behind the variables, as a depth: of the first one that is this.
    pub(crate) fn first_temporary(&self, wanted: u64) -> Option<usize> {
        let behind = self.values.get(self.names.len()..)?;
        let index = behind.iter().position(|value| *value == wanted)?;
        Some(self.names.len() + index)
    }

    /// A depth is known, and can be one.
    pub(crate) fn is_possible(&self, depth: Option<usize>) -> bool {
        let possible = self.names.len()..=self.values.len();
        depth.is_some_and(|depth| possible.contains(&depth))
    }

    /// The value of a variable; 0 when it has none at the moment, `None` when there is no such
    /// variable.
    pub(crate) fn named(&self, reader: &Reader<'_>, name: &str) -> Option<u64> {
        let has_name = |text: &u64| reader.text(*text).is_some_and(|text| **text == *name);
        let index = self.names.iter().position(has_name)?;
        Some(self.values.get(index).copied().unwrap_or(0))
    }
}

/// The variables and temporary values of each frame; empty where they cannot be read.
pub(crate) fn variables(reader: &mut Reader<'_>, frames: &[StackFrame]) -> Vec<Variables> {
    let names = names(reader, frames);
    let locals = reader.walk.frame.locals;
    let mut batch = Batch::new();
    for frame in frames {
        let known = names.get(&frame.position.code).map_or(0, Vec::len);
        batch.push(at(frame.address, locals), (known + TEMPORARIES) * 8);
    }
    reader.fetch(&mut batch);
    frames
        .iter()
        .enumerate()
        .map(|(index, frame)| {
            let words = batch.prefix(index).chunks_exact(8);
            let names = names.get(&frame.position.code);
            Variables {
                knows_all: names.is_some_and(|names| (names.len() as u64) < MAX_VARIABLES),
                names: names.cloned().unwrap_or_default(),
                values: words
                    .filter_map(|bytes| Some(reader.walk.frame.untag(word(bytes, 0)?)))
                    .collect(),
            }
        })
        .collect()
}

/// The names of the variables of each code object.
fn names(reader: &mut Reader<'_>, frames: &[StackFrame]) -> AddressMap<Vec<u64>> {
    let mut codes: Vec<u64> = frames.iter().map(|frame| frame.position.code).collect();
    codes.sort_unstable();
    codes.dedup();
    let mut batch = Batch::new();
    for code in &codes {
        batch.push(at(*code, reader.walk.code.local_names), 8);
    }
    reader.fetch(&mut batch);
    let mut names = AddressMap::default();
    for (index, code) in codes.into_iter().enumerate() {
        let tuple = batch.whole(index).and_then(|bytes| word(bytes, 0));
        let found = tuple.and_then(|tuple| reader.tuple(tuple, MAX_VARIABLES));
        names.extend(found.map(|found| (code, found)));
    }
    reader.load_texts(names.values().flatten().copied().collect::<Vec<_>>());
    names
}

/// How many variables frames of each code object have, of those where it can be read.
pub(crate) fn counts(reader: &mut Reader<'_>, codes: &[u64]) -> AddressMap<usize> {
    let place = reader.walk.code.local_names;
    let mut tuples = Batch::new();
    for code in codes {
        tuples.push(at(*code, place), 8);
    }
    reader.fetch(&mut tuples);
    let mut sizes = Batch::new();
    for slot in 0..codes.len() {
        let tuple = tuples.whole(slot).and_then(|bytes| word(bytes, 0));
        sizes.push(at(tuple.unwrap_or(0), OBJECT_SIZE), 8);
    }
    reader.fetch(&mut sizes);
    let size = |slot: usize| usize::try_from(word(sizes.whole(slot)?, 0)?).ok();
    let sizes = codes.iter().enumerate();
    sizes
        .filter_map(|(slot, code)| Some((*code, size(slot)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_the_variables_ends_at_the_top_of_the_stack() {
        let mut frame = Variables {
            names: vec![1, 2],
            knows_all: true,
            values: (0..10).collect(),
        };
        assert_eq!(frame.temporaries(3, None), [2, 3, 4]);
        assert_eq!(frame.temporaries(3, Some(2)), [0u64; 0]);
        assert_eq!(frame.temporaries(3, Some(9)), [2, 3, 4, 5, 6, 7, 8]);
        // No depths of this frame.
        assert_eq!(frame.temporaries(3, Some(1)), [2, 3, 4]);
        assert_eq!(frame.temporaries(3, Some(11)), [2, 3, 4]);
        assert_eq!(frame.temporaries(30, None).len(), 8);
        frame.knows_all = false;
        assert_eq!(frame.temporaries(3, Some(9)), [0u64; 0]);
    }
}
