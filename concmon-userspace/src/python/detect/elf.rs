//! What an ELF file says about the interpreter in it: where the runtime is, which version.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};

use object::elf::{DT_NEEDED, FileHeader64, PT_LOAD, SHT_DYNSYM, Sym64};
use object::read::elf::{Dyn, FileHeader, ProgramHeader, SectionHeader, SectionTable, Sym};
use object::{Endianness, ReadCache, ReadRef, SectionIndex};

use crate::python::layout::Version;

/// Longest dynamic symbol table that is searched in a file not named after Python, bytes. Larger
/// ones belong to numeric libraries; an interpreter's own is about 60 kB.
const MAX_FOREIGN_SYMBOLS_BYTES: u64 = 4 << 20;
/// The most that is read of one file, bytes: its tables may claim anything.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// More than any real file has.
const MAX_SEGMENTS: usize = 64;

/// One loadable segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) address: u64,
}

/// What was found in a file. Addresses are the file's own, before loading.
#[derive(Clone, Debug, Default)]
pub(crate) struct ElfFacts {
    pub(crate) segments: Vec<Segment>,
    /// `_PyRuntime`.
    pub(crate) runtime: Option<u64>,
    /// `Py_Version`, 8 bytes.
    pub(crate) version: Option<u64>,
    /// `PyTraceBack_Here`.
    pub(crate) traceback: Option<u64>,
    /// Section `.AsyncioDebug`.
    pub(crate) asyncio_table: Option<u64>,
    /// It says that it needs a `libpython`.
    pub(crate) needs_libpython: bool,
}

/// Why a file could not be looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ElfError {
    #[error("not a 64-bit ELF file: {0}")]
    Format(#[from] object::read::Error),
}

type Sections<'a> = SectionTable<'a, FileHeader64<Endianness>, Bounded<'a>>;

/// A file of which only so much is read.
#[derive(Clone, Copy, Debug)]
struct Bounded<'a> {
    file: &'a ReadCache<File>,
    left: &'a Cell<u64>,
}

impl Bounded<'_> {
    fn take(self, size: u64) -> Result<(), ()> {
        self.left.set(self.left.get().checked_sub(size).ok_or(())?);
        Ok(())
    }
}

impl<'a> ReadRef<'a> for Bounded<'a> {
    fn len(self) -> Result<u64, ()> {
        self.file.len()
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'a [u8], ()> {
        self.take(size)?;
        self.file.read_bytes_at(offset, size)
    }

    fn read_bytes_at_until(self, range: Range<u64>, delimiter: u8) -> Result<&'a [u8], ()> {
        let found = self.file.read_bytes_at_until(range, delimiter)?;
        self.take(found.len() as u64)?;
        Ok(found)
    }
}

/// What makes a file the same one as before.
type Identity = (u64, u64, u64, i64, i64);

/// How many files are remembered.
const MAX_FILES: usize = 65_536;

/// What was found in files: the same ones are in most processes.
#[derive(Debug)]
struct SeenFiles {
    /// By the file, and whether its name was an interpreter's.
    facts: BTreeMap<(Identity, bool), Option<Arc<ElfFacts>>>,
    /// By the file, and the version that its name says.
    versions: BTreeMap<(Identity, Option<Version>), Option<String>>,
}

static SEEN: Mutex<SeenFiles> = Mutex::new(SeenFiles {
    facts: BTreeMap::new(),
    versions: BTreeMap::new(),
});

fn remember<K: Ord, V>(files: &mut BTreeMap<K, V>, key: K, value: V) {
    if files.len() < MAX_FILES {
        files.insert(key, value);
    }
}

fn identity(file: &File) -> Option<Identity> {
    let data = file.metadata().ok()?;
    let changed = (data.ctime(), data.ctime_nsec());
    Some((data.dev(), data.ino(), data.size(), changed.0, changed.1))
}

/// Looks into a file. `named` says that its name is an interpreter's.
pub(crate) fn inspect(file: File, named: bool) -> Result<Arc<ElfFacts>, ElfError> {
    let key = identity(&file).map(|identity| (identity, named));
    let known = || SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(facts) = key.and_then(|key| known().facts.get(&key).cloned()) {
        return Ok(facts.unwrap_or_default());
    }
    let facts = Arc::new(inspect_anew(file, named)?);
    if let Some(key) = key {
        let holds_something = named || facts.runtime.is_some() || facts.asyncio_table.is_some();
        let kept = holds_something.then(|| Arc::clone(&facts));
        remember(&mut known().facts, key, kept);
    }
    Ok(facts)
}

pub(crate) fn inspect_anew(file: File, named: bool) -> Result<ElfFacts, ElfError> {
    let cache = ReadCache::new(file);
    let left = Cell::new(MAX_FILE_BYTES);
    let data = Bounded {
        file: &cache,
        left: &left,
    };
    let header = FileHeader64::<Endianness>::parse(data)?;
    let endian = header.endian()?;
    let mut facts = ElfFacts {
        segments: header
            .program_headers(endian, data)?
            .iter()
            .filter(|header| header.p_type(endian) == PT_LOAD)
            .map(|header| Segment {
                offset: header.p_offset(endian),
                address: header.p_vaddr(endian),
            })
            .take(MAX_SEGMENTS)
            .collect(),
        ..ElfFacts::default()
    };
    let sections = header.sections(endian, data)?;
    let names = header.shstrndx(endian, data)?;
    let names = strings(&sections, SectionIndex(names as usize), endian, data);
    for section in sections.iter() {
        match string(names, section.sh_name(endian)) {
            b".PyRuntime" => facts.runtime = Some(section.sh_addr(endian)),
            b".AsyncioDebug" => facts.asyncio_table = Some(section.sh_addr(endian)),
            _ => {}
        }
    }
    let symbols = sections
        .iter()
        .find(|section| section.sh_type(endian) == SHT_DYNSYM)
        .filter(|section| {
            let is_short = section.sh_size(endian) <= MAX_FOREIGN_SYMBOLS_BYTES;
            named || facts.runtime.is_some() || is_short
        });
    if let Some(section) = symbols {
        let names = SectionIndex(section.sh_link(endian) as usize);
        let names = strings(&sections, names, endian, data);
        let symbols: &[Sym64<Endianness>] = section.data_as_array(endian, data)?;
        for symbol in symbols.iter().filter(|symbol| !symbol.is_undefined(endian)) {
            match string(names, symbol.st_name(endian)) {
                b"_PyRuntime" => facts.runtime = Some(symbol.st_value(endian)),
                b"PyTraceBack_Here" => facts.traceback = Some(symbol.st_value(endian)),
                b"Py_Version" => facts.version = Some(symbol.st_value(endian)),
                _ => {}
            }
        }
    }
    if named {
        facts.needs_libpython = needs_libpython(&sections, endian, data).unwrap_or(false);
    }
    Ok(facts)
}

/// A table of strings, read in one piece; empty where there is none.
fn strings<'a>(
    sections: &Sections<'a>,
    index: SectionIndex,
    endian: Endianness,
    data: Bounded<'a>,
) -> &'a [u8] {
    sections
        .section(index)
        .and_then(|section| section.data(endian, data))
        .unwrap_or_default()
}

fn string(strings: &[u8], offset: u32) -> &[u8] {
    let rest = strings.get(offset as usize..).unwrap_or_default();
    let end = rest.iter().position(|byte| *byte == 0);
    &rest[..end.unwrap_or(0)]
}

fn needs_libpython<'a>(
    sections: &Sections<'a>,
    endian: Endianness,
    data: Bounded<'a>,
) -> Option<bool> {
    let (entries, index) = sections.dynamic(endian, data).ok()??;
    let strings = strings(sections, index, endian, data);
    Some(entries.iter().any(|entry| {
        entry.tag32(endian) == Some(DT_NEEDED)
            && entry
                .val32(endian)
                .is_some_and(|offset| string(strings, offset).starts_with(b"libpython"))
    }))
}

/// The full version among the constants of a file whose interpreter has no symbol for it
/// (3.10 and older): a string like `3.8.18`, alone between two zero bytes, of a version that
/// `accept` takes, which depends on nothing but `named`. `named` is what `accept` depends on.
pub(crate) fn version_string(
    file: File,
    named: Option<Version>,
    accept: impl Fn(&str) -> bool,
) -> Option<String> {
    let key = identity(&file).map(|identity| (identity, named));
    let known = || SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(version) = key.and_then(|key| known().versions.get(&key).cloned()) {
        return version;
    }
    let found = search_version(file, accept);
    if let Some(key) = key {
        remember(&mut known().versions, key, found.clone());
    }
    found
}

fn search_version(file: File, accept: impl Fn(&str) -> bool) -> Option<String> {
    let cache = ReadCache::new(file);
    let left = Cell::new(MAX_FILE_BYTES);
    let data = Bounded {
        file: &cache,
        left: &left,
    };
    let header = FileHeader64::<Endianness>::parse(data).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, data).ok()?;
    let (_, section) = sections.section_by_name(endian, b".rodata")?;
    find_version(section.data(endian, data).ok()?, accept)
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
