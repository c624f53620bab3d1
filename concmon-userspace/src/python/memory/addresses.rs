//! Maps and sets of addresses, with a hash that costs one multiplication: a scan of thousands of
//! objects asks for the types of all of them.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

pub(crate) type AddressMap<V> = HashMap<u64, V, BuildHasherDefault<AddressHasher>>;
pub(crate) type AddressSet = HashSet<u64, BuildHasherDefault<AddressHasher>>;
/// What is known by an offset.
pub(crate) type OffsetMap<V> = HashMap<i64, V, BuildHasherDefault<AddressHasher>>;

/// Multiplicative hashing: addresses differ in their middle bits, tables look at both ends.
#[derive(Default)]
pub(crate) struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_i64(&mut self, value: i64) {
        self.write_u64(value.cast_unsigned());
    }

    fn write_u64(&mut self, value: u64) {
        // 2^64 divided by the golden ratio.
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        let product = (self.0 ^ value).wrapping_mul(FACTOR);
        self.0 = product ^ (product >> 32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_objects_do_not_share_a_hash() {
        let hashes: HashSet<u64> = (0..10_000u64)
            .map(|index| {
                let mut hasher = AddressHasher::default();
                hasher.write_u64(0x7f00_0000_0000 + index * 16);
                hasher.finish()
            })
            .collect();
        assert_eq!(hashes.len(), 10_000);
        let low: HashSet<u64> = hashes.iter().map(|hash| hash & 0xffff).collect();
        assert!(low.len() > 8_000, "{}", low.len());
    }
}
