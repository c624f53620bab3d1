//! Rows of tasks that were counted exactly, as kernel programs keep them.

use std::collections::BTreeMap;

use concmon_ebpf::{ExactKey, ExactRow};

use crate::event::{Pid, TaskCounts, Tid};
use crate::model::timing::names::folded;

/// Rows by process. Those whose names are alike are one.
pub fn counts(rows: &[(ExactKey, ExactRow)]) -> BTreeMap<Pid, Vec<TaskCounts>> {
    let mut merged: BTreeMap<(Pid, Tid, u64, String), TaskCounts> = BTreeMap::new();
    for (key, row) in rows {
        let (pid, tid, name) = (Pid(key.tgid), Tid(key.tid), name(row));
        let fresh = TaskCounts {
            tid,
            loop_id: key.loop_object,
            name: name.clone(),
            started: row.started,
            finished: row.finished,
            failed: row.failed,
            cancelled: row.cancelled,
            duration: (&row.duration).into(),
        };
        merged
            .entry((pid, tid, key.loop_object, name))
            .and_modify(|known| add(known, &fresh))
            .or_insert(fresh);
    }
    let mut by_process: BTreeMap<Pid, Vec<TaskCounts>> = BTreeMap::new();
    for ((pid, ..), counts) in merged {
        by_process.entry(pid).or_default().push(counts);
    }
    by_process
}

fn add(known: &mut TaskCounts, other: &TaskCounts) {
    known.started += other.started;
    known.finished += other.finished;
    known.failed += other.failed;
    known.cancelled += other.cancelled;
    known.duration.add(&other.duration);
}

/// The name of a row: bytes are characters where each has one, and their digits are folded already.
fn name(row: &ExactRow) -> String {
    let bytes: Vec<u8> = row
        .name
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    let width = usize::try_from(row.width).unwrap_or(4).clamp(1, 4);
    let characters = bytes.chunks_exact(width).map(|chunk| {
        let mut number = [0; 4];
        number[..chunk.len()].copy_from_slice(chunk);
        u32::from_le_bytes(number)
    });
    let text: String = characters
        .take_while(|number| *number != 0)
        .map(|number| char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    if width == 1 { text } else { folded(&text, "") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use concmon_ebpf::{Hist, NAME_BYTES};

    fn row(name: &[u8], width: u32, finished: u64) -> (ExactKey, ExactRow) {
        let mut bytes = [0; NAME_BYTES];
        bytes[..name.len()].copy_from_slice(name);
        let words = bytes
            .chunks_exact(8)
            .map(|word| word.try_into().expect("8 bytes"));
        let words: Vec<u64> = words.map(u64::from_le_bytes).collect();
        let mut duration = Hist::ZERO;
        duration.head.count = finished;
        duration.head.min_ns = 100 * finished;
        duration.head.max_ns = 100 * finished;
        duration.buckets[3] = finished as u32;
        let key = ExactKey {
            tgid: 7,
            tid: 8,
            loop_object: 9,
            name: finished,
        };
        let row = ExactRow {
            seq: 0,
            started: finished,
            finished,
            failed: 0,
            cancelled: 0,
            duration,
            width,
            reserved: 0,
            name: words.try_into().expect("as many words"),
        };
        (key, row)
    }

    #[test]
    fn rows_of_one_name_are_one() {
        let wide =
            |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
        let rows = [
            row(b"job-#", 1, 1),
            row(&wide("\u{4e16}12"), 2, 2),
            row(&wide("\u{4e16}7"), 2, 4),
            row(b"caf\xe9", 1, 8),
        ];
        let found = counts(&rows);
        let found = &found[&Pid(7)];
        let names: Vec<_> = found.iter().map(|one| (&*one.name, one.finished)).collect();
        assert_eq!(names, [("caf\u{e9}", 8), ("job-#", 1), ("\u{4e16}#", 6)]);
        let both = &found[2].duration;
        assert_eq!(
            (both.count, both.min_ns, both.max_ns, &*both.buckets),
            (6, 200, 400, &[(3, 6)][..])
        );
    }

    #[test]
    fn nonsense_is_no_panic() {
        let (key, mut odd) = row(b"xyz", 3, 1);
        odd.name = [u64::MAX; NAME_BYTES / 8];
        assert_eq!(counts(&[(key, odd)])[&Pid(7)].len(), 1);
    }
}
