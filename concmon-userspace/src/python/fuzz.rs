//! The parsers that meet a target's own files and texts, for the fuzzer.

use std::fs::File;

use super::detect::elf;
use super::detect::version::version_in_name;
use super::layout::described::{self, MAX_TABLE_BYTES};
use super::layout::row;
use crate::procfs::maps;

/// Looks into an ELF file as a detection does.
pub fn elf_file(file: &File) {
    for named in [true, false] {
        if let Ok(file) = file.try_clone() {
            let _ = elf::inspect_anew(file, named);
        }
    }
    if let Ok(file) = file.try_clone() {
        let _ = elf::version_string(file, None, |text| version_in_name(text).is_some());
    }
}

/// Reads `/proc/PID/maps`; gives how many lines were understood.
pub fn maps_text(text: &str) -> usize {
    let mappings = maps::parse(text);
    let named = mappings.iter().filter(|mapping| {
        let end = maps::containing(&mappings, mapping.end).is_some();
        mapping.is_file() && !mapping.basename().is_empty() || end
    });
    named.count().max(mappings.len())
}

/// Applies an interpreter's own offset tables to every row.
pub fn offset_tables(table: &[u8]) {
    let table = &table[..table.len().min(MAX_TABLE_BYTES)];
    let _ = described::head(table);
    for minor in super::layout::MINORS {
        let version = super::layout::Version { major: 3, minor };
        if let Some(mut layout) = row(version) {
            let _ = described::apply(&mut layout, version, table);
            let _ = described::apply_asyncio(&mut layout, table);
        }
    }
}
