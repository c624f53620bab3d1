//! Timers of an event loop that are due.

use crate::python::objects::Reader;

/// Timers that are looked at.
const MAX_TIMERS: u64 = 1_024;
/// Timers counted, at most.
const MAX_DUE: u64 = 128;

/// How many timers of a loop are due at `now_ns` by the loop's clock (`CLOCK_MONOTONIC`); `None`
/// where they cannot be read. They are a heap: none is due whose parent is not.
pub(crate) fn overdue(reader: &mut Reader<'_>, loop_object: u64, now_ns: u64) -> Option<u64> {
    let heap = reader.attributes_of(loop_object, &["_scheduled"])?[0]?;
    let timers = reader.list(heap, MAX_TIMERS)?;
    let now = now_ns as f64 / 1e9;
    let mut due = 0;
    let mut open = vec![0usize];
    while let Some(index) = open.pop() {
        let Some(timer) = timers.get(index) else {
            continue;
        };
        let when = reader.members_of(*timer, &["_when"])?[0]?;
        if reader.read_number(when)? > now {
            continue;
        }
        due += 1;
        if due >= MAX_DUE {
            break;
        }
        open.extend([2 * index + 1, 2 * index + 2]);
    }
    Some(due)
}
