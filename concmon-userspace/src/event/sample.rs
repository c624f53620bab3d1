//! Stacks that were sampled, and what was read in the middle of a long step.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{Cause, Pid, PyFrame, ThreadState, Tid};

/// When a kernel program took a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SampleKind {
    /// By the clock, while the thread was on a CPU.
    OnCpu,
    /// When it blocked: the wait that begins here has the same instant as its `off_ns`.
    Block(Cause),
}

/// What code a thread was in when it was sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CodeKind {
    /// The interpreter's own: bytecode, builtins.
    Interpreter,
    /// Another library's, called from Python.
    Native,
    /// The kernel's, on the thread's behalf.
    Kernel,
}

/// A Python stack that a kernel program took while the thread stood still.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    pub at_ns: u64,
    pub pid: Pid,
    pub tid: Tid,
    pub kind: SampleKind,
    /// `PyThreadState.context_ver`: grows by one whenever a context is entered or left. Loops enter
    /// one for each step, so equal numbers mean the same step, and half the growth is the number of
    /// steps. `None`: the thread has no thread state, or it could not be read.
    pub context_version: Option<u64>,
    /// The turn of an asyncio loop or of trio; `None` elsewhere, and before its selector has returned.
    pub iteration: Option<Iteration>,
    /// How many turns the loop had begun, the low half of its own count; `None` where it keeps none.
    #[serde(default)]
    pub turns: Option<u32>,
    /// The process's garbage collector was at work.
    pub collecting: bool,
    /// `None`: not known, or blocked.
    pub code: Option<CodeKind>,
    /// Address of the generator object of the outermost coroutine of the step: the task's own.
    /// `None`: no task's step.
    pub coroutine: Option<u64>,
    /// The same of the task whose step has made this one, which runs at once, in the middle of that (an eager
    /// task). `None`: not so.
    #[serde(default)]
    pub creator: Option<u64>,
    pub stack: Arc<SampledStack>,
}

/// A turn of a loop, as its own variables tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Iteration {
    /// When its selector had returned (`CLOCK_MONOTONIC`, ns).
    pub start_ns: u64,
    /// Which of its ready callbacks runs, from 0; `None`: none has begun, or trio's.
    pub index: Option<u32>,
    /// How many callbacks were ready when it began; `None`: not counted yet, or trio's.
    pub count: Option<u32>,
}

/// The frames of a sample; equal ones are shared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampledStack {
    /// The innermost frame first.
    pub frames: Vec<PyFrame>,
    /// How many frames, from the innermost, are a loop's step; the last of these is the step's own:
    /// the task's coroutine or the callback. 0: in the loop's own code, or in no loop.
    pub step_frames: usize,
    /// A loop runs on this stack, whether it is in a step or not.
    pub in_loop: bool,
    /// There were more frames than the kernel program walks.
    pub truncated: bool,
}

/// What a loop's thread was read to be doing in the middle of a long step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StepFact {
    pub read_ns: u64,
    pub pid: Pid,
    pub tid: Tid,
    /// As [`Sample::context_version`]: which step this is about.
    pub context_version: u64,
    /// `None`: no task's step.
    pub task: Option<StepTask>,
    /// Values of the context variables that were asked for, by name.
    pub context: BTreeMap<String, String>,
    /// The span that the request is in, by its context; `None`: none is known.
    #[serde(default)]
    pub span: Option<SpanContext>,
    /// Callbacks that were ready meanwhile.
    pub ready: Option<u64>,
    /// Timers that were due already.
    pub overdue: Option<u64>,
    /// What its thread did meanwhile; `None`: that was not looked at.
    #[serde(default)]
    pub seen: Option<StepSeen>,
}

/// A span of a trace (W3C Trace Context).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpanContext {
    /// Big-endian, as it is written; not 0, and neither is the span's.
    pub trace_id: [u8; 16],
    /// `None`: only the trace is known.
    pub span_id: Option<[u8; 8]>,
    /// Whether the trace is kept; `None`: not known.
    pub sampled: Option<bool>,
}

impl SpanContext {
    /// `None`: these are no ids.
    pub fn new(trace_id: u128, span_id: Option<u64>, sampled: Option<bool>) -> Option<Self> {
        let is_valid = trace_id != 0 && span_id != Some(0);
        is_valid.then(|| Self {
            trace_id: trace_id.to_be_bytes(),
            span_id: span_id.map(u64::to_be_bytes),
            sampled,
        })
    }
}

/// A loop's thread as a look has met it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StepSeen {
    /// The open stretch of its account, and when that began, ns.
    pub state: ThreadState,
    pub since_ns: u64,
    /// Since when stacks and looks have shown this step, ns.
    pub step_since_ns: u64,
    /// It was busy when its account was opened, at this instant, and was never idle since then.
    pub busy_from_ns: Option<u64>,
    /// It waits on a queue of events, as loops do when they are idle.
    #[serde(default)]
    pub idle: bool,
    /// Its last block, or the one that it is in, whatever its stack is of; `None`: it was preempted since.
    #[serde(default)]
    pub wait: Option<StepWait>,
    /// Its stack: where it is blocked, as of `since_ns`.
    pub sample: Sample,
}

/// A block of a loop's thread, up to its end or to the look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepWait {
    pub from_ns: u64,
    pub to_ns: u64,
    pub cause: Cause,
}

/// The task that a step belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepTask {
    /// As [`super::PyTask::id`].
    pub id: u64,
    pub name: String,
    /// Address of its coroutine object, as [`Sample::coroutine`].
    pub coroutine: Option<u64>,
}
