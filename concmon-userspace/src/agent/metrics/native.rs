//! Native histograms of Prometheus: exponential buckets, 8 for each power of two of seconds.
//!
//! What is measured has other bounds, in nanoseconds and in equal steps within a power of two. Each measured
//! bucket goes as a whole where its middle lies, so counts never fall, and a quantile is off by half a
//! measured bucket and one native bucket at most.

use super::Distribution;

/// 2^SCHEMA buckets for each power of two.
pub(in crate::agent) const SCHEMA: i32 = 3;
/// What is shorter counts as nothing, s.
pub(in crate::agent) const ZERO_S: f64 = 1e-9;

/// Buckets as they are served.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Native {
    pub(super) zero: u64,
    /// Runs of buckets: how many are left out before it, and how many it has. The first begins at its own number.
    pub(super) spans: Vec<(i32, u32)>,
    /// The count of each bucket, less that of the one before.
    pub(super) deltas: Vec<i64>,
}

/// The number of the bucket that has a duration: the one that ends at 2^(number/8) s, or before the next.
fn number(ns: f64) -> i32 {
    let per_octave = f64::from(1 << SCHEMA);
    ((ns / 1e9).log2() * per_octave).ceil() as i32
}

/// How many count as nothing, and the counts of buckets by their numbers, in ascending order. `sub`: measured buckets
/// of a power of two.
pub(in crate::agent) fn counts(distribution: &Distribution, sub: u64) -> (u64, Vec<(i32, u64)>) {
    let mut zero = 0u64;
    let mut counts: Vec<(i32, u64)> = Vec::new();
    for &(le, count) in &distribution.buckets {
        if count == 0 {
            continue;
        }
        let last = le.saturating_sub(1).max(1);
        let width = ((1 << last.ilog2()) / sub).max(1);
        let middle = le as f64 - width as f64 / 2.0;
        if middle <= ZERO_S * 1e9 {
            zero = zero.saturating_add(count);
            continue;
        }
        let number = number(middle);
        match counts.last_mut() {
            Some((known, sum)) if *known >= number => *sum = sum.saturating_add(count),
            _ => counts.push((number, count)),
        }
    }
    (zero, counts)
}

/// `sub`: measured buckets of a power of two.
pub(super) fn of(distribution: &Distribution, sub: u64) -> Native {
    let (zero, counts) = counts(distribution, sub);
    let mut native = Native {
        zero,
        ..Native::default()
    };
    let (mut end, mut before) = (None, 0i64);
    for (number, count) in counts {
        match (end, native.spans.last_mut()) {
            (Some(end), Some((_, length))) if end == number => *length += 1,
            (end, _) => native.spans.push((number - end.unwrap_or(0), 1)),
        }
        end = Some(number + 1);
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        native.deltas.push(count - before);
        before = count;
    }
    native
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_buckets_go_where_their_middle_lies() {
        for le in [
            2u64,
            5,
            1_000,
            1_024,
            1_280,
            65_536,
            1 << 30,
            274_877_906_944,
        ] {
            let one = Distribution {
                sum_ns: 0,
                buckets: vec![(le, 7)],
            };
            let native = of(&one, 4);
            assert_eq!(
                (native.spans.len(), &native.deltas[..]),
                (1, &[7][..]),
                "{le}"
            );
            let upper = (f64::from(native.spans[0].0) / 8.0).exp2() * 1e9;
            let ratio = upper / le as f64;
            assert!(
                (0.6..1.1).contains(&ratio),
                "{le} is in the one up to {upper}"
            );
        }
    }

    #[test]
    fn spans_and_deltas_tell_all_counts() {
        let le = |ns: u64| ns;
        let buckets = vec![
            (le(1), 2),
            (1_024, 5),
            (1_280, 3),
            (1 << 20, 9),
            (1 << 21, 1),
        ];
        let native = of(&Distribution { sum_ns: 0, buckets }, 4);
        assert_eq!(native.zero, 2);
        let (mut count, mut sum) = (0i64, 0i64);
        for delta in &native.deltas {
            count += delta;
            sum += count;
        }
        assert_eq!(sum, 18);
        let buckets: u32 = native.spans.iter().map(|(_, length)| length).sum();
        assert_eq!(buckets as usize, native.deltas.len());
        assert!(native.spans[0].0 < 0 && native.spans[1..].iter().all(|(gap, _)| *gap > 0));
    }
}
