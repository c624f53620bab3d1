//! Duration histograms with 16 sub-buckets per power of two, for what user space measures itself.

use std::collections::BTreeMap;

use crate::model::window::Growth;
use crate::schema;

/// log2 of the sub-buckets of each power of two.
const SUB: u32 = 4;

/// The bucket of a duration. Durations below 16 ns have one each.
fn bucket(ns: u64) -> u16 {
    let log = 63 - (ns | 1).leading_zeros();
    if log < SUB {
        return ns as u16;
    }
    let sub = (ns >> (log - SUB)) & ((1 << SUB) - 1);
    (((log - SUB + 1) << SUB) as u16) + sub as u16
}

/// The smallest duration in a bucket, ns.
fn lower_bound(bucket: u16) -> u64 {
    let (row, sub) = (
        u32::from(bucket) >> SUB,
        u64::from(bucket) & ((1 << SUB) - 1),
    );
    if row == 0 {
        return sub;
    }
    // The bucket behind the last one begins beyond what there is.
    ((1 << SUB) + sub)
        .checked_shl(row - 1)
        .filter(|bound| bound >> (row - 1) == (1 << SUB) + sub)
        .unwrap_or(u64::MAX)
}

/// A histogram, with the buckets that are not empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fine {
    count: u64,
    sum_ns: u64,
    /// Meaningless while `count` is 0, like `max_ns`.
    min_ns: u64,
    max_ns: u64,
    buckets: BTreeMap<u16, u64>,
}

impl Fine {
    /// Adds `count` durations of `ns`.
    pub(crate) fn record(&mut self, ns: u64, count: u64) {
        if count == 0 {
            return;
        }
        if self.count == 0 {
            (self.min_ns, self.max_ns) = (ns, ns);
        } else {
            self.min_ns = self.min_ns.min(ns);
            self.max_ns = self.max_ns.max(ns);
        }
        self.count = self.count.saturating_add(count);
        self.sum_ns = self.sum_ns.saturating_add(ns.saturating_mul(count));
        let of = self.buckets.entry(bucket(ns)).or_insert(0);
        *of = of.saturating_add(count);
    }

    /// How many durations.
    pub(crate) const fn count(&self) -> u64 {
        self.count
    }

    /// The sum of them.
    pub(crate) const fn sum_ns(&self) -> u64 {
        self.sum_ns
    }

    /// Adds all of another one.
    pub(crate) fn add(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        self.min_ns = match self.count {
            0 => other.min_ns,
            _ => self.min_ns.min(other.min_ns),
        };
        self.max_ns = self.max_ns.max(other.max_ns);
        self.count = self.count.saturating_add(other.count);
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
        for (bucket, count) in &other.buckets {
            let of = self.buckets.entry(*bucket).or_insert(0);
            *of = of.saturating_add(*count);
        }
    }

    /// Adds `count` durations, spread evenly from `from_ns` to `to_ns`.
    pub(crate) fn record_evenly(&mut self, from_ns: u64, to_ns: u64, count: u64) {
        let parts = count.min(64);
        let width = to_ns.saturating_sub(from_ns);
        for part in 0..parts {
            let share = count / parts + u64::from(part < count % parts);
            let middle = u128::from(width) * u128::from(2 * part + 1) / u128::from(2 * parts);
            self.record(from_ns.saturating_add(middle as u64), share);
        }
    }

    /// The histogram as views see it; `None` while there is nothing in it.
    pub(crate) fn report(&self) -> Option<schema::Histogram> {
        if self.count == 0 {
            return None;
        }
        let buckets = self.buckets.iter();
        Some(schema::Histogram {
            count: self.count,
            sum_ns: self.sum_ns,
            min_ns: Some(self.min_ns),
            max_ns: Some(self.max_ns),
            p50_ns: self.percentile(50),
            p90_ns: self.percentile(90),
            p99_ns: self.percentile(99),
            buckets: buckets
                .map(|(bucket, count)| (lower_bound(bucket + 1), *count))
                .collect(),
        })
    }

    fn percentile(&self, percent: u64) -> Option<u64> {
        let total: u128 = self.buckets.values().map(|count| u128::from(*count)).sum();
        let rank = (total * u128::from(percent)).div_ceil(100);
        let mut before = 0u128;
        for (bucket, count) in &self.buckets {
            let count = u128::from(*count);
            if before + count >= rank {
                let low = lower_bound(*bucket).max(self.min_ns);
                let high = lower_bound(bucket + 1).min(self.max_ns).max(low);
                let part = u128::from(high - low) * (rank - before) / count;
                return Some((low + part as u64).min(self.max_ns));
            }
            before += count;
        }
        None
    }
}

impl Growth for Fine {
    /// As of the kernel's histograms: extremes that the window did not set are bucket bounds.
    fn since(&self, base: &Self) -> Self {
        if base.count == 0 {
            return self.clone();
        }
        if base.count == self.count {
            return Fine::default();
        }
        let mut buckets = BTreeMap::new();
        for (bucket, count) in &self.buckets {
            let before = base.buckets.get(bucket).copied().unwrap_or(0);
            if *count > before {
                buckets.insert(*bucket, count - before);
            }
        }
        let outermost = |found: Option<(&u16, &u64)>| found.map(|(bucket, _)| *bucket);
        let min_ns = match outermost(buckets.first_key_value()) {
            Some(bucket) if self.min_ns == base.min_ns => {
                lower_bound(bucket).clamp(self.min_ns, self.max_ns)
            }
            _ => self.min_ns,
        };
        let max_ns = match outermost(buckets.last_key_value()) {
            Some(bucket) if self.max_ns == base.max_ns => {
                lower_bound(bucket + 1).clamp(min_ns, self.max_ns)
            }
            _ => self.max_ns,
        };
        Fine {
            count: self.count.saturating_sub(base.count),
            sum_ns: self.sum_ns.saturating_sub(base.sum_ns),
            min_ns,
            max_ns,
            buckets,
        }
    }

    fn catch_up(&mut self, now: &Self) {
        // Nothing changes without a count.
        if self.count != now.count {
            self.clone_from(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;

    #[test]
    fn every_duration_lies_in_its_bucket() {
        let mut rng = Rng::new(3);
        let mut tried: Vec<u64> = (0..100_000).map(|_| rng.next() >> rng.below(64)).collect();
        tried.extend([0, 1, 15, 16, 17, 31, 32, u64::MAX]);
        for ns in tried {
            let bucket = bucket(ns);
            assert!(lower_bound(bucket) <= ns, "{ns}");
            assert!(ns < lower_bound(bucket + 1) || ns == u64::MAX, "{ns}");
        }
    }

    #[test]
    fn percentiles_are_right_to_a_sixteenth() {
        let mut fine = Fine::default();
        fine.record_evenly(0, 10_000_000, 10_000);
        let report = fine.report().expect("something");
        assert_eq!(report.count, 10_000);
        for (found, want) in [(report.p50_ns, 5e6), (report.p99_ns, 9.9e6)] {
            let ratio = found.expect("a percentile") as f64 / want;
            assert!((0.94..1.07).contains(&ratio), "{ratio}");
        }
    }

    #[test]
    fn windows_add_up() {
        let mut fine = Fine::default();
        fine.record(100, 3);
        let base = fine.clone();
        fine.record(5_000, 2);
        let window = fine.since(&base);
        assert_eq!((window.count, window.sum_ns), (2, 10_000));
        assert!(window.min_ns > 4_000 && window.max_ns >= 5_000);
    }
}
