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
