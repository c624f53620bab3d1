//! Await chains: from a coroutine down to the innermost one that waits.

use super::suspended::{FirstLocals, Pieces, Step, await_says};
use crate::python::memory::{Batch, word};
use crate::python::objects::code::CodePosition;
use crate::python::objects::{Kind, OBJECT_TYPE, Reader};

/// How many bytes of locals and values are read along with a frame.
const FIRST_VALUES_BYTES: u32 = 96;
/// The same of one that stands still for a moment only, and how often it is read to meet it so.
const RESTLESS_VALUES_BYTES: u32 = 1024;
const MAX_TRIES: usize = 48;
/// How far a chain is followed, whatever is kept of it; CPython's own limit on recursion is 1,000 unless it is raised.
const MAX_DEPTH: usize = 4096;

/// How the walk of a chain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// At something that is no generator, or at one that has not begun.
    Whole,
    /// The outermost generator runs right now: it has no chain.
    Executing,
    /// It goes on past what is followed, or in a circle.
    TooDeep,
    /// What was read does not fit together.
    Torn,
}

/// A coroutine's chain at one instant.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    pub(crate) positions: Vec<CodePosition>,
    /// Addresses of the qualified names of the frames' coroutines.
    pub(crate) qualnames: Vec<u64>,
    pub(crate) end: End,
    /// Address of the coroutine's own qualified name; 0 for what is no generator.
    pub(crate) qualname: u64,
    /// The outermost generator, which is the coroutine itself or the one that it stands for, and the address of its
    /// qualified name; 0 where there is none.
    pub(crate) generator: u64,
    pub(crate) generator_name: u64,
    /// The first local variables of each frame; 0 where it has none.
    pub(crate) locals: Vec<FirstLocals>,
    /// The coroutine is no generator, but stands for one.
    is_proxy: bool,
    /// How many generators were met, and the last of them at a power of two: who meets it again goes in a circle.
    met: u32,
    milestone: u64,
    /// What must be the same when the generator is read again for the chain to hold.
    head: Vec<u8>,
}

impl Chain {
    fn new() -> Self {
        Chain {
            positions: Vec::new(),
            qualnames: Vec::new(),
            end: End::TooDeep,
            qualname: 0,
            generator: 0,
            generator_name: 0,
            locals: Vec::new(),
            is_proxy: false,
            met: 0,
            milestone: u64::MAX,
            head: Vec::new(),
        }
    }
}

impl Chain {
    /// Adds the frame that the last one awaits. Of more than `depth`, those in the middle are but counted.
    fn push(&mut self, frame: (CodePosition, u64, FirstLocals), depth: usize) {
        let (position, qualname, locals) = frame;
        self.positions.push(position);
        self.qualnames.push(qualname);
        self.locals.push(locals);
        let middle = depth / 2;
        if self.positions.len() <= depth.max(middle + 2) {
            return;
        }
        match self.positions[middle].left_out() {
            Some(count) => {
                self.positions[middle] = CodePosition::of_left_out(count + 1);
                self.remove(middle + 1);
            }
            None => {
                self.positions[middle] = CodePosition::of_left_out(2);
                self.qualnames[middle] = 0;
                self.locals[middle] = FirstLocals::default();
                self.remove(middle + 1);
            }
        }
    }

    fn remove(&mut self, at: usize) {
        self.positions.remove(at);
        self.qualnames.remove(at);
        self.locals.remove(at);
    }
}

/// Says so where not all of each chain is told.
pub(crate) fn note_folded(reader: &mut Reader<'_>, chains: &[Chain], depth: usize) {
    let is_folded = |chain: &Chain| chain.positions.iter().any(|at| at.left_out().is_some());
    if depth == 0 {
        return;
    }
    let reason = match chains.iter().find(|chain| chain.end == End::TooDeep) {
        Some(_) => format!("no chain is followed past {MAX_DEPTH} frames, or in a circle"),
        None if chains.iter().any(is_folded) => format!(
            "of chains of more than {depth} frames the outermost and the innermost are told; how many are between \
             them is said there"
        ),
        None => return,
    };
    reader.limits.insert("tasks.awaiting".to_owned(), reason);
}

/// The chain of each coroutine, of at most `depth` frames: those in the middle of a longer one are left out.
pub(crate) fn chains(reader: &mut Reader<'_>, coroutines: &[u64], depth: usize) -> Vec<Chain> {
    let mut chains = vec![Chain::new(); coroutines.len()];
    if depth == 0 {
        note_names(reader, coroutines, &mut chains);
        return chains;
    }
    let mut front: Vec<(usize, u64)> = coroutines.iter().copied().enumerate().collect();
    for _ in 0..MAX_DEPTH {
        if front.is_empty() || reader.is_over() {
            break;
        }
        front = advance(reader, &mut chains, &front, depth, FIRST_VALUES_BYTES);
    }
    chains
}

/// The chain of a coroutine that goes on sooner than all of it can be read: each frame is read until it stands still, so
/// that they are of different instants.
pub(crate) fn in_parts(reader: &mut Reader<'_>, coroutine: u64, depth: usize) -> Chain {
    let mut chain = Chain::new();
    let mut front = vec![(0, coroutine)];
    for _ in 0..MAX_DEPTH {
        for _ in 0..MAX_TRIES {
            if reader.is_over() {
                return chain;
            }
            let mut longer = [Chain {
                end: End::TooDeep,
                ..chain.clone()
            }];
            let next = advance(reader, &mut longer, &front, depth, RESTLESS_VALUES_BYTES);
            let [one] = longer;
            if let End::Whole | End::TooDeep = one.end {
                (chain, front) = (one, next);
                break;
            }
            chain.end = one.end;
        }
        if front.is_empty() || chain.end != End::TooDeep {
            break;
        }
    }
    chain
}

/// The names of coroutines whose chains are not asked for.
fn note_names(reader: &mut Reader<'_>, coroutines: &[u64], chains: &mut [Chain]) {
    let place = reader.walk.generator.qualname;
    let mut batch = Batch::new();
    for coroutine in coroutines {
        batch.push(*coroutine, place as usize + 8);
    }
    reader.fetch(&mut batch);
    reader.load_types((0..batch.len()).filter_map(|slot| word(batch.prefix(slot), OBJECT_TYPE)));
    for (slot, chain) in chains.iter_mut().enumerate() {
        let bytes = batch.prefix(slot);
        chain.end = End::Whole;
        if reader.kind(bytes) == Some(Kind::Generator) {
            chain.qualname = word(bytes, place).unwrap_or(0);
        }
    }
}

/// Reads one level of all chains; gives those that go on.
fn advance(
    reader: &mut Reader<'_>,
    chains: &mut [Chain],
    front: &[(usize, u64)],
    depth: usize,
    values_bytes: u32,
) -> Vec<(usize, u64)> {
    let addresses: Vec<u64> = front.iter().map(|(_, address)| *address).collect();
    let first_len = reader.walk.frame.locals + values_bytes;
    let pieces = Pieces::read(reader, &addresses, &vec![first_len; front.len()]);
    let mut steps = pieces.steps(reader);
    let longer: Vec<(usize, u32)> = steps
        .iter()
        .enumerate()
        .filter_map(|(slot, step)| match step {
            Step::Longer(len) => Some((slot, *len)),
            _ => None,
        })
        .collect();
    if !longer.is_empty() {
        let (slots, lens): (Vec<usize>, Vec<u32>) = longer.into_iter().unzip();
        let again: Vec<u64> = slots.iter().map(|slot| addresses[*slot]).collect();
        let again = Pieces::read(reader, &again, &lens).steps(reader);
        for (slot, step) in slots.into_iter().zip(again) {
            steps[slot] = step;
        }
    }
    for (slot, (index, address)) in front.iter().enumerate() {
        let chain = &mut chains[*index];
        let bytes = pieces.generator(slot);
        if chain.positions.is_empty() && reader.kind(bytes) == Some(Kind::Generator) {
            let name = word(bytes, reader.walk.generator.qualname).unwrap_or(0);
            if !chain.is_proxy {
                chain.qualname = name;
            }
            (chain.generator, chain.generator_name) = (*address, name);
            chain.head = pieces.head(&reader.walk, slot);
        }
    }
    let awaits = await_says(reader, &steps);
    let mut next = Vec::new();
    for (slot, step) in steps.into_iter().enumerate() {
        let (index, _) = front[slot];
        let chain = &mut chains[index];
        let step = match step {
            Step::NextIf(position, awaited) => match awaits[slot] {
                Some(true) => Step::Next(position, awaited),
                Some(false) => Step::Last(position),
                None => Step::Torn,
            },
            other => other,
        };
        if let Step::Next(position, _) | Step::Last(position) = step {
            let qualname = word(pieces.generator(slot), reader.walk.generator.qualname);
            let locals = pieces.first_locals(&reader.walk, slot);
            chain.push((position, qualname.unwrap_or(0), locals), depth);
        }
        let following = match step {
            Step::Next(_, awaited) => Some(awaited),
            Step::Through(inner) => Some(inner),
            _ => None,
        };
        match step {
            // What awaits itself is no chain that ends.
            Step::Next(..) | Step::Through(_) if following == Some(chain.milestone) => {}
            Step::Next(_, awaited) => next.push((index, awaited)),
            Step::Last(_) => chain.end = End::Whole,
            Step::Through(inner) => {
                chain.is_proxy |= chain.positions.is_empty();
                next.push((index, inner));
            }
            Step::Leaf => chain.end = End::Whole,
            // A generator inside a suspended one cannot run.
            Step::Executing if chain.positions.is_empty() => chain.end = End::Executing,
            _ => chain.end = End::Torn,
        }
        chain.met += 1;
        if chain.met.is_power_of_two() {
            chain.milestone = following.unwrap_or(u64::MAX);
        }
    }
    next
}

/// Which chains still hold: their generators are in the state they were read in.
pub(crate) fn still_hold(reader: &mut Reader<'_>, chains: &[Chain]) -> Vec<bool> {
    let len = reader.walk.frame.locals;
    let generators: Vec<u64> = chains.iter().map(|chain| chain.generator).collect();
    let pieces = Pieces::read(reader, &generators, &vec![len; generators.len()]);
    chains
        .iter()
        .enumerate()
        .map(|(slot, chain)| match chain.end {
            End::Torn => false,
            // It runs: of course it changes.
            End::Executing => true,
            End::Whole | End::TooDeep => {
                chain.head.is_empty() || chain.head == pieces.head(&reader.walk, slot)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
