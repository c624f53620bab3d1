//! Which threads have permits of the semaphores that threads wait for, and items of the queues: those in `with` statements
//! of them, or of a manager that gets an item.

use super::others::{MAX_SEARCHED, Others};
use crate::event::{PyFrame, PyWait, Tid, WaitKind, WaitPurpose};
use crate::python::objects::Reader;
use crate::python::walk::stacks::StackFrame;
use crate::python::walk::waits::Blocked;
use crate::python::walk::{managers, queues};

/// The functions that wait for a permit: of `acquire`, and of what it calls.
const FILE: &str = "/threading.py";
const DEPTH: usize = 2;
/// Those that wait for an item, and the one that enters a manager.
const QUEUES: &[&str] = &["/queue.py", FILE];
const CONTEXTLIB: &str = "/contextlib.py";
const ENTER: &str = "__enter__";

/// Says of the semaphores that threads wait for, and of the queues that managers do, who has their permits or items,
/// where all those are blocked themselves.
pub(super) fn add_holders(
    reader: &mut Reader<'_>,
    blocked: &[Blocked<'_>],
    waits: &mut [Option<PyWait>],
    others: &Others<'_>,
) {
    let stacks = blocked.iter().map(|thread| thread.frames);
    let stacks: Vec<&[StackFrame]> = stacks.chain(others.stacks.iter().copied()).collect();
    if !others.all || !others.whole || stacks.len() > MAX_SEARCHED {
        return;
    }
    of_semaphores(reader, blocked, waits, stacks.clone());
    of_queues(reader, blocked, waits, &stacks);
}

/// The threads of these stacks; `None` where one of them is not blocked, which may give its own back at any time.
fn tids(blocked: &[Blocked<'_>], slots: impl Iterator<Item = usize>) -> Option<Vec<Tid>> {
    slots.map(|slot| Some(blocked.get(slot)?.tid)).collect()
}

fn of_semaphores(
    reader: &mut Reader<'_>,
    blocked: &[Blocked<'_>],
    waits: &mut [Option<PyWait>],
    mut stacks: Vec<&[StackFrame]>,
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
    for (slot, wanted) in waits_for.iter_mut().enumerate() {
        let inner = inner(blocked[slot].places);
        // One of another process is waited for in other functions.
        *wanted = wanted.filter(|_| inner >= DEPTH);
        if wanted.is_some() {
            stacks[slot] = stacks[slot].get(inner..).unwrap_or_default();
        }
    }
    if waits_for.iter().all(Option::is_none) {
        return;
    }
    let (inside, true) = managers::inside_of(reader, &stacks, &waits_for) else {
        return;
    };
    for (wait, wanted) in waits.iter_mut().zip(&waits_for) {
        let Some((wait, wanted)) = wait.as_mut().zip(*wanted) else {
            continue;
        };
        let all = inside.iter().enumerate();
        let slots = all.filter(|(_, one)| one.locks.contains(&wanted));
        wait.holders = tids(blocked, slots.map(|(slot, _)| slot)).unwrap_or_default();
    }
}

/// A manager that gets an item of a queue when it is entered gives it back when it is left.
fn of_queues(
    reader: &mut Reader<'_>,
    blocked: &[Blocked<'_>],
    waits: &mut [Option<PyWait>],
    stacks: &[&[StackFrame]],
) {
    let entering = |(slot, wait): (usize, &Option<PyWait>)| {
        let kind = wait.as_ref()?.kind;
        matches!(kind, WaitKind::Queue | WaitKind::SimpleQueue).then_some(())?;
        let places = blocked[slot].places;
        let is_inner = |place: &&PyFrame| QUEUES.iter().any(|file| place.file.ends_with(file));
        let inner = places.iter().take_while(is_inner).count();
        let caller = places.get(inner + 1)?;
        let enters = caller.function.ends_with(ENTER) && caller.file.ends_with(CONTEXTLIB);
        Some((slot, *blocked[slot].frames.get(inner).filter(|_| enters)?))
    };
    let found: Vec<(usize, StackFrame)> = waits.iter().enumerate().filter_map(entering).collect();
    if found.is_empty() {
        return;
    }
    let frames: Vec<StackFrame> = found.iter().map(|(_, frame)| *frame).collect();
    let again = managers::again(reader, stacks, &frames);
    let queue = |waits: &[Option<PyWait>], slot: usize| waits.get(slot)?.as_ref()?.object;
    let queues = found.iter();
    let queues: Vec<u64> = queues
        .map(|(slot, _)| queue(waits, *slot).unwrap_or(0))
        .collect();
    let bounds = queues::bounds(reader, &queues, "maxsize");
    for (((slot, _), (wanted, bound)), holders) in found
        .into_iter()
        .zip(queues.into_iter().zip(bounds))
        .zip(again)
    {
        let have_all = holders.have_all(bound, |slot| queue(waits, slot) == Some(wanted));
        if let Some(wait) = waits[slot].as_mut().filter(|_| have_all) {
            wait.holders = tids(blocked, holders.slots.into_iter()).unwrap_or_default();
        }
    }
}
