//! Which threads have permits of the semaphores that threads wait for: those in `with` statements of them.

use super::threads::{MAX_SEARCHED, Others};
use crate::event::{PyFrame, PyWait, Tid, WaitKind, WaitPurpose};
use crate::python::objects::Reader;
use crate::python::walk::holders;
use crate::python::walk::stacks::StackFrame;
use crate::python::walk::waits::Blocked;

/// The functions that wait for a permit: of `acquire`, and of what it calls.
const FILE: &str = "/threading.py";
const DEPTH: usize = 2;

/// Says of the semaphores that threads wait for who has their permits, where all those are blocked themselves.
pub(super) fn add_holders(
    reader: &mut Reader<'_>,
    blocked: &[Blocked<'_>],
    waits: &mut [Option<PyWait>],
    others: &Others<'_>,
) {
    let of_semaphore = |wait: &Option<PyWait>| {
        let wait = wait
            .as_ref()
            .filter(|wait| wait.kind == WaitKind::Semaphore);
        wait.filter(|wait| wait.purpose == WaitPurpose::Item)?
            .object
    };
    let inner = |places: &[PyFrame]| {
        let is_inner = |place: &&PyFrame| place.file.ends_with(FILE);
        places.iter().take_while(is_inner).count()
    };
    let mut waits_for: Vec<Option<u64>> = waits.iter().map(of_semaphore).collect();
    let mut stacks: Vec<&[StackFrame]> = Vec::new();
    for (thread, wanted) in blocked.iter().zip(&mut waits_for) {
        let inner = inner(thread.places);
        // One of another process is waited for in other functions.
        *wanted = wanted.filter(|_| inner >= DEPTH);
        let own = wanted.and_then(|_| thread.frames.get(inner..));
        stacks.push(own.unwrap_or(thread.frames));
    }
    stacks.extend(&others.stacks);
    let is_known = others.all && others.whole && stacks.len() <= MAX_SEARCHED;
    if !is_known || waits_for.iter().all(Option::is_none) {
        return;
    }
    let inside = holders::of_stacks(reader, &stacks, &waits_for);
    for (wait, wanted) in waits.iter_mut().zip(&waits_for) {
        let Some((wait, wanted)) = wait.as_mut().zip(*wanted) else {
            continue;
        };
        let all = inside.iter().enumerate();
        let slots = all.filter(|(_, one)| one.locks.contains(&wanted));
        let tids = slots.map(|(slot, _)| blocked.get(slot).map(|thread| thread.tid));
        wait.holders = tids.collect::<Option<Vec<Tid>>>().unwrap_or_default();
    }
}
