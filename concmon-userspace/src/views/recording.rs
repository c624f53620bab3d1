//! How far a recording is, in one line.

use super::format;

/// How much of a watch was recorded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recorded {
    pub elapsed_ns: u64,
    /// Records of the kernel, and how many of them never arrived.
    pub events: u64,
    pub lost: u64,
    /// Of the capture.
    pub bytes: u64,
}

/// `12.0 s, 1,234 events, 56.7 kB, none lost`.
pub fn line(recorded: Recorded) -> String {
    let lost = match recorded.lost {
        0 => "none lost".to_owned(),
        lost => format!("{} lost", format::count(lost)),
    };
    format!(
        "{}, {} events, {}, {lost}",
        format::duration(recorded.elapsed_ns),
        format::count(recorded.events),
        format::bytes(recorded.bytes)
    )
}

/// The size of a capture.
pub fn size(bytes: u64) -> String {
    format::bytes(bytes)
}

/// An instant in ns after 1970 for names of files: `20260102T030405Z`.
pub fn stamp(unix_ns: u64) -> String {
    let mut text = format::utc(unix_ns);
    text.truncate("2026-01-02T03:04:05".len());
    text.retain(|c| !['-', ':'].contains(&c));
    text + "Z"
}
