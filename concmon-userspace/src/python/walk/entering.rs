//! Which frames are about to enter a `with` statement: by the instruction that they are at, if they still are.

use super::frames::{self, StackFrame};
use super::suspended::{UNIT, first_instructions};
use crate::python::layout::{EnterShape, StackShape};
use crate::python::memory::{Batch, at, byte, int, word};
use crate::python::objects::Reader;

/// An instruction with all the prefixes that it may have, bytes.
const LONGEST: usize = 4 * UNIT as usize;
/// The argument of what looks up `__enter__`.
const ENTER: u8 = 0;

/// Whether each frame is at an instruction that enters a statement; `None`: that could not be read, or was not asked.
pub(super) fn enter(reader: &mut Reader<'_>, frames: &[Option<StackFrame>]) -> Vec<Option<bool>> {
    let shape = reader.walk.frame.enter;
    // Bytes between the instruction that tells and the one that a frame is at.
    let before = match shape {
        EnterShape::Instruction { .. } => 0,
        EnterShape::Loaded { .. } => UNIT,
    };
    let positions = frames.iter().map(|frame| Some((*frame)?.position));
    let firsts = first_instructions(reader, positions.clone());
    let mut batch = Batch::new();
    for (position, first) in positions.zip(firsts) {
        let telling = position.zip(first).and_then(|(position, first)| {
            let offset = u64::try_from(position.offset).ok()?.checked_sub(before)?;
            first.checked_add(offset)
        });
        batch.push(telling.unwrap_or(0), LONGEST);
    }
    reader.fetch(&mut batch);
    (0..frames.len())
        .map(|slot| says(shape, batch.prefix(slot)))
        .collect()
}

/// What the code from a frame's instruction on says; `None` where it is too short for that.
fn says(shape: EnterShape, code: &[u8]) -> Option<bool> {
    match shape {
        EnterShape::Instruction { opcode, prefix, .. } => {
            let opcodes = code.iter().step_by(UNIT as usize);
            let mut opcodes = opcodes.skip_while(|opcode| prefix == Some(**opcode));
            Some(*opcodes.next()? == opcode)
        }
        EnterShape::Loaded { opcode } => Some((byte(code, 0)?, byte(code, 1)?) == (opcode, ENTER)),
    }
}

/// What a frame says when its values are read.
pub(super) struct Now {
    /// How many words there are, from the first variable to the top of the stack, as far as frames say so while they call
    /// something.
    pub(super) depth: Option<usize>,
    /// It is at the instruction that it was at before.
    pub(super) is_there: bool,
}

pub(super) fn now(reader: &mut Reader<'_>, frames: &[StackFrame]) -> Vec<Now> {
    let fields = reader.walk.frame;
    let top = match fields.stack {
        StackShape::Pointer { top } | StackShape::Index { top } => top,
        StackShape::Depth { depth, .. } => depth,
    };
    let len = frames::head_len(&reader.walk).max(top as usize + 8);
    let mut batch = Batch::new();
    for frame in frames {
        batch.push(frame.address, len);
    }
    reader.fetch(&mut batch);
    let depth = |frame: &StackFrame, bytes: &[u8]| match fields.stack {
        StackShape::Index { .. } => usize::try_from(int(bytes, top)?).ok(),
        StackShape::Pointer { .. } => {
            let first = at(frame.address, fields.locals);
            let length = word(bytes, top)?.checked_sub(first)?;
            usize::try_from(length / 8).ok()
        }
        StackShape::Depth { .. } => None,
    };
    let position = |frame: &StackFrame, bytes: &[u8]| {
        let step = frames::Step::at(&reader.walk, frame.address, bytes)?;
        step.position
    };
    let frames = frames.iter().enumerate();
    frames
        .map(|(slot, frame)| {
            let bytes = batch.prefix(slot);
            Now {
                depth: depth(frame, bytes),
                is_there: position(frame, bytes) == Some(frame.position),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::layout::{InstructionShape, Instructions};
    use crate::python::objects::code::CodePosition;
    use crate::python::objects::synthetic::{World, set_word};

    /// A thread that has gone on within its frame may have come to a statement.
    #[test]
    fn a_frame_that_has_gone_on_is_not_where_it_was() {
        let mut world = World::new(11);
        let (code, fields) = (0x5000_0000, world.walk.frame);
        let (Instructions::Inside(first), InstructionShape::Pointer(pointer)) =
            (world.walk.code.instructions, fields.instruction)
        else {
            panic!("frames of 3.11");
        };
        let mut bytes = vec![0; fields.locals as usize];
        set_word(&mut bytes, fields.executable, code);
        set_word(&mut bytes, pointer, at(code, first) + 6);
        let address = world.put(&bytes);
        for (offset, expected) in [(6, true), (4, false)] {
            let position = CodePosition { code, offset };
            let now = now(&mut world.reader(), &[StackFrame { address, position }]);
            assert_eq!(now[0].is_there, expected, "{offset}");
        }
        let position = CodePosition { code, offset: 6 };
        let gone = StackFrame {
            address: 0x10,
            position,
        };
        assert!(!now(&mut world.reader(), &[gone])[0].is_there);
    }

    #[test]
    fn an_instruction_may_have_prefixes() {
        let shape = |prefix| EnterShape::Instruction {
            opcode: 143,
            prefix,
            keeps_exit: true,
        };
        let with_prefix = shape(Some(144));
        for (code, expected) in [
            (vec![143, 9, 1, 0, 1, 0, 1, 0], Some(true)),
            (vec![144, 1, 143, 9, 1, 0, 1, 0], Some(true)),
            (vec![144, 1, 144, 2, 144, 3, 143, 9], Some(true)),
            (vec![144, 1, 100, 143, 143, 0, 1, 0], Some(false)),
            (vec![131, 143], Some(false)),
            (vec![144, 1], None),
            (vec![], None),
        ] {
            assert_eq!(says(with_prefix, &code), expected, "{code:?}");
        }
        assert_eq!(says(shape(None), &[144, 1, 143, 9]), Some(false));
        let loaded = EnterShape::Loaded { opcode: 95 };
        assert_eq!(says(loaded, &[95, ENTER]), Some(true));
        assert_eq!(says(loaded, &[95, 1]), Some(false));
        assert_eq!(says(loaded, &[95]), None);
    }
}
