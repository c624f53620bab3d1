//! Samples in a row that show the same step, and the stall that they may be.

use std::sync::Arc;

use crate::event::{CodeKind, PyFrame, Sample, SampleKind, SampledStack};
use crate::model::step_id::StepId;

/// Different stacks that are kept of one step.
const MAX_STACKS: usize = 64;

/// What a step is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    /// A task's, by the address of its coroutine and the name of that.
    Task(u64, Arc<str>),
    /// A callback that is no task's.
    Callback(Arc<str>),
    /// None: the loop's own work.
    Loop,
}

impl Owner {
    pub(super) fn of(sample: &Sample) -> Self {
        let outermost = sample.stack.step_frames.checked_sub(1);
        let Some(frame) = outermost.and_then(|frame| sample.stack.frames.get(frame)) else {
            return Owner::Loop;
        };
        let name: Arc<str> = Arc::clone(&frame.function);
        match sample.coroutine {
            Some(coroutine) => Owner::Task(coroutine, name),
            None => Owner::Callback(name),
        }
    }

    /// The function; `None` for the loop itself.
    pub(super) fn function(&self) -> Option<&Arc<str>> {
        match self {
            Owner::Task(_, name) | Owner::Callback(name) => Some(name),
            Owner::Loop => None,
        }
    }
}

#[derive(Clone, Debug)]
struct Seen {
    stack: Arc<SampledStack>,
    kind: SampleKind,
    /// Samples, or the time of blocks, ns.
    weight: u64,
}

/// Samples that show the same step.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// `None`: its samples do not tell it from others.
    pub(super) id: Option<StepId>,
    pub(super) owner: Owner,
    /// As [`Sample::creator`].
    pub(super) creator: Option<u64>,
    /// Which turn its first sample has met: when it began, or its number.
    pub(super) turn: Option<u64>,
    pub(super) begin_ns: u64,
    pub(super) first_ns: u64,
    /// From here on it is the same step for sure.
    pub(super) sure_ns: u64,
    /// Up to here it is the same step for sure.
    pub(super) last_ns: u64,
    pub(super) samples: u64,
    on_cpu: u64,
    collecting: u64,
    native: u64,
    stacks: Vec<Seen>,
}

impl Run {
    pub(super) fn new(sample: &Sample, begin_ns: u64) -> Self {
        Run {
            id: StepId::of(sample),
            owner: Owner::of(sample),
            creator: sample.creator,
            turn: match sample.iteration {
                Some(turn) => Some(turn.start_ns),
                None => sample.turns.map(u64::from),
            },
            begin_ns,
            first_ns: sample.at_ns,
            sure_ns: sample.at_ns,
            last_ns: sample.at_ns,
            samples: 0,
            on_cpu: 0,
            collecting: 0,
            native: 0,
            stacks: Vec::new(),
        }
    }

    /// Whether it is this step that its samples show.
    pub(super) fn is(&self, id: &StepId) -> bool {
        self.id.as_ref().is_some_and(|own| own.is(id))
    }

    /// A sample; `blocked_ns` is how long the block took that it begins.
    pub(super) fn add(&mut self, sample: &Sample, blocked_ns: u64) {
        let weight = match sample.kind {
            SampleKind::OnCpu => 1,
            SampleKind::Block(_) => blocked_ns.max(1),
        };
        self.last_ns = self.last_ns.max(sample.at_ns);
        self.samples += 1;
        if sample.kind == SampleKind::OnCpu {
            self.on_cpu += 1;
            self.collecting += u64::from(sample.collecting);
            self.native += u64::from(sample.code == Some(CodeKind::Native));
        }
        // The step's own function shows even where the loop's frames were not walked.
        if self.owner == Owner::Loop {
            self.owner = Owner::of(sample);
        }
        let may_add = self.stacks.len() < MAX_STACKS;
        let known = self.stacks.iter_mut().find(|seen| {
            seen.kind == sample.kind
                && (Arc::ptr_eq(&seen.stack, &sample.stack) || seen.stack == sample.stack)
        });
        match known {
            Some(seen) => seen.weight = seen.weight.saturating_add(weight),
            None if may_add => self.stacks.push(Seen {
                stack: Arc::clone(&sample.stack),
                kind: sample.kind,
                weight,
            }),
            None => {}
        }
    }

    /// The part of its time on a CPU that the collector took.
    pub(super) fn collecting(&self) -> (u64, u64) {
        (self.collecting, self.on_cpu)
    }

    /// The frames of the step, as most samples of a kind have them; `None`: there is no sample of it.
    pub(super) fn stack_of(&self, kind: SampleKind) -> Option<Vec<PyFrame>> {
        self.most(|seen| seen.kind == kind)
    }

    /// The frames of the step, as most samples have them.
    pub(super) fn any_stack(&self) -> Option<Vec<PyFrame>> {
        self.most(|_| true)
    }

    fn most(&self, of: impl Fn(&Seen) -> bool) -> Option<Vec<PyFrame>> {
        // By places of functions, not of lines: a loop has many of these.
        let mut best: Option<(u64, &Seen)> = None;
        for seen in self.stacks.iter().filter(|seen| of(seen)) {
            let alike = self
                .stacks
                .iter()
                .filter(|other| of(other) && same_functions(&seen.stack, &other.stack));
            let count = alike.map(|other| other.weight).sum();
            let better = match best {
                None => true,
                Some((most, known)) => (count, seen.weight) > (most, known.weight),
            };
            if better {
                best = Some((count, seen));
            }
        }
        best.map(|(_, seen)| frames(&seen.stack))
    }
}

fn same_functions(one: &SampledStack, other: &SampledStack) -> bool {
    let place = |frame: &PyFrame| (frame.function.clone(), frame.file.clone());
    one.frames.len() == other.frames.len()
        && one
            .frames
            .iter()
            .zip(&other.frames)
            .all(|(one, other)| place(one) == place(other))
}

/// The frames of the step; all of them, where it is none.
fn frames(stack: &SampledStack) -> Vec<PyFrame> {
    match stack.step_frames {
        0 => stack.frames.clone(),
        count => stack.frames[..count.min(stack.frames.len())].to_vec(),
    }
}
