//! Takes the DWARF sections out of the kernel object; what the kernel and aya read stays.
//!
//! Done in the project's own process, with a library pinned by the lock file, so that the bytes
//! do not depend on which LLVM or binutils a machine happens to have.
use anyhow::{Context, Result, ensure};
use object::build::elf::{Builder, SectionData};

/// The object without `.debug_*` sections and their relocations.
pub(crate) fn strip_debug(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object).context("reading the kernel object as ELF")?;
    for section in &mut builder.sections {
        let name = section.name.as_slice();
        let target = name.strip_prefix(b".rel").unwrap_or(name);
        section.delete = target.starts_with(b".debug_");
    }
    builder.delete_orphans();
    for needed in [".BTF", ".BTF.ext", "license"] {
        ensure!(
            builder
                .sections
                .iter()
                .any(|section| !section.delete && section.name.as_slice() == needed.as_bytes()),
            "the kernel object has no section {needed}"
        );
    }
    // LLVM keeps section names and symbol names in one table; the builder wants two.
    if !builder
        .sections
        .iter()
        .any(|section| matches!(section.data, SectionData::SectionString))
    {
        let names = builder.sections.add();
        names.name = b".shstrtab".as_slice().into();
        names.sh_type = object::elf::SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
    let mut stripped = Vec::new();
    builder
        .write(&mut stripped)
        .context("writing the stripped kernel object")?;
    Ok(stripped)
}
