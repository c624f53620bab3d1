//! How files of `/proc` are read: never more than so much, small ones without memory of their own.

use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, RawDir, openat};
use rustix::io::{read, retry_on_intr};
use rustix::path::Arg;

pub(super) use rustix::fs::CWD;

/// Room for a small file, which one call reads as a whole. The longest, `stat`, has some 400 bytes.
pub(super) const SMALL: usize = 1024;
/// Bytes that are read of any file but a command line and the mappings. The longest, `status`, has
/// 2 KB, or some 10 KB for a user in very many groups.
const MAX_TEXT: u64 = 256 << 10;
/// Room for the names of a folder that one call returns.
const NAMES: usize = 8 << 10;

pub(super) fn open(folder: impl AsFd, path: impl Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(openat(folder, path, flags, Mode::empty())?)
}

/// A small file.
pub(super) fn small(
    folder: impl AsFd,
    path: impl Arg,
    room: &mut [u8; SMALL],
) -> io::Result<&[u8]> {
    let file = open(folder, path)?;
    let len = retry_on_intr(|| read(&file, &mut room[..]))?;
    Ok(&room[..len])
}

/// The first `max` bytes of a file.
pub(super) fn bytes(folder: impl AsFd, path: impl Arg, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::from(open(folder, path)?)
        .take(max)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn text(folder: impl AsFd, path: impl Arg) -> io::Result<String> {
    let bytes = bytes(folder, path, MAX_TEXT)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What follows `name` in its line of a text.
pub(super) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim())
}

/// The ids among the names of a folder, until `each` returns false.
pub(super) fn ids(folder: impl AsFd, mut each: impl FnMut(u32) -> bool) -> io::Result<()> {
    let mut room = [MaybeUninit::uninit(); NAMES];
    let mut names = RawDir::new(folder, &mut room);
    while let Some(entry) = names.next() {
        let entry = entry?;
        let name = entry.file_name().to_str().ok();
        if let Some(id) = name.and_then(|name| name.parse().ok())
            && !each(id)
        {
            break;
        }
    }
    Ok(())
}
