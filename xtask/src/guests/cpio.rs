//! Writes initial ram file systems: cpio archives of the kind `newc`.
//!
//! Format: Documentation/driver-api/early-userspace/buffer-format.rst of the Linux kernel.
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context, Result};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

/// An archive being written; every file in it belongs to root.
pub(crate) struct Archive<W> {
    out: W,
    entries: u32,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, entries: 0 }
    }

    /// Adds everything below `dir` (not `dir` itself) except where `skip` says so of a path
    /// relative to it. Only folders, files and symbolic links are taken.
    pub(crate) fn add_tree(&mut self, dir: &Path, skip: &dyn Fn(&Path) -> bool) -> Result<()> {
        self.add_below(dir, dir, skip)
    }

    /// Adds one regular file.
    pub(crate) fn add_file(&mut self, name: &str, executable: bool, data: &[u8]) -> Result<()> {
        let mode = REGULAR | if executable { 0o755 } else { 0o644 };
        self.entry(name.as_bytes(), mode, data)
    }

    /// Adds a folder.
    pub(crate) fn add_dir(&mut self, name: &str) -> Result<()> {
        self.entry(name.as_bytes(), DIRECTORY | 0o755, &[])
    }

    /// Writes the end mark.
    pub(crate) fn finish(mut self) -> Result<W> {
        self.entry(b"TRAILER!!!", 0, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn add_below(&mut self, base: &Path, dir: &Path, skip: &dyn Fn(&Path) -> bool) -> Result<()> {
        let mut entries: Vec<_> = fs::read_dir(dir)
            .and_then(Iterator::collect)
            .with_context(|| format!("listing {}", dir.display()))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let name = path.strip_prefix(base).unwrap_or(&path);
            if skip(name) {
                continue;
            }
            let metadata = entry.metadata()?;
            let bytes = name.as_os_str().as_bytes();
            if metadata.is_dir() {
                self.entry(bytes, metadata.mode(), &[])?;
                self.add_below(base, &path, skip)?;
            } else if metadata.is_symlink() {
                let target = fs::read_link(&path)?;
                self.entry(bytes, metadata.mode(), target.as_os_str().as_bytes())?;
            } else if metadata.is_file() {
                let data =
                    fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
                self.entry(bytes, metadata.mode(), &data)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, name: &[u8], mode: u32, data: &[u8]) -> Result<()> {
        self.entries += 1;
        let size = u32::try_from(data.len()).context("a file is too large for a cpio archive")?;
        let name_size = u32::try_from(name.len() + 1).context("a name is too long")?;
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor,
        // namesize, check
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            0,
            0,
            name_size,
            0,
        ];
        let mut record = b"070701".to_vec();
        for field in fields {
            write!(record, "{field:08x}")?;
        }
        record.extend_from_slice(name);
        record.push(0);
        pad(&mut record);
        record.extend_from_slice(data);
        pad(&mut record);
        self.out.write_all(&record).context("writing an archive")
    }
}

fn pad(record: &mut Vec<u8>) {
    record.resize(record.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpio_lists_what_was_added() {
        let dir = tempfile::tempdir().expect("temporary folder");
        fs::create_dir(dir.path().join("sub")).expect("folder");
        fs::write(dir.path().join("sub/file"), "12345").expect("file");
        fs::write(dir.path().join("sub/left-out"), "x").expect("file");
        std::os::unix::fs::symlink("file", dir.path().join("sub/link")).expect("link");

        let mut archive = Archive::new(Vec::new());
        let skip = |name: &Path| name.ends_with("left-out");
        archive.add_tree(dir.path(), &skip).expect("tree");
        archive.add_dir("proc").expect("folder");
        archive
            .add_file("init", true, b"#!/bin/sh\n")
            .expect("file");
        let bytes = archive.finish().expect("end");

        // Read back with the format's rules alone: name, mode and size of each entry.
        let mut found = Vec::new();
        let mut at = 0;
        let field = |at: usize, index: usize| {
            let start = at + 6 + index * 8;
            let text = std::str::from_utf8(&bytes[start..start + 8]).expect("hexadecimal");
            usize::from_str_radix(text, 16).expect("hexadecimal")
        };
        while at < bytes.len() {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let (mode, size, name_size) = (field(at, 1), field(at, 6), field(at, 11));
            let name = &bytes[at + 110..at + 110 + name_size - 1];
            found.push((String::from_utf8_lossy(name).into_owned(), mode >> 12, size));
            at = (at + 110 + name_size).next_multiple_of(4) + size.next_multiple_of(4);
        }
        let expected = [
            ("sub", 0o04, 0),
            ("sub/file", 0o10, 5),
            ("sub/link", 0o12, 4),
            ("proc", 0o04, 0),
            ("init", 0o10, 10),
            ("TRAILER!!!", 0, 0),
        ];
        assert_eq!(found, expected.map(|(n, m, s)| (n.to_owned(), m, s)));
    }
}
