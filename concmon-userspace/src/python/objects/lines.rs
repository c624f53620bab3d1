//! Which line an instruction is on: the line tables of code objects.

use crate::python::layout::LineTable;

/// The line of the instruction at byte `offset`; 0 when it has none.
pub(crate) fn line_at(shape: LineTable, table: &[u8], first_line: i32, offset: i64) -> u32 {
    // An instruction before the first one belongs to a frame not yet started.
    let Ok(offset) = u64::try_from(offset) else {
        return u32::try_from(first_line).unwrap_or(0);
    };
    match shape {
        LineTable::Steps => in_steps(table, first_line, offset),
        LineTable::Ranges => in_ranges(table, first_line, offset),
        LineTable::Locations => in_locations(table, first_line, offset),
    }
}

/// Pairs of steps, of bytes and of lines: a line begins where a step of bytes ends.
fn in_steps(table: &[u8], first_line: i32, offset: u64) -> u32 {
    let mut line = i64::from(first_line);
    let mut start = 0;
    for pair in table.chunks_exact(2) {
        start += u64::from(pair[0]);
        if start > offset {
            break;
        }
        line += i64::from(pair[1] as i8);
    }
    u32::try_from(line).unwrap_or(0)
}

/// Pairs of a length in bytes and a step of lines from the range before it.
fn in_ranges(table: &[u8], first_line: i32, offset: u64) -> u32 {
    const NO_LINE: i8 = -128;
    let mut line = i64::from(first_line);
    let mut end = 0;
    for pair in table.chunks_exact(2) {
        let step = pair[1] as i8;
        end += u64::from(pair[0]);
        if step != NO_LINE {
            line += i64::from(step);
        }
        if offset < end {
            return match step {
                NO_LINE => 0,
                _ => u32::try_from(line).unwrap_or(0),
            };
        }
    }
    0
}

/// Each entry covers some instructions and moves the line on from the entry before it.
fn in_locations(table: &[u8], first_line: i32, offset: u64) -> u32 {
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
            let end: i64 = end.parse().unwrap();
            let line: u32 = line.parse().unwrap();
            for offset in (start..end).step_by(2) {
                assert_eq!(
                    line_at(LineTable::Locations, TABLE, 11, offset),
                    line,
                    "at {offset}"
                );
                checked += 1;
            }
            start = end;
        }
        assert!(checked > 100);
        assert_eq!(line_at(LineTable::Locations, TABLE, 11, start + 1000), 0);
    }

    #[test]
    fn a_frame_before_its_first_instruction_is_at_the_first_line() {
        assert_eq!(line_at(LineTable::Locations, TABLE, 11, -2), 11);
    }

    #[test]
    fn older_tables_step_through_bytes_and_lines() {
        let steps = [4, 3, 6, 1, 2, 0xff, 1, 0];
        for (offset, line) in [(0, 1), (3, 1), (4, 4), (9, 4), (10, 5), (12, 4), (99, 4)] {
            assert_eq!(
                line_at(LineTable::Steps, &steps, 1, offset),
                line,
                "at {offset}"
            );
        }
        let ranges = [4, 0, 6, 3, 2, 0x80, 2, 1, 4, 0xff];
        for (offset, line) in [(0, 1), (4, 4), (9, 4), (10, 0), (12, 5), (14, 4), (18, 0)] {
            assert_eq!(
                line_at(LineTable::Ranges, &ranges, 1, offset),
                line,
                "at {offset}"
            );
        }
    }

    #[test]
    fn damaged_tables_end() {
        for shape in [LineTable::Steps, LineTable::Ranges, LineTable::Locations] {
            for cut in 0..TABLE.len() {
                line_at(shape, &TABLE[..cut], 11, 1 << 20);
            }
            line_at(shape, &[0xff; 100], i32::MAX, i64::MAX);
            line_at(shape, &[0x7f; 101], i32::MIN, 3);
        }
        assert_eq!(line_at(LineTable::Locations, &[], 5, 0), 0);
        assert_eq!(line_at(LineTable::Locations, &[0x07, 0xff], 5, 0), 0);
    }
}
