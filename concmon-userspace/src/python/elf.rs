//! What an ELF file says about the interpreter in it: where the runtime is, which version.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

use object::elf::{DT_NEEDED, FileHeader64, PT_LOAD};
use object::read::elf::{ElfFile, FileHeader, ProgramHeader, SectionHeader};
use object::{Endianness, Object, ObjectSection, ObjectSymbol, ReadCache, ReadRef};

/// Longest dynamic symbol table that is searched in a file not named after Python, bytes. Larger
/// ones belong to numeric libraries; an interpreter's own is about 60 kB.
const MAX_FOREIGN_SYMBOLS_BYTES: u64 = 4 << 20;
/// Longest section that is searched for a version string, bytes.
const MAX_TEXT_SECTION_BYTES: u64 = 64 << 20;

/// One loadable segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) address: u64,
}

/// What was found in a file. Addresses are the file's own, before loading.
#[derive(Clone, Debug, Default)]
pub(super) struct ElfFacts {
    pub(super) segments: Vec<Segment>,
    /// `_PyRuntime`.
    pub(super) runtime: Option<u64>,
    /// `Py_Version`, 8 bytes.
    pub(super) version: Option<u64>,
    /// Section `.AsyncioDebug`.
    pub(super) asyncio_table: Option<u64>,
    /// It says that it needs a `libpython`.
    pub(super) needs_libpython: bool,
}

/// Why a file could not be looked at.
#[derive(Debug, thiserror::Error)]
pub(super) enum ElfError {
    #[error("not a 64-bit ELF file: {0}")]
    Format(#[from] object::read::Error),
}

type Elf<'a> = ElfFile<'a, FileHeader64<Endianness>, &'a ReadCache<File>>;

/// What makes a file the same one as before.
type Identity = (u64, u64, u64, i64, i64);

/// How many files without an interpreter are remembered.
const MAX_FOREIGN_FILES: usize = 65_536;

/// Files that were found to hold no interpreter: the same libraries are in most processes.
static FOREIGN_FILES: Mutex<BTreeSet<Identity>> = Mutex::new(BTreeSet::new());

/// Looks into a file. `named` says that its name is an interpreter's.
pub(super) fn inspect(file: File, named: bool) -> Result<ElfFacts, ElfError> {
    let identity = file.metadata().ok().map(|data| {
        let changed = (data.ctime(), data.ctime_nsec());
        (data.dev(), data.ino(), data.size(), changed.0, changed.1)
    });
    let foreign = || FOREIGN_FILES.lock().unwrap_or_else(PoisonError::into_inner);
    if !named && identity.is_some_and(|identity| foreign().contains(&identity)) {
        return Ok(ElfFacts::default());
    }
    let facts = inspect_anew(file, named)?;
    if let (None, None, Some(identity)) = (facts.runtime, facts.asyncio_table, identity) {
        let mut foreign = foreign();
        if foreign.len() < MAX_FOREIGN_FILES {
            foreign.insert(identity);
        }
    }
    Ok(facts)
}

pub(super) fn inspect_anew(file: File, named: bool) -> Result<ElfFacts, ElfError> {
    let cache = ReadCache::new(file);
    let elf = Elf::parse(&cache)?;
    let endian = elf.endian();
    let mut facts = ElfFacts {
        segments: elf
            .elf_program_headers()
            .iter()
            .filter(|header| header.p_type(endian) == PT_LOAD)
            .map(|header| Segment {
                offset: header.p_offset(endian),
                address: header.p_vaddr(endian),
            })
            .collect(),
        ..ElfFacts::default()
    };
    let mut symbols_bytes = 0;
    for section in elf.sections() {
        match section.name() {
            Ok(".PyRuntime") => facts.runtime = Some(section.address()),
            Ok(".AsyncioDebug") => facts.asyncio_table = Some(section.address()),
            Ok(".dynsym") => symbols_bytes = section.size(),
            _ => {}
        }
    }
    if named || facts.runtime.is_some() || symbols_bytes <= MAX_FOREIGN_SYMBOLS_BYTES {
        for symbol in elf.dynamic_symbols() {
            if symbol.is_undefined() {
                continue;
            }
            match symbol.name_bytes() {
                Ok(b"_PyRuntime") => facts.runtime = Some(symbol.address()),
                Ok(b"Py_Version") => facts.version = Some(symbol.address()),
                _ => {}
            }
        }
    }
    if named {
        facts.needs_libpython = needs_libpython(&elf, &cache).unwrap_or(false);
    }
    Ok(facts)
}

fn needs_libpython<'a>(elf: &Elf<'a>, data: &'a ReadCache<File>) -> Option<bool> {
    let endian = elf.endian();
    let sections = elf.elf_section_table();
    let (entries, strings) = sections.dynamic(endian, data).ok()??;
    let strings = sections.strings(endian, data, strings).ok()?;
    Some(entries.iter().any(|entry| {
        use object::read::elf::Dyn;
        entry.tag32(endian) == Some(DT_NEEDED)
            && entry
                .val32(endian)
                .and_then(|offset| strings.get(offset).ok())
                .is_some_and(|name| name.starts_with(b"libpython"))
    }))
}

/// The full version among the constants of a file whose interpreter has no symbol for it
/// (3.10 and older): a string like `3.8.18`, alone between two zero bytes, of a version that
/// `accept` takes.
pub(super) fn version_string(file: File, accept: impl Fn(&str) -> bool) -> Option<String> {
    let cache = ReadCache::new(file);
    let elf = Elf::parse(&cache).ok()?;
    let header: &FileHeader64<Endianness> = elf.elf_header();
    let sections = header.sections(elf.endian(), &cache).ok()?;
    let (_, section) = sections.section_by_name(elf.endian(), b".rodata")?;
    let (offset, size) = section.file_range(elf.endian())?;
    if size > MAX_TEXT_SECTION_BYTES {
        return None;
    }
    find_version((&cache).read_bytes_at(offset, size).ok()?, accept)
}

/// Linkers keep only the longest of strings with the same end, so the version may also be the last
/// component of the installation's path; one that stands alone is preferred.
fn find_version(bytes: &[u8], accept: impl Fn(&str) -> bool) -> Option<String> {
    let strings = || bytes.split(|byte| *byte == 0);
    let component = |text: &[u8]| text.iter().rposition(|byte| *byte == b'/');
    strings()
        .filter(|text| component(text).is_none())
        .chain(strings().filter_map(|text| text.get(component(text)? + 1..)))
        .filter_map(|text| std::str::from_utf8(text).ok())
        .find(|text| is_full_version(text) && accept(text))
        .map(str::to_owned)
}

fn is_full_version(text: &str) -> bool {
    const LONGEST: usize = "3.10.10rc10+".len();
    let mut parts = text.splitn(3, '.');
    text.len() <= LONGEST
        && parts.next() == Some("3")
        && parts
            .next()
            .is_some_and(|minor| minor.parse::<u8>().is_ok())
        && parts
            .next()
            .is_some_and(|micro| micro.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_among_constants() {
        let found = |bytes: &[u8]| find_version(bytes, |text| !text.starts_with("3.40."));
        assert_eq!(
            found(b"x\x003.40.1\x003.8.18\0y").as_deref(),
            Some("3.8.18")
        );
        assert_eq!(found(b"\x003.10.0rc2+\0").as_deref(), Some("3.10.0rc2+"));
        assert_eq!(found(b"\x003.8\0a3.8.1\0\x001.2.3\0\x003.8.x\0"), None);
        assert_eq!(
            found(b"/opt/3.8.18\0/opt/3.8.1/lib\0").as_deref(),
            Some("3.8.18")
        );
        assert_eq!(found(b"/opt/3.8.1\x003.8.18\0").as_deref(), Some("3.8.18"));
    }

    #[test]
    fn this_program_is_elf_without_python_and_text_is_not_elf() {
        let own = inspect(File::open("/proc/self/exe").unwrap(), true).unwrap();
        assert!(!own.segments.is_empty());
        assert_eq!(own.runtime, None);
        assert!(!own.needs_libpython);
        assert!(inspect(File::open("/proc/self/status").unwrap(), true).is_err());
    }
}
