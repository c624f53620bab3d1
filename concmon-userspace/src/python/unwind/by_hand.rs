//! A thread's stack as user space reads it, in the form that kernel programs give it: for a thread of which
//! there is no sample, for it was blocked before it could give one, or nobody samples.

use concmon_ebpf::{
    NO_OFFSET, OWNER_GENERATOR, SAMPLE_FRAMES, SampleFrame, SampleHead, sample_flags,
};

use super::config::collecting_at;
use super::turn::{Turn, Turns};
use crate::decode::samples::RawSample;
use crate::event::{SampleKind, Tid};
use crate::python::attached::Attached;
use crate::python::layout::{
    GeneratorFrame, InstructionShape, Instructions, IntegerShape, WalkLayout,
};
use crate::python::memory::{at, byte, plausible};
use crate::python::objects::Reader;
use crate::python::objects::code::CodeCache;
use crate::python::walk::stacks::{self, StackFrame};
use crate::python::walk::thread_states::{self, ThreadRecord};

/// Finds the thread state of the thread that Python calls `ident`; of several, the one that runs Python code.
pub(super) fn find_state(attached: &Attached, ident: u64) -> Option<ThreadRecord> {
    let (runtime, layout) = attached.runtime?;
    let memory = &*attached.memory;
    let interpreters = thread_states::interpreters(memory, runtime, &layout).ok()?;
    let fields = &layout.walk.thread;
    let mut found = None;
    for interpreter in interpreters {
        let head = layout.interpreter.threads_head;
        let states = thread_states::threads(memory, interpreter, head, fields, &[]);
        for record in states.unwrap_or_default() {
            if record.field(fields.ident) == ident {
                let context = record.field(fields.context);
                // The loop's steps run in a context.
                if context != 0 {
                    return Some(record);
                }
                found.get_or_insert(record);
            }
        }
    }
    found
}

/// The stack of a thread, as of now, which the caller knows; `main` is the main interpreter. It has no frames where it changes too fast to be read.
pub(super) fn sample(
    attached: &Attached,
    reader: &mut Reader<'_>,
    codes: &mut CodeCache,
    turns: &Turns,
    main: u64,
    tid: Tid,
    record: &ThreadRecord,
) -> Option<RawSample> {
    let (runtime, layout) = attached.runtime?;
    let walk = &layout.walk;
    let stack = stacks::stacks(reader, codes, std::slice::from_ref(record), SAMPLE_FRAMES).pop()?;
    let version_at = at(record.address, walk.thread.context + 8);
    let mut flags = sample_flags::STATE;
    if stack.cut || stack.torn {
        flags |= sample_flags::TRUNCATED;
    }
    let collecting = reader.pointer(collecting_at(runtime, main, &layout));
    if collecting.is_ok_and(|word| word as u32 != 0) {
        flags |= sample_flags::COLLECTING;
    }
    let mut head = SampleHead {
        flags,
        cause: 0,
        frames: stack.frames.len() as u16,
        tid: tid.0,
        tgid: attached.pid.0,
        turn_index: NO_OFFSET,
        turn_count: NO_OFFSET,
        turns: 0,
        at_ns: 0,
        context: record.field(walk.thread.context),
        context_version: reader.pointer(version_at).ok()?,
        turn_start: 0,
        ip: 0,
        thread_state: record.address,
    };
    if turns.count.thread == record.address && turns.count.address != 0 {
        head.turns = reader.pointer(turns.count.address).unwrap_or(0) as u32;
    }
    let turn = turns.function();
    let of_turn = |frame: &&StackFrame| turn.is_some_and(|turn| turn.code == frame.position.code);
    if let Some(frame) = stack.frames.iter().find(of_turn)
        && let Some(turn) = turn
    {
        read_turn(reader, frame.address, turn, &mut head);
    }
    let frames = stack.frames.iter();
    let frames = frames.map(|frame| SampleFrame {
        code: frame.position.code,
        generator: generator(reader, frame.address),
        instruction: instruction(walk, frame),
    });
    Some(RawSample {
        head,
        kind: SampleKind::OnCpu,
        frames: frames.collect(),
    })
}

/// The instruction as a frame has it.
fn instruction(walk: &WalkLayout, frame: &StackFrame) -> u64 {
    let offset = frame.position.offset;
    match (walk.frame.instruction, walk.code.instructions) {
        (InstructionShape::Last { unit, .. }, _) => {
            (offset / i64::from(unit.max(1))) as i32 as u32 as u64
        }
        (InstructionShape::Pointer(_), Instructions::Inside(first)) => {
            at(frame.position.code, first).wrapping_add_signed(offset)
        }
        (InstructionShape::Pointer(_), Instructions::Bytes { .. }) => 0,
    }
}

/// The generator or coroutine that a frame belongs to; 0: none.
fn generator(reader: &mut Reader<'_>, frame: u64) -> u64 {
    let walk = reader.walk;
    match (walk.frame.owner, walk.generator.frame) {
        (Some(owner), GeneratorFrame::Inside(inside)) => {
            let owner = reader.bytes(at(frame, owner), 1).ok();
            match owner.as_deref().and_then(|bytes| byte(bytes, 0)) {
                Some(OWNER_GENERATOR) => frame.wrapping_sub(u64::from(inside)),
                _ => 0,
            }
        }
        _ => {
            let at_frame = walk.frame.generator.map(|offset| at(frame, offset));
            at_frame
                .and_then(|address| reader.pointer(address).ok())
                .unwrap_or(0)
        }
    }
}

/// What the frame of a loop's turn knows of it.
fn read_turn(reader: &mut Reader<'_>, frame: u64, turn: Turn, head: &mut SampleHead) {
    let walk = reader.walk;
    let mask = if walk.frame.tagged { !3 } else { !0 };
    let locals = at(frame, walk.frame.locals);
    let (IntegerShape::SignedSize { digits, .. } | IntegerShape::Tag { digits, .. }) = walk.integer;
    let mut local = |index: u32, offset: u32| {
        let object = reader.pointer(locals.wrapping_add(8 * u64::from(index)));
        let object = object.ok().map(|object| object & mask);
        let object = object.filter(|object| plausible(*object))?;
        reader.pointer(at(object, offset)).ok()
    };
    let [start, index, count] = turn.locals;
    let Some(start) = local(start, walk.containers.float_value) else {
        return;
    };
    head.turn_start = start;
    head.turn_index = local(index, digits).map_or(NO_OFFSET, |digits| digits as u32);
    head.turn_count = local(count, digits).map_or(NO_OFFSET, |digits| digits as u32);
}
