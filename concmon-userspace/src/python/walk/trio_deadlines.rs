//! What ends the waits of trio's tasks: the deadlines of cancel scopes that they are in, and, where they wait at the end of
//! a nursery, the tasks of that one.

use std::collections::HashSet;

use super::trio_tasks::flags;
use super::trio_waits::{NURSERY, SLEEP};
use crate::event::PyTask;
use crate::python::memory::addresses::{AddressMap, AddressSet};
use crate::python::objects::Reader;

/// Attributes of a task, of a cancel status, and of its scope.
const TASK: &[&str] = &["_cancel_status", "_parent_nursery"];
const STATUS: &[&str] = &["_scope", "_parent"];
const SCOPE: &[&str] = &["_deadline"];
/// Of a nursery: its body has not ended.
const RUNS_BODY: &str = "_nested_child_running";
/// Scopes around scopes: one that has more around it counts as one with a deadline.
const MAX_AROUND: usize = 64;

/// A cancel status that was read.
struct Status {
    /// Its scope has no deadline.
    is_open: bool,
    /// The one around it.
    parent: Option<u64>,
}

/// Says which tasks a time ends, and which nursery a task waits for: known where all tasks that it has begun are of that
/// one.
pub(super) fn add(reader: &mut Reader<'_>, tasks: &mut [PyTask]) {
    let ids: Vec<u64> = tasks.iter().map(|task| task.id).collect();
    let found = reader.members(&ids, TASK);
    let found: Vec<[Option<u64>; 2]> = found
        .into_iter()
        .map(|found| found.and_then(|found| found.try_into().ok()))
        .map(Option::unwrap_or_default)
        .collect();
    let statuses = statuses(
        reader,
        found.iter().filter_map(|[status, _]| *status).collect(),
    );
    let mut nurseries: AddressMap<HashSet<Option<u64>>> = AddressMap::default();
    for (task, [status, nursery]) in tasks.iter_mut().zip(&found) {
        let is_open = status.is_some_and(|status| is_open(status, &statuses));
        // A sleep is a scope with a deadline of its own. What is around that is around all that the task has begun, too.
        let wait = task.waits_for.as_ref();
        let sleeps = wait.is_some_and(|wait| wait.kind == SLEEP);
        task.in_timeout = task.cancel_requested || !(is_open || sleeps);
        for parent in &task.awaited_by {
            nurseries.entry(*parent).or_default().insert(*nursery);
        }
    }
    let of_tasks = found.iter().map(|[_, nursery]| *nursery);
    let runs_body = flags(reader, of_tasks, RUNS_BODY);
    for task in tasks {
        let of_children = nurseries.get(&task.id);
        let only = of_children.filter(|of| of.len() == 1);
        let only = only.and_then(|of| of.iter().copied().flatten().next());
        let wait = task.waits_for.as_mut();
        if let Some(wait) = wait.filter(|wait| wait.kind == NURSERY) {
            wait.object = only.filter(|nursery| runs_body.get(nursery) == Some(&false));
        }
    }
}

/// Neither its scope nor one around it has a deadline.
fn is_open(status: u64, statuses: &AddressMap<Status>) -> bool {
    let mut next = status;
    for _ in 0..=MAX_AROUND {
        match statuses.get(&next) {
            Some(Status {
                is_open: true,
                parent,
            }) => match parent {
                Some(parent) => next = *parent,
                None => return true,
            },
            _ => return false,
        }
    }
    false
}

/// These, and those around them.
fn statuses(reader: &mut Reader<'_>, mut front: AddressSet) -> AddressMap<Status> {
    let mut statuses = AddressMap::default();
    for _ in 0..=MAX_AROUND {
        if front.is_empty() || reader.is_over() {
            break;
        }
        let addresses: Vec<u64> = front.drain().collect();
        let found = reader.members(&addresses, STATUS);
        let found: Vec<(u64, u64, u64)> = addresses
            .into_iter()
            .zip(found)
            .filter_map(|(status, found)| {
                let [scope, parent] = found?.try_into().ok()?;
                Some((status, scope?, parent?))
            })
            .collect();
        let scopes: Vec<u64> = found.iter().map(|(_, scope, _)| *scope).collect();
        let parents: Vec<u64> = found.iter().map(|(.., parent)| *parent).collect();
        let deadlines = reader.members(&scopes, SCOPE);
        let deadlines: Vec<u64> = deadlines
            .into_iter()
            .map(|found| found.and_then(|found| found[0]).unwrap_or(0))
            .collect();
        let deadlines = reader.numbers(&deadlines);
        let of_parents = reader.types_of(&parents);
        let read = found.into_iter().zip(deadlines).zip(of_parents);
        for (((status, _, parent), deadline), of_parent) in read {
            let is_outermost = of_parent.is_some_and(|info| &*info.name == "NoneType");
            let parent = Some(parent).filter(|_| !is_outermost);
            front.extend(parent);
            let is_open = deadline == Some(f64::INFINITY);
            statuses.insert(status, Status { is_open, parent });
        }
        front.retain(|status| !statuses.contains_key(status));
    }
    statuses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::py_task;
    use crate::python::objects::synthetic::Noise;

    #[test]
    fn one_deadline_around_is_enough() {
        let of = |all: &[(u64, bool, Option<u64>)]| {
            let all = all.iter();
            let statuses = all.map(|(status, is_open, parent)| {
                let (is_open, parent) = (*is_open, *parent);
                (*status, Status { is_open, parent })
            });
            is_open(1, &statuses.collect())
        };
        assert!(of(&[(1, true, None)]));
        assert!(of(&[(1, true, Some(2)), (2, true, None)]));
        assert!(!of(&[(1, true, Some(2)), (2, false, None)]));
        assert!(!of(&[(1, false, Some(2)), (2, true, None)]));
        // One could not be read, or there is no end.
        assert!(!of(&[(1, true, Some(2))]));
        assert!(!of(&[(1, true, Some(1))]));
        assert!(!of(&[]));
    }

    #[test]
    fn reading_noise_ends() {
        Noise::each(60, 4 << 20, |memory, reader| {
            let tasks = (0..50).map(|index| py_task(memory.address(index), 7, "task"));
            let mut tasks: Vec<PyTask> = tasks.collect();
            add(reader, &mut tasks);
            assert!(tasks.iter().all(|task| task.in_timeout));
        });
    }
}
