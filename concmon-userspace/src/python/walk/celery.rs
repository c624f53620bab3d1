//! celery's own account of its work: what it has reserved, what runs, in processes that it forked.

use crate::event::{ExecutorKind, PyExecutor, PyWork};
use crate::python::objects::Reader;

/// What the names of its processes begin with.
const PROCESSES: &str = "ForkPoolWorker-";
/// The most requests whose names are read.
const MAX_REQUESTS: usize = 256;

/// The row of a worker that has forked; `None` for one without processes of its own. The modules are the dicts of
/// `celery.worker.state` and of `billiard.process`.
pub(crate) fn read(reader: &mut Reader<'_>, state: u64, billiard: u64) -> Option<PyExecutor> {
    let children = reader.dict_values(billiard, &["_children"])?[0]?;
    let workers = reader.set(children).ok()?.len() as u64;
    (workers > 0).then_some(())?;
    let found = reader.dict_values(state, &["reserved_requests", "active_requests"])?;
    let reserved = requests(reader, found[0]?)?;
    let active = requests(reader, found[1]?)?;
    let queued = reserved.iter().filter(|one| !active.contains(one)).count();
    let shown = &active[..active.len().min(MAX_REQUESTS)];
    let names = reader.members(shown, &["name"]);
    let running = shown
        .iter()
        .zip(names)
        .map(|(request, found)| PyWork {
            tid: None,
            function: found
                .and_then(|found| reader.read_text(found[0]?))
                .map(|name| name.to_string()),
            item: *request,
            future: 0,
        })
        .collect();
    Some(PyExecutor {
        id: children,
        queue: 0,
        kind: ExecutorKind::Task,
        name_prefix: Some(PROCESSES.to_owned()),
        workers,
        workers_idle: Some(workers.saturating_sub(active.len() as u64)),
        max_workers: Some(workers),
        queued: Some(queued as u64),
        running,
        queued_futures: Vec::new(),
        borrowers: Vec::new(),
    })
}

/// The members of a `WeakSet` that are still there.
fn requests(reader: &mut Reader<'_>, set: u64) -> Option<Vec<u64>> {
    let data = reader.attributes_of(set, &["data"])?[0]?;
    let references = reader.set(data).ok()?;
    let found = reader
        .referents(&references)
        .into_iter()
        .flatten()
        .collect::<Vec<_>>();
    let types = reader.types_of(&found);
    Some(
        found
            .into_iter()
            .zip(types)
            .filter(|(_, info)| info.as_ref().is_some_and(|info| &*info.name != "NoneType"))
            .map(|(request, _)| request)
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::objects::synthetic::Noise;

    #[test]
    fn reading_noise_ends() {
        Noise::each(60, 4 << 20, |memory, reader| {
            for index in 0..50 {
                read(reader, memory.address(index), memory.address(index + 1));
                requests(reader, memory.address(index));
            }
        });
    }
}
