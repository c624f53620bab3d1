//! Histograms of durations.

/// Buckets of a [`Hist`]: base 2 with four sub-buckets, from 64 ns to about 275 s.
pub const HIST_BUCKETS: usize = 128;

/// log2 of the upper bound (exclusive) of everything that falls into bucket 0.
pub const HIST_MIN_SHIFT: u32 = 6;

/// Position of the highest bit; 0 for 0. By halving: this is on the kernel's hot path, whose
/// instruction set has no such operation, and the usual expansion of it is twice as long.
#[inline(always)]
const fn log2(mut value: u64) -> u32 {
    let mut log = 0;
    if value >> 32 != 0 {
        value >>= 32;
        log += 32;
    }
    if value >> 16 != 0 {
        value >>= 16;
        log += 16;
    }
    if value >> 8 != 0 {
        value >>= 8;
        log += 8;
    }
    if value >> 4 != 0 {
        value >>= 4;
        log += 4;
    }
    if value >> 2 != 0 {
        value >>= 2;
        log += 2;
    }
    log + (value >> 1) as u32
}

/// The bucket that a duration belongs to.
///
/// Bucket 0 also takes what is shorter than [`hist_lower_bound`]`(1)`, the last one what is longer.
#[inline(always)]
pub const fn hist_bucket(ns: u64) -> usize {
    if ns < (1 << HIST_MIN_SHIFT) {
        return 0;
    }
    let log = log2(ns);
    let sub = (ns >> (log - 2)) & 3;
    let index = (((log - HIST_MIN_SHIFT) as u64) << 2) + sub;
    if index >= HIST_BUCKETS as u64 {
        HIST_BUCKETS - 1
    } else {
        index as usize
    }
}

/// The smallest duration in ns that falls into `bucket` (0 for the first).
pub const fn hist_lower_bound(bucket: usize) -> u64 {
    if bucket == 0 {
        return 0;
    }
    let log = HIST_MIN_SHIFT + (bucket as u32 >> 2);
    (4 + (bucket as u64 & 3)) << (log - 2)
}

/// Of all durations in a histogram, ns. `min_ns` is meaningless while `count` is 0.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct HistHead {
    pub count: u64,
    pub sum_ns: u64,
    pub min_ns: u64,
    pub max_ns: u64,
}

impl HistHead {
    pub const ZERO: HistHead = HistHead {
        count: 0,
        sum_ns: 0,
        min_ns: 0,
        max_ns: 0,
    };
}

/// Counts modulo 2^32: user space reads often enough to see every wrap.
pub type HistBuckets = [u32; HIST_BUCKETS];

/// A duration histogram.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Hist {
    pub head: HistHead,
    pub buckets: HistBuckets,
}

impl Hist {
    pub const ZERO: Hist = Hist {
        head: HistHead::ZERO,
        buckets: [0; HIST_BUCKETS],
    };
}

const _: () = assert!(size_of::<Hist>() == 544);
