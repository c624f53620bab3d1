//! The garbage collector's account of itself.

use crate::event::{PyGc, PyGeneration};
use crate::python::layout::{
    CollectionSums, CollectorLayout, CollectorPlace, GENERATION_BYTES, GENERATION_COUNT,
    RingsLayout,
};
use crate::python::memory::{ReadError, at, byte, int, plausible, word};
use crate::python::objects::{Kind, Reader};

const GENERATIONS: u32 = 3;
/// `struct gc_generation_stats` up to 3.14: collections, collected, uncollectable.
const SUMS_BYTES: u32 = 24;
/// No address is as large, unless a program asks for one; two halves of addresses nearly always are.
const USER_SPACE: u64 = 1 << 47;
/// The largest rings that are read, bytes.
const MAX_RINGS_BYTES: u32 = 1 << 14;
/// How often sums that are written while they are read are read again.
const MAX_TRIES: usize = 3;

/// Reads the collector of an interpreter.
pub(crate) fn read(
    reader: &mut Reader<'_>,
    runtime: u64,
    interpreter: u64,
    layout: &CollectorLayout,
) -> Result<PyGc, ReadError> {
    let address = match layout.place {
        CollectorPlace::Runtime(offset) => at(runtime, offset),
        CollectorPlace::Interpreter(offset) => at(interpreter, offset),
    };
    let implausible = ReadError::Implausible {
        what: "garbage collector",
        address,
    };
    let bytes = reader.bytes(address, layout.callbacks as usize + 8)?;
    let callbacks = callbacks(reader, layout, &bytes).ok_or(implausible)?;
    let flag = int(&bytes, layout.collecting).ok_or(implausible)?;
    let collecting = match flag {
        0 => false,
        1 => true,
        _ => return Err(implausible),
    };
    let generations = match layout.sums {
        CollectionSums::BeforeFlag => layout
            .collecting
            .checked_sub(GENERATIONS * SUMS_BYTES)
            .and_then(|first| {
                (0..GENERATIONS)
                    .map(|generation| sums(&bytes, first + generation * SUMS_BYTES))
                    .collect()
            })
            .ok_or(implausible)?,
        CollectionSums::Rings { pointer, rings } => {
            let pointer = word(&bytes, pointer).ok_or(implausible)?;
            rings_of(reader, pointer, &rings)?
        }
    };
    Ok(PyGc {
        generations,
        collecting,
        // A callback runs before anything says which generation it is about.
        generation: (collecting && callbacks == 0)
            .then(|| collected_generation(layout, &bytes))
            .flatten(),
    })
}

/// How many callbacks there are; `None` when the layout does not hold: the two lists are lists, or
/// not there yet.
fn callbacks(reader: &mut Reader<'_>, layout: &CollectorLayout, bytes: &[u8]) -> Option<u64> {
    let mut count = 0;
    for offset in [layout.garbage, layout.callbacks] {
        let list = word(bytes, offset)?;
        if list != 0 {
            let info = reader.types_of(&[list]).pop()??;
            (info.kind == Kind::List).then_some(())?;
            count = reader.length(list)?;
        } else {
            count = 0;
        }
    }
    Some(count)
}

/// A collection begins by counting itself in the next older generation, and setting the counts of
/// its own and all younger ones to 0, which stay so until it ends.
fn collected_generation(layout: &CollectorLayout, bytes: &[u8]) -> Option<u8> {
    let first = layout
        .generations
        .iter()
        .find(|first| are_generations(bytes, **first))?;
    let count = |generation: u32| {
        let generation = first + generation * GENERATION_BYTES;
        int(bytes, generation + GENERATION_COUNT)
    };
    Some(match (count(1)?, count(2)?) {
        (0, 0) => 2,
        (0, _) => 1,
        _ => 0,
    })
}

/// Whether there are heads of lists, which point to objects or to themselves.
fn are_generations(bytes: &[u8], first: u32) -> bool {
    (0..GENERATIONS).all(|generation| {
        let head = first + generation * GENERATION_BYTES;
        [head, head + 8]
            .into_iter()
            .all(|link| word(bytes, link).is_some_and(|link| plausible(link) && link < USER_SPACE))
    })
}

fn sums(bytes: &[u8], offset: u32) -> Option<PyGeneration> {
    let number = |index: u32| {
        let value = word(bytes, offset.checked_add(index * 8)?)?;
        // They are signed, and nothing is counted that often.
        (value < 1 << 62).then_some(value)
    };
    Some(PyGeneration {
        collections: number(0)?,
        collected: number(1)?,
        uncollectable: number(2)?,
    })
}

fn rings_of(
    reader: &mut Reader<'_>,
    address: u64,
    layout: &RingsLayout,
) -> Result<Vec<PyGeneration>, ReadError> {
    let implausible = ReadError::Implausible {
        what: "garbage collector's statistics",
        address,
    };
    if layout.size > MAX_RINGS_BYTES {
        return Err(implausible);
    }
    for _ in 0..MAX_TRIES {
        let bytes = reader.bytes(address, layout.size as usize)?;
        let sequence = int(&bytes, layout.sequence).ok_or(implausible)?;
        let after = reader.bytes(at(address, layout.sequence), 4)?;
        if sequence % 2 != 0 || int(&after, 0) != Some(sequence) {
            continue;
        }
        return newest(&bytes, layout).ok_or(implausible);
    }
    Err(ReadError::Torn {
        what: "garbage collector's statistics",
        address,
    })
}

/// The newest record of each ring.
fn newest(bytes: &[u8], layout: &RingsLayout) -> Option<Vec<PyGeneration>> {
    let mut ring = 0u32;
    layout
        .lengths
        .iter()
        .map(|length| {
            let records = length.checked_mul(layout.record)?;
            let index = u32::from(byte(bytes, ring.checked_add(records)?)?);
            (index < *length).then_some(())?;
            let found = sums(bytes, ring + index * layout.record + layout.sums)?;
            // The index is a byte, and the next ring is aligned.
            ring += records + 8;
            Some(found)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::layout::{Layout, Version, row};
    use crate::python::objects::flags;
    use crate::python::objects::synthetic::{World, set_word};

    const SUMS: [[u64; 3]; 3] = [[100, 7, 0], [9, 5, 1], [2, 40, 3]];

    fn layout(minor: u8) -> Layout {
        row(Version { major: 3, minor }).unwrap()
    }

    /// A collector's state with both lists, and these counts of the second and third generation.
    fn collector(world: &mut World, layout: &CollectorLayout, counts: [i32; 2]) -> Vec<u8> {
        let class = world.class("list", flags::LIST_SUBCLASS, 40);
        let list = world.put(&World::object(class, 40));
        let mut bytes = vec![0; layout.callbacks as usize + 8];
        set_word(&mut bytes, layout.garbage, list);
        set_word(&mut bytes, layout.callbacks, list);
        // Wherever there is more than one possibility, it is the last.
        let first = *layout.generations.last().expect("at least one");
        for (generation, count) in (0..).zip([5, counts[0], counts[1]]) {
            let head = first + generation * GENERATION_BYTES;
            set_word(&mut bytes, head, list);
            set_word(&mut bytes, head + 8, list);
            let place = (head + GENERATION_COUNT) as usize;
            bytes[place..place + 4].copy_from_slice(&i32::to_le_bytes(count));
        }
        match layout.sums {
            CollectionSums::BeforeFlag => {
                for (index, value) in SUMS.iter().flatten().enumerate() {
                    let offset = layout.collecting - 72 + index as u32 * 8;
                    set_word(&mut bytes, offset, *value);
                }
            }
            CollectionSums::Rings { pointer, rings } => {
                let mut stats = vec![0; rings.size as usize];
                let mut ring = 0;
                for (length, sums) in rings.lengths.into_iter().zip(SUMS) {
                    // The last one written is the ring's last.
                    stats[(ring + length * rings.record) as usize] = length as u8 - 1;
                    let record = ring + (length - 1) * rings.record + rings.sums;
                    for (index, value) in sums.into_iter().enumerate() {
                        set_word(&mut stats, record + index as u32 * 8, value);
                    }
                    ring += length * rings.record + 8;
                }
                stats[rings.sequence as usize] = 4;
                let stats = world.put(&stats);
                set_word(&mut bytes, pointer, stats);
            }
        }
        bytes
    }

    fn read_at(world: &World, layout: &Layout, state: u64) -> Result<PyGc, ReadError> {
        let (CollectorPlace::Runtime(offset) | CollectorPlace::Interpreter(offset)) =
            layout.collector.place;
        let owner = state - u64::from(offset);
        read(&mut world.reader(), owner, owner, &layout.collector)
    }

    #[test]
    fn sums_and_the_generation_that_is_collected() {
        for minor in 8..=15 {
            let layout = layout(minor);
            for (counts, generation) in [([3, 1], 0), ([0, 1], 1), ([0, 0], 2)] {
                let mut world = World::new(minor);
                let mut bytes = collector(&mut world, &layout.collector, counts);
                bytes[layout.collector.collecting as usize] = 1;
                let state = world.put(&bytes);
                let found = read_at(&world, &layout, state).unwrap();
                let sums: Vec<[u64; 3]> = found
                    .generations
                    .iter()
                    .map(|g| [g.collections, g.collected, g.uncollectable])
                    .collect();
                assert_eq!(sums, SUMS, "3.{minor}");
                assert!(found.collecting);
                assert_eq!(found.generation, Some(generation), "3.{minor}");
            }
        }
    }

    #[test]
    fn what_does_not_look_like_a_collector_is_refused() {
        let layout = layout(15);
        let mut world = World::new(15);
        let whole = collector(&mut world, &layout.collector, [1, 1]);
        let mut wild_flag = whole.clone();
        wild_flag[layout.collector.collecting as usize] = 9;
        let mut no_list = whole.clone();
        let text = world.text("no list");
        set_word(&mut no_list, layout.collector.garbage, text);
        for bytes in [wild_flag, no_list] {
            let state = world.put(&bytes);
            assert!(matches!(
                read_at(&world, &layout, state),
                Err(ReadError::Implausible { .. })
            ));
        }
    }

    #[test]
    fn sums_that_are_being_written_are_torn() {
        let layout = layout(15);
        let CollectionSums::Rings { pointer, rings } = layout.collector.sums else {
            unreachable!("3.15 has rings");
        };
        let mut world = World::new(15);
        let mut bytes = collector(&mut world, &layout.collector, [1, 1]);
        let mut stats = vec![0; rings.size as usize];
        stats[rings.sequence as usize] = 5;
        let stats = world.put(&stats);
        set_word(&mut bytes, pointer, stats);
        let state = world.put(&bytes);
        assert!(matches!(
            read_at(&world, &layout, state),
            Err(ReadError::Torn { .. })
        ));
    }
}
