//! The process pools of `concurrent.futures`, by the threads that manage them.

use super::pool_parts::{
    MAX_EXECUTORS, MAX_WORKERS, Names, Workers, function_name, limit, positive, referent,
    weak_entries,
};
use crate::event::{ExecutorKind, PyExecutor, PyWork};
use crate::python::objects::Reader;

/// Pending work items whose state is read, beyond what the workers can have.
const MORE_ITEMS: u64 = 64;

pub(super) fn process_pools(
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

pub(super) fn process_pool(
    reader: &mut Reader<'_>,
    names: &mut Names,
    manager: u64,
) -> Option<PyExecutor> {
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
                future: futures[slot],
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
        queued_futures: Vec::new(),
        borrowers: Vec::new(),
    })
}
