//! What `/proc` says of this host, and of who reads it.

use std::io;

use super::file;

/// Where a process finds its open files by number.
pub const OWN_FILES: &str = "/proc/self/fd/";

/// The value of `/proc/sys/kernel/NAME`.
///
/// # Errors
/// Whatever reading it fails with.
pub fn kernel_setting(name: &str) -> io::Result<String> {
    let text = file::text(file::CWD, format!("/proc/sys/kernel/{name}"))?;
    Ok(text.trim().to_owned())
}

/// The calling thread's line, for [`super::stat::Stat`].
///
/// # Errors
/// Whatever reading it fails with.
pub fn own_stat() -> io::Result<Vec<u8>> {
    let mut room = [0; file::SMALL];
    Ok(file::small(file::CWD, "/proc/thread-self/stat", &mut room)?.to_vec())
}
