//! A look at a step that lasts: its task, its context variables, and what waits meanwhile.

use super::{Unwinder, by_hand};
use crate::event::{Sample, SpanContext, StepFact, StepTask, Tid};
use crate::python::attached::Attached;
use crate::python::memory::{at, plausible};
use crate::python::objects::Reader;
use crate::python::options::ScanOptions;
use crate::python::walk::thread_states::ThreadRecord;
use crate::python::walk::{contexts, loops, spans, task_heads, tasks, timers, trio};

/// What one look at a step may read, bytes.
const STEP_BYTES: usize = 1 << 20;

/// Whose step is to be looked at.
#[derive(Clone, Copy, Debug)]
pub struct StepAt {
    pub tid: Tid,
    /// Address of its thread state; 0: not known.
    pub thread_state: u64,
    /// `threading.get_ident()` in it; 0: not known.
    pub ident: u64,
    /// By [`Sample::context_version`]; `None`: whichever it is in.
    pub version: Option<u64>,
}

impl Unwinder {
    /// Looks at the step that a thread is in, and at its stack. `None`: the step that was meant is over, or
    /// it could not be read.
    pub(crate) fn step(
        &mut self,
        attached: &Attached,
        read_ns: u64,
        whose: &StepAt,
        options: &ScanOptions,
    ) -> Option<(StepFact, Sample)> {
        let (_, layout) = attached.runtime?;
        let walk = layout.walk;
        let memory = &*attached.memory;
        let mut reader = Reader::new(memory, walk, STEP_BYTES);
        let record = match whose.thread_state {
            0 => by_hand::find_state(attached, whose.ident)?,
            state => match ThreadRecord::read(memory, state, &walk.thread).ok()? {
                // It was another thread's, or is one's no more.
                record if whose.ident != 0 && record.field(walk.thread.ident) != whose.ident => {
                    by_hand::find_state(attached, whose.ident)?
                }
                record => record,
            },
        };
        let state = record.address;
        let version_at = at(state, walk.thread.context + 8);
        let version = reader.pointer(version_at).ok()?;
        if whose.version.is_some_and(|meant| meant != version) {
            return None;
        }
        let tid = whose.tid;
        let loop_object = loops::running(&mut reader, std::slice::from_ref(&record))
            .pop()
            .flatten();
        let (_, _, main) = attached.main()?;
        let modules = reader.pointer(at(main, layout.interpreter.modules)).ok();
        let task = running_task(&mut reader, &record, loop_object, modules);
        let task = task
            .and_then(|task| name_task(&mut reader, task))
            .or_else(|| trio_task(&mut reader, &record, modules));
        let context = reader
            .pointer(at(state, walk.thread.context))
            .ok()
            .filter(|context| plausible(*context));
        let (values, span) = context.map_or_else(Default::default, |context| {
            context_of(&mut reader, context, &options.context_vars)
        });
        let waiting = loop_object.map(|id| {
            let about = loops::read(&mut reader, id, tid);
            (about.ready, timers::overdue(&mut reader, id, read_ns))
        });
        let mut codes = std::mem::take(&mut self.codes);
        codes.begin(STEP_BYTES);
        let raw = by_hand::sample(
            attached,
            &mut reader,
            &mut codes,
            &self.turns,
            main,
            tid,
            &record,
        );
        self.codes = codes;
        let mut raw = raw?;
        raw.head.at_ns = read_ns;
        // What was read in between is about the same step.
        if raw.head.context_version != version || reader.pointer(version_at).ok() != Some(version) {
            return None;
        }
        let mut sample = self.resolve(attached, std::slice::from_ref(&raw)).pop()?;
        sample.code = None;
        let fact = StepFact {
            read_ns,
            pid: attached.pid,
            tid,
            context_version: version,
            task,
            context: values,
            span,
            ready: waiting.and_then(|(ready, _)| ready),
            overdue: waiting.and_then(|(_, overdue)| overdue),
            seen: None,
        };
        Some((fact, sample))
    }
}

/// The values of variables in a context, and the span that it is in.
fn context_of(
    reader: &mut Reader<'_>,
    context: u64,
    names: &[String],
) -> (contexts::Values, Option<SpanContext>) {
    let (values, current) = contexts::values_and(reader, context, names, spans::VARIABLE);
    let mut current = current.into_iter();
    let span = current.find_map(|current| spans::current(reader, current));
    let named = || {
        values
            .iter()
            .find_map(|(name, text)| spans::named(name, text))
    };
    let span = span.or_else(named);
    (values, span)
}

/// The task that a thread says it runs, or the one that its loop has current.
fn running_task(
    reader: &mut Reader<'_>,
    record: &ThreadRecord,
    loop_object: Option<u64>,
    modules: Option<u64>,
) -> Option<u64> {
    if let Some(offset) = reader.walk.thread.running_task {
        return Some(record.field(offset)).filter(|task| plausible(*task));
    }
    let tasks = reader.dict_values(modules?, &["asyncio.tasks"])?[0]?;
    let tasks = reader.module_dict(tasks)?;
    let current = reader.dict_values(tasks, &["_current_tasks"])?[0]?;
    let entries = reader.dict(current)?;
    entries
        .iter()
        .find(|(of, _)| Some(*of) == loop_object)
        .map(|(_, task)| *task)
}

fn trio_task(
    reader: &mut Reader<'_>,
    record: &ThreadRecord,
    modules: Option<u64>,
) -> Option<StepTask> {
    let module = reader.dict_values(modules?, &[trio::MODULE])?[0]?;
    let module = reader.module_dict(module)?;
    let (id, name, coroutine) = trio::running(reader, module, record)?;
    Some(StepTask {
        id,
        name,
        coroutine,
    })
}

fn name_task(reader: &mut Reader<'_>, task: u64) -> Option<StepTask> {
    let head = task_heads::read_heads(reader, &[task]).pop()??;
    let name = reader.labels(&[head.name]).pop()??;
    Some(StepTask {
        id: task,
        name: tasks::name(&name),
        coroutine: Some(head.coroutine).filter(|coroutine| *coroutine != 0),
    })
}
