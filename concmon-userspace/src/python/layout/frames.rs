//! Frames, generators and code objects.

use serde::Serialize;

use super::Since;

/// How a suspended frame says what it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum AwaitShape {
    /// The instruction after the last one has this opcode; the awaited object is on top of the stack.
    YieldFrom { opcode: u8 },
    /// The next instruction is one of these resume opcodes with an argument of 2 or more; the
    /// awaited object is on top of the stack.
    Resume { opcodes: [u8; 2] },
    /// A frame state says so; the awaited object is on top of the stack.
    State,
    /// A frame state says so; a marker (a tagged small integer or an empty reference) may lie on
    /// top of the awaited object.
    StateWithMarker,
}

/// How a frame says where the top of its stack of values is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum StackShape {
    /// A pointer behind the topmost value; null while the frame runs.
    Pointer { top: u32 },
    /// A pointer to the first value, and how many there are.
    Depth { values: u32, depth: u32 },
    /// How many words there are, counted from the first local variable.
    Index { top: u32 },
}

/// How a frame shows that it is about to enter a `with` statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum EnterShape {
    /// This instruction looks up both methods and calls `__enter__`. Meanwhile `__exit__`, bound to the object, is in the
    /// object's place on the stack if it `keeps_exit`, else the object still is. A frame is at the first of the `prefix`es
    /// that stand before an instruction with a large argument.
    Instruction {
        opcode: u8,
        prefix: Option<u8>,
        keeps_exit: bool,
    },
    /// A call follows this instruction, which has looked `__enter__` up. On the stack are `__exit__` and the object,
    /// before what is called.
    Loaded { opcode: u8 },
}

/// How a frame says which instruction it is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum InstructionShape {
    /// The number of the last instruction's unit of `unit` bytes; -1 before the first.
    Last { index: u32, unit: u32 },
    /// A pointer to the last or the next instruction.
    Pointer(u32),
}

/// `PyFrameObject` up to 3.10, `_PyInterpreterFrame` from 3.11 on.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct FrameLayout {
    /// The code object; from 3.13 on anything that can be run.
    pub executable: u32,
    /// The frame that called this one.
    pub previous: u32,
    pub instruction: InstructionShape,
    pub locals: u32,
    /// A byte that says what the frame belongs to; `None`: there are only frames of Python code.
    pub owner: Option<u32>,
    /// A byte that says by this value that the frame runs; `None`: it is not looked at.
    pub running: Option<(u32, u8)>,
    /// The generator that the frame belongs to, or null; `None`: the owner tells.
    pub generator: Option<u32>,
    pub stack: StackShape,
    pub awaited: AwaitShape,
    pub enter: EnterShape,
    /// References to objects carry a tag in their two low bits.
    pub tagged: bool,
}

impl FrameLayout {
    /// Up to 3.10: how many statements a frame is in, and their kinds and handlers, right before the local variables.
    pub(crate) fn blocks(&self) -> (u32, u32) {
        (self.locals - 248, self.locals - 240)
    }
}

pub(super) const FRAME: Since<FrameLayout> = &[
    (8, FRAME_3_8),
    (
        10,
        FrameLayout {
            instruction: InstructionShape::Last { index: 96, unit: 2 },
            running: Some((108, 0)),
            generator: Some(88),
            locals: 352,
            stack: StackShape::Depth {
                values: 64,
                depth: 80,
            },
            ..FRAME_3_8
        },
    ),
    (11, FRAME_3_11),
    (12, FRAME_3_12),
    (
        13,
        FrameLayout {
            awaited: AwaitShape::State,
            // BEFORE_WITH of Include/opcode_ids.h.
            enter: EnterShape::Instruction {
                opcode: 2,
                prefix: None,
                keeps_exit: false,
            },
            ..FRAME_3_12
        },
    ),
    (14, FRAME_3_14),
    (
        15,
        FrameLayout {
            enter: EnterShape::Loaded { opcode: 94 },
            ..FRAME_3_14
        },
    ),
];

const FRAME_3_8: FrameLayout = FrameLayout {
    executable: 32,
    previous: 24,
    instruction: InstructionShape::Last {
        index: 104,
        unit: 1,
    },
    locals: 360,
    owner: None,
    running: Some((116, 1)),
    generator: Some(96),
    stack: StackShape::Pointer { top: 72 },
    // YIELD_FROM of Include/opcode.h.
    awaited: AwaitShape::YieldFrom { opcode: 72 },
    // SETUP_WITH of the same, which says where the statement ends, and EXTENDED_ARG.
    enter: EnterShape::Instruction {
        opcode: 143,
        prefix: Some(144),
        keeps_exit: true,
    },
    tagged: false,
};

const FRAME_3_11: FrameLayout = FrameLayout {
    executable: 32,
    previous: 48,
    instruction: InstructionShape::Pointer(56),
    locals: 72,
    owner: Some(69),
    running: None,
    generator: None,
    stack: StackShape::Index { top: 64 },
    // RESUME and RESUME_QUICK of Include/opcode.h.
    awaited: AwaitShape::Resume {
        opcodes: [151, 150],
    },
    // BEFORE_WITH of the same.
    enter: EnterShape::Instruction {
        opcode: 53,
        prefix: None,
        keeps_exit: true,
    },
    tagged: false,
};

const FRAME_3_12: FrameLayout = FrameLayout {
    executable: 0,
    previous: 8,
    owner: Some(70),
    // RESUME and INSTRUMENTED_RESUME of Include/opcode.h.
    awaited: AwaitShape::Resume {
        opcodes: [151, 240],
    },
    enter: EnterShape::Instruction {
        opcode: 53,
        prefix: None,
        keeps_exit: false,
    },
    ..FRAME_3_11
};

const FRAME_3_14: FrameLayout = FrameLayout {
    locals: 80,
    owner: Some(74),
    stack: StackShape::Pointer { top: 64 },
    awaited: AwaitShape::StateWithMarker,
    // LOAD_SPECIAL of Include/opcode_ids.h.
    enter: EnterShape::Loaded { opcode: 95 },
    tagged: true,
    ..FRAME_3_12
};

/// Where a generator's frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum GeneratorFrame {
    /// An object of its own; the pointer is null when the generator has finished.
    /// No generator is smaller than `size`.
    Object { pointer: u32, size: u32 },
    /// Inside the generator.
    Inside(u32),
}

/// How a generator says what it is doing.
#[derive(Clone, Copy, Debug, Serialize)]
pub enum StateShape {
    /// A byte of the generator that is 1 while it runs.
    Running(u32),
    /// A byte of its frame object.
    OfFrame(u32, StateNumbers),
    /// A byte of the generator.
    OfGenerator(u32, StateNumbers),
}

/// Coroutines, generators and asynchronous generators begin in the same way.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct GeneratorLayout {
    pub qualname: u32,
    pub frame: GeneratorFrame,
    pub state: StateShape,
}

/// Which number of a state byte means what; all others mean finished.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StateNumbers {
    pub created: i8,
    /// Suspended; whether it awaits something, [`AwaitShape`] says, or another number does.
    pub suspended: i8,
    /// Suspended and awaiting, where that has numbers of its own.
    pub awaiting: &'static [i8],
    pub executing: i8,
}

pub(super) const GENERATOR: Since<GeneratorLayout> = &[
    (
        8,
        GeneratorLayout {
            qualname: 56,
            frame: GeneratorFrame::Object {
                pointer: 16,
                size: 96,
            },
            state: StateShape::Running(24),
        },
    ),
    (
        10,
        GeneratorLayout {
            qualname: 48,
            frame: GeneratorFrame::Object {
                pointer: 16,
                size: 88,
            },
            state: StateShape::OfFrame(
                108,
                StateNumbers {
                    created: -2,
                    suspended: -1,
                    awaiting: &[],
                    executing: 0,
                },
            ),
        },
    ),
    (
        11,
        GeneratorLayout {
            qualname: 40,
            frame: GeneratorFrame::Inside(80),
            state: StateShape::OfGenerator(
                75,
                StateNumbers {
                    created: -2,
                    suspended: -1,
                    awaiting: &[],
                    executing: 0,
                },
            ),
        },
    ),
    (
        12,
        GeneratorLayout {
            qualname: 32,
            frame: GeneratorFrame::Inside(72),
            state: StateShape::OfGenerator(
                67,
                StateNumbers {
                    created: -2,
                    suspended: -1,
                    awaiting: &[],
                    executing: 0,
                },
            ),
        },
    ),
    (13, GENERATOR_3_13),
    (14, GeneratorLayout { ..GENERATOR_3_13 }),
    (
        15,
        GeneratorLayout {
            state: StateShape::OfGenerator(
                67,
                StateNumbers {
                    created: 0,
                    suspended: 1,
                    awaiting: &[2, 3],
                    executing: 4,
                },
            ),
            ..GENERATOR_3_13
        },
    ),
];

const GENERATOR_3_13: GeneratorLayout = GeneratorLayout {
    qualname: 32,
    frame: GeneratorFrame::Inside(72),
    state: StateShape::OfGenerator(
        67,
        StateNumbers {
            created: -3,
            suspended: -2,
            awaiting: &[-1],
            executing: 0,
        },
    ),
};

/// How a code object says which line an instruction is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum LineTable {
    /// Pairs of steps, of bytes and of lines (`Objects/lnotab_notes.txt`).
    Steps,
    /// Pairs of a length in bytes and a step of lines; -128: no line.
    Ranges,
    /// Entries of variable length (`InternalDocs/code_objects.md`).
    Locations,
}

/// Where a code object's instructions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Instructions {
    /// In a bytes object; the code object has this size.
    Bytes { pointer: u32, size: u32 },
    /// At the end of the code object, whose size this is, too.
    Inside(u32),
}

/// `PyCodeObject`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CodeLayout {
    pub filename: u32,
    /// Up to 3.10 there is only the plain name.
    pub qualname: u32,
    pub first_line: u32,
    pub line_table: u32,
    /// A tuple of the names of local variables, in their order in a frame.
    pub local_names: u32,
    /// A tuple.
    pub constants: u32,
    pub lines: LineTable,
    pub instructions: Instructions,
}

impl CodeLayout {
    /// A tuple of the names of attributes and of global variables.
    pub(crate) fn names(&self) -> u32 {
        self.constants + 8
    }

    /// The bytes of a table of which instructions have a handler, from 3.11 on.
    pub(crate) fn exception_table(&self) -> u32 {
        self.constants + 16
    }
}

pub(super) const CODE: Since<CodeLayout> = &[
    (8, CODE_3_8),
    (
        10,
        CodeLayout {
            lines: LineTable::Ranges,
            ..CODE_3_8
        },
    ),
    (
        11,
        CodeLayout {
            first_line: 72,
            instructions: Instructions::Inside(184),
            ..CODE_3_13
        },
    ),
    (
        12,
        CodeLayout {
            instructions: Instructions::Inside(192),
            ..CODE_3_13
        },
    ),
    (13, CODE_3_13),
    (
        14,
        CodeLayout {
            instructions: Instructions::Inside(208),
            ..CODE_3_13
        },
    ),
];

const CODE_3_8: CodeLayout = CodeLayout {
    filename: 104,
    qualname: 112,
    first_line: 40,
    line_table: 120,
    local_names: 72,
    constants: 56,
    lines: LineTable::Steps,
    instructions: Instructions::Bytes {
        pointer: 48,
        size: 176,
    },
};

const CODE_3_13: CodeLayout = CodeLayout {
    filename: 112,
    qualname: 128,
    first_line: 68,
    line_table: 136,
    local_names: 96,
    constants: 24,
    lines: LineTable::Locations,
    instructions: Instructions::Inside(200),
};
