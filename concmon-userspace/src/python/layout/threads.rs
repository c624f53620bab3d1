//! The runtime, its interpreters, their GILs and thread states.

use serde::Serialize;

use super::Since;

/// `_PyRuntimeState`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RuntimeLayout {
    pub interpreters_head: u32,
}

pub(super) const RUNTIME: Since<RuntimeLayout> = &[
    (8, runtime(32)),
    (11, runtime(40)),
    (13, runtime(632)),
    (14, runtime(808)),
    (15, runtime(936)),
];

const fn runtime(interpreters_head: u32) -> RuntimeLayout {
    RuntimeLayout { interpreters_head }
}

/// Where the GIL struct is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum GilPlace {
    /// Inside the runtime struct, for all interpreters.
    Runtime(u32),
    /// Each interpreter has a pointer to the one it uses.
    Pointer(u32),
}

/// `PyInterpreterState`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct InterpreterLayout {
    pub next: u32,
    pub threads_head: u32,
    pub modules: u32,
    pub gil: GilPlace,
    /// List of tasks whose threads have ended.
    pub tasks_head: Option<u32>,
}

pub(super) const INTERPRETER: Since<InterpreterLayout> = &[
    (8, interpreter(0, 8, 56, GilPlace::Runtime(1152))),
    (9, interpreter(0, 8, 856, GilPlace::Runtime(352))),
    (11, interpreter(0, 16, 888, GilPlace::Runtime(360))),
    (12, interpreter(0, 72, 944, GilPlace::Pointer(384))),
    (13, interpreter(7264, 7344, 7656, GilPlace::Pointer(16))),
    (
        14,
        InterpreterLayout {
            tasks_head: Some(10880),
            ..interpreter(7272, 7344, 7688, GilPlace::Pointer(16))
        },
    ),
    (
        15,
        InterpreterLayout {
            tasks_head: Some(10856),
            ..interpreter(7264, 7336, 7592, GilPlace::Pointer(16))
        },
    ),
];

const fn interpreter(
    next: u32,
    threads_head: u32,
    modules: u32,
    gil: GilPlace,
) -> InterpreterLayout {
    InterpreterLayout {
        next,
        threads_head,
        modules,
        gil,
        tasks_head: None,
    }
}

/// Where a thread's running event loop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum RunningLoop {
    /// In the thread's dict: an object that holds the loop at this offset.
    DictHolder { dict: u32, held: u32 },
    /// In the thread's dict: the loop itself.
    Dict { dict: u32 },
    /// A field of the thread state.
    Field(u32),
}

/// Where a thread's innermost frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum FrameRoot {
    /// A field of the thread state.
    Field(u32),
    /// In a struct on the C stack that a field of the thread state points to.
    Indirect { pointer: u32, frame: u32 },
}

/// `PyThreadState`, with asyncio's additions behind it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ThreadLayout {
    pub prev: u32,
    pub next: u32,
    pub interpreter: u32,
    pub ident: u32,
    /// `None`: only the C library and `threading` know the thread's id.
    pub native_id: Option<u32>,
    pub frame: FrameRoot,
    /// A pointer into the C stack of whoever runs code by the state; `None`: there is none, or each thread has states
    /// of its own.
    pub loop_place: Option<u32>,
    /// The newest chunk of the stack of frames, with the first free byte behind it; `None` where
    /// frames are objects.
    pub chunk: Option<u32>,
    /// The current context; its version is behind it.
    pub context: u32,
    pub running_loop: RunningLoop,
    /// `None`: it is in a dict of the asyncio module.
    pub running_task: Option<u32>,
    pub tasks_head: Option<u32>,
}

pub(super) const THREAD: Since<ThreadLayout> = &[
    (8, THREAD_3_8),
    (
        10,
        ThreadLayout {
            loop_place: Some(48),
            ..THREAD_3_8
        },
    ),
    (
        11,
        ThreadLayout {
            ident: 152,
            native_id: Some(160),
            frame: FrameRoot::Indirect {
                pointer: 56,
                frame: 8,
            },
            loop_place: Some(56),
            chunk: Some(296),
            context: 224,
            running_loop: RunningLoop::DictHolder {
                dict: 128,
                held: 16,
            },
            ..THREAD_3_8
        },
    ),
    (
        12,
        ThreadLayout {
            ident: 136,
            native_id: Some(144),
            frame: FrameRoot::Indirect {
                pointer: 56,
                frame: 0,
            },
            loop_place: Some(56),
            chunk: Some(232),
            context: 208,
            running_loop: RunningLoop::Dict { dict: 112 },
            ..THREAD_3_8
        },
    ),
    (13, THREAD_3_13),
    (
        14,
        ThreadLayout {
            running_loop: RunningLoop::Field(864),
            running_task: Some(872),
            tasks_head: Some(880),
            ..THREAD_3_13
        },
    ),
    (
        15,
        ThreadLayout {
            ident: 176,
            native_id: Some(184),
            chunk: Some(256),
            context: 232,
            running_loop: RunningLoop::Field(1024),
            running_task: Some(1032),
            tasks_head: Some(1048),
            ..THREAD_3_13
        },
    ),
];

const THREAD_3_8: ThreadLayout = ThreadLayout {
    prev: 0,
    next: 8,
    interpreter: 16,
    ident: 176,
    native_id: None,
    frame: FrameRoot::Field(24),
    loop_place: None,
    chunk: None,
    context: 240,
    running_loop: RunningLoop::DictHolder {
        dict: 152,
        held: 16,
    },
    running_task: None,
    tasks_head: None,
};

const THREAD_3_13: ThreadLayout = ThreadLayout {
    ident: 152,
    native_id: Some(160),
    frame: FrameRoot::Field(72),
    chunk: Some(232),
    context: 208,
    running_loop: RunningLoop::Field(304),
    ..THREAD_3_8
};
