//! Where functions are that can be probed: in types and in tables of methods.

use serde::Serialize;

use super::Since;

/// How asyncio's C module calls a task that has been woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum WakeupShape {
    /// An object of a type of its own, with this `tp_basicsize`, whose call is the wakeup.
    Wrapper(u32),
    /// A bound builtin method.
    Method,
}

/// Where the type of the objects that call a task's step is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum StepType {
    /// A static type of the C module.
    Static,
    /// A pointer at this offset in the state of the C module.
    InState(u32),
}

/// Slots of `PyTypeObject`, fields of `PyMethodDef`, and the functions of asyncio's C module that the
/// steps of all tasks go through.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ProbeLayout {
    /// `tp_init` and `tp_call`.
    pub type_init: u32,
    pub type_call: u32,
    /// `ml_meth` and `ml_flags`; the name comes first.
    pub method_function: u32,
    pub method_flags: u32,
    /// `tp_basicsize` of the wrappers of steps.
    pub step_size: u32,
    pub step_type: StepType,
    pub wakeup: WakeupShape,
    /// Tasks may run within their own initialization.
    pub eager: bool,
}

pub(super) const PROBES: Since<ProbeLayout> = &[
    (8, probes(StepType::Static, WakeupShape::Wrapper(24), false)),
    (10, probes(StepType::Static, WakeupShape::Method, false)),
    (12, probes(StepType::InState(8), WakeupShape::Method, true)),
];

const fn probes(step_type: StepType, wakeup: WakeupShape, eager: bool) -> ProbeLayout {
    ProbeLayout {
        type_init: 296,
        type_call: 128,
        method_function: 8,
        method_flags: 16,
        step_size: 32,
        step_type,
        wakeup,
        eager,
    }
}

/// Where a thread state has the exception that is being raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum RaisedShape {
    /// Its type and its traceback.
    Parts { class: u32, traceback: u32 },
    /// The exception itself.
    Object(u32),
}

/// Exceptions, and what they leave while they are raised.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct FailureLayout {
    pub raised: RaisedShape,
    /// In an exception: its traceback; in that: its frame object.
    pub exception_traceback: u32,
    pub traceback_frame: u32,
    /// In a frame object: its frame; `None`: it is the frame.
    pub object_frame: Option<u32>,
    /// `tp_methods`.
    pub type_methods: u32,
    /// asyncio makes some exceptions anew, without the traceback.
    pub converted: bool,
}

pub(super) const FAILURES: Since<FailureLayout> = &[
    (
        8,
        FailureLayout {
            raised: RaisedShape::Parts {
                class: 88,
                traceback: 104,
            },
            exception_traceback: 32,
            object_frame: None,
            converted: true,
            ..FAILURES_3_13
        },
    ),
    (
        11,
        FailureLayout {
            raised: RaisedShape::Parts {
                class: 96,
                traceback: 112,
            },
            converted: true,
            ..FAILURES_3_13
        },
    ),
    (
        12,
        FailureLayout {
            raised: RaisedShape::Object(96),
            converted: true,
            ..FAILURES_3_13
        },
    ),
    (13, FAILURES_3_13),
    (
        15,
        FailureLayout {
            raised: RaisedShape::Object(136),
            ..FAILURES_3_13
        },
    ),
];

const FAILURES_3_13: FailureLayout = FailureLayout {
    raised: RaisedShape::Object(112),
    exception_traceback: 40,
    traceback_frame: 24,
    object_frame: Some(24),
    type_methods: 232,
    converted: false,
};
