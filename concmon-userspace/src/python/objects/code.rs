//! Code objects: function name, file, and the line of an instruction.

use std::sync::Arc;

use super::lines;
use super::{Kind, OBJECT_SIZE, OBJECT_TYPE, Reader};
use crate::event::PyFrame;
use crate::python::layout::{Instructions, LineTable};
use crate::python::memory::addresses::{AddressMap, AddressSet, OffsetMap};
use crate::python::memory::{Batch, at, int, word};

/// Code objects that are remembered between scans.
const MAX_CODES: usize = 16_384;
/// What code objects that are remembered take at most, bytes, beside their names.
const MAX_CACHE_BYTES: usize = 8 << 20;
/// What a code object and a line take beside.
const CODE_BYTES: usize = 256;
const LINE_BYTES: usize = 32;
/// The longest line table, bytes.
const MAX_TABLE_BYTES: u64 = 1 << 20;

/// An instruction: where a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CodePosition {
    pub(crate) code: u64,
    /// Of the instruction, bytes; negative before the first.
    pub(crate) offset: i64,
}

/// Function and file of the frame that the interpreter puts below an `__init__` that it calls without leaving its
/// loop, 3.12 on; tracebacks do not show it.
const INIT_SHIM: &str = "__init__";
/// No code object is there.
const LEFT_OUT: u64 = u64::MAX;

impl CodePosition {
    /// Stands for so many frames, at least one, that are left out.
    pub(crate) fn of_left_out(count: u32) -> Self {
        Self {
            code: LEFT_OUT,
            offset: count.into(),
        }
    }

    pub(crate) fn left_out(self) -> Option<u32> {
        (self.code == LEFT_OUT).then(|| u32::try_from(self.offset).ok())?
    }
}

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
    lines: OffsetMap<u32>,
}

/// Code objects read so far; each is checked again at its first use in a scan.
#[derive(Debug)]
pub(crate) struct CodeCache {
    codes: AddressMap<CodeInfo>,
    checked: AddressSet,
    /// What all of them take.
    bytes: usize,
    /// How many more bytes of frames the scan may give.
    frames_left: usize,
}

impl Default for CodeCache {
    fn default() -> Self {
        Self {
            codes: AddressMap::default(),
            checked: AddressSet::default(),
            bytes: 0,
            frames_left: usize::MAX,
        }
    }
}

impl CodeCache {
    /// A new scan begins, which gives so many bytes of frames: nothing is checked yet.
    pub(crate) fn begin(&mut self, frame_bytes: usize) {
        self.checked.clear();
        self.frames_left = frame_bytes;
        if self.codes.len() > MAX_CODES || self.bytes > MAX_CACHE_BYTES {
            self.codes.clear();
            self.bytes = 0;
        }
    }

    /// Whether the code object at an address was read.
    pub(crate) fn knows(&self, code: u64) -> bool {
        self.codes.contains_key(&code)
    }

    /// Whether it is none of the program's, but the interpreter's own between two that are.
    pub(crate) fn is_shim(&self, code: u64) -> bool {
        let known = self.codes.get(&code);
        known.is_some_and(|code| &*code.function == INIT_SHIM && &*code.file == INIT_SHIM)
    }

    /// Whether frames were refused, for they are too many.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.frames_left == 0
    }

    /// Makes the code objects at these addresses known.
    pub(crate) fn load(
        &mut self,
        reader: &mut Reader<'_>,
        addresses: impl IntoIterator<Item = u64>,
    ) {
        let mut wanted: Vec<u64> = addresses
            .into_iter()
            .filter(|address| *address != LEFT_OUT && !self.checked.contains(address))
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        if wanted.is_empty() {
            return;
        }
        let fields = reader.walk.code;
        let mut batch = Batch::new();
        for address in &wanted {
            let (Instructions::Bytes { size, .. } | Instructions::Inside(size)) =
                fields.instructions;
            batch.push(*address, size as usize);
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
            let bytes = CODE_BYTES + table.len();
            if self.bytes + bytes > 2 * MAX_CACHE_BYTES {
                continue;
            }
            self.bytes += bytes;
            self.checked.insert(*address);
            self.codes.insert(
                *address,
                CodeInfo {
                    head: *head,
                    function: function.clone(),
                    file: file.clone(),
                    table,
                    lines: OffsetMap::default(),
                },
            );
        }
    }

    /// The place of an instruction; `None` for a code object that could not be read.
    pub(crate) fn frame(&mut self, position: CodePosition, lines: LineTable) -> Option<PyFrame> {
        if let Some(count) = position.left_out() {
            return Some(PyFrame::of_left_out(count));
        }
        let info = self.codes.get_mut(&position.code)?;
        let offset = position.offset;
        let first_line = info.head.first_line;
        let table = &info.table;
        let cost = size_of::<PyFrame>() + info.function.len() + info.file.len();
        let Some(left) = self.frames_left.checked_sub(cost) else {
            self.frames_left = 0;
            return None;
        };
        self.frames_left = left;
        let line = *info.lines.entry(offset).or_insert_with(|| {
            self.bytes += LINE_BYTES;
            lines::line_at(lines, table, first_line, offset)
        });
        Some(PyFrame {
            function: Arc::clone(&info.function),
            file: Arc::clone(&info.file),
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
