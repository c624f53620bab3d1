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
