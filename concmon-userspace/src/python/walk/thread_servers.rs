//! Pools that no module lists, by what their threads were started to run: the servers waitress and cheroot,
//! the pools of dask's workers, and multiprocessing's pools of threads.

use super::pool_parts::{Worker, Workers};
use super::queues::plain_queue_length;
use crate::event::{ExecutorKind, PyExecutor};
use crate::python::memory::at;
use crate::python::objects::{Kind, Reader};

/// What waitress's threads run.
const WAITRESS: &str = "waitress.task.ThreadedTaskDispatcher.handler_thread";
const WAITRESS_BEFORE_3_11: &str = "waitress.task.handler_thread";
/// The class of cheroot's threads.
const CHEROOT: &str = "cheroot.workers.threadpool.WorkerThread";
/// What the threads of dask's pools run.
const DASK: &str = "distributed.threadpoolexecutor._worker";
/// What the threads of multiprocessing's pools run, whose first argument is their queue.
const THREAD_POOL: &str = "multiprocessing.pool.worker";
const MAX_ARGUMENTS: u64 = 16;
/// The most pools of these that are read.
const MAX_POOLS: usize = 64;

/// A pool's threads.
#[derive(Debug)]
pub(crate) struct Crew {
    pub(crate) kind: CrewKind,
    /// What all of them work for: a dispatcher, a pool.
    pub(crate) master: u64,
    /// Of each thread: its object, and itself.
    pub(crate) members: Vec<(u64, Worker)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CrewKind {
    Waitress,
    Cheroot,
    Dask,
    ThreadPool,
}

/// The threads that belong to such pools, by pool.
pub(crate) fn crews(reader: &mut Reader<'_>, threads: &Workers) -> Vec<Crew> {
    let mut members: Vec<(u64, Worker)> = threads.iter().map(|(o, w)| (*o, *w)).collect();
    members.sort_unstable_by_key(|(_, worker)| worker.tid);
    let objects: Vec<u64> = members.iter().map(|(object, _)| *object).collect();
    let attributes = reader.attributes(&objects, &["_target", "_args", "server"]);
    let mut crews: Vec<Crew> = Vec::new();
    for (member, found) in members.into_iter().zip(attributes) {
        if reader.is_over() {
            break;
        }
        let Some((kind, master)) = found.and_then(|found| of(reader, member.0, &found)) else {
            continue;
        };
        match crews.iter().position(|crew| crew.master == master) {
            Some(index) => crews[index].members.push(member),
            None if crews.len() < MAX_POOLS => crews.push(Crew {
                kind,
                master,
                members: vec![member],
            }),
            None => {
                let reason = format!("there are more than the {MAX_POOLS} servers that are read");
                reader.limits.insert("executors".to_owned(), reason);
                break;
            }
        }
    }
    crews
}

/// Which pool a thread works for, if one.
fn of(reader: &mut Reader<'_>, thread: u64, found: &[Option<u64>]) -> Option<(CrewKind, u64)> {
    let [target, arguments, server] = found else {
        return None;
    };
    if let Some(server) = server {
        let class = reader.classes_of(&[thread]).pop()??;
        (reader.type_name(class)? == CHEROOT).then_some(())?;
        let pool = reader.attributes_of(*server, &["requests"])?[0]?;
        return Some((CrewKind::Cheroot, pool));
    }
    let target = (*target)?;
    let kind = reader.types_of(&[target]).pop()??.kind;
    match (kind, &*reader.callable_name(target)?) {
        (Kind::Method, WAITRESS | WAITRESS_BEFORE_3_11) => {
            let place = at(target, reader.walk.callable.method_self);
            Some((CrewKind::Waitress, reader.pointer(place).ok()?))
        }
        (Kind::Function, DASK) => {
            let pool = *reader.tuple((*arguments)?, 1)?.first()?;
            Some((CrewKind::Dask, pool))
        }
        (Kind::Function, THREAD_POOL) => {
            let queue = *reader.tuple((*arguments)?, MAX_ARGUMENTS)?.first()?;
            Some((CrewKind::ThreadPool, queue))
        }
        _ => None,
    }
}

/// The row of a server; `None` when it could not be read.
pub(crate) fn server(reader: &mut Reader<'_>, crew: &Crew) -> Option<PyExecutor> {
    let workers = crew.members.len() as u64;
    let (prefix, idle, most, queued) = match crew.kind {
        CrewKind::Waitress => {
            let found = reader.attributes_of(crew.master, &["queue", "active_count"])?;
            let active = reader.integers(&[found[1]?])[0];
            let idle = workers.checked_sub(u64::try_from(active?).ok()?)?;
            let queued = found[0].and_then(|queue| reader.length(queue));
            ("waitress-", idle, Some(workers), queued)
        }
        CrewKind::Cheroot => {
            let found = reader.attributes_of(crew.master, &["max", "_queue"])?;
            let most = found[0].and_then(|most| reader.integers(&[most])[0]);
            let most = most.and_then(|most| u64::try_from(most).ok());
            let queued = found[1].and_then(|queue| plain_queue_length(reader, queue));
            let idle = without_connection(reader, crew);
            ("CP Server Thread-", idle, most, queued)
        }
        CrewKind::Dask | CrewKind::ThreadPool => return None,
    };
    Some(PyExecutor {
        id: crew.master,
        queue: 0,
        kind: ExecutorKind::Server,
        name_prefix: Some(prefix.to_owned()),
        workers,
        workers_idle: Some(idle),
        max_workers: most,
        queued,
        running: Vec::new(),
        queued_futures: Vec::new(),
        borrowers: Vec::new(),
    })
}

/// How many of cheroot's threads have no connection.
fn without_connection(reader: &mut Reader<'_>, crew: &Crew) -> u64 {
    let objects: Vec<u64> = crew.members.iter().map(|(object, _)| *object).collect();
    let connections: Vec<u64> = reader
        .attributes(&objects, &["conn"])
        .into_iter()
        .map(|found| found.and_then(|found| found[0]).unwrap_or(0))
        .collect();
    // One that never had any has no such attribute.
    let types = reader.types_of(&connections).into_iter();
    types
        .filter(|info| info.as_ref().is_none_or(|info| &*info.name == "NoneType"))
        .count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Tid;
    use crate::python::objects::synthetic::Noise;

    #[test]
    fn reading_noise_ends() {
        Noise::each(60, 4 << 20, |memory, reader| {
            let worker = |index| Worker {
                state: memory.address(index),
                tid: Tid(index as u32),
            };
            let threads: Workers = (0..50).map(|i| (memory.address(i), worker(i))).collect();
            assert!(crews(reader, &threads).len() <= MAX_POOLS);
            for index in 0..50 {
                let found = [index, index + 1, index + 2].map(|i| Some(memory.address(i)));
                of(reader, memory.address(index), &found);
                of(reader, memory.address(index), &[found[0], found[1], None]);
                for kind in [CrewKind::Waitress, CrewKind::Cheroot] {
                    let crew = Crew {
                        kind,
                        master: memory.address(index),
                        members: vec![(memory.address(index), worker(index))],
                    };
                    server(reader, &crew);
                }
            }
        });
    }
}
