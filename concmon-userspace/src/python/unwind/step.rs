//! A look at a step that lasts: its task, its context variables, and what waits meanwhile.

use concmon_ebpf::SampleHead;

use crate::event::{StepFact, StepTask, Tid};
use crate::python::attached::Attached;
use crate::python::memory::{at, plausible};
use crate::python::objects::Reader;
use crate::python::options::ScanOptions;
use crate::python::walk::thread_states::ThreadRecord;
use crate::python::walk::{contexts, loops, task_heads, tasks, timers, trio};

/// What one look at a step may read, bytes.
const STEP_BYTES: usize = 1 << 20;

/// Looks at the step that a thread is in, by the sample that has shown it. `None`: it is over, or
/// could not be read.
pub(crate) fn step(
    attached: &Attached,
    read_ns: u64,
    head: &SampleHead,
    options: &ScanOptions,
) -> Option<StepFact> {
    let (_, layout) = attached.runtime?;
    let walk = layout.walk;
    let memory = &*attached.memory;
    let mut reader = Reader::new(memory, walk, STEP_BYTES);
    let state = head.thread_state;
    let version_at = at(state, walk.thread.context + 8);
    let still =
        |reader: &mut Reader<'_>| reader.pointer(version_at).ok() == Some(head.context_version);
    still(&mut reader).then_some(())?;
    let record = ThreadRecord::read(memory, state, &walk.thread).ok()?;
    let tid = Tid(head.tid);
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
    let values = context.map(|context| {
        contexts::values(&mut reader, &[context], &options.context_vars)
            .remove(&context)
            .map(|values| (*values).clone())
            .unwrap_or_default()
    });
    let waiting = loop_object.map(|id| {
        let about = loops::read(&mut reader, id, tid);
        (about.ready, timers::overdue(&mut reader, id, read_ns))
    });
    // What was read in between is about the same step.
    still(&mut reader).then_some(())?;
    Some(StepFact {
        read_ns,
        pid: attached.pid,
        tid,
        context_version: head.context_version,
        task,
        context: values.unwrap_or_default(),
        ready: waiting.and_then(|(ready, _)| ready),
        overdue: waiting.and_then(|(_, overdue)| overdue),
    })
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
