//! Which frames are about to enter a `with` statement: by the instruction that they are at.

use super::stacks::StackFrame;
use super::suspended::{UNIT, first_instructions};
use crate::python::layout::EnterShape;
use crate::python::memory::{Batch, byte};
use crate::python::objects::Reader;

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
        batch.push(telling.unwrap_or(0), UNIT as usize);
    }
    reader.fetch(&mut batch);
    (0..frames.len())
        .map(|slot| Some(says(shape, batch.whole(slot)?)))
        .collect()
}

fn says(shape: EnterShape, instruction: &[u8]) -> bool {
    match shape {
        EnterShape::Instruction { opcode, .. } => byte(instruction, 0) == Some(opcode),
        EnterShape::Loaded { opcode } => {
            (byte(instruction, 0), byte(instruction, 1)) == (Some(opcode), Some(ENTER))
        }
    }
}
