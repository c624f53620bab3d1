//! What ran in loops, as far as samples and looks tell: steps by their samples, tasks by looks in a row.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Sink, Threads};
use crate::event::{Pid, PyTask, PythonFact, Sample, TaskState, Tid};
use crate::model::step_id::StepId;

/// Tasks that are followed at the same time.
const MAX_TASKS: usize = 512;
/// Coroutines whose tasks' names are known at the same time.
const MAX_NAMES: usize = 65_536;
/// Threads whose steps are followed.
const MAX_THREADS: usize = 1_024;

/// A step of a loop, from the first of its samples to the last.
#[derive(Clone, Debug)]
pub struct Step {
    /// Index in [`Threads`].
    pub thread: usize,
    pub from_ns: u64,
    pub to_ns: u64,
    /// The task's, else of its coroutine or callback.
    pub name: Arc<str>,
    pub samples: u64,
}

/// A task did the same at looks in a row; up to the first that shows something else.
#[derive(Clone, Debug)]
pub struct TaskStretch {
    /// The loop's thread, as an index in [`Threads`].
    pub thread: usize,
    /// Address of the task.
    pub task: u64,
    pub name: String,
    pub coroutine: String,
    /// What it was seen to do: `waits for Queue in get (queues.py:186)`.
    pub doing: String,
    pub from_ns: u64,
    pub to_ns: u64,
}

#[derive(Clone, Debug)]
struct OpenStep {
    id: Option<StepId>,
    step: Step,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Steps {
    open: BTreeMap<usize, OpenStep>,
    /// By process and task.
    tasks: BTreeMap<(Pid, u64), TaskStretch>,
    /// By process and coroutine.
    names: BTreeMap<(Pid, u64), Arc<str>>,
}

impl Steps {
    pub(super) fn sample(
        &mut self,
        thread: usize,
        sample: &Sample,
        threads: &Threads,
        sink: &mut dyn Sink,
    ) {
        let stack = &sample.stack;
        if !stack.in_loop {
            return;
        }
        let own = stack
            .step_frames
            .checked_sub(1)
            .and_then(|at| stack.frames.get(at));
        let open = self.open.get_mut(&thread);
        if let (Some(open), Some(_)) = (open, own)
            && let Some(id) = &mut open.id
            && id.shows(sample)
        {
            open.step.to_ns = open.step.to_ns.max(sample.at_ns);
            open.step.samples += 1;
            return;
        }
        if let Some(done) = self.open.remove(&thread) {
            sink.step(&done.step, threads);
        }
        let Some(own) = own.filter(|_| self.open.len() < MAX_THREADS) else {
            return;
        };
        let named = sample
            .coroutine
            .and_then(|coroutine| self.names.get(&(sample.pid, coroutine)));
        let step = Step {
            thread,
            from_ns: sample.at_ns,
            to_ns: sample.at_ns,
            name: named.cloned().unwrap_or_else(|| Arc::from(&*own.function)),
            samples: 1,
        };
        let id = StepId::of(sample);
        self.open.insert(thread, OpenStep { id, step });
    }

    pub(super) fn look(&mut self, look: &PythonFact, threads: &Threads, sink: &mut dyn Sink) {
        self.names.retain(|(pid, _), _| *pid != look.pid);
        for task in look.tasks.iter().filter(|task| task.coroutine_id != 0) {
            if self.names.len() < MAX_NAMES {
                let name = Arc::from(&*task.name);
                self.names.insert((look.pid, task.coroutine_id), name);
            }
        }
        let loops: BTreeMap<u64, Tid> = look.loops.iter().map(|one| (one.id, one.tid)).collect();
        let mut seen = BTreeMap::new();
        for task in &look.tasks {
            let thread = loops
                .get(&task.loop_id)
                .and_then(|tid| threads.newest(*tid));
            if let Some(thread) = thread
                && task.state != TaskState::Done
            {
                seen.insert(task.id, (thread, task));
            }
        }
        // Those that are not there any more, or are another task now, or do something else.
        self.tasks.retain(|(pid, id), stretch| {
            if *pid != look.pid {
                return true;
            }
            let same = seen
                .get(id)
                .is_some_and(|(_, task)| task.name == stretch.name && doing(task) == stretch.doing);
            stretch.to_ns = look.read_ns;
            if !same {
                sink.task(stretch, threads);
            }
            same
        });
        for (id, (thread, task)) in seen {
            let key = (look.pid, id);
            if self.tasks.len() < MAX_TASKS && !self.tasks.contains_key(&key) {
                let stretch = TaskStretch {
                    thread,
                    task: id,
                    name: task.name.clone(),
                    coroutine: task.coroutine.clone(),
                    doing: doing(task),
                    from_ns: look.read_ns,
                    to_ns: look.read_ns,
                };
                self.tasks.insert(key, stretch);
            }
        }
    }

    pub(super) fn finish(&mut self, end_ns: u64, threads: &Threads, sink: &mut dyn Sink) {
        for (_, done) in std::mem::take(&mut self.open) {
            sink.step(&done.step, threads);
        }
        for (_, mut stretch) in std::mem::take(&mut self.tasks) {
            stretch.to_ns = end_ns.max(stretch.from_ns);
            sink.task(&stretch, threads);
        }
    }
}

/// What a task does, in few words.
fn doing(task: &PyTask) -> String {
    let at = task.awaiting.last().map(|frame| {
        let file = frame.file.rsplit('/').next().unwrap_or(&frame.file);
        format!("{} ({file}:{})", frame.function, frame.line)
    });
    match (&task.waits_for, at) {
        (Some(wait), Some(at)) => format!("waits for {} in {at}", wait.kind),
        (Some(wait), None) => format!("waits for {}", wait.kind),
        (None, Some(at)) if task.state == TaskState::Pending => format!("ready in {at}"),
        (None, Some(at)) => format!("runs {at}"),
        (None, None) => "runs".to_owned(),
    }
}
