//! The GIL struct: `struct _gil_runtime_state`, which has begun in the same way since 3.8.

use crate::event::{PyGil, Tid};
use crate::procfs::clocks::monotonic_ns;
use crate::python::memory::{Memory, ReadError, int, word};

/// Bytes from the beginning of the struct that are read.
pub(crate) const GIL_BYTES: usize = 32;
/// The switch interval in µs.
const INTERVAL: u32 = 0;
pub(crate) const LAST_HOLDER: u32 = 8;
/// -1 before the GIL is made, then 0 or 1.
const LOCKED: u32 = 16;
const SWITCHES: u32 = 24;
/// The condition variable on which threads wait until it is dropped.
const COND: u64 = 32;
const LONGEST_INTERVAL_US: u64 = 1 << 40;

/// What a GIL says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GilState {
    pub(crate) locked: bool,
    /// Address of a thread state; 0: nobody had it yet, or who had it has ended.
    pub(crate) last_holder: u64,
    pub(crate) switches: u64,
}

impl GilState {
    /// `None`: these bytes are no GIL.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let interval = word(bytes, INTERVAL)?;
        let locked = int(bytes, LOCKED)?;
        if !(1..LONGEST_INTERVAL_US).contains(&interval) || !(-1..=1).contains(&locked) {
            return None;
        }
        Some(Self {
            locked: locked == 1,
            last_holder: word(bytes, LAST_HOLDER)?,
            switches: word(bytes, SWITCHES)?,
        })
    }

    /// It has been read just now.
    pub(crate) fn fact(&self, address: u64, last_holder: Option<Tid>) -> PyGil {
        PyGil {
            read_ns: monotonic_ns(),
            address,
            cond: address.wrapping_add(COND),
            locked: self.locked,
            last_holder,
            switches: self.switches,
            samples: 0,
            locked_samples: 0,
        }
    }
}

/// Reads a GIL; an error when there is none.
pub(crate) fn read(memory: &dyn Memory, address: u64) -> Result<GilState, ReadError> {
    let mut bytes = [0; GIL_BYTES];
    memory.read(address, &mut bytes)?;
    GilState::parse(&bytes).ok_or(ReadError::Implausible {
        what: "GIL",
        address,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::objects::synthetic::Segments;

    const ADDRESS: u64 = 0x5000;

    fn gil(interval: u64, holder: u64, locked: i32, switches: u64) -> Result<GilState, ReadError> {
        let mut memory = Segments::default();
        let locked = u64::from(locked as u32);
        memory.put_words(ADDRESS, &[interval, holder, locked, switches]);
        read(&memory, ADDRESS)
    }

    #[test]
    fn a_gil_is_told_from_other_things() {
        let held = gil(5_000, 0x77, 1, 42).unwrap();
        let want = GilState {
            locked: true,
            last_holder: 0x77,
            switches: 42,
        };
        assert_eq!(held, want);
        assert!(!gil(5_000, 0, 0, 0).unwrap().locked);
        assert!(!gil(5_000, 0, -1, 0).unwrap().locked);
        for (interval, locked) in [(0, 1), (u64::MAX, 1), (5_000, 2), (5_000, i32::MIN)] {
            assert!(gil(interval, 0, locked, 0).is_err(), "{interval} {locked}");
        }
        assert_eq!(GilState::parse(&[1; GIL_BYTES - 1]), None);
    }
}
