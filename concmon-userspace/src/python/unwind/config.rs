//! What kernel programs have to know of an interpreter to walk its stacks.

use concmon_ebpf::{FRAME_BYTES, NO_OFFSET, Python};

use super::turn::Turns;
use crate::python::layout::{
    CollectorPlace, FrameRoot, GeneratorFrame, InstructionShape, IntegerShape, Layout,
};
use crate::python::memory::at;

/// Address of the garbage collector's `int` that is not 0 while it works.
pub(super) fn collecting_at(runtime: u64, interpreter: u64, layout: &Layout) -> u64 {
    let collector = match layout.collector.place {
        CollectorPlace::Runtime(offset) => at(runtime, offset),
        CollectorPlace::Interpreter(offset) => at(interpreter, offset),
    };
    at(collector, layout.collector.collecting)
}

pub(super) fn config(
    runtime: u64,
    interpreter: u64,
    layout: &Layout,
    tls_offset: i64,
    turns: &Turns,
    long_ns: u64,
) -> Python {
    let walk = &layout.walk;
    let (thread_frame, root_frame) = match walk.thread.frame {
        FrameRoot::Field(field) => (field, NO_OFFSET),
        FrameRoot::Indirect { pointer, frame } => (pointer, frame),
    };
    let instruction = match walk.frame.instruction {
        InstructionShape::Last { index, .. } => index,
        InstructionShape::Pointer(pointer) => pointer,
    };
    let fields = [
        walk.frame.executable,
        walk.frame.previous,
        instruction,
        walk.frame.generator.unwrap_or(0),
        walk.frame.owner.unwrap_or(0) & !7,
    ];
    let turn = turns.function();
    let [turn_start, turn_index, turn_count] = turn.map_or([0; 3], |turn| turn.locals);
    Python {
        tls_offset,
        collecting: collecting_at(runtime, interpreter, layout),
        turn_code: turn.map_or(0, |turn| turn.code),
        long_ns,
        executable_mask: if walk.frame.tagged { !3 } else { !0 },
        thread_ident: walk.thread.ident,
        loop_place: walk.thread.loop_place.unwrap_or(NO_OFFSET),
        thread_context: walk.thread.context,
        thread_frame,
        root_frame,
        frame_bytes: (fields.into_iter().max().unwrap_or(0) + 8).min(FRAME_BYTES as u32),
        executable: walk.frame.executable,
        previous: walk.frame.previous,
        instruction,
        owner: walk.frame.owner.unwrap_or(NO_OFFSET),
        generator_frame: match walk.generator.frame {
            GeneratorFrame::Inside(frame) => frame,
            GeneratorFrame::Object { .. } => 0,
        },
        frame_generator: walk.frame.generator.unwrap_or(0),
        locals: walk.frame.locals,
        turn_start,
        turn_index,
        turn_count,
        float_value: walk.containers.float_value,
        int_value: match walk.integer {
            IntegerShape::SignedSize { digits, .. } | IntegerShape::Tag { digits, .. } => digits,
        },
        turns: turns.count.address,
        turns_thread: turns.count.thread,
    }
}
