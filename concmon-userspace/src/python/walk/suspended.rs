//! Suspended coroutines and generators: where each is in its code, and what it awaits.

use crate::python::layout::{
    AwaitShape, GeneratorFrame, InstructionShape, Instructions, StackShape, StateShape, WalkLayout,
};
use crate::python::memory::{Batch, at, byte, int, word};
use crate::python::objects::code::CodePosition;
use crate::python::objects::{Kind, OBJECT_SIZE, OBJECT_TYPE, Reader, signed_byte};

/// The largest frame with its locals and values, bytes.
const MAX_FRAME_BYTES: u64 = 1 << 16;
/// Tags of references, and of what is no reference, in 3.14 and later (`pycore_stackref.h`).
const TAG_BITS: u64 = 3;
/// How far the argument of a resume says that something is awaited.
const RESUME_AFTER_AWAIT: u8 = 2;
/// Bytes of one instruction.
pub(super) const UNIT: u64 = 2;

/// The first two local variables of a frame; 0 for one that has no value.
pub(super) type FirstLocals = [u64; 2];

/// What one generator says.
pub(super) enum Step {
    /// The awaited object.
    Next(CodePosition, u64),
    /// The awaited object, if the next instruction says that one is awaited.
    NextIf(CodePosition, u64),
    /// Nothing is awaited, or it has not begun.
    Last(CodePosition),
    /// Stands for another generator.
    Through(u64),
    /// Not a generator: the chain ends above it.
    Leaf,
    Executing,
    /// This many bytes of the frame must be read in one piece.
    Longer(u32),
    Torn,
}

/// Generators, each with its frame, as they were read.
pub(super) struct Pieces {
    addresses: Vec<u64>,
    generators: Batch,
    /// Where frames are objects of their own: their addresses, and what was read.
    frames: Option<(Vec<u64>, Batch)>,
}

impl Pieces {
    /// Reads the generators with so many bytes of their frames; where the frame is inside, in one
    /// piece: what the frame says of its stack belongs to what is on the stack.
    pub(super) fn read(reader: &mut Reader<'_>, addresses: &[u64], frame_lens: &[u32]) -> Self {
        let generator = reader.walk.generator;
        let mut generators = Batch::new();
        for (address, len) in addresses.iter().zip(frame_lens) {
            let len = match generator.frame {
                GeneratorFrame::Inside(frame) => frame + len,
                GeneratorFrame::Object { size, .. } => size,
            };
            generators.push(*address, len as usize);
        }
        reader.fetch(&mut generators);
        let types = (0..addresses.len()).filter_map(|i| word(generators.prefix(i), OBJECT_TYPE));
        reader.load_types(types);
        let frames = match generator.frame {
            GeneratorFrame::Inside(_) => None,
            GeneratorFrame::Object { pointer, .. } => {
                let mut places = Vec::with_capacity(addresses.len());
                let mut frames = Batch::new();
                for (slot, len) in frame_lens.iter().enumerate() {
                    let bytes = generators.prefix(slot);
                    let frame = (reader.kind(bytes) == Some(Kind::Generator))
                        .then(|| word(bytes, pointer))
                        .flatten()
                        .unwrap_or(0);
                    places.push(frame);
                    frames.push(frame, *len as usize);
                }
                reader.fetch(&mut frames);
                Some((places, frames))
            }
        };
        Self {
            addresses: addresses.to_vec(),
            generators,
            frames,
        }
    }

    pub(super) fn generator(&self, slot: usize) -> &[u8] {
        self.generators.prefix(slot)
    }

    /// The address and the bytes of a generator's frame; no bytes when it has none.
    pub(super) fn frame(&self, walk: &WalkLayout, slot: usize) -> (u64, &[u8]) {
        match (&self.frames, walk.generator.frame) {
            (Some((places, frames)), _) => (places[slot], frames.prefix(slot)),
            (None, GeneratorFrame::Inside(frame)) => (
                at(self.addresses[slot], frame),
                self.generator(slot)
                    .get(frame as usize..)
                    .unwrap_or_default(),
            ),
            (None, GeneratorFrame::Object { .. }) => (0, &[]),
        }
    }

    /// What a suspended generator's frame holds: variables, and what is on its stack.
    pub(super) fn values(&self, walk: &WalkLayout, slot: usize) -> Vec<u64> {
        let (address, frame) = self.frame(walk, slot);
        let top = stack_top(walk, address, frame).unwrap_or(0);
        let (from, to) = (
            walk.frame.locals as usize,
            usize::try_from(top).unwrap_or(0),
        );
        let words = frame.get(from..to.min(frame.len())).unwrap_or_default();
        words
            .chunks_exact(8)
            .filter_map(|bytes| Some(walk.frame.untag(word(bytes, 0)?)))
            .collect()
    }

    /// Whether a generator has run at all.
    pub(super) fn has_begun(&self, walk: &WalkLayout, slot: usize) -> bool {
        let bytes = self.generator(slot);
        let (_, frame) = self.frame(walk, slot);
        let (state, created) = match walk.generator.state {
            StateShape::Running(_) => {
                let code = word(frame, walk.frame.executable);
                let offset =
                    code.and_then(|code| instruction_offset(walk, walk.frame.untag(code), frame));
                return offset.is_some_and(|offset| offset >= 0);
            }
            StateShape::OfFrame(state, numbers) => (signed_byte(frame, state), numbers.created),
            StateShape::OfGenerator(state, numbers) => (signed_byte(bytes, state), numbers.created),
        };
        state.is_some_and(|state| state != created)
    }

    pub(super) fn first_locals(&self, walk: &WalkLayout, slot: usize) -> FirstLocals {
        let (_, frame) = self.frame(walk, slot);
        [0, 8].map(|offset| {
            let value = word(frame, walk.frame.locals + offset);
            value.map_or(0, |value| walk.frame.untag(value))
        })
    }

    /// What moves when the generator runs, up to its frame's locals.
    pub(super) fn head(&self, walk: &WalkLayout, slot: usize) -> Vec<u8> {
        let bytes = self.generator(slot);
        let own = match walk.generator.frame {
            GeneratorFrame::Inside(frame) => frame as usize,
            GeneratorFrame::Object { .. } => bytes.len(),
        };
        let (_, frame) = self.frame(walk, slot);
        let frame = frame.get(..walk.frame.locals as usize).unwrap_or(frame);
        // In front of the name are the reference counts.
        let from = walk.generator.qualname as usize;
        [
            bytes.get(from..own).unwrap_or_default(),
            moving(walk, frame),
        ]
        .concat()
    }

    pub(super) fn steps(&self, reader: &Reader<'_>) -> Vec<Step> {
        (0..self.addresses.len())
            .map(|slot| {
                let bytes = self.generator(slot);
                match reader.kind(bytes) {
                    None | Some(Kind::Mistrusted) => Step::Torn,
                    Some(Kind::Generator) => {
                        let (address, frame) = self.frame(&reader.walk, slot);
                        parse(&reader.walk, bytes, address, frame).unwrap_or(Step::Torn)
                    }
                    Some(Kind::GeneratorProxy) => {
                        word(bytes, OBJECT_SIZE).map_or(Step::Torn, Step::Through)
                    }
                    Some(_) => Step::Leaf,
                }
            })
            .collect()
    }
}

/// The part of a frame's head that moves when it runs: no reference counts.
fn moving<'b>(walk: &WalkLayout, frame: &'b [u8]) -> &'b [u8] {
    let from = walk.frame.executable.min(walk.frame.previous);
    frame.get(from as usize..).unwrap_or_default()
}

/// What a generator's bytes say; `None` when they are too few.
fn parse(walk: &WalkLayout, bytes: &[u8], address: u64, frame: &[u8]) -> Option<Step> {
    let executable = word(frame, walk.frame.executable);
    let (state, numbers) = match walk.generator.state {
        StateShape::Running(running) if byte(bytes, running)? != 0 => return Some(Step::Executing),
        StateShape::Running(_) => (None, None),
        StateShape::OfFrame(state, numbers) => (Some(signed_byte(frame, state)?), Some(numbers)),
        StateShape::OfGenerator(state, numbers) => {
            (Some(signed_byte(bytes, state)?), Some(numbers))
        }
    };
    let is = |number: fn(&crate::python::layout::StateNumbers) -> i8| {
        numbers
            .as_ref()
            .map(number)
            .is_some_and(|number| state == Some(number))
    };
    if is(|numbers| numbers.executing) {
        return Some(Step::Executing);
    }
    let code = walk.frame.untag(executable?);
    let position = CodePosition {
        code,
        offset: instruction_offset(walk, code, frame)?,
    };
    let is_awaiting =
        numbers.is_some_and(|numbers| state.is_some_and(|s| numbers.awaiting.contains(&s)));
    let tells_awaiting = numbers.is_some_and(|numbers| !numbers.awaiting.is_empty());
    if is(|numbers| numbers.created) || position.offset < 0 && numbers.is_none() {
        return Some(Step::Last(position));
    }
    if numbers.is_some() && !is(|numbers| numbers.suspended) && !is_awaiting {
        return Some(Step::Torn);
    }
    if tells_awaiting && !is_awaiting {
        return Some(Step::Last(position));
    }
    let top = stack_top(walk, address, frame)?;
    let values = u64::from(walk.frame.locals);
    if top > MAX_FRAME_BYTES || top < values + 8 {
        // A suspended frame that has nothing on its stack awaits nothing.
        let may_be_empty = !tells_awaiting && top >= values && top <= MAX_FRAME_BYTES;
        return Some(if may_be_empty {
            Step::Last(position)
        } else {
            Step::Torn
        });
    }
    let top = top as u32;
    if top as usize > frame.len() {
        return Some(Step::Longer(top));
    }
    let topmost = word(frame, top - 8)?;
    Some(match walk.frame.awaited {
        AwaitShape::YieldFrom { .. } | AwaitShape::Resume { .. } => Step::NextIf(position, topmost),
        AwaitShape::StateWithMarker if topmost == 1 || topmost & TAG_BITS == TAG_BITS => {
            Step::Next(
                position,
                walk.frame.untag(word(frame, top.checked_sub(16)?)?),
            )
        }
        AwaitShape::State | AwaitShape::StateWithMarker => {
            Step::Next(position, walk.frame.untag(topmost))
        }
    })
}

impl crate::python::layout::FrameLayout {
    /// A reference without its tag.
    pub(crate) fn untag(&self, reference: u64) -> u64 {
        if self.tagged {
            reference & !TAG_BITS
        } else {
            reference
        }
    }
}

/// Which instruction a frame is at, bytes from the code object's first; negative before it.
pub(crate) fn instruction_offset(walk: &WalkLayout, code: u64, frame: &[u8]) -> Option<i64> {
    match (walk.frame.instruction, walk.code.instructions) {
        (InstructionShape::Last { index, unit }, _) => {
            Some(i64::from(int(frame, index)?) * i64::from(unit))
        }
        (InstructionShape::Pointer(pointer), Instructions::Inside(first)) => {
            Some(word(frame, pointer)?.wrapping_sub(at(code, first)) as i64)
        }
        (InstructionShape::Pointer(_), Instructions::Bytes { .. }) => None,
    }
}

/// Where the stack of a frame ends, bytes from the frame's beginning.
fn stack_top(walk: &WalkLayout, address: u64, frame: &[u8]) -> Option<u64> {
    Some(match walk.frame.stack {
        StackShape::Pointer { top } => word(frame, top)?.wrapping_sub(address),
        StackShape::Depth { values, depth } => {
            let depth = u64::try_from(int(frame, depth)?).ok()?;
            word(frame, values)?
                .wrapping_sub(address)
                .wrapping_add(depth * 8)
        }
        StackShape::Index { top } => {
            let depth = u64::try_from(int(frame, top)?).ok()?;
            u64::from(walk.frame.locals) + depth * 8
        }
    })
}

/// Whether the next instruction of each step that asks says that something is awaited.
pub(super) fn await_says(reader: &mut Reader<'_>, steps: &[Step]) -> Vec<Option<bool>> {
    let asking = |step: &Step| match step {
        Step::NextIf(position, _) => Some(*position),
        _ => None,
    };
    if !steps.iter().any(|step| asking(step).is_some()) {
        return vec![None; steps.len()];
    }
    let firsts = first_instructions(reader, steps.iter().map(asking));
    let mut batch = Batch::new();
    for (step, first) in steps.iter().zip(firsts) {
        let next = asking(step).zip(first).map(|(position, first)| {
            first
                .wrapping_add(position.offset as u64)
                .wrapping_add(UNIT)
        });
        batch.push(next.unwrap_or(0), 2);
    }
    reader.fetch(&mut batch);
    (0..steps.len())
        .map(|slot| says_await(&reader.walk, batch.whole(slot)?))
        .collect()
}

/// Where the instructions of each position's code object begin.
pub(super) fn first_instructions(
    reader: &mut Reader<'_>,
    positions: impl Iterator<Item = Option<CodePosition>>,
) -> Vec<Option<u64>> {
    match reader.walk.code.instructions {
        Instructions::Inside(first) => positions
            .map(|position| Some(at(position?.code, first)))
            .collect(),
        Instructions::Bytes { pointer, .. } => {
            let mut batch = Batch::new();
            for position in positions {
                batch.push(position.map_or(0, |position| at(position.code, pointer)), 8);
            }
            reader.fetch(&mut batch);
            (0..batch.len())
                .map(|slot| Some(at(word(batch.whole(slot)?, 0)?, reader.walk.text.bytes)))
                .collect()
        }
    }
}

fn says_await(walk: &WalkLayout, instruction: &[u8]) -> Option<bool> {
    let (opcode, argument) = (byte(instruction, 0)?, byte(instruction, 1)?);
    Some(match walk.frame.awaited {
        AwaitShape::YieldFrom { opcode: awaits } => opcode == awaits,
        AwaitShape::Resume { opcodes } => {
            opcodes.contains(&opcode) && argument >= RESUME_AFTER_AWAIT
        }
        AwaitShape::State | AwaitShape::StateWithMarker => false,
    })
}
