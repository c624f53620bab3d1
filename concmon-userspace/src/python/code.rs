//! Code objects: function name, file, and the line of an instruction.

use std::sync::Arc;

use super::addresses::{AddressMap, AddressSet};
use super::memory::{Batch, at, int, word};
use super::object::{Kind, OBJECT_SIZE, OBJECT_TYPE, Reader};
use crate::event::PyFrame;

/// Code objects that are remembered between looks.
const MAX_CODES: usize = 16_384;
/// The longest line table, bytes.
const MAX_TABLE_BYTES: u64 = 1 << 20;

/// What identifies a code object at its address: freed ones leave their address to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    filename: u64,
    qualname: u64,
    table: u64,
    first_line: i32,
}

#[derive(Debug)]
struct CodeInfo {
    head: Head,
    function: Arc<str>,
    file: Arc<str>,
    table: Vec<u8>,
    /// Line by instruction offset, as far as asked for.
    lines: AddressMap<u32>,
}

/// Code objects read so far; each is checked again at its first use in a look.
#[derive(Debug, Default)]
pub(super) struct CodeCache {
    codes: AddressMap<CodeInfo>,
    checked: AddressSet,
}

impl CodeCache {
    /// A new look begins: nothing is checked yet.
    pub(super) fn begin(&mut self) {
        self.checked.clear();
        if self.codes.len() > MAX_CODES {
            self.codes.clear();
        }
    }

    /// Makes the code objects at these addresses known.
    pub(super) fn load(
        &mut self,
        reader: &mut Reader<'_>,
        addresses: impl IntoIterator<Item = u64>,
    ) {
        let mut wanted: Vec<u64> = addresses
            .into_iter()
            .filter(|address| !self.checked.contains(address))
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        if wanted.is_empty() {
            return;
        }
        let fields = reader.walk.code;
        let mut batch = Batch::new();
        for address in &wanted {
            batch.push(*address, fields.instructions as usize);
        }
        reader.fetch(&mut batch);
        reader.load_types((0..wanted.len()).filter_map(|i| word(batch.prefix(i), OBJECT_TYPE)));
        let mut fresh = Vec::new();
        for (index, address) in wanted.iter().enumerate() {
            let bytes = batch.prefix(index);
            let head = (reader.kind(bytes) == Some(Kind::Code))
                .then(|| {
                    Some(Head {
                        filename: word(bytes, fields.filename)?,
                        qualname: word(bytes, fields.qualname)?,
                        table: word(bytes, fields.line_table)?,
                        first_line: int(bytes, fields.first_line)?,
                    })
                })
                .flatten();
            let known = self.codes.get(address).map(|info| info.head);
            if known.is_some() && known == head {
                self.checked.insert(*address);
                continue;
            }
            self.codes.remove(address);
            fresh.extend(head.map(|head| (*address, head)));
        }
        self.load_fresh(reader, &fresh);
    }

    fn load_fresh(&mut self, reader: &mut Reader<'_>, fresh: &[(u64, Head)]) {
        reader.load_texts(
            fresh
                .iter()
                .flat_map(|(_, head)| [head.filename, head.qualname]),
        );
        let tables = line_tables(reader, fresh);
        for ((address, head), table) in fresh.iter().zip(tables) {
            let (Some(function), Some(file)) =
                (reader.text(head.qualname), reader.text(head.filename))
            else {
                continue;
            };
            self.checked.insert(*address);
            self.codes.insert(
                *address,
                CodeInfo {
                    head: *head,
                    function: function.clone(),
                    file: file.clone(),
                    table,
                    lines: AddressMap::default(),
                },
            );
        }
    }

    /// The place of an instruction; `None` for a code object that could not be read.
    pub(super) fn frame(
        &mut self,
        code: u64,
        instruction: u64,
        instructions: u32,
    ) -> Option<PyFrame> {
        let info = self.codes.get_mut(&code)?;
        let offset = instruction.wrapping_sub(at(code, instructions));
        let first_line = info.head.first_line;
        let table = &info.table;
        let line = *info
            .lines
            .entry(offset)
            .or_insert_with(|| line_at(table, first_line, offset));
        Some(PyFrame {
            function: info.function.to_string(),
            file: info.file.to_string(),
            line,
        })
    }
}

/// The bytes of each code object's line table, empty where they cannot be read.
fn line_tables(reader: &mut Reader<'_>, codes: &[(u64, Head)]) -> Vec<Vec<u8>> {
    let data = reader.walk.text.bytes;
    let mut sizes = Batch::new();
    for (_, head) in codes {
        sizes.push(head.table, data as usize);
    }
    reader.fetch(&mut sizes);
    reader.load_types((0..codes.len()).filter_map(|i| word(sizes.prefix(i), OBJECT_TYPE)));
    let mut tables = Batch::new();
    for (index, (_, head)) in codes.iter().enumerate() {
        let bytes = sizes.prefix(index);
        let size = (reader.kind(bytes) == Some(Kind::Bytes))
            .then(|| word(bytes, OBJECT_SIZE))
            .flatten()
            .filter(|size| *size <= MAX_TABLE_BYTES)
            .unwrap_or(0);
        tables.push(at(head.table, data), size as usize);
    }
    reader.fetch(&mut tables);
    (0..codes.len())
        .map(|index| tables.whole(index).unwrap_or_default().to_vec())
        .collect()
}

/// The line of the instruction at byte `offset`; 0 when it has none.
///
/// The table is CPython's location table of 3.11 and later (`InternalDocs/code_objects.md`): each
/// entry covers some instructions and moves the line on from the entry before it.
fn line_at(table: &[u8], first_line: i32, offset: u64) -> u32 {
    // An instruction pointer before the first instruction belongs to a frame not yet started.
    if offset > i64::MAX as u64 {
        return u32::try_from(first_line).unwrap_or(0);
    }
    let mut line = i64::from(first_line);
    let mut end = 0;
    let mut rest = table;
    while let Some((&head, tail)) = rest.split_first() {
        if head & 0x80 == 0 {
            return 0;
        }
        end += (u64::from(head & 7) + 1) * 2;
        rest = tail;
        let mut has_line = true;
        match (head >> 3) & 15 {
            15 => has_line = false,
            14 => {
                line += signed_varint(&mut rest);
                for _ in 0..3 {
                    varint(&mut rest);
                }
            }
            13 => line += signed_varint(&mut rest),
            code @ 10..=12 => {
                line += i64::from(code) - 10;
                rest = rest.get(2..).unwrap_or_default();
            }
            _ => rest = rest.get(1..).unwrap_or_default(),
        }
        if offset < end {
            return if has_line {
                u32::try_from(line).unwrap_or(0)
            } else {
                0
            };
        }
    }
    0
}

/// Six bits per byte, the lowest first; bit 6 says that more follow. Cut at 32 bits.
fn varint(rest: &mut &[u8]) -> i64 {
    let mut value = 0;
    for shift in (0..36).step_by(6) {
        let Some((&byte, tail)) = rest.split_first() else {
            break;
        };
        *rest = tail;
        value |= i64::from(byte & 63) << shift;
        if byte & 64 == 0 {
            break;
        }
    }
    value
}

/// The lowest bit is the sign.
fn signed_varint(rest: &mut &[u8]) -> i64 {
    let value = varint(rest);
    if value & 1 == 1 {
        -(value >> 1)
    } else {
        value >> 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `co_linetable` of an asynchronous generator with gaps, long jumps and instructions without
    /// a line, first line 11, and CPython 3.13's own `co_lines()` of it: end offset and line.
    const TABLE: &[u8] = include_bytes!("testdata/linetable_3_13.bin");
    const LINES: &str = include_str!("testdata/lines_3_13.txt");

    #[test]
    fn lines_are_those_that_the_interpreter_gives() {
        let mut start = 0;
        let mut checked = 0;
        for entry in LINES.lines() {
            let (end, line) = entry.split_once(' ').unwrap();
            let end: u64 = end.parse().unwrap();
            let line: u32 = line.parse().unwrap();
            for offset in (start..end).step_by(2) {
                assert_eq!(line_at(TABLE, 11, offset), line, "at {offset}");
                checked += 1;
            }
            start = end;
        }
        assert!(checked > 100);
        assert_eq!(line_at(TABLE, 11, start + 1000), 0);
    }

    #[test]
    fn a_frame_before_its_first_instruction_is_at_the_first_line() {
        assert_eq!(line_at(TABLE, 11, 0u64.wrapping_sub(2)), 11);
    }

    #[test]
    fn damaged_tables_end() {
        assert_eq!(line_at(&[], 5, 0), 0);
        assert_eq!(line_at(&[0x07, 0xff], 5, 0), 0);
        for cut in 0..TABLE.len() {
            line_at(&TABLE[..cut], 11, 1 << 20);
        }
        let all_continue = vec![0xff; 100];
        line_at(&all_continue, i32::MAX, u64::MAX >> 1);
    }
}
