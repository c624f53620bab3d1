//! Pseudo-random numbers that are the same for the same seed.

#[path = "../../src/testing.rs"]
mod numbers;

pub(crate) use numbers::{Rng as Random, mix};

impl Random {
    pub(crate) fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}
