//! Which threads have permits of the semaphores that threads wait for, and items of the queues: those in `with` statements
//! of them, or of a manager that gets an item, or in a `try` statement that puts back what was got before it.

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
    of_statements(reader, blocked, waits);
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
        queue(wait)?;
        let places = blocked[slot].places;
        let inner = of_library(places);
        let caller = places.get(inner + 1)?;
        let enters = caller.function.ends_with(ENTER) && caller.file.ends_with(CONTEXTLIB);
        Some((slot, *blocked[slot].frames.get(inner).filter(|_| enters)?))
    };
    let found: Vec<(usize, StackFrame)> = waits.iter().enumerate().filter_map(entering).collect();
    if found.is_empty() {
        return;
    }
    let queues = found.iter();
    let queues: Vec<u64> = queues
        .map(|(slot, _)| queue(&waits[*slot]).unwrap_or(0))
        .collect();
    let frames = found.iter().map(|(_, frame)| *frame);
    let frames: Vec<(StackFrame, u64)> = frames.zip(queues.iter().copied()).collect();
    let again = managers::again(reader, stacks, &frames);
    let bounds = queues::bounds(reader, &queues, "maxsize");
    for (((slot, _), (wanted, bound)), holders) in found
        .into_iter()
        .zip(queues.into_iter().zip(bounds))
        .zip(again)
    {
        let wants = |slot: usize| waits.get(slot).and_then(queue) == Some(wanted);
        let have_all = holders.have_all(bound, wants);
        if let Some(wait) = waits[slot].as_mut().filter(|_| have_all) {
            wait.holders = tids(blocked, holders.slots.into_iter()).unwrap_or_default();
        }
    }
}

/// Those who have all items by statements of their own want another one.
fn of_statements(reader: &mut Reader<'_>, blocked: &[Blocked<'_>], waits: &mut [Option<PyWait>]) {
    // A `SimpleQueue` has no bound.
    let bounded = |wait: &&Option<PyWait>| {
        let kind = wait.as_ref().map(|wait| wait.kind);
        kind == Some(WaitKind::Queue)
    };
    let bounded = waits.iter().filter(bounded);
    let mut bounded = queues::bounded_of_several(reader, bounded.filter_map(queue), "maxsize");
    bounded.retain(|(queue, _)| queues::plain_queue_length(reader, *queue) == Some(0));
    let (queues, bounds): (Vec<u64>, Vec<Option<u64>>) = bounded.into_iter().unzip();
    let (mut slots, mut frames) = (Vec::new(), Vec::new());
    for (slot, wait) in waits.iter().enumerate() {
        if queue(wait).is_some_and(|wanted| queues.contains(&wanted)) {
            let inner = of_library(blocked[slot].places);
            let own = blocked[slot].frames.get(inner..).unwrap_or_default();
            slots.extend(own.iter().map(|_| slot));
            frames.extend(own);
        }
    }
    if frames.is_empty() {
        return;
    }
    let found = managers::with_items(reader, &slots, &frames, &queues);
    for ((wanted, bound), holders) in queues.into_iter().zip(bounds).zip(found) {
        let wants = |slot: usize| waits.get(slot).and_then(queue) == Some(wanted);
        if !holders.have_all(bound, wants) {
            continue;
        }
        let tids = tids(blocked, holders.slots.into_iter()).unwrap_or_default();
        for wait in waits.iter_mut() {
            if queue(wait) == Some(wanted)
                && let Some(wait) = wait
            {
                wait.holders.clone_from(&tids);
            }
        }
    }
}

/// The queue that a thread waits for an item of.
fn queue(wait: &Option<PyWait>) -> Option<u64> {
    let wait = wait.as_ref()?;
    let is_one = matches!(wait.kind, WaitKind::Queue | WaitKind::SimpleQueue)
        && matches!(wait.purpose, WaitPurpose::Item | WaitPurpose::Work);
    wait.object.filter(|_| is_one)
}

/// How many of the innermost frames are those of the queue.
fn of_library(places: &[PyFrame]) -> usize {
    let is_inner = |place: &&PyFrame| QUEUES.iter().any(|file| place.file.ends_with(file));
    places.iter().take_while(is_inner).count()
}
