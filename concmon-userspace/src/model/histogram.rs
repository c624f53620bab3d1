//! Duration histograms: the kernel's wrapping counters made whole, windows, and percentiles.
//!
//! The last bucket has no end of its own: it also counts every longer duration, and its upper
//! bound in a report is that of a bucket like the others.

use concmon_ebpf::{HIST_BUCKETS, hist_bucket, hist_lower_bound};

use super::window::Growth;
use crate::event::HistFact;
use crate::schema;

/// A histogram, with the buckets that are not empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    count: u64,
    sum_ns: u64,
    /// Meaningless while `count` is 0, like `max_ns`.
    min_ns: u64,
    max_ns: u64,
    /// Bucket and count, by bucket.
    buckets: Vec<(u8, u64)>,
}

impl Tally {
    /// Takes over a newer reading. The kernel's bucket counters are taken modulo 2^32: their
    /// growth is what is added here. A reading that is older than what is known is left out.
    pub(crate) fn update(&mut self, fact: &HistFact) {
        let Some(mut left) = fact.count.checked_sub(self.count) else {
            return;
        };
        if left == 0 {
            return;
        }
        let mut buckets = Vec::with_capacity(self.buckets.len().max(fact.buckets.len()));
        let mut known = self.buckets.iter().copied().peekable();
        let mut counters = fact.buckets.iter().copied().peekable();
        loop {
            let next = [
                known.peek().map(|&(b, _)| b),
                counters.peek().map(|&(b, _)| b),
            ];
            let Some(bucket) = next.into_iter().flatten().min() else {
                break;
            };
            let before = known.next_if(|&(known, _)| known == bucket);
            let before = before.map_or(0, |(_, count)| count);
            let counter = counters.next_if(|&(at, _)| at == bucket);
            let counter = counter.map_or(0, |(_, counter)| counter);
            // No bucket grows by more than the whole: one that seems to has shrunk.
            let growth = u64::from(counter.wrapping_sub(before as u32));
            let growth = if growth > left { 0 } else { growth };
            left -= growth;
            let count = before.saturating_add(growth);
            if count > 0 {
                buckets.push((bucket, count));
            }
        }
        let (min_ns, max_ns) = (fact.min_ns.min(fact.max_ns), fact.max_ns);
        if self.count == 0 {
            (self.min_ns, self.max_ns) = (min_ns, max_ns);
        } else {
            self.min_ns = self.min_ns.min(min_ns);
            self.max_ns = self.max_ns.max(max_ns);
        }
        self.buckets = buckets;
        self.count = fact.count;
        self.sum_ns = self.sum_ns.max(fact.sum_ns);
    }

    /// Adds one duration.
    pub(crate) fn record(&mut self, ns: u64) {
        let bucket = hist_bucket(ns) as u8;
        match self.buckets.binary_search_by_key(&bucket, |&(b, _)| b) {
            Ok(index) => self.buckets[index].1 = self.buckets[index].1.saturating_add(1),
            Err(index) => self.buckets.insert(index, (bucket, 1)),
        }
        if self.count == 0 {
            (self.min_ns, self.max_ns) = (ns, ns);
        } else {
            self.min_ns = self.min_ns.min(ns);
            self.max_ns = self.max_ns.max(ns);
        }
        self.count = self.count.saturating_add(1);
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    /// Adds all of another one.
    pub(crate) fn add(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        for &(bucket, count) in &other.buckets {
            match self.buckets.binary_search_by_key(&bucket, |&(b, _)| b) {
                Ok(index) => self.buckets[index].1 = self.buckets[index].1.saturating_add(count),
                Err(index) => self.buckets.insert(index, (bucket, count)),
            }
        }
        self.min_ns = match self.count {
            0 => other.min_ns,
            _ => self.min_ns.min(other.min_ns),
        };
        self.max_ns = self.max_ns.max(other.max_ns);
        self.count = self.count.saturating_add(other.count);
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The histogram as views see it.
    pub(crate) fn report(&self) -> schema::Histogram {
        let exact = |value| (self.count > 0).then_some(value);
        schema::Histogram {
            count: self.count,
            sum_ns: self.sum_ns,
            min_ns: exact(self.min_ns),
            max_ns: exact(self.max_ns),
            p50_ns: self.percentile(50),
            p90_ns: self.percentile(90),
            p99_ns: self.percentile(99),
            buckets: self
                .buckets
                .iter()
                .map(|&(bucket, count)| (hist_lower_bound(usize::from(bucket) + 1), count))
                .collect(),
        }
    }

    /// The duration that `percent` of all durations do not exceed, taking those in a bucket as
    /// spread evenly over it. `None` when there are none.
    fn percentile(&self, percent: u64) -> Option<u64> {
        let total: u128 = self
            .buckets
            .iter()
            .map(|&(_, count)| u128::from(count))
            .sum();
        let rank = (total * u128::from(percent)).div_ceil(100);
        let mut before = 0u128;
        for &(bucket, count) in &self.buckets {
            let count = u128::from(count);
            if before + count >= rank {
                let low = hist_lower_bound(usize::from(bucket)).max(self.min_ns);
                let high = self.upper_bound(bucket).max(low);
                let part = u128::from(high - low) * (rank - before) / count;
                return Some((low + part as u64).min(self.max_ns));
            }
            before += count;
        }
        None
    }

    /// Where a bucket ends, not beyond the longest duration.
    fn upper_bound(&self, bucket: u8) -> u64 {
        match usize::from(bucket) + 1 {
            HIST_BUCKETS => self.max_ns,
            next => hist_lower_bound(next).min(self.max_ns),
        }
    }
}

impl Growth for Tally {
    /// Count, sum and buckets are exact. The extremes are, too, where nothing came before
    /// `base` or where they were set after it; otherwise they are the bounds of the outermost
    /// buckets that grew, within the extremes of the whole.
    fn since(&self, base: &Self) -> Self {
        if base.count == 0 {
            return self.clone();
        }
        if base.count == self.count {
            return Tally::default();
        }
        let mut buckets = Vec::new();
        let mut known = base.buckets.iter().copied().peekable();
        for &(bucket, count) in &self.buckets {
            let before = match known.next_if(|&(known, _)| known == bucket) {
                Some((_, count)) => count,
                None => 0,
            };
            if count > before {
                buckets.push((bucket, count - before));
            }
        }
        let min_ns = match buckets.first() {
            Some(&(bucket, _)) if self.min_ns == base.min_ns => {
                hist_lower_bound(usize::from(bucket))
                    .max(self.min_ns)
                    .min(self.max_ns)
            }
            _ => self.min_ns,
        };
        let max_ns = match buckets.last() {
            Some(&(bucket, _)) if self.max_ns == base.max_ns => {
                self.upper_bound(bucket).max(min_ns)
            }
            _ => self.max_ns,
        };
        Tally {
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
    use crate::model::testing::{Random, hist};

    #[test]
    fn counters_that_wrap_keep_counting() {
        let mut fact = hist(&[100]);
        let mut tally = Tally::default();
        let mut want = 1u64;
        tally.update(&fact);
        for growth in [u32::MAX - 5, 3, 2, 1, 7, u32::MAX] {
            want += u64::from(growth);
            fact.count = want;
            fact.buckets[0].1 = fact.buckets[0].1.wrapping_add(growth);
            tally.update(&fact);
            assert_eq!(tally.report().buckets, [(112, want)]);
        }
    }

    #[test]
    fn one_by_one_is_the_same_as_all_at_once() {
        let mut random = Random::new(9);
        let durations: Vec<u64> = (0..500).map(|_| random.any() >> random.below(60)).collect();
        let durations: Vec<u64> = durations.iter().map(|ns| ns >> 10).collect();
        let (mut one_by_one, mut at_once) = (Tally::default(), Tally::default());
        durations.iter().for_each(|&ns| one_by_one.record(ns));
        at_once.update(&hist(&durations));
        assert_eq!(one_by_one, at_once);
    }

    #[test]
    fn windows_add_up_and_stay_within_bounds() {
        let mut random = Random::new(3);
        for _ in 0..300 {
            let mut durations = Vec::new();
            let mut tally = Tally::default();
            let (mut count, mut sum, mut buckets) = (0, 0, vec![0; HIST_BUCKETS]);
            for _ in 0..6 {
                let base = tally.clone();
                let fresh: Vec<u64> = (0..random.below(5))
                    .map(|_| {
                        let magnitude = random.below(42);
                        random.below(1 << magnitude)
                    })
                    .collect();
                durations.extend(&fresh);
                tally.update(&hist(&durations));
                let window = tally.since(&base);
                count += window.count;
                sum += window.sum_ns;
                for &(bucket, count) in &window.buckets {
                    buckets[usize::from(bucket)] += count;
                }
                if let (Some(&min), Some(&max)) = (fresh.iter().min(), fresh.iter().max()) {
                    assert!(window.min_ns <= min, "{window:?} of {fresh:?}");
                    assert!(window.max_ns >= max, "{window:?} of {fresh:?}");
                    let report = window.report();
                    let percentiles = [report.min_ns, report.p50_ns, report.p90_ns]
                        .into_iter()
                        .chain([report.p99_ns, report.max_ns]);
                    assert!(percentiles.is_sorted(), "{report:?}");
                } else {
                    assert_eq!(window.report(), schema::Histogram::default());
                }
            }
            assert_eq!((count, sum), (tally.count, tally.sum_ns));
            for (bucket, &count) in buckets.iter().enumerate() {
                let whole = tally
                    .buckets
                    .iter()
                    .find(|&&(b, _)| usize::from(b) == bucket);
                assert_eq!(count, whole.map_or(0, |&(_, count)| count));
            }
            if let Some(&max) = durations.iter().max() {
                assert_eq!(tally.report().max_ns, Some(max));
                assert_eq!(tally.report().min_ns, durations.iter().min().copied());
            }
        }
    }

    #[test]
    fn percentiles_lie_in_the_right_bucket() {
        let durations: Vec<u64> = (1..=1000).map(|i| i * 1_000).collect();
        let mut tally = Tally::default();
        tally.update(&hist(&durations));
        let report = tally.report();
        for (percentile, exact) in [
            (report.p50_ns, 500_000f64),
            (report.p90_ns, 900_000.0),
            (report.p99_ns, 990_000.0),
        ] {
            let percentile = percentile.unwrap() as f64;
            assert!(
                (percentile / exact - 1.0).abs() < 0.02,
                "{percentile} for {exact}"
            );
        }
        assert_eq!(
            (report.min_ns, report.max_ns),
            (Some(1_000), Some(1_000_000))
        );
    }

    #[test]
    fn what_is_longer_than_the_last_bucket_counts_there() {
        let long = 3_600_000_000_000;
        let mut tally = Tally::default();
        tally.update(&hist(&[long]));
        let report = tally.report();
        assert_eq!(report.buckets, [(1 << 38, 1)]);
        assert_eq!((report.p99_ns, report.max_ns), (Some(long), Some(long)));
    }

    #[test]
    fn nonsense_does_not_panic_or_fall() {
        let mut tally = Tally::default();
        tally.update(&hist(&[10, 20]));
        let before = tally.clone();
        tally.update(&hist(&[10]));
        assert_eq!(tally, before);
        let mut fact = hist(&[5]);
        fact.count = u64::MAX;
        fact.min_ns = u64::MAX;
        fact.max_ns = 0;
        fact.sum_ns = u64::MAX;
        fact.buckets = (0..HIST_BUCKETS as u8)
            .map(|bucket| (bucket, u32::MAX))
            .collect();
        tally.update(&fact);
        let window = tally.since(&before).report();
        assert!(window.min_ns <= window.max_ns);
    }
}
