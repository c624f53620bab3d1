//! asyncio's tasks: where they are listed, what each of them says, and what it waits for.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::addresses::{AddressMap, AddressSet};
use super::chain::{self, Chain, End};
use super::code::CodeCache;
use super::contexts;
use super::facts::LookOptions;
use super::memory::{Batch, Memory, ReadError, at, word};
use super::object::Reader;
use super::stacks::{self, Stack};
use super::task_heads::{TaskHead, read_heads};
use super::task_waits::{self, Waiting};
use super::waiters::{self, Waiters};
use crate::event::{PyFrame, PyTask, TaskState};

/// How often a list that changes while it is walked is walked again.
const MAX_LIST_TRIES: usize = 5;
/// How many tasks are read together: what is needed meanwhile is many times what is kept.
const TASKS_AT_ONCE: usize = 8192;
/// How often a task that changes while it is read is read in all.
const MAX_TASK_TRIES: usize = 5;
/// What the exceptions of the language itself do not say of themselves.
const BUILTINS: &str = "builtins.";
/// What a task that was cancelled ended with.
const CANCELLED: &str = "asyncio.exceptions.CancelledError";

/// A list of tasks: the address of its head.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListHead(pub(super) u64);

/// The tasks in linked lists, at most `limit`. `known` are those of the look before: their links
/// are read together.
pub(super) fn listed(
    reader: &mut Reader<'_>,
    memory: &dyn Memory,
    heads: &[ListHead],
    known: &[u64],
    limit: usize,
) -> Vec<u64> {
    let Some(node) = reader.walk.task.node else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for attempt in 0..MAX_LIST_TRIES {
        let mut ahead = HashMap::new();
        let heads_and_known = heads.iter().map(|head| head.0);
        let nodes: Vec<u64> = if attempt == 0 {
            heads_and_known
                .chain(known.iter().map(|task| at(*task, node)))
                .collect()
        } else {
            heads_and_known.collect()
        };
        let mut batch = Batch::new();
        for address in &nodes {
            batch.push(*address, 16);
        }
        reader.fetch(&mut batch);
        for (slot, address) in nodes.iter().enumerate() {
            ahead.extend(
                batch
                    .whole(slot)
                    .and_then(links)
                    .map(|links| (*address, links)),
            );
        }
        found.clear();
        let walked = heads
            .iter()
            .try_for_each(|head| walk_list(memory, *head, node, &mut ahead, limit, &mut found));
        match walked {
            Ok(()) => return found,
            Err(ReadError::Gone) => break,
            Err(_) => {}
        }
    }
    reader.failed += 1;
    reader.limits.insert(
        "tasks".to_owned(),
        "the list of tasks changed faster than it could be read".to_owned(),
    );
    found
}

fn links(bytes: &[u8]) -> Option<(u64, u64)> {
    Some((word(bytes, 0)?, word(bytes, 8)?))
}

fn walk_list(
    memory: &dyn Memory,
    head: ListHead,
    node_offset: u32,
    ahead: &mut HashMap<u64, (u64, u64)>,
    limit: usize,
    found: &mut Vec<u64>,
) -> Result<(), ReadError> {
    let read = |address: u64| {
        let mut bytes = [0; 16];
        memory.read(address, &mut bytes)?;
        links(&bytes).ok_or(ReadError::Unmapped { address, len: 16 })
    };
    let mut from = head.0;
    let (mut node, _) = match ahead.remove(&head.0) {
        Some(links) => links,
        None => read(head.0)?,
    };
    // A head that is all zero belongs to a thread that has not used asyncio.
    while node != 0 && node != head.0 && found.len() <= limit {
        let (next, previous) = match ahead.remove(&node) {
            Some(links) => links,
            None => read(node)?,
        };
        if previous != from || next == 0 {
            return Err(ReadError::Torn {
                what: "list of tasks",
                address: node,
            });
        }
        found.push(node.wrapping_sub(u64::from(node_offset)));
        from = node;
        node = next;
    }
    Ok(())
}

/// Which of these addresses hold tasks that failed and whose exception nobody has asked for.
pub(super) fn failed(reader: &mut Reader<'_>, tasks: &[u64]) -> Vec<u64> {
    if tasks.is_empty() {
        return Vec::new();
    }
    read_heads(reader, tasks)
        .into_iter()
        .zip(tasks)
        .filter(|(head, _)| head.is_some_and(|h| h.done && h.exception != 0 && h.unretrieved))
        .map(|(_, task)| *task)
        .collect()
}

/// The tasks in a set, or in a weak set when `weak`; one more than `limit` at most, which says
/// that there are more.
pub(super) fn in_set(
    reader: &mut Reader<'_>,
    set: u64,
    weak: bool,
    limit: usize,
) -> Option<Vec<u64>> {
    let most = limit.saturating_add(1);
    if !weak {
        let mut tasks = reader.set(set).ok()?;
        tasks.truncate(most);
        return Some(tasks);
    }
    let data = reader.attributes_of(set, &["data"])?[0]?;
    let mut references = reader.set(data).ok()?;
    references.truncate(most);
    Some(
        reader
            .referents(&references)
            .into_iter()
            .flatten()
            .collect(),
    )
}

/// What was read of one task, and held.
struct Record {
    task: u64,
    head: TaskHead,
    name: String,
    coroutine: String,
    state: TaskState,
    awaiting: Vec<PyFrame>,
    /// The first local variable of the innermost frame.
    receiver: u64,
}

/// Reads tasks with their chains. `running` are the tasks that threads say they run.
pub(super) fn read(
    reader: &mut Reader<'_>,
    codes: &mut CodeCache,
    tasks: &[u64],
    running: &HashSet<u64>,
    stacks: &[Stack],
    options: &LookOptions,
) -> Vec<PyTask> {
    let mut records = Vec::with_capacity(tasks.len());
    for tasks in tasks.chunks(TASKS_AT_ONCE) {
        let mut open: Vec<u64> = tasks.to_vec();
        for _ in 0..MAX_TASK_TRIES {
            if open.is_empty() {
                break;
            }
            open = read_once(reader, codes, &open, running, stacks, options, &mut records);
        }
        reader.failed += open.len() as u64;
    }
    complete(reader, records, options)
}

/// Adds what does not take part in the check that a record holds.
fn complete(reader: &mut Reader<'_>, records: Vec<Record>, options: &LookOptions) -> Vec<PyTask> {
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
            receiver: record.receiver,
        })
        .collect();
    let waits = task_waits::waits(reader, &waiting);
    let in_python: AddressSet = records
        .iter()
        .filter(|record| !record.head.native)
        .map(|record| record.task)
        .collect();
    let waiters: Vec<(u64, Waiters)> = records
        .iter()
        .map(|record| (record.task, record.head.waiters))
        .collect();
    let awaited_by = waiters::awaited_by(reader, &waiters, &in_python);
    records
        .into_iter()
        .zip(exceptions)
        .zip(waits.into_iter().zip(awaited_by))
        .map(|((record, exception), (waits_for, awaited_by))| PyTask {
            id: record.task,
            loop_id: record.head.loop_object,
            name: record.name,
            coroutine: record.coroutine,
            state: record.state,
            awaiting: record.awaiting,
            waits_for,
            awaited_by,
            cancel_requested: record.head.cancel_requested && !record.head.done,
            retrieved: (record.head.exception != 0 && record.head.done)
                .then_some(!record.head.unretrieved),
            exception,
            context: contexts
                .get(&record.head.context)
                .map_or_else(BTreeMap::new, |values| (**values).clone()),
        })
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
    options: &LookOptions,
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
            .flat_map(|chain| chain.links.iter().map(|link| link.code)),
    );
    reader.load_texts(chains.iter().map(|chain| chain.qualname));
    let names = read_names(reader, &heads);
    let fallbacks = coroutine_types(reader, &coroutines, &chains);
    // The memory of a task, its coroutine and its name may all have gone to another one, at the
    // same addresses: contents are compared, too.
    let hold = chain::still_hold(reader, &coroutines, &chains);
    let after = read_heads(reader, &tasks);
    let names_after = read_names(reader, &heads);
    let mut again = Vec::new();
    for (slot, task) in tasks.iter().enumerate() {
        let head = heads[slot];
        let unchanged = after[slot] == Some(head) && names_after[slot] == names[slot];
        let read = (unchanged && (head.done || hold[slot]))
            .then(|| {
                Some(Record {
                    task: *task,
                    head,
                    name: names[slot].clone()?,
                    coroutine: match reader.text(chains[slot].qualname) {
                        Some(text) => text.to_string(),
                        None => fallbacks[slot].clone(),
                    },
                    state: state(*task, head, &chains[slot], running),
                    awaiting: frames(reader, codes, head, &chains[slot], stacks)?,
                    receiver: chains[slot].receiver,
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
    if chains
        .iter()
        .any(|chain| chain.end == End::TooDeep && !chain.links.is_empty())
    {
        reader.limits.insert(
            "tasks.awaiting".to_owned(),
            format!(
                "only the outer {} frames of a chain are read",
                options.chain
            ),
        );
    }
    again
}

/// The name of each task, read now: strings come and go with their tasks.
fn read_names(reader: &mut Reader<'_>, heads: &[TaskHead]) -> Vec<Option<String>> {
    reader.forget_texts(heads.iter().map(|head| head.name));
    reader.load_texts(heads.iter().map(|head| head.name));
    let texts: Vec<Option<String>> = heads
        .iter()
        .map(|head| reader.text(head.name).map(|text| text.to_string()))
        .collect();
    let numbers: Vec<u64> = heads
        .iter()
        .zip(&texts)
        .map(|(head, text)| if text.is_some() { 0 } else { head.name })
        .collect();
    let numbers = reader.integers(&numbers);
    texts
        .into_iter()
        .zip(numbers)
        // A task without a name of its own has a number until somebody asks.
        .map(|(text, number)| text.or_else(|| Some(format!("Task-{}", number?))))
        .collect()
}

fn state(task: u64, head: TaskHead, chain: &Chain, running: &HashSet<u64>) -> TaskState {
    if head.done {
        return TaskState::Done;
    }
    match chain.end {
        End::Executing => TaskState::Running,
        // Of a coroutine that is no generator, or was not asked, its thread knows whether it runs.
        End::Whole if chain.links.is_empty() && running.contains(&task) => TaskState::Running,
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
            .find_map(|stack| stacks::below(reader, stack, head.coroutine))
            .unwrap_or_default();
        let frames: Option<Vec<PyFrame>> = frames
            .iter()
            .map(|frame| codes.frame(frame.link, lines))
            .collect();
        // The stack is a little older: by now another coroutine may be where that one was.
        let name = reader.text(chain.qualname)?;
        let plain = name.rsplit('.').next();
        return frames.map(|frames| match frames.first() {
            Some(own) if own.function.rsplit('.').next() == plain => frames,
            _ => Vec::new(),
        });
    }
    chain
        .links
        .iter()
        .map(|link| codes.frame(*link, lines))
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
