//! Which frames are about to enter a `with` statement: by the instruction that they are at.

use super::stacks::StackFrame;
use super::suspended::{UNIT, first_instructions};
use crate::python::layout::EnterShape;
use crate::python::memory::{Batch, byte};
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

#[cfg(test)]
mod tests {
    use super::*;

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
