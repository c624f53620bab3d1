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
mod tests {
    use super::*;
    use crate::python::layout::{
        AwaitShape, GeneratorFrame, InstructionShape, Instructions, StackShape, StateNumbers,
        StateShape,
    };
    use crate::python::memory::at;
    use crate::python::objects::OBJECT_SIZE;
    use crate::python::objects::synthetic::{World, set_word};

    struct Case {
        /// 7: finished.
        state: i8,
        /// Values on the stack, the top last.
        stack: Vec<u64>,
        resume: [u8; 2],
    }

    /// A coroutine with two locals.
    fn coroutine(world: &mut World, case: &Case) -> u64 {
        let (generator, frame) = (world.walk.generator, world.walk.frame);
        let size = match generator.frame {
            GeneratorFrame::Inside(inside) => inside + frame.locals,
            GeneratorFrame::Object { size, .. } => size,
        };
        let class = world.class("coroutine", 0, size.into());
        let depth = 2 + case.stack.len() as u32;
        let frame_len = frame.locals + depth * 8;
        // The instruction where it waits is the first one; the one after it says what for.
        let instructions = [0, 0, case.resume[0], case.resume[1]];
        let (code, instruction) = match world.walk.code.instructions {
            Instructions::Inside(first) => {
                let mut code = vec![0; first as usize];
                code.extend(instructions);
                let code = world.put(&code);
                (code, at(code, first))
            }
            Instructions::Bytes { pointer, size } => {
                let mut bytes = vec![0; world.walk.text.bytes as usize];
                bytes.extend(instructions);
                let bytes = world.put(&bytes);
                let mut code = vec![0; size as usize];
                set_word(&mut code, pointer, bytes);
                (world.put(&code), 0)
            }
        };
        let mut bytes = World::object(class, size as usize);
        let mut body = vec![0; frame_len as usize];
        let (address, place) = match generator.frame {
            GeneratorFrame::Inside(inside) => {
                bytes.truncate(inside as usize);
                let whole = [&bytes[..], &body].concat();
                let address = world.put(&whole);
                (address, at(address, inside))
            }
            GeneratorFrame::Object { pointer, .. } => {
                let place = world.put(&body);
                if case.state != 7 {
                    set_word(&mut bytes, pointer, place);
                }
                (world.put(&bytes), place)
            }
        };
        match generator.state {
            StateShape::Running(running) => bytes[running as usize] = u8::from(case.state == 0),
            StateShape::OfFrame(state, _) => body[state as usize] = case.state as u8,
            StateShape::OfGenerator(state, _) => bytes[state as usize] = case.state as u8,
        }
        set_word(&mut body, frame.executable, code);
        match frame.instruction {
            InstructionShape::Pointer(pointer) => set_word(&mut body, pointer, instruction),
            InstructionShape::Last { index, .. } => {
                let first = if case.state == -2 { -1i32 } else { 0 };
                let index = index as usize;
                body[index..index + 4].copy_from_slice(&first.to_le_bytes());
            }
        }
        let end = place + u64::from(frame_len);
        match frame.stack {
            StackShape::Pointer { top } => set_word(&mut body, top, end),
            StackShape::Depth {
                values,
                depth: count,
            } => {
                set_word(&mut body, values, at(place, frame.locals));
                let count = count as usize;
                body[count..count + 4].copy_from_slice(&depth.to_le_bytes());
            }
            StackShape::Index { top } => set_word(&mut body, top, depth.into()),
        }
        for (index, value) in case.stack.iter().enumerate() {
            set_word(&mut body, frame.locals + 16 + index as u32 * 8, *value);
        }
        // The later segment at the same address is the longest match, too.
        if let GeneratorFrame::Inside(_) = generator.frame {
            world.memory.put(address, [bytes, body].concat());
        } else {
            world.memory.put(address, bytes);
            world.memory.put(place, body);
        }
        address
    }

    /// The numbers of the state byte; those of 3.10 where there is none.
    fn states(world: &World) -> StateNumbers {
        match world.walk.generator.state {
            StateShape::OfFrame(_, numbers) | StateShape::OfGenerator(_, numbers) => numbers,
            StateShape::Running(_) => StateNumbers {
                created: -2,
                suspended: -1,
                awaiting: &[],
                executing: 0,
            },
        }
    }

    fn walked(world: &World, coroutine: u64) -> (usize, End) {
        let chain = chains(&mut world.reader(), &[coroutine], 8).remove(0);
        let parts = in_parts(&mut world.reader(), coroutine, 8);
        assert_eq!(
            (parts.positions.len(), parts.end),
            (chain.positions.len(), chain.end)
        );
        (chain.positions.len(), chain.end)
    }

    #[test]
    fn each_release_says_in_its_own_way_what_is_awaited() {
        for minor in 8..=15 {
            let mut world = World::new(minor);
            let states = states(&world);
            let awaiting = states.awaiting.first().copied().unwrap_or(states.suspended);
            let class = world.class("_asyncio.FutureIter", 0, 24);
            let future = world.put(&World::object(class, 256));
            let (after_await, after_yield) = match world.walk.frame.awaited {
                AwaitShape::YieldFrom { opcode } => ([opcode, 0], [1, 0]),
                _ => ([151, 3], [151, 1]),
            };
            let make = |world: &mut World, state: i8, stack: Vec<u64>, resume: [u8; 2]| {
                coroutine(
                    world,
                    &Case {
                        state,
                        stack,
                        resume,
                    },
                )
            };
            let inner = make(&mut world, awaiting, vec![77, future], after_await);
            let outer = make(&mut world, awaiting, vec![inner], after_await);
            let many = make(&mut world, awaiting, vec![1; 100], after_await);
            let deep = make(
                &mut world,
                awaiting,
                [vec![1; 100], vec![outer]].concat(),
                after_await,
            );
            let yields = make(&mut world, states.suspended, vec![future], after_yield);
            let created = make(&mut world, states.created, vec![], [0, 0]);
            let executing = make(&mut world, states.executing, vec![], [0, 0]);
            let runs_below = make(&mut world, awaiting, vec![executing], after_await);
            let finished = make(&mut world, 7, vec![], [0, 0]);
            let steps = world.class("async_generator_asend", 0, 32);
            let step_of = |world: &mut World, generator: u64| {
                let mut bytes = World::object(steps, 256);
                set_word(&mut bytes, OBJECT_SIZE, generator);
                world.put(&bytes)
            };
            let running_step = step_of(&mut world, executing);
            let waiting_step = step_of(&mut world, outer);
            let awaits_running = make(&mut world, awaiting, vec![running_step], after_await);
            let waits_for_none = make(&mut world, awaiting, vec![0], after_await);
            let marker = make(&mut world, awaiting, vec![inner, 3], after_await);
            for (name, coroutine, expected) in [
                ("one", inner, (1, End::Whole)),
                ("two", outer, (2, End::Whole)),
                ("more values than are read at first", deep, (3, End::Whole)),
                ("no object at all", many, (1, End::Torn)),
                ("a plain yield", yields, (1, End::Whole)),
                ("not begun", created, (1, End::Whole)),
                ("running", executing, (0, End::Executing)),
                ("running below a suspended one", runs_below, (1, End::Torn)),
                ("a step of one that runs", running_step, (0, End::Executing)),
                ("a step of one that waits", waiting_step, (2, End::Whole)),
                ("awaits a step that runs", awaits_running, (1, End::Torn)),
                ("finished", finished, (0, End::Torn)),
                ("nothing", waits_for_none, (1, End::Torn)),
                ("unmapped", 0x7777_0000, (0, End::Torn)),
            ] {
                assert_eq!(walked(&world, coroutine), expected, "3.{minor}: {name}");
            }
            if world.walk.frame.awaited == AwaitShape::StateWithMarker {
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
        assert_eq!(walked(&other, own_address), (2, End::TooDeep));
    }

    #[test]
    fn of_a_long_chain_both_ends_are_told() {
        let mut world = World::new(13);
        let class = world.class("_asyncio.FutureIter", 0, 24);
        let mut awaited = world.put(&World::object(class, 256));
        for number in 0..100 {
            let resume = [number + 1, 0];
            let state = -1;
            let stack = vec![awaited];
            awaited = coroutine(
                &mut world,
                &Case {
                    state,
                    stack,
                    resume,
                },
            );
        }
        let mut reader = world.reader();
        let chain = chains(&mut reader, &[awaited], 8).remove(0);
        assert_eq!(chain.end, End::Whole);
        let left_out: Vec<Option<u32>> = chain.positions.iter().map(|at| at.left_out()).collect();
        let fold = [None, None, None, None, Some(93), None, None, None];
        assert_eq!(left_out, fold);
        assert_eq!((chain.qualnames.len(), chain.locals.len()), (8, 8));
        // The innermost one was made first.
        let first = chains(&mut reader, &[awaited], 200).remove(0);
        assert_eq!(first.positions.len(), 100);
        assert_eq!(first.positions[..4], chain.positions[..4]);
        assert_eq!(first.positions[97..], chain.positions[5..]);
        note_folded(&mut reader, &[chain], 8);
        assert!(reader.limits["tasks.awaiting"].contains("more than 8 frames"));
    }
}
