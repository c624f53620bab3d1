//! The garbage collector: `_gc_runtime_state`.

use serde::Serialize;

use super::Since;

/// Which struct the collector's state is a part of, and where in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum CollectorPlace {
    /// Inside the runtime struct, for all interpreters.
    Runtime(u32),
    /// Each interpreter has its own.
    Interpreter(u32),
}

/// Where the sums of each generation's collections are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum CollectionSums {
    /// One record per generation, the last one ends where the flag that a collection runs begins.
    BeforeFlag,
    /// A pointer to rings of records: every collection writes one, with the sums so far.
    Rings { pointer: u32, rings: RingsLayout },
}

/// `struct gc_stats`: a ring of each generation, the youngest first, and a sequence count that is
/// odd while they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RingsLayout {
    pub size: u32,
    /// How many records each ring has; the index of the last one written, a byte, is behind them.
    pub lengths: [u32; 3],
    pub record: u32,
    /// The sums within a record: three numbers.
    pub sums: u32,
    pub sequence: u32,
}

/// `_gc_runtime_state`; offsets are from its beginning.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CollectorLayout {
    pub place: CollectorPlace,
    /// An `int`, not 0 while a collection runs.
    pub collecting: u32,
    /// Pointers to a list of uncollectable objects, and to one of callbacks.
    pub garbage: u32,
    pub callbacks: u32,
    /// Where the generations begin, one of these: it drifts between patch releases.
    pub generations: &'static [u32],
    pub sums: CollectionSums,
}

/// `struct gc_generation`: the head of a list, two pointers; a threshold and a count, `int`s.
pub const GENERATION_BYTES: u32 = 24;
/// `struct gc_generation.count`: of older generations, how many collections of the next younger one
/// there were since.
pub const GENERATION_COUNT: u32 = 20;

pub(super) const COLLECTOR: Since<CollectorLayout> = &[
    (8, collector(CollectorPlace::Runtime(344), 200, &[24])),
    (9, collector(CollectorPlace::Interpreter(616), 200, &[24])),
    (11, collector(CollectorPlace::Interpreter(648), 200, &[24])),
    (12, collector(CollectorPlace::Interpreter(112), 200, &[24])),
    (
        13,
        collector(CollectorPlace::Interpreter(7400), 200, &[24, 20]),
    ),
    (14, collector(CollectorPlace::Interpreter(7408), 192, &[24])),
    (
        15,
        CollectorLayout {
            garbage: 128,
            callbacks: 136,
            sums: CollectionSums::Rings {
                pointer: 104,
                rings: RingsLayout {
                    size: 1120,
                    lengths: [11, 3, 3],
                    record: 64,
                    sums: 16,
                    sequence: 1112,
                },
            },
            ..collector(CollectorPlace::Interpreter(7400), 112, &[8])
        },
    ),
];

const fn collector(
    place: CollectorPlace,
    collecting: u32,
    generations: &'static [u32],
) -> CollectorLayout {
    CollectorLayout {
        place,
        collecting,
        garbage: collecting + 8,
        callbacks: collecting + 16,
        generations,
        sums: CollectionSums::BeforeFlag,
    }
}
