//! The pools of `concurrent.futures`: workers, queued work, and what runs.
//!
//! Every worker thread of a thread pool is a key of `concurrent.futures.thread._threads_queues`,
//! every thread that manages a process pool one of `concurrent.futures.process._threads_wakeups`. A pool
//! without any worker yet is in neither.

use super::pool_parts::{
    MAX_EXECUTORS, Names, Worker, Workers, function_name, limit, positive, referent, weak_entries,
};
use super::process_pools::process_pools;
use super::queues::{first_items, plain_queue_length, queue_length};
use super::thread_servers::{Crew, CrewKind};
use super::workers::{self, Activity};
use crate::event::{ExecutorKind, PyExecutor, PyWork};
use crate::python::layout::WorkShape;
use crate::python::objects::Reader;
use crate::python::objects::code::CodeCache;
use crate::python::objects::text::as_bool;

/// Queued work whose futures are told.
const MAX_QUEUED: u64 = 64;
/// How often workers that go on to other work while they are read are read in all.
const MAX_TRIES: usize = 3;

/// What multiprocessing's pools of threads are called, which have no names, and the functions that call others for them.
const THREAD_POOL: &str = "ThreadPool";
const MAPS: &[&str] = &[
    "multiprocessing.pool.mapstar",
    "multiprocessing.pool.starmapstar",
];

/// A thread pool, as its workers have it.
struct Pool {
    queue: u64,
    /// `None`: it is gone.
    executor: Option<u64>,
    workers: Vec<Worker>,
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
                        future: future_of(reader, item),
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
    // dask's pools have a queue that is written in Python.
    let queued =
        queue_length(reader, pool.queue, ends).or_else(|| plain_queue_length(reader, pool.queue));
    let is_stuck = idle == 0 && !unknown && queued.is_some_and(|queued| queued > 0);
    let queued_futures = match is_stuck {
        true => queued_futures(reader, pool.queue),
        false => Vec::new(),
    };
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
        queued_futures,
        borrowers: Vec::new(),
    }
}

/// The future of a work item; 0: it has none.
fn future_of(reader: &mut Reader<'_>, item: u64) -> u64 {
    let found = reader.attributes_of(item, &["future"]);
    found.and_then(|found| found[0]).unwrap_or(0)
}

/// The futures of the first work in a pool's queue.
fn queued_futures(reader: &mut Reader<'_>, queue: u64) -> Vec<u64> {
    let items = first_items(reader, queue, MAX_QUEUED);
    let found = reader.attributes(&items, &["future"]).into_iter();
    found.filter_map(|found| found?[0]).collect()
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
    if let Some(task) = reader.tuple(item, 5) {
        return task_name(reader, names, &task);
    }
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

/// What the function of a task of multiprocessing's pools is called: its job, its place in that, function, arguments.
fn task_name(reader: &mut Reader<'_>, names: &mut Names, task: &[u64]) -> Option<String> {
    let (function, arguments) = (*task.get(2)?, *task.get(3)?);
    let name = function_name(reader, names, function, Some(arguments))?;
    if !MAPS.contains(&&*name) {
        return Some(name);
    }
    let batch = *reader.tuple(arguments, 1)?.first()?;
    let function = *reader.tuple(batch, 2)?.first()?;
    function_name(reader, names, function, None)
}

/// The pools of dask's workers, and multiprocessing's of threads, among the pools that threads work for.
pub(crate) fn crew_pools(
    reader: &mut Reader<'_>,
    codes: &mut CodeCache,
    crews: &[Crew],
) -> Vec<PyExecutor> {
    let mut found = Vec::new();
    for crew in crews {
        let (executor, queue) = match crew.kind {
            CrewKind::Dask => {
                let attributes = reader.attributes_of(crew.master, &["_work_queue"]);
                (Some(crew.master), attributes.and_then(|found| found[0]))
            }
            CrewKind::ThreadPool => (None, Some(crew.master)),
            CrewKind::Waitress | CrewKind::Cheroot => continue,
        };
        let pool = Pool {
            queue: queue.unwrap_or(0),
            executor,
            workers: crew.members.iter().map(|(_, worker)| *worker).collect(),
        };
        let doings = works(reader, codes, &pool.workers);
        let row = thread_pool(reader, &pool, doings);
        found.push(match crew.kind {
            // It has all its threads from the beginning on.
            CrewKind::ThreadPool => PyExecutor {
                name_prefix: Some(THREAD_POOL.to_owned()),
                max_workers: Some(row.workers),
                ..row
            },
            _ => PyExecutor {
                kind: ExecutorKind::Task,
                ..row
            },
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::process_pools::process_pool;
    use super::*;
    use crate::event::Tid;
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
                let crew = Crew {
                    kind: CrewKind::Dask,
                    master: object,
                    members: workers.iter().map(|one| (object, *one)).collect(),
                };
                let threads = Crew {
                    kind: CrewKind::ThreadPool,
                    members: crew.members.clone(),
                    ..crew
                };
                crew_pools(&mut reader, &mut codes, &[crew, threads]);
                queue_length(&mut reader, object, true);
            }
        }
    }
}
