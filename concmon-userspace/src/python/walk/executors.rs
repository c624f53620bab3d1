//! The pools of `concurrent.futures`: workers, queued work, and what runs.
//!
//! Every worker thread of a thread pool is a key of `concurrent.futures.thread._threads_queues`,
//! every thread that manages a process pool one of `concurrent.futures.process._threads_wakeups`. A pool
//! without any worker yet is in neither.

use std::collections::HashMap;

use super::queues::queue_length;
use super::workers::{self, Activity};
use crate::event::{ExecutorKind, PyExecutor, PyWork, Tid};
use crate::python::layout::WorkShape;
use crate::python::memory::at;
use crate::python::objects::code::CodeCache;
use crate::python::objects::text::as_bool;
use crate::python::objects::{Kind, Reader};

/// The most executors that are read.
const MAX_EXECUTORS: usize = 256;
/// The most workers that are looked at.
const MAX_WORKERS: usize = 4096;
/// How often workers that go on to other work while they are read are read in all.
const MAX_TRIES: usize = 3;
/// The most wrappers around a function that are taken off, and arguments that are kept for that.
const MAX_WRAPPERS: usize = 8;
const MAX_ARGUMENTS: u64 = 8;
/// Pending work items whose state is read, beyond what the workers can have.
const MORE_ITEMS: u64 = 64;
/// Functions that call what they get as their first argument.
const CALLERS: &[&str] = &[
    "Context.run",
    "_contextvars.Context.run",
    "concurrent.futures.process._process_chunk",
];

/// A thread as far as executors care.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Worker {
    /// Address of its thread state.
    pub(crate) state: u64,
    pub(crate) tid: Tid,
}

/// Living threads by the address of their `threading.Thread`. (Its ident is not enough: in a forked
/// child the workers are gone, and a new thread may have the ident of one.)
pub(crate) type Workers = HashMap<u64, Worker>;

/// Names of functions met in one read.
type Names = HashMap<u64, Option<String>>;

/// A thread pool, as its workers have it.
struct Pool {
    queue: u64,
    /// `None`: it is gone.
    executor: Option<u64>,
    workers: Vec<Worker>,
}

fn limit(reader: &mut Reader<'_>, field: &str, reason: &str) {
    reader.limits.insert(field.to_owned(), reason.to_owned());
}

/// Reads the executors of an interpreter. The modules are the dicts of `concurrent.futures.thread`
/// and `.process`.
pub(crate) fn read(
    reader: &mut Reader<'_>,
    codes: &mut CodeCache,
    thread_module: Option<u64>,
    process_module: Option<u64>,
    threads: &Workers,
) -> Vec<PyExecutor> {
    let mut executors = thread_pools(reader, codes, thread_module, threads);
    executors.extend(process_pools(reader, process_module, threads));
    if executors.len() > MAX_EXECUTORS {
        executors.truncate(MAX_EXECUTORS);
        let reason = format!("there are more than the {MAX_EXECUTORS} that are read");
        limit(reader, "executors", &reason);
    }
    executors
}

/// The entries of a weak dict of threads, an attribute of a module, whose threads live: thread
/// object, value, and thread.
fn weak_entries(
    reader: &mut Reader<'_>,
    module: Option<u64>,
    attribute: &str,
    threads: &Workers,
) -> Vec<(u64, u64, Worker)> {
    let Some(module) = module else {
        return Vec::new();
    };
    let entries = reader
        .dict_values(module, &[attribute])
        .and_then(|found| reader.attributes_of(found[0]?, &["data"]))
        .and_then(|found| reader.dict(found[0]?));
    let Some(mut entries) = entries else {
        // While the module is being imported, its names are not there yet.
        limit(reader, "executors", "concurrent.futures could not be read");
        return Vec::new();
    };
    if entries.len() > MAX_WORKERS {
        entries.truncate(MAX_WORKERS);
        let reason = format!("there are more than the {MAX_WORKERS} workers that are read");
        limit(reader, "executors", &reason);
    }
    let references: Vec<u64> = entries.iter().map(|(reference, _)| *reference).collect();
    let objects: Vec<u64> = reader
        .referents(&references)
        .into_iter()
        .map(|object| object.unwrap_or(0))
        .collect();
    objects
        .into_iter()
        .zip(entries)
        .filter_map(|(object, (_, value))| Some((object, value, *threads.get(&object)?)))
        .collect()
}

/// What a weak reference refers to; `None` when that is gone.
fn referent(reader: &mut Reader<'_>, reference: u64) -> Option<u64> {
    let object = reader.referents(&[reference]).pop()??;
    let info = reader.types_of(&[object]).pop()??;
    (&*info.name != "NoneType").then_some(object)
}

fn thread_pools(
    reader: &mut Reader<'_>,
    codes: &mut CodeCache,
    module: Option<u64>,
    threads: &Workers,
) -> Vec<PyExecutor> {
    let mut pools: Vec<Pool> = Vec::new();
    for (object, queue, worker) in weak_entries(reader, module, "_threads_queues", threads) {
        if let Some(pool) = pools.iter_mut().find(|pool| pool.queue == queue) {
            pool.workers.push(worker);
            continue;
        }
        if pools.len() > MAX_EXECUTORS {
            break;
        }
        let executor = reader
            .attributes_of(object, &["_args"])
            .and_then(|found| reader.tuple(found[0]?, 1))
            .and_then(|arguments| referent(reader, *arguments.first()?));
        pools.push(Pool {
            queue,
            executor,
            workers: vec![worker],
        });
    }
    let workers: Vec<Worker> = pools
        .iter()
        .flat_map(|pool| pool.workers.iter().copied())
        .collect();
    let mut doings = works(reader, codes, &workers).into_iter();
    pools
        .iter()
        .map(|pool| {
            let doings: Vec<Doing> = doings.by_ref().take(pool.workers.len()).collect();
            thread_pool(reader, pool, doings)
        })
        .collect()
}

/// What one worker was found doing.
enum Doing {
    Idle,
    Running(PyWork),
    Other,
    Unknown,
}

/// What each worker does. A work item may be finished while it is read: then the worker is read again,
/// for the sake of a function's name. What it was first found doing stands (short work would else be
/// found idle: what can be read in peace is what waits).
fn works(reader: &mut Reader<'_>, codes: &mut CodeCache, workers: &[Worker]) -> Vec<Doing> {
    let mut found: Vec<Doing> = workers.iter().map(|_| Doing::Unknown).collect();
    let mut open: Vec<usize> = (0..workers.len()).collect();
    for _ in 0..MAX_TRIES {
        if open.is_empty() || reader.is_over() {
            break;
        }
        let states: Vec<u64> = open.iter().map(|index| workers[*index].state).collect();
        let activities = workers::activities(reader, codes, &states);
        let functions = work_names(reader, &activities);
        let unchanged = workers::unchanged(reader, &activities);
        // A later item may get the address of an earlier one, and so may its function: a name counts
        // when the worker still has the item afterwards, and the name is read a second time.
        let mut names = Names::new();
        let mut again = Vec::new();
        for (slot, function) in functions.into_iter().enumerate() {
            let index = open[slot];
            let (doing, is_sure) = match activities[slot] {
                Activity::Idle => (Doing::Idle, true),
                Activity::Other => (Doing::Other, true),
                Activity::Working { item, .. } => {
                    let is_sure =
                        unchanged[slot] && work_name(reader, &mut names, item) == function;
                    let work = PyWork {
                        tid: Some(workers[index].tid),
                        function: function.filter(|_| is_sure),
                        item,
                    };
                    (Doing::Running(work), is_sure)
                }
                Activity::Torn => (Doing::Unknown, false),
            };
            let is_named = is_sure && matches!(doing, Doing::Running(_));
            if is_named || matches!(found[index], Doing::Unknown) {
                found[index] = doing;
            }
            if !is_sure {
                again.push(index);
            }
        }
        open = again;
    }
    found
}

fn thread_pool(reader: &mut Reader<'_>, pool: &Pool, doings: Vec<Doing>) -> PyExecutor {
    let workers = doings.len() as u64;
    let (mut idle, mut unknown) = (0, false);
    let mut running = Vec::new();
    for doing in doings {
        match doing {
            Doing::Idle => idle += 1,
            Doing::Running(work) => running.push(work),
            Doing::Other => {}
            Doing::Unknown => unknown = true,
        }
    }
    if unknown {
        reader.failed += 1;
        let reason = "a worker went on to other work each time it was read";
        limit(reader, "executors.running", reason);
        limit(reader, "executors.workers_idle", reason);
    }
    if running.iter().any(|work| work.function.is_none()) {
        let reason = "work ended while it was read, or has a form that is not known";
        limit(reader, "executors.running.function", reason);
    }
    let attributes = pool.executor.and_then(|executor| {
        reader.attributes_of(
            executor,
            &["_max_workers", "_thread_name_prefix", "_shutdown"],
        )
    });
    let [max_workers, prefix, shutdown] = match attributes.as_deref() {
        Some([max_workers, prefix, shutdown]) => [*max_workers, *prefix, *shutdown],
        _ => [None; 3],
    };
    let ends = match shutdown {
        Some(shutdown) => as_bool(reader.integers(&[shutdown])[0]).unwrap_or(true),
        None => true,
    };
    let queued = queue_length(reader, pool.queue, ends);
    if queued.is_none() {
        let reason = "the pool's queue has a form that is not known";
        limit(reader, "executors.queued", reason);
    }
    PyExecutor {
        id: pool.executor.unwrap_or(pool.queue),
        queue: pool.queue,
        kind: ExecutorKind::Thread,
        name_prefix: prefix
            .and_then(|prefix| reader.read_text(prefix))
            .map(|prefix| prefix.to_string()),
        workers,
        workers_idle: (!unknown).then_some(idle),
        max_workers: max_workers.and_then(|number| positive(reader, number)),
        queued,
        running,
    }
}

fn positive(reader: &mut Reader<'_>, number: u64) -> Option<u64> {
    u64::try_from(reader.integers(&[number])[0]?).ok()
}

/// What the functions of the workers' items are called.
fn work_names(reader: &mut Reader<'_>, activities: &[Activity]) -> Vec<Option<String>> {
    let mut names = Names::new();
    activities
        .iter()
        .map(|activity| match activity {
            Activity::Working { item, .. } => work_name(reader, &mut names, *item),
            _ => None,
        })
        .collect()
}

/// What the function of a thread pool's work item is called.
fn work_name(reader: &mut Reader<'_>, names: &mut Names, item: u64) -> Option<String> {
    let (function, arguments) = match reader.walk.executors.work {
        WorkShape::Attributes => {
            let found = reader.attributes_of(item, &["fn", "args"])?;
            (found[0]?, found[1])
        }
        WorkShape::Tuple => {
            let found = reader.attributes_of(item, &["task"])?;
            let task = reader.tuple(found[0]?, 2)?;
            (*task.first()?, task.get(1).copied())
        }
    };
    function_name(reader, names, function, arguments)
}

/// The name of what the program wants to be run, without what only calls it.
fn function_name(
    reader: &mut Reader<'_>,
    names: &mut Names,
    function: u64,
    arguments: Option<u64>,
) -> Option<String> {
    let mut function = function;
    let mut arguments = arguments
        .and_then(|arguments| reader.tuple(arguments, MAX_ARGUMENTS))
        .unwrap_or_default();
    for _ in 0..MAX_WRAPPERS {
        let info = reader.types_of(&[function]).pop()??;
        if info.kind == Kind::Partial {
            let own = at(function, reader.walk.executors.partial_arguments);
            let own = reader.pointer(own).ok()?;
            let mut own = reader.tuple(own, MAX_ARGUMENTS)?;
            own.append(&mut arguments);
            arguments = own;
            let inner = at(function, reader.walk.callable.partial_function);
            function = reader.pointer(inner).ok()?;
            continue;
        }
        let name = match names.get(&function) {
            Some(name) => name.clone(),
            None => {
                let name = reader.callable_name(function);
                names.insert(function, name.clone());
                name
            }
        };
        let is_caller = name.as_deref().is_some_and(|name| CALLERS.contains(&name));
        if !is_caller || arguments.is_empty() {
            return name;
        }
        function = arguments.remove(0);
    }
    None
}

fn process_pools(
    reader: &mut Reader<'_>,
    module: Option<u64>,
    threads: &Workers,
) -> Vec<PyExecutor> {
    let mut names = Names::new();
    let managers = weak_entries(reader, module, "_threads_wakeups", threads);
    let mut pools = Vec::new();
    for (manager, _, _) in managers.into_iter().take(MAX_EXECUTORS) {
        match process_pool(reader, &mut names, manager) {
            Some(pool) => pools.push(pool),
            None => {
                reader.failed += 1;
                limit(reader, "executors", "a process pool could not be read");
            }
        }
    }
    pools
}

/// The reference to the executor, its processes by id and its work items by number: attributes of
/// the thread, before 3.9 its first arguments.
fn manager_fields(reader: &mut Reader<'_>, manager: u64) -> Option<[u64; 3]> {
    let found = reader.attributes_of(
        manager,
        &[
            "executor_reference",
            "processes",
            "pending_work_items",
            "_args",
        ],
    )?;
    if let (Some(reference), Some(processes), Some(items)) = (found[0], found[1], found[2]) {
        return Some([reference, processes, items]);
    }
    reader.tuple(found[3]?, 3)?.try_into().ok()
}

fn process_pool(reader: &mut Reader<'_>, names: &mut Names, manager: u64) -> Option<PyExecutor> {
    let [reference, processes, items] = manager_fields(reader, manager)?;
    let executor = referent(reader, reference);
    let workers = reader.dict(processes)?.len() as u64;
    let entries = reader.dict(items)?;
    let max_workers = executor
        .and_then(|executor| reader.attributes_of(executor, &["_max_workers"])?[0])
        .and_then(|number| positive(reader, number));
    // Work is begun in order, so what may be begun is in front.
    let looked_at = max_workers.unwrap_or(0).max(workers) + MORE_ITEMS;
    let objects: Vec<u64> = entries
        .iter()
        .map(|(_, item)| *item)
        .take(looked_at.min(MAX_WORKERS as u64) as usize)
        .collect();
    let found = reader.attributes(&objects, &["future", "fn", "args"]);
    let futures: Vec<u64> = found
        .iter()
        .map(|found| found.as_ref().and_then(|found| found[0]).unwrap_or(0))
        .collect();
    let states = reader.attributes(&futures, &["_state"]);
    let states: Vec<u64> = states
        .iter()
        .map(|found| found.as_ref().and_then(|found| found[0]).unwrap_or(0))
        .collect();
    reader.load_texts(states.iter().copied());
    let mut running = Vec::new();
    let mut not_queued = 0;
    for (slot, item) in objects.into_iter().enumerate() {
        let state = reader.text(states[slot]).cloned();
        let is = |name: &str| state.as_deref().is_some_and(|state| state == name);
        if is("CANCELLED") || is("CANCELLED_AND_NOTIFIED") || is("FINISHED") {
            not_queued += 1;
        }
        // One more than there are workers is handed over ahead; it waits behind theirs.
        if is("RUNNING") && (running.len() as u64) < workers {
            let found = found[slot].as_deref().unwrap_or_default();
            let function = match found {
                [_, Some(function), arguments] => {
                    function_name(reader, names, *function, *arguments)
                }
                _ => None,
            };
            running.push(PyWork {
                tid: None,
                function,
                item,
            });
        }
    }
    let begun = running.len() as u64;
    Some(PyExecutor {
        id: executor.unwrap_or(items),
        queue: 0,
        kind: ExecutorKind::Process,
        name_prefix: None,
        workers,
        workers_idle: Some(workers - begun),
        max_workers,
        queued: Some((entries.len() as u64).saturating_sub(begun + not_queued)),
        running,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::layout::{Version, row};
    use crate::python::objects::synthetic::Noise;

    #[test]
    fn reading_noise_ends() {
        for seed in 0..40 {
            let minor = 8 + (seed % 8) as u8;
            let layout = row(Version { major: 3, minor }).unwrap();
            let memory = Noise::new(minor, seed);
            let mut reader = Reader::new(&memory, layout.walk, 4 << 20);
            let mut codes = CodeCache::default();
            let mut names = Names::new();
            let workers: Vec<Worker> = (0..20)
                .map(|index| Worker {
                    state: memory.address(index),
                    tid: Tid(index as u32),
                })
                .collect();
            assert_eq!(works(&mut reader, &mut codes, &workers).len(), 20);
            for index in 0..50 {
                let object = memory.address(index);
                work_name(&mut reader, &mut names, object);
                function_name(&mut reader, &mut names, object, Some(object + 8));
                process_pool(&mut reader, &mut names, object);
                queue_length(&mut reader, object, true);
            }
        }
    }
}
