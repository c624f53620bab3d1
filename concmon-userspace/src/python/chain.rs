//! Await chains: from a coroutine down to the innermost one that waits.

use super::layout::{AwaitShape, WalkLayout};
use super::memory::{Batch, byte, int, word};
use super::object::{Kind, OBJECT_SIZE, OBJECT_TYPE, Reader, signed_byte};

/// How many bytes of locals and values are read along with a generator's head.
const FIRST_VALUES_BYTES: usize = 96;
/// The largest generator: head, frame, locals and values, bytes.
const MAX_GENERATOR_BYTES: usize = 1 << 16;
/// Tags of references, and of what is no reference, in 3.14 and later (`pycore_stackref.h`).
const TAG_BITS: u64 = 3;
/// How far the argument of a resume says that something is awaited.
const RESUME_AFTER_AWAIT: u8 = 2;

/// One suspended frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) code: u64,
    pub(super) instruction: u64,
}

/// How the walk of a chain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// At something that is no generator, or at one that has not begun.
    Whole,
    /// The outermost coroutine runs right now: it has no chain.
    Executing,
    /// There are more links than were asked for.
    TooDeep,
    /// What was read does not fit together.
    Torn,
}

/// A coroutine's chain at one instant.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub(super) links: Vec<Link>,
    pub(super) end: End,
    /// Address of the outermost coroutine's qualified name; 0 for what is no generator.
    pub(super) qualname: u64,
    /// What must be the same when the coroutine is read again for the chain to hold.
    head: Vec<u8>,
}

/// What one generator says.
enum Step {
    /// The awaited object.
    Next(Link, u64),
    /// The awaited object, if the instruction at this address resumes after an await.
    NextIfResume(Link, u64, u64),
    /// Nothing is awaited, or it has not begun.
    Last(Link),
    /// Stands for another generator.
    Through(u64),
    /// Not a generator: the chain ends above it.
    Leaf,
    Executing,
    /// This many bytes must be read in one piece.
    Longer(usize),
    Torn,
}

/// The chain of each coroutine, of at most `depth` links.
pub(super) fn chains(reader: &mut Reader<'_>, coroutines: &[u64], depth: usize) -> Vec<Chain> {
    let mut chains: Vec<Chain> = coroutines
        .iter()
        .map(|_| Chain {
            links: Vec::new(),
            end: End::TooDeep,
            qualname: 0,
            head: Vec::new(),
        })
        .collect();
    let mut front: Vec<(usize, u64)> = coroutines.iter().copied().enumerate().collect();
    for level in 0..depth {
        if front.is_empty() {
            break;
        }
        front = advance(reader, &mut chains, &front, level == 0);
    }
    chains
}

/// Reads one level of all chains; gives those that go on.
fn advance(
    reader: &mut Reader<'_>,
    chains: &mut [Chain],
    front: &[(usize, u64)],
    outermost: bool,
) -> Vec<(usize, u64)> {
    let first_len =
        (reader.walk.generator.frame + reader.walk.frame.locals) as usize + FIRST_VALUES_BYTES;
    let lens = vec![first_len; front.len()];
    let (mut batch, mut steps) = read_steps(reader, front, &lens);
    let longer: Vec<usize> = (0..front.len())
        .filter(|slot| matches!(steps[*slot], Step::Longer(_)))
        .collect();
    if !longer.is_empty() {
        let again: Vec<(usize, u64)> = longer.iter().map(|slot| front[*slot]).collect();
        let lens: Vec<usize> = longer
            .iter()
            .map(|slot| match steps[*slot] {
                Step::Longer(len) => len,
                _ => first_len,
            })
            .collect();
        let (_, again) = read_steps(reader, &again, &lens);
        for (slot, step) in longer.into_iter().zip(again) {
            steps[slot] = step;
        }
    }
    if outermost {
        for (slot, (index, _)) in front.iter().enumerate() {
            note_head(reader, &mut chains[*index], batch.prefix(slot));
        }
    }
    batch = Batch::new();
    for step in &steps {
        match step {
            Step::NextIfResume(_, instruction, _) => batch.push(*instruction, 2),
            _ => batch.push(0, 0),
        };
    }
    if steps
        .iter()
        .any(|step| matches!(step, Step::NextIfResume(..)))
    {
        reader.fetch(&mut batch);
    }
    let mut next = Vec::new();
    for (slot, step) in steps.into_iter().enumerate() {
        let (index, _) = front[slot];
        let chain = &mut chains[index];
        let step = match step {
            Step::NextIfResume(link, _, awaited) => match batch.whole(slot) {
                Some(code) if resumes_after_await(&reader.walk, code) => Step::Next(link, awaited),
                Some(_) => Step::Last(link),
                None => Step::Torn,
            },
            other => other,
        };
        match step {
            Step::Next(link, awaited) => {
                chain.links.push(link);
                next.push((index, awaited));
            }
            Step::Last(link) => {
                chain.links.push(link);
                chain.end = End::Whole;
            }
            Step::Through(inner) => next.push((index, inner)),
            Step::Leaf => chain.end = End::Whole,
            // A generator inside a suspended one cannot run.
            Step::Executing if outermost => chain.end = End::Executing,
            _ => chain.end = End::Torn,
        }
    }
    next
}

fn read_steps(
    reader: &mut Reader<'_>,
    front: &[(usize, u64)],
    lens: &[usize],
) -> (Batch, Vec<Step>) {
    let mut batch = Batch::new();
    for ((_, address), len) in front.iter().zip(lens) {
        batch.push(*address, *len);
    }
    reader.fetch(&mut batch);
    reader.load_types((0..front.len()).filter_map(|slot| word(batch.prefix(slot), OBJECT_TYPE)));
    let steps = front
        .iter()
        .enumerate()
        .map(|(slot, (_, address))| {
            let bytes = batch.prefix(slot);
            match reader.kind(bytes) {
                None | Some(Kind::Mistrusted) => Step::Torn,
                Some(Kind::Generator) => parse(&reader.walk, *address, bytes).unwrap_or(Step::Torn),
                Some(Kind::GeneratorProxy) => {
                    word(bytes, OBJECT_SIZE).map_or(Step::Torn, Step::Through)
                }
                Some(_) => Step::Leaf,
            }
        })
        .collect();
    (batch, steps)
}

/// What a generator's bytes say; `None` when they are too few.
fn parse(walk: &WalkLayout, address: u64, bytes: &[u8]) -> Option<Step> {
    let state = signed_byte(bytes, walk.generator.state)?;
    let states = walk.generator.states;
    if state == states.executing {
        return Some(Step::Executing);
    }
    let frame = bytes.get(walk.generator.frame as usize..)?;
    let untag = |value: u64| {
        if walk.frame.tagged {
            value & !TAG_BITS
        } else {
            value
        }
    };
    let link = Link {
        code: untag(word(frame, walk.frame.executable)?),
        instruction: word(frame, walk.frame.instruction)?,
    };
    let awaiting = states.awaiting.contains(&state);
    if state == states.created || (state == states.suspended && !states.awaiting.is_empty()) {
        return Some(Step::Last(link));
    }
    if state != states.suspended && !awaiting {
        return Some(Step::Torn);
    }
    let stack = match walk.frame.awaited {
        AwaitShape::Resume { .. } | AwaitShape::StackIndex => {
            let depth = u32::try_from(int(frame, walk.frame.stack)?).ok()?;
            let values = walk.generator.frame + walk.frame.locals;
            values.checked_add(depth.checked_mul(8)?)?
        }
        AwaitShape::StackPointer => {
            let inside = word(frame, walk.frame.stack)?.checked_sub(address)?;
            u32::try_from(inside).ok()?
        }
    };
    if stack as usize > MAX_GENERATOR_BYTES || stack < walk.generator.frame + walk.frame.locals + 8
    {
        // A suspended coroutine that has nothing on its stack awaits nothing.
        return match walk.frame.awaited {
            AwaitShape::Resume { .. } if stack as usize <= MAX_GENERATOR_BYTES => {
                Some(Step::Last(link))
            }
            _ => Some(Step::Torn),
        };
    }
    if stack as usize > bytes.len() {
        return Some(Step::Longer(stack as usize));
    }
    let top = word(bytes, stack - 8)?;
    Some(match walk.frame.awaited {
        AwaitShape::Resume { .. } => {
            // The frame's pointer is at the instruction that yielded; the next one follows.
            Step::NextIfResume(link, link.instruction.wrapping_add(2), top)
        }
        AwaitShape::StackIndex => Step::Next(link, top),
        AwaitShape::StackPointer if top == 1 || top & TAG_BITS == TAG_BITS => {
            Step::Next(link, untag(word(bytes, stack.checked_sub(16)?)?))
        }
        AwaitShape::StackPointer => Step::Next(link, untag(top)),
    })
}

fn resumes_after_await(walk: &WalkLayout, code: &[u8]) -> bool {
    let AwaitShape::Resume { opcodes } = walk.frame.awaited else {
        return false;
    };
    let (Some(opcode), Some(argument)) = (byte(code, 0), byte(code, 1)) else {
        return false;
    };
    opcodes.contains(&opcode) && argument >= RESUME_AFTER_AWAIT
}

/// Keeps what identifies the outermost coroutine's state.
fn note_head(reader: &Reader<'_>, chain: &mut Chain, bytes: &[u8]) {
    if reader.kind(bytes) != Some(Kind::Generator) {
        return;
    }
    chain.qualname = word(bytes, reader.walk.generator.qualname).unwrap_or(0);
    chain.head = head(&reader.walk, bytes).to_vec();
}

/// From the name to the stack: whatever moves when a coroutine runs is in there.
fn head<'b>(walk: &WalkLayout, bytes: &'b [u8]) -> &'b [u8] {
    let from = walk.generator.qualname as usize;
    let to = (walk.generator.frame + walk.frame.stack) as usize + 8;
    bytes.get(from..to).unwrap_or_default()
}

/// Which chains still hold: their coroutines are in the state they were read in.
pub(super) fn still_hold(
    reader: &mut Reader<'_>,
    coroutines: &[u64],
    chains: &[Chain],
) -> Vec<bool> {
    let len = (reader.walk.generator.frame + reader.walk.frame.stack) as usize + 8;
    let mut batch = Batch::new();
    for coroutine in coroutines {
        batch.push(*coroutine, len);
    }
    reader.fetch(&mut batch);
    chains
        .iter()
        .enumerate()
        .map(|(slot, chain)| match chain.end {
            End::Torn => false,
            // It runs: of course it changes.
            End::Executing => true,
            End::Whole | End::TooDeep => {
                chain.head.is_empty() || chain.head == head(&reader.walk, batch.prefix(slot))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::{World, set_word};
    use super::*;

    struct Case {
        state: i8,
        /// Values on the stack, the top last.
        stack: Vec<u64>,
        resume: [u8; 2],
    }

    /// A coroutine with two locals; its code is at its own number times 16.
    fn coroutine(world: &mut World, case: &Case) -> u64 {
        let (generator, frame) = (world.walk.generator, world.walk.frame);
        let class = world.class("coroutine", 0, (generator.frame + frame.locals).into());
        let resume = world.put(&[0, 0, case.resume[0], case.resume[1]]);
        let values = generator.frame + frame.locals;
        let depth = 2 + case.stack.len() as u32;
        let mut bytes = World::object(class, (values + depth * 8) as usize);
        let address = world.put(&bytes);
        bytes[generator.state as usize] = case.state as u8;
        set_word(&mut bytes, generator.frame + frame.executable, 0xc0de0);
        set_word(&mut bytes, generator.frame + frame.instruction, resume);
        let stack = match frame.awaited {
            AwaitShape::StackPointer => address + u64::from(values + depth * 8),
            _ => depth.into(),
        };
        set_word(&mut bytes, generator.frame + frame.stack, stack);
        for (index, value) in case.stack.iter().enumerate() {
            set_word(&mut bytes, values + 16 + index as u32 * 8, *value);
        }
        // The later segment at the same address is the longest match, too.
        world.memory.put(address, bytes);
        address
    }

    fn walked(world: &World, coroutine: u64) -> (usize, End) {
        let chain = chains(&mut world.reader(), &[coroutine], 8).remove(0);
        (chain.links.len(), chain.end)
    }

    #[test]
    fn each_release_says_in_its_own_way_what_is_awaited() {
        for minor in 11..=15 {
            let mut world = World::new(minor);
            let states = world.walk.generator.states;
            let awaiting = states.awaiting.first().copied().unwrap_or(states.suspended);
            let class = world.class("_asyncio.FutureIter", 0, 24);
            let future = world.put(&World::object(class, 256));
            let mut make = |state: i8, stack: Vec<u64>, resume: [u8; 2]| {
                coroutine(
                    &mut world,
                    &Case {
                        state,
                        stack,
                        resume,
                    },
                )
            };
            let (after_await, after_yield) = ([151, 3], [151, 1]);
            let inner = make(awaiting, vec![77, future], after_await);
            let outer = make(awaiting, vec![inner], after_await);
            let many = make(awaiting, vec![1; 100], after_await);
            let deep = make(awaiting, [vec![1; 100], vec![outer]].concat(), after_await);
            let yields = make(states.suspended, vec![future], after_yield);
            let created = make(states.created, vec![], [0, 0]);
            let executing = make(states.executing, vec![], [0, 0]);
            let runs_below = make(awaiting, vec![executing], after_await);
            let finished = make(7, vec![], [0, 0]);
            let waits_for_none = make(awaiting, vec![0], after_await);
            let marker = make(awaiting, vec![inner, 3], after_await);
            for (name, coroutine, expected) in [
                ("one", inner, (1, End::Whole)),
                ("two", outer, (2, End::Whole)),
                ("more values than are read at first", deep, (3, End::Whole)),
                ("no object at all", many, (1, End::Torn)),
                ("a plain yield", yields, (1, End::Whole)),
                ("not begun", created, (1, End::Whole)),
                ("running", executing, (0, End::Executing)),
                ("running below a suspended one", runs_below, (1, End::Torn)),
                ("finished", finished, (0, End::Torn)),
                ("nothing", waits_for_none, (1, End::Torn)),
                ("unmapped", 0x7777_0000, (0, End::Torn)),
            ] {
                assert_eq!(walked(&world, coroutine), expected, "3.{minor}: {name}");
            }
            if world.walk.frame.awaited == AwaitShape::StackPointer {
                assert_eq!(walked(&world, marker), (2, End::Whole), "3.{minor}");
            }
        }
    }

    #[test]
    fn objects_of_an_unexpected_size_are_not_read() {
        let mut world = World::new(13);
        let class = world.class("coroutine", 0, 1000);
        let object = world.put(&World::object(class, 256));
        let mut reader = world.reader();
        assert_eq!(chains(&mut reader, &[object], 8)[0].end, End::Torn);
        assert!(reader.limits["layout.coroutine"].contains("1000 bytes"));
    }

    #[test]
    fn a_chain_that_bites_its_tail_ends() {
        let mut world = World::new(13);
        let case = |stack| Case {
            state: -1,
            stack,
            resume: [0, 0],
        };
        let own_address = coroutine(&mut world, &case(vec![0]));
        let mut other = World::new(13);
        assert_eq!(coroutine(&mut other, &case(vec![own_address])), own_address);
        assert_eq!(walked(&other, own_address), (8, End::TooDeep));
    }
}
