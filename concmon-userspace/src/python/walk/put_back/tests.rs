//! The code of these functions, as interpreters had it after they had run often, with their exception tables, names, where
//! `work` is called, and (up to 3.10) the statements with their handlers:
//!
//! ```text
//! def plain():                def retry(c):               def sign(c):                def inside(c):
//!     c = pool.get()              c = pool.get()              c = pool.get()              try:
//!     try:                        try:                        try:                            c = pool.get()
//!         work(c)                     work(c)                     work(c)                     work(c)
//!     finally:                    except Exception:           finally:                    finally:
//!         pool.put(c)                 pool.put(c)                 pool.put(None)              pool.put(c)
//!                                     raise
//! def nested(self):
//!     c = self.pool.get()
//!     try:
//!         try:
//!             d = self.pool.get(timeout=5)
//!             try:
//!                 work(d)
//!             finally:
//!                 self.pool.put_nowait(d)
//!         except KeyError:
//!             work(d)
//!     finally:
//!         self.pool.put(c)
//!
//! def again():
//!     c = pool.get()
//!     try:
//!         while not ok(c):
//!             pool.put(c)
//!             c = pool.get()
//!         work(c)
//!     finally:
//!         pool.put(c)
//! ```

use super::*;
use crate::python::objects::code::CodePosition;
use crate::python::objects::synthetic::{Noise, World};

const COMPILED: &str = include_str!("compiled.jsonl");

/// Version, function, instructions, exception table, names, where `work` is called, statements with handlers.
type Row = (
    u8,
    String,
    String,
    String,
    Vec<String>,
    Vec<i64>,
    Vec<(usize, usize)>,
);

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|one| one.to_digit(16)).collect();
    digits
        .chunks_exact(2)
        .map(|pair| (pair[0] * 16 + pair[1]) as u8)
        .collect()
}

fn rows() -> impl Iterator<Item = (Row, Code)> {
    COMPILED.lines().map(|line| {
        let row: Row = serde_json::from_str(line).expect("a row");
        let code = Code {
            opcodes: World::new(row.0).walk.opcodes.expect("it is known"),
            unit: 1,
            instructions: bytes(&row.2),
            table: entries(&bytes(&row.3)),
            names: row.4.iter().map(|name| Some((**name).into())).collect(),
        };
        (row, code)
    })
}

/// The handlers around a place, of statements that say where they are.
fn handlers(row: &Row, code: &Code, place: i64) -> Vec<usize> {
    match code.opcodes.setup_finally {
        None => code.covering(place),
        Some(_) => {
            let around = |(from, to): &&(usize, usize)| (*from..*to).contains(&(place as usize));
            row.6.iter().filter(around).map(|(_, to)| *to).collect()
        }
    }
}

#[test]
fn who_puts_back_in_any_case_what_was_got_before_has_it() {
    let mut seen = 0;
    for (row, code) in rows() {
        let name = format!("3.{} {}", row.0, row.1);
        for (index, place) in row.5.iter().enumerate() {
            let found = code.put_back(&handlers(&row, &code, *place));
            let count = match (&*row.1, index) {
                ("plain", _) | ("nested", 1) => 1,
                ("nested", 0) => 2,
                _ => 0,
            };
            assert_eq!(found.len(), count, "{name} at {place}");
            let expected = match &*row.1 {
                "nested" => (Root::Variable(0), vec![code_name(&code, "pool")]),
                _ => (Root::Global(code_name(&code, "pool")), Vec::new()),
            };
            for (one, _) in found {
                assert_eq!((one.root, one.attributes), expected, "{name}");
            }
            seen += 1;
        }
        // Before it is got, and when it is put back, nobody has it.
        assert!(code.put_back(&handlers(&row, &code, 0)).is_empty());
        let last = code.instructions.len() as i64 - 2;
        assert!(code.put_back(&handlers(&row, &code, last)).is_empty());
    }
    assert_eq!(seen, 28);
}

fn code_name(code: &Code, name: &str) -> usize {
    let mut names = code.names.iter();
    let found = names.position(|one| one.as_deref() == Some(name));
    found.expect("it has that name")
}

#[test]
fn whatever_is_put_anywhere_is_known_by_its_expression() {
    for (row, code) in rows() {
        let found = code.expressions_that(PUTS);
        assert_eq!(found.len(), 1, "3.{} {}", row.0, row.1);
    }
}

/// Code that is cut or changed anywhere is read to its end, and no further.
#[test]
fn damaged_code_is_read_without_harm() {
    for (row, mut code) in rows() {
        let whole = code.instructions.clone();
        for place in 0..whole.len() {
            for byte in [0, 144, 71, 255] {
                code.instructions.clone_from(&whole);
                code.instructions[place] = byte;
                for start in row.5.iter().copied().chain([-2, i64::MAX]) {
                    code.put_back(&code.covering(start));
                }
            }
            code.instructions.truncate(place);
            code.expressions_that(PUTS);
            code.put_back(&(0..whole.len() + 9).collect::<Vec<_>>());
        }
    }
    // One handler covers itself, or another one that covers it.
    let (_, mut code) = rows().last().expect("one");
    code.table = vec![(0, 8, 20), (20, 24, 40), (40, 44, 20)];
    assert_eq!(code.covering(4), [20, 40]);
    assert!(entries(&[0xff; 999]).is_empty());
}

#[test]
fn reading_noise_ends() {
    Noise::each(60, 4 << 20, |memory, reader| {
        let frames: Vec<(StackFrame, u64)> = (0..100)
            .map(|index| {
                let position = CodePosition {
                    code: memory.address(index),
                    offset: index as i64,
                };
                let address = memory.address(index + 1);
                (StackFrame { address, position }, memory.address(index + 2))
            })
            .collect();
        let own: Vec<StackFrame> = frames.iter().map(|(frame, _)| *frame).collect();
        let queues = frames.iter().map(|(_, queue)| *queue).collect();
        assert_eq!(items(reader, &own, &queues).len(), own.len());
        assert_eq!(puts(reader, &frames).len(), own.len());
        for frame in own {
            blocks(reader, frame, 122);
            attribute(reader, frame.address, "pool");
        }
    });
}
