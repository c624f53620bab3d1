//! What the model is fed: every input of a watch as one owned, typed enum.
//!
//! Sources produce events; nothing else enters the model. All instants are nanoseconds of
//! `CLOCK_MONOTONIC`. All process and thread ids are those of the PID namespace that the tool runs in:
//! kernel programs translate where that is not the first one.
//!
//! Events are kept in captures by the names of their fields. A field that is added must be an
//! `Option` or have `#[serde(default)]`, so that older captures can be read; none is renamed.

mod account;
mod exact;
pub(crate) mod http;
mod ids;
mod monitor;
pub(crate) mod paths;
pub(crate) mod patterns;
mod place;
mod process;
mod python;
mod routes;
mod sample;
mod sched;
mod shared;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub(crate) use self::python::{is_library, own_frame};
pub use self::{
    account::{HistFact, LedgerFact, StillFact, ThreadState},
    exact::{ExactFact, PoolCounts, PoolsFact, TaskCounts},
    http::{HttpEvent, HttpPeer, HttpRequest, HttpWhat, NotParsed},
    ids::{Pid, Tid},
    monitor::{BudgetFact, MonitorFact, PassFact},
    place::{KubernetesFact, PlaceFact},
    process::{ProcessFact, ThreadStat, ThrottledFact},
    python::{
        ExecutorKind, FutureKind, LoopKind, PyDescriptor, PyEntered, PyExecutor, PyFailures,
        PyFrame, PyGc, PyGeneration, PyGil, PyHeapScan, PyLoop, PyProcess, PyQueue, PyReady,
        PyTask, PyThread, PyWait, PyWork, PythonFact, PythonInfo, TaskState, TaskWait, WaitKind,
        WaitPurpose,
    },
    routes::{PyNoRoutes, PyRoute, PyRouteKind, PyRoutes},
    sample::{
        CodeKind, Iteration, Sample, SampleKind, SampledStack, SpanContext, StepFact, StepSeen,
        StepTask, StepWait,
    },
    sched::{Cause, Exec, Exit, Fork, Loss, Slice, Wait},
};

/// One input of the model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Event {
    Slice(Slice),
    Sample(Box<Sample>),
    Step(Box<StepFact>),
    Fork(Fork),
    Exec(Exec),
    Exit(Exit),
    Loss(Loss),
    Ledger(Box<LedgerFact>),
    Still(Box<StillFact>),
    Process(Box<ProcessFact>),
    Python(Arc<PythonFact>),
    Exact(Box<ExactFact>),
    Pools(Box<PoolsFact>),
    Http(Box<HttpEvent>),
    Monitor(Box<MonitorFact>),
    /// A process turned out to be one that the user does not want to see.
    Excluded(Pid),
    /// No more records will come: only facts, and a last tick.
    End,
    /// Everything up to `at_ns` has been delivered: the window ends here.
    Tick(Tick),
}

impl Event {
    /// It is something that happened, no fact that was read.
    pub const fn happens(&self) -> bool {
        matches!(
            self,
            Event::Slice(_)
                | Event::Sample(_)
                | Event::Fork(_)
                | Event::Exec(_)
                | Event::Exit(_)
                | Event::Loss(_)
                | Event::Http(_)
        )
    }

    /// The instant (`CLOCK_MONOTONIC`, ns) at which the event takes its place among others: the
    /// end of a slice or of a loss, the read of a fact. `None` for what has no place of its own.
    pub fn at_ns(&self) -> Option<u64> {
        Some(match self {
            Event::Slice(slice) => slice.out_ns,
            Event::Sample(sample) => sample.at_ns,
            Event::Step(fact) => fact.read_ns,
            Event::Fork(fork) => fork.at_ns,
            Event::Exec(exec) => exec.at_ns,
            Event::Exit(exit) => exit.at_ns,
            Event::Loss(loss) => loss.to_ns,
            Event::Ledger(fact) => fact.read_ns,
            Event::Still(fact) => fact.read_ns,
            Event::Process(fact) => fact.read_ns,
            Event::Python(fact) => fact.read_ns,
            Event::Exact(fact) => fact.read_ns,
            Event::Pools(fact) => fact.read_ns,
            Event::Http(event) => event.at_ns,
            Event::Monitor(_) | Event::Excluded(_) | Event::End => return None,
            Event::Tick(tick) => tick.at_ns,
        })
    }
}

/// The end of a window.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Tick {
    pub at_ns: u64,
    /// The same instant on the wall clock, ns after 1970.
    pub unix_ns: u64,
}
