//! Context managers that are generators (`contextlib.contextmanager` and `asynccontextmanager`): what each stack or
//! coroutine that is inside of one has by that. The frame of its generator is in no stack, and awaited by nobody.

use std::collections::{BTreeSet, HashSet};

use super::holders::{self, BOUND_SELF, Inside, Kept, Place, inside, own_values};
use super::stacks::StackFrame;
use super::{locals, put_back};
use crate::python::memory::addresses::{AddressMap, AddressSet};
use crate::python::memory::{Batch, at, plausible};
use crate::python::objects::{Kind, Reader};

/// The classes, and their generator.
const MANAGERS: &[&str] = &["_GeneratorContextManager", "_AsyncGeneratorContextManager"];
const GENERATOR: &str = "gen";
/// Managers inside of managers.
const MAX_NESTED: usize = 4;
/// Managers of one coroutine or thread, and frames of them all, that are followed, some at a time.
const MAX_MANAGERS: usize = 64;
const MAX_KEPT: usize = 16_000;
const AT_ONCE: usize = 1_000;
/// Managers that all stacks together are inside of.
const MAX_ENTERED: usize = 2_000;

/// Frames, by coroutines or threads.
pub(crate) struct Frames {
    pub(super) all: Vec<Kept>,
    /// Those that may have more.
    pub(super) cut: HashSet<usize>,
}

impl Frames {
    /// These are all that there are.
    pub(crate) fn are_whole(&self) -> bool {
        self.cut.is_empty()
    }
}

/// Managers that were met so far, by coroutine or thread.
struct Room {
    counts: AddressMap<usize>,
    left: usize,
    cut: HashSet<usize>,
}

impl Room {
    fn of(left: usize) -> Self {
        Room {
            counts: AddressMap::default(),
            left,
            cut: HashSet::new(),
        }
    }

    /// Whether one more is followed.
    fn take(&mut self, slot: usize) -> bool {
        let count = self.counts.entry(slot as u64).or_default();
        let has_room = *count < MAX_MANAGERS && self.left > 0;
        match has_room {
            true => (*count, self.left) = (*count + 1, self.left - 1),
            false => self.cut.extend([slot]),
        }
        has_room
    }
}

/// Who is inside of a manager that another one calls with the same things.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holders {
    /// So many generators.
    items: u64,
    pub(crate) slots: BTreeSet<usize>,
}

impl Holders {
    /// Whether they have all items that a queue of this bound may have, and nobody of them does anything but wait for one.
    /// Who gets items in another way than by the manager has none then.
    pub(crate) fn have_all(&self, bound: Option<u64>, waits: impl Fn(usize) -> bool) -> bool {
        bound == Some(self.items) && self.slots.iter().all(|slot| waits(*slot))
    }
}

/// A call of a generator's function: its code, and the values of its variables.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Call {
    code: u64,
    values: Vec<u64>,
}

impl Call {
    /// A later call of the same function for the same things: what it has by now, the other one has.
    fn repeats(&self, earlier: &Call) -> bool {
        let same = |(own, other): (&u64, &u64)| *own == 0 || own == other;
        self.code == earlier.code
            && self.values.len() <= earlier.values.len()
            && self.values.iter().zip(&earlier.values).all(same)
    }
}

/// Which of `stacks` are inside a `with` statement of a manager whose function each of `entering` calls once more, with
/// the same arguments and variables; none where it puts nothing into the queue that it waits for, or where not all could
/// be read.
pub(crate) fn again(
    reader: &mut Reader<'_>,
    stacks: &[&[StackFrame]],
    entering: &[(StackFrame, u64)],
) -> Vec<Holders> {
    let returning = put_back::puts(reader, entering);
    let own: Vec<StackFrame> = entering.iter().map(|(frame, _)| *frame).collect();
    let variables = locals::variables(reader, &own);
    let calls = own.iter().zip(variables).zip(returning);
    let calls = calls.map(|((frame, variables), returns)| {
        returns.then(|| Call {
            code: frame.position.code,
            values: variables.own().to_vec(),
        })
    });
    let calls: Vec<Option<Call>> = calls.collect();
    let frames = of_stacks(reader, stacks);
    holders_of_each(reader, &calls, &frames)
}

/// As [`again`], of suspended coroutines. `entering` is which coroutine waits, how many frames lie inside of the
/// generator's own, and for which queue it waits.
pub(crate) fn again_awaited(
    reader: &mut Reader<'_>,
    frames: &Frames,
    entering: &[(usize, usize, u64)],
) -> Vec<Holders> {
    let counts = holders::variable_counts(reader, &frames.all);
    // Where the chain has become another one, there may be none.
    let own = |coroutine: usize, inner: usize| {
        let own = frames.all.iter();
        let own = own.filter(|frame| frame.coroutine == coroutine);
        let chain: Vec<&Kept> = own.filter(|frame| frame.place == Place::Chain).collect();
        let index = chain.len().checked_sub(inner + 1)?;
        chain.get(index).copied()
    };
    let waiting = entering.iter().map(|(coroutine, inner, queue)| {
        let frame = own(*coroutine, *inner);
        (
            frame,
            frame.map_or(StackFrame::NONE, |one| one.frame),
            *queue,
        )
    });
    let waiting: Vec<(Option<&Kept>, StackFrame, u64)> = waiting.collect();
    let frames_of: Vec<(StackFrame, u64)> = waiting.iter().map(|one| (one.1, one.2)).collect();
    let returning = put_back::puts(reader, &frames_of);
    let calls = waiting.iter().zip(returning);
    let calls = calls.map(|((frame, ..), returns)| {
        frame
            .filter(|_| returns)
            .map(|frame| Call::of(frame, &counts))
    });
    let calls: Vec<Option<Call>> = calls.collect();
    holders_of_each(reader, &calls, frames)
}

/// Which of so many suspended coroutines have items of each queue by statements of their own frames.
pub(crate) fn awaiting_with_items(
    reader: &mut Reader<'_>,
    coroutines: &[u64],
    queues: &[u64],
) -> Vec<Holders> {
    let frames = holders::kept(reader, coroutines);
    let slots: Vec<usize> = frames.iter().map(|frame| frame.coroutine).collect();
    let frames: Vec<StackFrame> = frames.iter().map(|frame| frame.frame).collect();
    with_items(reader, &slots, &frames, queues)
}

/// As [`awaiting_with_items`], of the frames of stacks, each with whose it is.
pub(crate) fn with_items(
    reader: &mut Reader<'_>,
    slots: &[usize],
    frames: &[StackFrame],
    queues: &[u64],
) -> Vec<Holders> {
    let wanted: AddressSet = queues.iter().copied().collect();
    let items = put_back::items(reader, frames, &wanted);
    let of_queue = |queue: &u64| {
        let mut holders = Holders::default();
        for (slot, items) in slots.iter().zip(&items) {
            let count = items.iter().filter(|item| *item == queue).count();
            if count > 0 {
                holders.items += count as u64;
                holders.slots.insert(*slot);
            }
        }
        holders
    };
    queues.iter().map(of_queue).collect()
}

/// What each stack is inside of: the statements of its own frames, and the locks that threads wait for of which it is inside
/// a `with` statement by way of a manager. `false`: of the latter not all could be read, and there are none.
pub(crate) fn inside_of(
    reader: &mut Reader<'_>,
    stacks: &[&[StackFrame]],
    waits_for: &[Option<u64>],
) -> (Vec<Inside>, bool) {
    let mut found = holders::of_stacks(reader, stacks, waits_for);
    let frames = of_stacks(reader, stacks);
    if !frames.are_whole() {
        return (found, false);
    }
    let locks: AddressSet = waits_for.iter().flatten().copied().collect();
    let values = holders::behind_variables(reader, &frames.all, stacks.len());
    let held = inside(reader, &values, &locks, "__exit__");
    for (own, held) in found.iter_mut().zip(held) {
        own.locks.extend(held);
    }
    (found, true)
}

/// Which locks each of the suspended coroutines of these frames is inside of, once for each statement.
pub(crate) fn held_by_coroutines(
    reader: &mut Reader<'_>,
    frames: &Frames,
    count: usize,
    locks: &AddressSet,
) -> Vec<Vec<u64>> {
    holders::of_coroutines(reader, &frames.all, count, locks)
}

/// The frames of each suspended coroutine, and of the generators of the managers that these have, and so on.
pub(crate) fn kept(reader: &mut Reader<'_>, coroutines: &[u64]) -> Frames {
    let mut frames = holders::kept(reader, coroutines);
    let own = frames.len();
    let mut room = Room::of(MAX_KEPT);
    // One that is being entered is awaited, too.
    let seen = frames.iter();
    let mut seen: HashSet<(usize, u64)> = seen
        .map(|frame| (frame.coroutine, frame.generator))
        .collect();
    let mut from = 0;
    for _ in 0..MAX_NESTED {
        if reader.is_over() {
            break;
        }
        let words = frames[from..].iter().flat_map(|frame| &frame.words);
        let words: AddressSet = words.copied().collect();
        let managers = managers(reader, words);
        let addresses: Vec<u64> = managers.values().copied().collect();
        let generators = generators(reader, addresses);
        let mut next = Vec::new();
        for frame in &frames[from..] {
            let of_frame = frame.words.iter().filter_map(|word| managers.get(word));
            for generator in of_frame.filter_map(|manager| generators.get(manager)) {
                let one = (frame.coroutine, *generator);
                if !seen.contains(&one) && room.take(frame.coroutine) {
                    seen.insert(one);
                    next.push(one);
                }
            }
        }
        if next.is_empty() {
            break;
        }
        from = frames.len();
        for next in next.chunks(AT_ONCE) {
            if frames.len() - own >= MAX_KEPT {
                room.cut.extend(next.iter().map(|(slot, _)| *slot));
                continue;
            }
            let addresses: Vec<u64> = next.iter().map(|(_, generator)| *generator).collect();
            for mut frame in holders::kept(reader, &addresses) {
                let (coroutine, generator) = next[frame.coroutine];
                frame.coroutine = coroutine;
                frame.place = match frame.generator == generator {
                    true => Place::Manager,
                    false => Place::Behind,
                };
                // Who has not entered a manager has nothing by it.
                let is_one = match frame.place {
                    Place::Manager => frame.has_begun,
                    _ => seen.insert((coroutine, frame.generator)),
                };
                if is_one {
                    frames.push(frame);
                }
            }
        }
    }
    if reader.is_over() {
        room.cut.extend(0..coroutines.len());
    }
    Frames {
        all: frames,
        cut: room.cut,
    }
}

impl Call {
    fn of(frame: &Kept, counts: &AddressMap<usize>) -> Self {
        let variables = counts.get(&frame.code).copied().unwrap_or(0);
        let values = frame.words.iter().take(variables);
        Call {
            code: frame.code,
            values: values.copied().collect(),
        }
    }
}

fn holders_of_each(
    reader: &mut Reader<'_>,
    calls: &[Option<Call>],
    frames: &Frames,
) -> Vec<Holders> {
    if !frames.are_whole() {
        return vec![Holders::default(); calls.len()];
    }
    let counts = holders::variable_counts(reader, &frames.all);
    let entered = frames.all.iter();
    let entered = entered.filter(|frame| frame.place == Place::Manager);
    let entered = entered.map(|frame| Entered {
        slot: frame.coroutine,
        generator: frame.generator,
        call: Call::of(frame, &counts),
    });
    let entered: Vec<Entered> = entered.collect();
    let holders = calls.iter().map(|call| {
        let call = call.as_ref();
        call.map_or_else(Holders::default, |call| holders_of(call, &entered))
    });
    holders.collect()
}

/// A generator whose manager somebody is inside of. Several may have one: it is not known which of them is.
struct Entered {
    slot: usize,
    generator: u64,
    call: Call,
}

fn holders_of(call: &Call, entered: &[Entered]) -> Holders {
    let inside = entered.iter().filter(|one| call.repeats(&one.call));
    let generators: AddressSet = inside.clone().map(|one| one.generator).collect();
    Holders {
        items: generators.len() as u64,
        slots: inside.map(|one| one.slot).collect(),
    }
}

/// The frames of the generators whose managers each stack is inside of, by the number of the stack.
fn of_stacks(reader: &mut Reader<'_>, stacks: &[&[StackFrame]]) -> Frames {
    if reader.is_over() {
        return Frames {
            all: Vec::new(),
            cut: (0..stacks.len()).collect(),
        };
    }
    let values = own_values(reader, stacks);
    let words = values.iter().flatten().map(|value| value.word).collect();
    let wanted: AddressSet = managers(reader, words).into_values().collect();
    let entered = inside(reader, &values, &wanted, "__exit__");
    let all: AddressSet = entered.iter().flatten().copied().collect();
    let generators = generators(reader, all.into_iter().collect());
    let (mut slots, mut addresses) = (Vec::new(), Vec::new());
    let mut room = Room::of(MAX_ENTERED);
    for (slot, managers) in entered.iter().enumerate() {
        let of_stack = managers
            .iter()
            .filter_map(|manager| generators.get(manager));
        for generator in of_stack.filter(|_| room.take(slot)) {
            slots.push(slot);
            addresses.push(*generator);
        }
    }
    let mut frames = kept(reader, &addresses);
    let mut known = HashSet::new();
    frames.all.retain_mut(|frame| {
        if frame.generator == addresses[frame.coroutine] {
            frame.place = Place::Manager;
        }
        frame.coroutine = slots[frame.coroutine];
        // A manager that is met in a stack may be met in another one's generator, too.
        let is_new = known.insert((frame.coroutine, frame.generator));
        is_new && (frame.place != Place::Manager || frame.has_begun)
    });
    let cut = frames.cut.into_iter().map(|one| slots[one]);
    frames.cut = cut.chain(room.cut).collect();
    frames
}

/// The managers among words, and those that methods among them are bound to, by the word.
fn managers(reader: &mut Reader<'_>, words: AddressSet) -> AddressMap<u64> {
    let is_address = |word: &u64| plausible(*word) && word.is_multiple_of(8);
    let words: Vec<u64> = words.into_iter().filter(is_address).collect();
    let kinds = reader.types_of(&words);
    let mut found: AddressMap<u64> = AddressMap::default();
    let (mut methods, mut batch) = (Vec::new(), Batch::new());
    for (word, info) in words.into_iter().zip(kinds) {
        match info {
            Some(info) if info.kind == Kind::Method => {
                methods.push(word);
                batch.push(at(word, BOUND_SELF), 8);
            }
            Some(info) if MANAGERS.contains(&&*info.name) => {
                found.insert(word, word);
            }
            _ => {}
        }
    }
    reader.fetch(&mut batch);
    let bound = batch.words();
    let kinds = reader.types_of(&bound);
    let bound = methods.into_iter().zip(bound.into_iter().zip(kinds));
    found.extend(bound.filter_map(|(method, (object, info))| {
        let info = info?;
        MANAGERS.contains(&&*info.name).then_some((method, object))
    }));
    found
}

/// The generator of each manager that has one.
fn generators(reader: &mut Reader<'_>, managers: Vec<u64>) -> AddressMap<u64> {
    let found = reader.attributes(&managers, &[GENERATOR]);
    let found = managers.into_iter().zip(found);
    found
        .filter_map(|(manager, found)| Some((manager, found?.pop()??)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_repeats_another_one_with_the_same_variables() {
        let call = |code: u64, values: &[u64]| Call {
            code,
            values: values.to_vec(),
        };
        let earlier = call(1, &[0x10, 0x20, 0x30]);
        // It has not got what it waits for yet.
        assert!(call(1, &[0x10, 0, 0x30]).repeats(&earlier));
        assert!(call(1, &[]).repeats(&earlier));
        assert!(!call(2, &[0x10, 0, 0x30]).repeats(&earlier));
        assert!(!call(1, &[0x11, 0, 0x30]).repeats(&earlier));
        assert!(!call(1, &[0x10, 0, 0x30, 0]).repeats(&earlier));
    }

    #[test]
    fn more_managers_than_there_is_room_for_are_not_known() {
        let mut room = Room::of(MAX_KEPT);
        let taken = |room: &mut Room, slot: usize, count: usize| {
            (0..count).filter(|_| room.take(slot)).count()
        };
        assert_eq!(taken(&mut room, 7, MAX_MANAGERS), MAX_MANAGERS);
        assert!(room.cut.is_empty());
        assert_eq!(taken(&mut room, 7, 1_000_000), 0);
        assert_eq!(room.cut, [7].into());
        let others = (10..10_000).map(|slot| taken(&mut room, slot, 2 * MAX_MANAGERS));
        assert_eq!(others.sum::<usize>(), MAX_KEPT - MAX_MANAGERS);
        assert!((10..10_000).all(|slot| room.cut.contains(&slot)));
        let frames = Frames {
            all: Vec::new(),
            cut: room.cut,
        };
        assert!(!frames.are_whole());
    }

    #[test]
    fn who_has_all_items_of_a_bounded_queue_is_a_holder() {
        let entered = |slot: usize, generator: u64, code: u64, value: u64| Entered {
            slot,
            generator,
            call: Call {
                code,
                values: vec![value],
            },
        };
        let inside = [
            entered(0, 0x100, 1, 0x10),
            entered(1, 0x200, 1, 0x10),
            // With other variables, or of another function.
            entered(2, 0x300, 1, 0x20),
            entered(3, 0x400, 2, 0x10),
        ];
        let call = &inside[0].call;
        let holders = holders_of(call, &inside);
        assert_eq!(holders.slots, [0, 1].into());
        assert!(holders.have_all(Some(2), |_| true));
        // One does something else, which may be to give its own back.
        assert!(!holders.have_all(Some(2), |slot| slot == 0));
        // Somebody else has one, the calls are of several queues, or there may be any number.
        for bound in [Some(3), Some(1), None] {
            assert!(!holders.have_all(bound, |_| true));
        }
        // Two that know of one generator have one item, and one may have several.
        let shared = [entered(0, 0x100, 1, 0x10), entered(1, 0x100, 1, 0x10)];
        assert!(holders_of(call, &shared).have_all(Some(1), |_| true));
        let several = [entered(0, 0x100, 1, 0x10), entered(0, 0x200, 1, 0x10)];
        assert!(holders_of(call, &several).have_all(Some(2), |_| true));
        assert!(!Holders::default().have_all(None, |_| true));
    }
}
