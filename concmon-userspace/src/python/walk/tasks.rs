//! asyncio's tasks: what each of them says, its await chain, and what it waits for.

use std::collections::{BTreeMap, HashSet};

use super::callbacks::Waiters;
use super::chain::{self, Chain, End};
use super::contexts;
use super::gathers::Gathers;
use super::stacks::{self, Stack};
use super::suspended::FirstLocals;
use super::task_heads::{TaskHead, read_heads};
use super::task_waits::{self, Waiting};
use super::timeouts;
use super::waiters;
use crate::event::{PyFrame, PyTask, TaskState};
use crate::python::memory::addresses::{AddressMap, AddressSet};
use crate::python::objects::Reader;
use crate::python::objects::code::CodeCache;
use crate::python::objects::text::Label;
use crate::python::options::ScanOptions;

/// Tasks that are read together: what is read of them stays in the CPU's cache, and little time
/// passes before it is checked.
const TOGETHER: usize = 2048;
/// The sizes of groups in which what changes is read, in each try.
const GROUPS: [usize; 5] = [TOGETHER, 256, 32, 4, 1];
/// Tasks that were not met waiting which are read in parts, and how often each.
const MAX_RESTLESS: usize = 8;
const MAX_TRIES: usize = 24;
/// What is read of tasks last.
const DETAILS: [&str; 5] = [
    "tasks.awaiting",
    "tasks.context",
    "tasks.exception",
    "tasks.waiting_for",
    "tasks.awaited_by",
];
/// What the exceptions of the language itself do not say of themselves.
const BUILTINS: &str = "builtins.";
/// What a task that was cancelled ended with.
const CANCELLED: &str = "asyncio.exceptions.CancelledError";

/// Which of these addresses hold tasks that failed and whose exception nobody has asked for.
pub(crate) fn failed(reader: &mut Reader<'_>, tasks: &[u64]) -> Vec<u64> {
    let mut failed = Vec::new();
    for together in tasks.chunks(TOGETHER) {
        if reader.is_over() {
            break;
        }
        let heads = read_heads(reader, together).into_iter().zip(together);
        failed.extend(
            heads
                .filter(|(head, _)| {
                    head.is_some_and(|h| h.done && h.exception != 0 && h.unretrieved)
                })
                .map(|(_, task)| *task),
        );
    }
    failed
}

/// What was read of one task, and held.
struct Record {
    task: u64,
    head: TaskHead,
    name: String,
    coroutine: String,
    state: TaskState,
    awaiting: Vec<PyFrame>,
    /// The first local variables of each frame.
    locals: Vec<FirstLocals>,
}

/// Reads what changes: what did not hold is read again, in ever smaller groups, which are checked the
/// sooner. `read_once` gives back what did not hold, and so does this. Where the scan has to end, what
/// is left is given up.
pub(crate) fn in_ever_smaller_groups(
    reader: &mut Reader<'_>,
    mut open: Vec<u64>,
    mut read_once: impl FnMut(&mut Reader<'_>, &[u64]) -> Vec<u64>,
) -> Vec<u64> {
    for size in GROUPS {
        let mut again = Vec::new();
        for group in open.chunks(size) {
            if reader.is_over() {
                return Vec::new();
            }
            again.extend(read_once(reader, group));
        }
        open = again;
    }
    open
}

/// Reads tasks with their chains. `running` are the tasks that threads say they run.
pub(crate) fn read(
    reader: &mut Reader<'_>,
    codes: &mut CodeCache,
    tasks: &[u64],
    running: &HashSet<u64>,
    stacks: &[Stack],
    options: &ScanOptions,
) -> Vec<PyTask> {
    let listed: AddressSet = tasks.iter().copied().collect();
    // Neighbours are read in one piece.
    let mut tasks = tasks.to_vec();
    tasks.sort_unstable();
    let gathers = Gathers::read(reader, &tasks);
    let mut result = Vec::with_capacity(tasks.len());
    for together in tasks.chunks(TOGETHER) {
        if reader.is_over() {
            break;
        }
        let mut records = Vec::with_capacity(together.len());
        let open = in_ever_smaller_groups(reader, together.to_vec(), |reader, tasks| {
            read_once(reader, codes, tasks, running, stacks, options, &mut records)
        });
        for (number, task) in open.into_iter().enumerate() {
            let restless = (number < MAX_RESTLESS)
                .then(|| read_restless(reader, codes, task, options))
                .flatten();
            reader.failed += u64::from(restless.is_none());
            records.extend(restless);
        }
        let runs = |record: &&mut Record| record.state == TaskState::Running;
        for record in records.iter_mut().filter(runs).take(MAX_RESTLESS) {
            let restless = read_restless(reader, codes, record.task, options);
            if let Some(waits) = restless.filter(|one| one.state == TaskState::Pending) {
                *record = waits;
            }
        }
        result.extend(complete(reader, records, &listed, &gathers, options));
    }
    gathers.give_back(reader);
    result
}

/// How many tasks there are to be read.
pub(crate) enum Listed {
    All(usize),
    /// There are more, as the scan could not go on, or would be more than are asked for.
    AtLeast(usize),
}

/// Says that only so many of the tasks are told, where the scan could not go on.
pub(crate) fn note_cut(reader: &mut Reader<'_>, read: usize, listed: &Listed) {
    if let Some(reason) = reader.cut().map(str::to_owned) {
        let reason = match listed {
            Listed::AtLeast(0) => reason,
            Listed::AtLeast(count) => {
                format!("{reason}: {read} of at least {count} tasks were read")
            }
            Listed::All(count) => format!("{reason}: {read} of {count} tasks were read"),
        };
        reader.limits.insert("tasks".to_owned(), reason);
        for field in DETAILS {
            reader.note_cut(field);
        }
    }
}

/// Adds what does not take part in the check that a record holds.
fn complete(
    reader: &mut Reader<'_>,
    records: Vec<Record>,
    listed: &AddressSet,
    gathers: &Gathers,
    options: &ScanOptions,
) -> Vec<PyTask> {
    let contexts: Vec<u64> = records.iter().map(|record| record.head.context).collect();
    let contexts = contexts::values(reader, &contexts, &options.context_vars);
    let exceptions = exceptions(reader, &records);
    let waiting: Vec<Waiting<'_>> = records
        .iter()
        .map(|record| Waiting {
            future: match record.state {
                TaskState::Pending => record.head.waiter,
                TaskState::Running | TaskState::Done => 0,
            },
            frames: &record.awaiting,
            locals: &record.locals,
        })
        .collect();
    let waits = task_waits::waits(reader, &waiting);
    let timeouts = timeouts::timeouts(reader, &waiting);
    let waiters: Vec<(u64, Waiters)> = records
        .iter()
        .map(|record| (record.task, record.head.waiters))
        .collect();
    let awaited_by = waiters::awaited_by(reader, &waiters, listed, gathers);
    records
        .into_iter()
        .zip(exceptions)
        .zip(waits.into_iter().zip(timeouts).zip(awaited_by))
        .map(
            |((record, exception), ((waits_for, timeout_ns), awaited_by))| PyTask {
                id: record.task,
                loop_id: record.head.loop_object,
                name: record.name,
                coroutine: record.coroutine,
                coroutine_id: record.head.coroutine,
                state: record.state,
                awaiting: record.awaiting,
                waits_for,
                timeout_ns,
                in_timeout: false,
                client_port: None,
                hosts: Vec::new(),
                holds: Vec::new(),
                awaited_by,
                cancel_requested: record.head.cancel_requested && !record.head.done,
                retrieved: (record.head.exception != 0 && record.head.done)
                    .then_some(!record.head.unretrieved),
                exception,
                context: contexts
                    .get(&record.head.context)
                    .map_or_else(BTreeMap::new, |values| (**values).clone()),
            },
        )
        .collect()
}

/// The type of the exception that each task ended with.
fn exceptions(reader: &mut Reader<'_>, records: &[Record]) -> Vec<Option<String>> {
    let objects: Vec<u64> = records
        .iter()
        .map(|record| {
            if record.head.done {
                record.head.exception
            } else {
                0
            }
        })
        .collect();
    let mut names: AddressMap<Option<String>> = AddressMap::default();
    let classes = if objects.iter().any(|object| *object != 0) {
        reader.classes_of(&objects)
    } else {
        vec![None; objects.len()]
    };
    records
        .iter()
        .zip(classes)
        .map(|(record, class)| match class {
            _ if record.head.cancelled => Some(CANCELLED.to_owned()),
            None => None,
            Some(class) => names
                .entry(class)
                .or_insert_with(|| {
                    let name = reader.type_name(class)?;
                    Some(name.strip_prefix(BUILTINS).unwrap_or(&name).to_owned())
                })
                .clone(),
        })
        .collect()
}

/// One attempt: what held goes to `records`, what changed meanwhile is given back.
fn read_once(
    reader: &mut Reader<'_>,
    codes: &mut CodeCache,
    tasks: &[u64],
    running: &HashSet<u64>,
    stacks: &[Stack],
    options: &ScanOptions,
    records: &mut Vec<Record>,
) -> Vec<u64> {
    let (tasks, heads): (Vec<u64>, Vec<TaskHead>) = read_heads(reader, tasks)
        .into_iter()
        .zip(tasks)
        .filter_map(|(head, task)| Some((*task, head?)))
        .unzip();
    let coroutines: Vec<u64> = heads.iter().map(|head| head.coroutine).collect();
    let chains = chain::chains(reader, &coroutines, options.chain);
    codes.load(
        reader,
        chains
            .iter()
            .flat_map(|chain| chain.positions.iter().map(|position| position.code)),
    );
    reader.load_texts(
        chains
            .iter()
            .flat_map(|chain| [chain.qualname, chain.generator_name]),
    );
    let names = read_names(reader, &heads);
    let fallbacks = coroutine_types(reader, &coroutines, &chains);
    // The memory of a task, its coroutine and its name may all have gone to another one, at the
    // same addresses: contents are compared, too.
    let hold = chain::still_hold(reader, &chains);
    let after = read_heads(reader, &tasks);
    let names_after = read_names(reader, &heads);
    let mut again = Vec::new();
    for (slot, task) in tasks.iter().enumerate() {
        if reader.is_over() {
            break;
        }
        let head = heads[slot];
        let unchanged = after[slot] == Some(head) && names_after[slot] == names[slot];
        let read = (unchanged && (head.done || hold[slot]))
            .then(|| {
                Some(Record {
                    task: *task,
                    head,
                    name: name(names[slot].as_ref()?),
                    coroutine: match reader.text(chains[slot].qualname) {
                        Some(text) => text.to_string(),
                        None => fallbacks[slot].clone(),
                    },
                    state: state(*task, head, &chains[slot], running),
                    awaiting: frames(reader, codes, head, &chains[slot], stacks)?,
                    locals: chains[slot].locals.clone(),
                })
            })
            .flatten();
        match read {
            Some(read) => records.push(read),
            // One that vanished meanwhile has ended; that is not a failed read.
            None if after[slot].is_none() => {}
            None => again.push(*task),
        }
    }
    chain::note_folded(reader, &chains, options.chain);
    again
}

/// A task that goes from one wait to the next sooner than it can be read. Where two tries have met it at the same place, it
/// waits there again and again; the innermost counts, for what is gone meanwhile looks like the end of a chain.
fn read_restless(
    reader: &mut Reader<'_>,
    codes: &mut CodeCache,
    task: u64,
    options: &ScanOptions,
) -> Option<Record> {
    let mut met: Vec<Record> = Vec::new();
    let mut best: Option<Record> = None;
    for _ in 0..MAX_TRIES {
        let runs = |one: &Record| one.state == TaskState::Running;
        let runs_on = met.len() == 1 && best.as_ref().is_some_and(runs);
        if reader.is_over() || runs_on {
            break;
        }
        let Some(one) = read_in_parts(reader, codes, task, options) else {
            continue;
        };
        let is_known = met.iter().any(|other| is_alike(&one, other));
        let depth = |of: &Record| (!runs(of), of.awaiting.len());
        if is_known && best.as_ref().is_none_or(|best| depth(best) < depth(&one)) {
            best = Some(one);
        } else if !is_known {
            met.push(one);
        }
    }
    best
}

fn is_alike(one: &Record, other: &Record) -> bool {
    let what = |of: &Record| (of.head.coroutine, of.state, of.name.clone());
    what(one) == what(other) && one.awaiting == other.awaiting
}

/// What a task seems to be, whatever changes meanwhile.
fn read_in_parts(
    reader: &mut Reader<'_>,
    codes: &mut CodeCache,
    task: u64,
    options: &ScanOptions,
) -> Option<Record> {
    let head = read_heads(reader, &[task])
        .pop()?
        .filter(|head| !head.done)?;
    let chain = chain::in_parts(reader, head.coroutine, options.chain);
    codes.load(reader, chain.positions.iter().map(|position| position.code));
    reader.load_texts([chain.qualname, chain.generator_name]);
    let fallback =
        coroutine_types(reader, &[head.coroutine], std::slice::from_ref(&chain)).pop()?;
    let label = read_names(reader, &[head]).pop()??;
    let state = match chain.end {
        End::Executing => TaskState::Running,
        End::Whole if !chain.positions.is_empty() => TaskState::Pending,
        _ => return None,
    };
    Some(Record {
        task,
        head,
        name: name(&label),
        coroutine: match reader.text(chain.qualname) {
            Some(text) => text.to_string(),
            None => Some(fallback).filter(|name| !name.is_empty())?,
        },
        state,
        awaiting: frames(reader, codes, head, &chain, &[])?,
        locals: chain.locals,
    })
}

/// The name of each task, read now: strings come and go with their tasks.
fn read_names(reader: &mut Reader<'_>, heads: &[TaskHead]) -> Vec<Option<Label>> {
    let names: Vec<u64> = heads.iter().map(|head| head.name).collect();
    reader.labels(&names)
}

pub(crate) fn name(label: &Label) -> String {
    match label {
        Label::Text(text) => text.to_string(),
        // A task without a name of its own has a number until somebody asks.
        Label::Number(number) => format!("Task-{number}"),
    }
}

fn state(task: u64, head: TaskHead, chain: &Chain, running: &HashSet<u64>) -> TaskState {
    if head.done {
        return TaskState::Done;
    }
    match chain.end {
        End::Executing => TaskState::Running,
        // Of a coroutine that is no generator, or was not asked, its thread knows whether it runs.
        End::Whole if chain.positions.is_empty() && running.contains(&task) => TaskState::Running,
        _ => TaskState::Pending,
    }
}

fn frames(
    reader: &mut Reader<'_>,
    codes: &mut CodeCache,
    head: TaskHead,
    chain: &Chain,
    stacks: &[Stack],
) -> Option<Vec<PyFrame>> {
    if head.done {
        return Some(Vec::new());
    }
    let lines = reader.walk.code.lines;
    if chain.end == End::Executing {
        // It has no chain, but a place on the stack of the thread that runs it.
        let frames = stacks
            .iter()
            .find_map(|stack| stacks::below(reader, stack, chain.generator))
            .unwrap_or_default();
        let frames: Option<Vec<PyFrame>> = frames
            .iter()
            .map(|frame| codes.frame(frame.position, lines))
            .collect();
        // The stack is a little older: by now another coroutine may be where that one was.
        let name = reader.text(chain.generator_name)?;
        let plain = name.rsplit('.').next();
        return frames.map(|frames| match frames.first() {
            Some(own) if own.function.rsplit('.').next() == plain => frames,
            _ => Vec::new(),
        });
    }
    chain
        .positions
        .iter()
        .map(|position| codes.frame(*position, lines))
        .collect()
}

/// The type names of coroutines that are no generators (compiled ones, say), empty for all else.
fn coroutine_types(reader: &mut Reader<'_>, coroutines: &[u64], chains: &[Chain]) -> Vec<String> {
    let unnamed: Vec<u64> = coroutines
        .iter()
        .zip(chains)
        .map(|(coroutine, chain)| if chain.qualname == 0 { *coroutine } else { 0 })
        .collect();
    if unnamed.iter().all(|coroutine| *coroutine == 0) {
        return vec![String::new(); coroutines.len()];
    }
    reader
        .types_of(&unnamed)
        .into_iter()
        .map(|info| info.map_or_else(String::new, |info| info.name.to_string()))
        .collect()
}
