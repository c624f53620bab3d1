//! How many instructions each kernel program has: a price that, unlike time, is the same on every machine.
//!
//! `prebuilt/concmon-ebpf.instructions` has the least that each program had, or what was admitted since.
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SectionKind, SymbolKind};

use crate::digest;

/// Bytes of one instruction; two for a 64-bit constant.
const INSTRUCTION: u64 = 8;
/// How much longer than it was a program may become without a word, in percent.
const TOLERANCE: u64 = 5;
const PREAMBLE: &str = "\
# Instructions of each kernel program, and of all functions together that are called and not inlined. Written by
# `cargo xtask build-ebpf`, and by its `--longer` where a program has grown by more than 5 %.
";

/// What stands for the functions that programs call.
const CALLED: &str = "called";

/// Instructions by program.
pub(crate) type Counts = BTreeMap<String, u64>;

/// The committed counts.
pub(crate) fn path(root: &Path) -> PathBuf {
    root.join(digest::PACKAGE)
        .join("prebuilt/concmon-ebpf.instructions")
}

/// Counts the instructions of an object's functions.
///
/// # Errors
/// It is no object, or has no function.
pub(crate) fn count(object: &[u8]) -> Result<Counts> {
    let file = object::File::parse(object).context("reading the kernel object as ELF")?;
    let mut counts = Counts::new();
    for symbol in file.symbols() {
        let section = symbol.section_index();
        let Some(section) = section.and_then(|index| file.section_by_index(index).ok()) else {
            continue;
        };
        let is_code = symbol.kind() == SymbolKind::Text && section.kind() == SectionKind::Text;
        if !is_code || symbol.size() == 0 {
            continue;
        }
        // Each program has a section of its own, and what they call has one together.
        let name = match section.name().context("reading the name of a section")? {
            ".text" => CALLED,
            _ => symbol.name().context("reading the name of a program")?,
        };
        *counts.entry(name.to_owned()).or_default() += symbol.size() / INSTRUCTION;
    }
    if counts.is_empty() {
        bail!("the kernel object has no program");
    }
    Ok(counts)
}

/// The counts as they are committed.
///
/// # Errors
/// A line is not a name and a number.
pub(crate) fn parse(text: &str) -> Result<Counts> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let parts = line.split_once(' ');
            let (name, count) = parts.with_context(|| format!("{line:?} is no count"))?;
            let count = count.parse();
            Ok((
                name.to_owned(),
                count.with_context(|| format!("{line:?} is no count"))?,
            ))
        })
        .collect()
}

/// The text of counts.
pub(crate) fn render(counts: &Counts) -> String {
    let mut text = PREAMBLE.to_owned();
    for (name, count) in counts {
        let _ = writeln!(text, "{name} {count}");
    }
    text
}

/// Programs that are longer than they may be: a line for each.
pub(crate) fn grown(known: &Counts, found: &Counts) -> Vec<String> {
    let too_long = found.iter().filter_map(|(name, count)| {
        let before = *known.get(name)?;
        let is_longer = count * 100 > before * (100 + TOLERANCE);
        is_longer.then(|| format!("{name}: {before} instructions before, {count} now"))
    });
    too_long.collect()
}

/// What is to be committed: of a program that is little longer than before, the lower count, so that many small
/// steps are not for nothing.
pub(crate) fn kept(known: &Counts, found: &Counts) -> Counts {
    let kept = found.iter().map(|(name, count)| {
        let before = known.get(name).copied().unwrap_or(u64::MAX);
        (name.clone(), (*count).min(before))
    });
    kept.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    #[test]
    fn no_program_has_grown_without_a_word() {
        let root = workspace::root();
        let object = std::fs::read(digest::object_path(&root)).unwrap();
        let found = count(&object).unwrap();
        let known = parse(&std::fs::read_to_string(path(&root)).unwrap()).unwrap();
        assert!(found.contains_key("sched_switch"), "{found:?}");
        assert!(
            grown(&known, &found).is_empty(),
            "{:#?}; `cargo xtask build-ebpf --longer` admits it",
            grown(&known, &found)
        );
        assert_eq!(known, kept(&known, &found));
    }

    #[test]
    fn little_is_tolerated_once() {
        let counts = |count| Counts::from([("a".to_owned(), count)]);
        assert_eq!(grown(&counts(100), &counts(105)), Vec::<String>::new());
        assert_eq!(
            grown(&counts(100), &counts(106)),
            ["a: 100 instructions before, 106 now"]
        );
        assert_eq!(kept(&counts(100), &counts(105)), counts(100));
        assert_eq!(kept(&counts(100), &counts(90)), counts(90));
        assert_eq!(kept(&Counts::new(), &counts(7)), counts(7));
        assert_eq!(parse(&render(&counts(7))).unwrap(), counts(7));
    }
}
