//! Records of the kernel in columns: each field as what it differs from what could be expected.
//!
//! A slice begins about when its CPU ended the one before, its thread left a CPU when its last
//! slice ended, and the kernel's account of it is about its length. What is left are small
//! numbers, which take a byte or two, and compress well beside others of their kind. It holds for
//! any bits: arithmetic wraps.

use std::collections::HashMap;

use concmon_ebpf::{Record, RecordHead, SliceRecord};
use foldhash::fast::FixedState;

use super::{bounds::MAX_IDS, format::Malformed};

/// Appends a number in 7-bit groups, the lowest first (LEB128).
pub(super) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a number from the front.
#[inline]
pub(super) fn take(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    // Most are this short.
    match **bytes {
        [low, ref rest @ ..] if low < 0x80 => {
            *bytes = rest;
            return Ok(u64::from(low));
        }
        [low, high, ref rest @ ..] if high < 0x80 => {
            *bytes = rest;
            return Ok(u64::from(low & 0x7f) | u64::from(high) << 7);
        }
        _ => {}
    }
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(Malformed)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

/// Takes a number that fits in 32 bits.
pub(super) fn take_u32(bytes: &mut &[u8]) -> Result<u32, Malformed> {
    u32::try_from(take(bytes)?).map_err(|_| Malformed)
}

/// Takes so many bytes.
pub(super) fn take_bytes<'a>(bytes: &mut &'a [u8], count: u64) -> Result<&'a [u8], Malformed> {
    let count = usize::try_from(count).map_err(|_| Malformed)?;
    let (taken, rest) = bytes.split_at_checked(count).ok_or(Malformed)?;
    *bytes = rest;
    Ok(taken)
}

/// The difference of two numbers, so that small ones of either sign are small.
pub(super) const fn differ(value: u64, expected: u64) -> u64 {
    let by = value.wrapping_sub(expected).cast_signed();
    (by.wrapping_shl(1) ^ (by >> 63)).cast_unsigned()
}

/// What differs from `expected` by `by`.
pub(super) const fn restore(by: u64, expected: u64) -> u64 {
    expected.wrapping_add((by >> 1) ^ (by & 1).wrapping_neg())
}

/// Like [`differ`], but what stands for `value == 0` is 0.
const fn differ_or_none(value: u64, expected: u64) -> u64 {
    let (code, none) = (differ(value, expected), differ(0, expected));
    if code == none {
        0
    } else if code < none {
        code + 1
    } else {
        code
    }
}

const fn restore_or_none(code: u64, expected: u64) -> u64 {
    let none = differ(0, expected);
    if code == 0 {
        0
    } else if code <= none {
        restore(code - 1, expected)
    } else {
        restore(code, expected)
    }
}

/// How many columns records have; more may follow in later versions.
pub(super) const COUNT: usize = 13;
const KIND: usize = 0;
const CAUSE: usize = 1;
const FLAGS: usize = 2;
const RESERVED: usize = 3;
/// Which of the chunk's threads, by first appearance; one more than known: the next of `NEW`.
const THREAD: usize = 4;
const NEW: usize = 5;
const IN: usize = 6;
const LENGTH: usize = 7;
const ON_CPU: usize = 8;
const WAKE: usize = 9;
const OFF: usize = 10;
const ARGUMENT: usize = 11;
/// The waker, then the system call.
const OTHER: usize = 12;

/// What is expected of a thread's next record.
#[derive(Clone, Copy, Debug, Default)]
struct Thread {
    tid: u32,
    at_ns: u64,
    argument: u64,
    other: u32,
    syscall: i32,
}

/// Columns being filled.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pub(super) columns: [Vec<u8>; COUNT],
    threads: Vec<Thread>,
    index: HashMap<u32, usize, FixedState>,
}

impl Writer {
    pub(super) fn clear(&mut self) {
        self.columns.iter_mut().for_each(Vec::clear);
        self.threads.clear();
        self.index.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.columns.iter().map(Vec::len).sum()
    }

    /// Appends a record; `at_ns` is of the record before it on this CPU.
    pub(super) fn put(&mut self, record: &Record, at_ns: &mut u64) {
        // Other kinds are written by the fields of a slice, too: the same bits.
        let slice = SliceRecord::from(*record);
        let head = record.head;
        let next = self.threads.len();
        let index = *self.index.entry(head.tid).or_insert(next);
        let columns = &mut self.columns;
        if index == next {
            put(&mut columns[NEW], u64::from(head.tid));
            self.threads.push(Thread {
                tid: head.tid,
                at_ns: slice.in_ns,
                ..Thread::default()
            });
        }
        let thread = &mut self.threads[index];
        columns[KIND].push(head.kind);
        columns[CAUSE].push(head.cause);
        columns[FLAGS].push(head.flags);
        columns[RESERVED].push(head.reserved);
        put(&mut columns[THREAD], index as u64);
        put(&mut columns[IN], differ(slice.in_ns, *at_ns));
        let length = head.at_ns.wrapping_sub(slice.in_ns);
        put(&mut columns[LENGTH], differ(length, 0));
        put(&mut columns[ON_CPU], differ(slice.on_cpu_ns, length));
        put(
            &mut columns[WAKE],
            differ_or_none(slice.wake_ns, slice.in_ns),
        );
        put(&mut columns[OFF], differ(slice.off_ns, thread.at_ns));
        put(&mut columns[ARGUMENT], differ(slice.arg0, thread.argument));
        let other = differ(u64::from(slice.waker_tid), u64::from(thread.other));
        put(&mut columns[OTHER], other);
        let (syscall, before) = (slice.syscall, thread.syscall);
        let by = i64::from(syscall) - i64::from(before);
        put(&mut columns[OTHER], differ(by.cast_unsigned(), 0));
        *thread = Thread {
            tid: head.tid,
            at_ns: head.at_ns,
            argument: slice.arg0,
            other: slice.waker_tid,
            syscall,
        };
        *at_ns = head.at_ns;
    }
}

/// Columns being read.
#[derive(Debug, Default)]
pub(super) struct Reader<'a> {
    pub(super) columns: [&'a [u8]; COUNT],
    threads: Vec<Thread>,
}

impl Reader<'_> {
    fn byte(&mut self, column: usize) -> Result<u8, Malformed> {
        let (&byte, rest) = self.columns[column].split_first().ok_or(Malformed)?;
        self.columns[column] = rest;
        Ok(byte)
    }

    fn number(&mut self, column: usize) -> Result<u64, Malformed> {
        take(&mut self.columns[column])
    }

    /// The next record; `at_ns` as in [`Writer::put`].
    pub(super) fn take(&mut self, at_ns: &mut u64) -> Result<Record, Malformed> {
        let index = usize::try_from(self.number(THREAD)?).map_err(|_| Malformed)?;
        let begin_ns = restore(self.number(IN)?, *at_ns);
        if index == self.threads.len() && index < MAX_IDS {
            let tid = u32::try_from(self.number(NEW)?).map_err(|_| Malformed)?;
            self.threads.push(Thread {
                tid,
                at_ns: begin_ns,
                ..Thread::default()
            });
        }
        let thread = *self.threads.get(index).ok_or(Malformed)?;
        let length = restore(self.number(LENGTH)?, 0);
        let other = restore(self.number(OTHER)?, u64::from(thread.other));
        let by = restore(self.number(OTHER)?, 0).cast_signed();
        let syscall = i64::from(thread.syscall).wrapping_add(by);
        let slice = SliceRecord {
            head: RecordHead {
                kind: self.byte(KIND)?,
                cause: self.byte(CAUSE)?,
                flags: self.byte(FLAGS)?,
                reserved: self.byte(RESERVED)?,
                tid: thread.tid,
                at_ns: begin_ns.wrapping_add(length),
            },
            off_ns: restore(self.number(OFF)?, thread.at_ns),
            wake_ns: restore_or_none(self.number(WAKE)?, begin_ns),
            in_ns: begin_ns,
            on_cpu_ns: restore(self.number(ON_CPU)?, length),
            arg0: restore(self.number(ARGUMENT)?, thread.argument),
            waker_tid: u32::try_from(other).map_err(|_| Malformed)?,
            syscall: i32::try_from(syscall).map_err(|_| Malformed)?,
        };
        self.threads[index] = Thread {
            tid: slice.head.tid,
            at_ns: slice.head.at_ns,
            argument: slice.arg0,
            other: slice.waker_tid,
            syscall: slice.syscall,
        };
        *at_ns = slice.head.at_ns;
        Ok(slice.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;

    /// Numbers of all sizes, the edges included.
    fn any(rng: &mut Rng) -> u64 {
        match rng.below(6) {
            0 => 0,
            1 => u64::MAX - rng.below(3) as u64,
            2 => (1 << 63) + rng.below(3) as u64 - 1,
            3 => rng.next(),
            _ => rng.next() >> rng.below(64),
        }
    }

    #[test]
    fn numbers_come_back() {
        let mut rng = Rng::new(3);
        for _ in 0..100_000 {
            let (value, expected) = (any(&mut rng), any(&mut rng));
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            assert_eq!(take(&mut &bytes[..]), Ok(value));
            assert_eq!(restore(differ(value, expected), expected), value);
            let code = differ_or_none(value, expected);
            assert_eq!(restore_or_none(code, expected), value, "{expected}");
            assert_eq!(differ_or_none(0, expected), 0);
        }
    }

    #[test]
    fn any_records_come_back() {
        let mut rng = Rng::new(4);
        for _ in 0..300 {
            let records: Vec<Record> = (0..rng.below(200))
                .map(|_| Record {
                    head: RecordHead {
                        kind: any(&mut rng) as u8,
                        cause: any(&mut rng) as u8,
                        flags: any(&mut rng) as u8,
                        reserved: any(&mut rng) as u8,
                        tid: rng.below(9) as u32 | (any(&mut rng) as u32 & 0x8000_0000),
                        at_ns: any(&mut rng),
                    },
                    body: std::array::from_fn(|_| any(&mut rng)),
                })
                .collect();
            let mut writer = Writer::default();
            let mut at_ns = 0;
            for record in &records {
                writer.put(record, &mut at_ns);
            }
            let mut reader = Reader {
                columns: writer.columns.each_ref().map(Vec::as_slice),
                ..Reader::default()
            };
            let mut at_ns = 0;
            for record in &records {
                assert_eq!(reader.take(&mut at_ns).as_ref(), Ok(record));
            }
            assert_eq!(reader.take(&mut at_ns), Err(Malformed));
        }
    }
}
