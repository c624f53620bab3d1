//! The monotone projection: corrected readings become values that never fall.
//!
//! A reading of a running thread is provisional: later a part of what it said can move to
//! another column. Nobody who has been shown a total may see it fall, so the correction is paid
//! by the columns that grew in the meantime.

/// The columns nearest to `current` of which none is below `previous`.
///
/// The result sums to the larger of the two sums: `current`'s, or `previous` unchanged where
/// `current` as a whole fell. Where `current` is nowhere below `previous`, it is `current`.
/// The excess is taken from the columns that grew, in proportion to their growth.
///
/// Both sums must fit into a `u64`; past that the result still never falls.
pub(crate) fn project<const N: usize>(previous: &[u64; N], current: &[u64; N]) -> [u64; N] {
    let sum = |columns: &[u64; N]| {
        columns
            .iter()
            .map(|&column| u128::from(column))
            .sum::<u128>()
    };
    if sum(current) <= sum(previous) {
        return *previous;
    }
    let grown: [u64; N] = std::array::from_fn(|i| current[i].saturating_sub(previous[i]));
    let growth = sum(&grown);
    let fallen: u128 = (0..N)
        .map(|i| u128::from(previous[i].saturating_sub(current[i])))
        .sum();

    // `current` grew as a whole, so growth > fallen and what is taken is there.
    let mut left = fallen;
    let mut result: [u64; N] = std::array::from_fn(|i| previous[i].max(current[i]));
    for (column, &grown) in result.iter_mut().zip(&grown) {
        let share = fallen.saturating_mul(u128::from(grown)) / growth;
        let share = share.min(left).min(u128::from(grown)) as u64;
        *column -= share;
        left -= u128::from(share);
    }
    // Rounding down leaves less than one unit for each column.
    for (column, &previous) in result.iter_mut().zip(previous) {
        let rest = left.min(u128::from(*column - previous)) as u64;
        *column -= rest;
        left -= u128::from(rest);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::Random;

    fn total<const N: usize>(columns: &[u64; N]) -> u64 {
        columns.iter().sum()
    }

    #[test]
    fn known_corrections() {
        for (previous, current, want) in [
            // Nothing fell: the reading as it is.
            ([5, 0, 0], [7, 1, 0], [7, 1, 0]),
            // 3 of the 10 shown as running were stolen; only 3 more have gone by since.
            ([10, 0, 0], [7, 6, 0], [10, 3, 0]),
            // The correction is shared by all that grew.
            ([10, 0, 0], [6, 4, 8], [10, 2, 6]),
            // No time went by, but the reading changed.
            ([10, 0, 0], [4, 6, 0], [10, 0, 0]),
            // Time went backwards.
            ([10, 5, 0], [3, 3, 3], [10, 5, 0]),
            ([0, 0, 0], [0, 0, 0], [0, 0, 0]),
            ([u64::MAX, 0, 0], [0, u64::MAX, 0], [u64::MAX, 0, 0]),
            ([u64::MAX - 1, 0, 0], [0, u64::MAX, 0], [u64::MAX - 1, 1, 0]),
        ] {
            assert_eq!(
                project(&previous, &current),
                want,
                "{previous:?} -> {current:?}"
            );
        }
    }

    #[test]
    fn never_falls_and_sums_exactly() {
        let mut random = Random::new(1);
        for _ in 0..20_000 {
            let magnitude = random.below(60) + 1;
            let mut columns =
                || -> [u64; 5] { std::array::from_fn(|_| random.below(1 << magnitude)) };
            let (previous, current) = (columns(), columns());
            let result = project(&previous, &current);
            assert_eq!(total(&result), total(&previous).max(total(&current)));
            let mut distance = 0;
            let mut fallen = 0;
            for i in 0..5 {
                assert!(
                    result[i] >= previous[i],
                    "{previous:?} -> {current:?}: {result:?}"
                );
                assert!(result[i] <= previous[i].max(current[i]));
                distance += u128::from(result[i].abs_diff(current[i]));
                fallen += u128::from(previous[i].saturating_sub(current[i]));
            }
            if total(&current) >= total(&previous) {
                // Each ns that may not fall costs one more elsewhere, and nothing costs more.
                assert!(distance <= 2 * fallen);
            }
        }
    }

    #[test]
    fn sums_past_64_bits_do_not_panic() {
        let mut random = Random::new(2);
        for _ in 0..2_000 {
            let mut columns =
                || -> [u64; 4] { std::array::from_fn(|_| u64::MAX - random.below(3)) };
            let (previous, current) = (columns(), columns());
            let result = project(&previous, &current);
            assert!((0..4).all(|i| result[i] >= previous[i]));
        }
    }
}
