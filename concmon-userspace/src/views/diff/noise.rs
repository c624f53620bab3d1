//! Means over windows, and how far two of them may differ by chance.

/// Values of windows, weighted by how long each was.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Mean {
    windows: u64,
    weight: f64,
    sum: f64,
    squares: f64,
}

impl Mean {
    pub(super) fn add(&mut self, value: f64, weight: f64) {
        if !value.is_finite() || !weight.is_finite() || weight <= 0.0 {
            return;
        }
        self.windows += 1;
        self.weight += weight;
        self.sum += value * weight;
        self.squares += value * value * weight;
    }

    /// As if it had been 0 in other windows, so that there are `windows` with the weight `weight`.
    pub(super) fn filled(&self, windows: u64, weight: f64) -> Self {
        Mean {
            windows: windows.max(self.windows),
            weight: weight.max(self.weight),
            ..*self
        }
    }

    pub(super) fn mean(&self) -> f64 {
        if self.weight > 0.0 {
            self.sum / self.weight
        } else {
            0.0
        }
    }

    /// The variance of the mean; `None`: there are too few windows.
    fn variance(&self) -> Option<f64> {
        if self.windows < 3 {
            return None;
        }
        let windows = self.windows as f64;
        let spread = (self.squares / self.weight - self.mean().powi(2)).max(0.0);
        Some(spread / (windows - 1.0))
    }
}

/// How large a difference of two means may be by chance, in 99 of 100 cases (Welch 1947). `None`: there
/// are too few windows.
pub(super) fn of_difference(before: Mean, after: Mean) -> Option<f64> {
    let (one, other) = (before.variance()?, after.variance()?);
    let both = one + other;
    if both <= 0.0 {
        return Some(0.0);
    }
    let part = |variance: f64, windows: u64| variance.powi(2) / (windows as f64 - 1.0);
    let freedom = both.powi(2) / (part(one, before.windows) + part(other, after.windows));
    Some(student(freedom) * both.sqrt())
}

/// Student's t, two-sided at 99 %, for a number of degrees of freedom: a table up to 10, beyond that
/// within 2 % of it.
fn student(freedom: f64) -> f64 {
    const TABLE: [f64; 10] = [
        63.66, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355, 3.250, 3.169,
    ];
    match freedom.floor() as usize {
        0 => TABLE[0],
        whole @ 1..=10 => TABLE[whole - 1],
        _ => 2.576 + 6.0 / freedom,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;

    fn mean(values: &[f64]) -> Mean {
        let mut mean = Mean::default();
        for value in values {
            mean.add(*value, 1.0);
        }
        mean
    }

    #[test]
    fn missing_windows_count_as_nothing() {
        let filled = mean(&[4.0]).filled(4, 4.0);
        assert_eq!(filled.mean(), 1.0);
        assert_eq!(filled, mean(&[4.0, 0.0, 0.0, 0.0]));
        assert_eq!(
            of_difference(mean(&[1.0, 2.0]), mean(&[1.0, 2.0, 3.0])),
            None
        );
        assert_eq!(of_difference(mean(&[1.0; 5]), mean(&[2.0; 5])), Some(0.0));
    }

    /// Two samples of the same differ by more than the noise in about one of 100 cases.
    #[test]
    fn chance_is_noise() {
        let mut rng = Rng::new(7);
        let mut draw = |count: usize| {
            let values: Vec<f64> = (0..count)
                .map(|_| (0..6).map(|_| rng.below(1000) as f64).sum())
                .collect();
            mean(&values)
        };
        for (one, other) in [(5, 5), (10, 30), (60, 60)] {
            let beyond = (0..4_000)
                .filter(|_| {
                    let (before, after) = (draw(one), draw(other));
                    let noise = of_difference(before, after).expect("enough windows");
                    (after.mean() - before.mean()).abs() > noise
                })
                .count();
            assert!(
                (10..=80).contains(&beyond),
                "{one}, {other}: {beyond} of 4000"
            );
        }
    }
}
