//! asyncio's tasks: where they are listed, what each of them says, and what it waits for.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::chain::{self, Chain, End};
use super::code::CodeCache;
use super::facts::LookOptions;
use super::memory::{Batch, Memory, ReadError, at, int, plausible, word};
use super::object::{Kind, OBJECT_TYPE, Reader};
use super::stacks::{self, Stack};
use crate::event::{PyFrame, PyTask, TaskState};

/// How often a list that changes while it is walked is walked again.
const MAX_LIST_TRIES: usize = 5;
/// How often a task that changes while it is read is read in all.
const MAX_TASK_TRIES: usize = 3;
/// The attributes of a task written in Python.
const ATTRIBUTES: &[&str] = &["_coro", "_loop", "_name", "_state", "_fut_waiter"];

/// A list of tasks: the address of its head.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListHead(pub(super) u64);

/// What a task says of itself; equal before and after, its chain was read in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TaskHead {
    class: u64,
    loop_object: u64,
    coroutine: u64,
    name: u64,
    waiter: u64,
    done: bool,
}

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

/// Reads tasks with their chains. `running` are the tasks that threads say they run.
pub(super) fn read(
    reader: &mut Reader<'_>,
    codes: &mut CodeCache,
    tasks: &[u64],
    running: &HashSet<u64>,
    stacks: &[Stack],
    options: &LookOptions,
) -> Vec<PyTask> {
    let mut result = Vec::with_capacity(tasks.len());
    let mut open: Vec<u64> = tasks.to_vec();
    for _ in 0..MAX_TASK_TRIES {
        if open.is_empty() {
            break;
        }
        let again;
        (result, again) = read_once(reader, codes, &open, running, stacks, options, result);
        open = again;
    }
    reader.failed += open.len() as u64;
    result
}

/// One attempt: what held goes to `result`, what changed meanwhile is given back.
fn read_once(
    reader: &mut Reader<'_>,
    codes: &mut CodeCache,
    tasks: &[u64],
    running: &HashSet<u64>,
    stacks: &[Stack],
    options: &LookOptions,
    mut result: Vec<PyTask>,
) -> (Vec<PyTask>, Vec<u64>) {
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
                Some(PyTask {
                    id: *task,
                    loop_id: head.loop_object,
                    name: names[slot].clone()?,
                    coroutine: match reader.text(chains[slot].qualname) {
                        Some(text) => text.to_string(),
                        None => fallbacks[slot].clone(),
                    },
                    state: state(*task, head, &chains[slot], running),
                    awaiting: frames(reader, codes, head, &chains[slot], stacks)?,
                    waits_for: None,
                    awaited_by: Vec::new(),
                    cancel_requested: false,
                    exception: None,
                    retrieved: None,
                    context: BTreeMap::new(),
                })
            })
            .flatten();
        match read {
            Some(read) => result.push(read),
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
    (result, again)
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
        // Of a coroutine that is no generator only its thread knows whether it runs.
        End::Whole if chain.qualname == 0 && running.contains(&task) => TaskState::Running,
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
        return frames
            .iter()
            .map(|frame| codes.frame(frame.link, lines))
            .collect();
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

/// What each task says; `None` for what is no task, or no more.
fn read_heads(reader: &mut Reader<'_>, tasks: &[u64]) -> Vec<Option<TaskHead>> {
    let fields = reader.walk.task;
    let mut batch = Batch::new();
    for task in tasks {
        batch.push(*task, fields.size as usize);
    }
    reader.fetch(&mut batch);
    reader.load_types((0..tasks.len()).filter_map(|slot| word(batch.prefix(slot), OBJECT_TYPE)));
    let mut heads = vec![None; tasks.len()];
    let mut others = Vec::new();
    for (slot, head) in heads.iter_mut().enumerate() {
        let bytes = batch.prefix(slot);
        match reader.kind(bytes) {
            Some(Kind::Task) => *head = native_head(reader, bytes),
            Some(Kind::Other) => others.push(slot),
            _ => {}
        }
    }
    if others.is_empty() {
        return heads;
    }
    let objects: Vec<u64> = others.iter().map(|slot| tasks[*slot]).collect();
    let attributes = reader.attributes(&objects, ATTRIBUTES);
    let states: Vec<u64> = attributes
        .iter()
        .filter_map(|found| found.as_ref()?[3])
        .collect();
    reader.load_texts(states);
    for (slot, found) in others.into_iter().zip(attributes) {
        let class = word(batch.prefix(slot), OBJECT_TYPE).unwrap_or(0);
        heads[slot] = found.and_then(|found| python_head(reader, class, &found));
    }
    heads
}

fn native_head(reader: &Reader<'_>, bytes: &[u8]) -> Option<TaskHead> {
    /// `fut_state`: 0 pending, 1 cancelled, 2 finished.
    const LAST_STATE: i32 = 2;
    let fields = reader.walk.task;
    let state = int(bytes, fields.state)?;
    let coroutine = word(bytes, fields.coroutine)?;
    ((0..=LAST_STATE).contains(&state) && (state != 0 || plausible(coroutine))).then_some(())?;
    Some(TaskHead {
        class: word(bytes, OBJECT_TYPE)?,
        loop_object: word(bytes, fields.loop_object)?,
        coroutine,
        name: word(bytes, fields.name)?,
        waiter: word(bytes, fields.awaited_future)?,
        done: state != 0,
    })
}

fn python_head(reader: &Reader<'_>, class: u64, found: &[Option<u64>]) -> Option<TaskHead> {
    let state = found[3].and_then(|state| reader.text(state));
    Some(TaskHead {
        class,
        coroutine: found[0]?,
        loop_object: found[1]?,
        name: found[2]?,
        waiter: found[4].unwrap_or(0),
        // The state is an attribute of the class until it changes.
        done: state.is_some_and(|state| &**state != "PENDING"),
    })
}
