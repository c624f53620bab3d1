//! NDJSON: one object per line, with exactly the fields of the snapshot or the dump.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter};

use super::escape::is_hostile;

/// Writes one line and flushes.
///
/// # Errors
/// What the writer says; a closed pipe is [`io::ErrorKind::BrokenPipe`].
pub fn write<T: Serialize>(object: &T, out: &mut dyn Write) -> io::Result<()> {
    // In one piece, so that a reader never sees half a line of a living writer.
    let mut line = Vec::with_capacity(16 * 1024);
    let mut serializer = serde_json::Serializer::with_formatter(&mut line, SafeFormatter);
    object.serialize(&mut serializer)?;
    line.push(b'\n');
    out.write_all(&line)?;
    out.flush()
}

/// Compact JSON that is safe to look at on a terminal: JSON leaves DEL, the C1 controls and
/// bidi overrides as they are; here they are `\u` escapes, which mean the same.
struct SafeFormatter;

impl Formatter for SafeFormatter {
    fn write_string_fragment<W>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()>
    where
        W: ?Sized + Write,
    {
        let mut rest = fragment;
        while let Some((at, hostile)) = rest.char_indices().find(|(_, c)| is_hostile(*c)) {
            writer.write_all(&rest.as_bytes()[..at])?;
            for unit in hostile.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &rest[at + hostile.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }

    fn write_char_escape<W>(&mut self, writer: &mut W, char_escape: CharEscape) -> io::Result<()>
    where
        W: ?Sized + Write,
    {
        CompactFormatter.write_char_escape(writer, char_escape)
    }
}
