//! NDJSON: one object per line, with exactly the fields of the snapshot or the dump.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter};

use super::escape::{escape, is_hostile};

/// Writes one line and flushes.
///
/// # Errors
/// What the writer says; a closed pipe is [`io::ErrorKind::BrokenPipe`].
pub fn write<T: Serialize>(object: &T, out: &mut dyn Write) -> io::Result<()> {
    line(object, SafeFormatter, out)
}

/// As [`write`], for who shows the texts: in them, what is hostile has become visible, as on a terminal.
pub(super) fn write_shown<T: Serialize>(object: &T, out: &mut dyn Write) -> io::Result<()> {
    line(object, ShownFormatter, out)
}

fn line(object: &impl Serialize, formatter: impl Formatter, out: &mut dyn Write) -> io::Result<()> {
    // In one piece, so that a reader never sees half a line of a living writer.
    let mut line = Vec::with_capacity(16 * 1024);
    let mut serializer = serde_json::Serializer::with_formatter(&mut line, formatter);
    object.serialize(&mut serializer)?;
    line.push(b'\n');
    out.write_all(&line)?;
    out.flush()
}

/// Writes a part of a string, with `hostile` for each such character.
fn fragment<W: ?Sized + Write>(
    writer: &mut W,
    fragment: &str,
    hostile: impl Fn(&mut W, char) -> io::Result<()>,
) -> io::Result<()> {
    // Nearly every text is plain, and told at once.
    if fragment.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return writer.write_all(fragment.as_bytes());
    }
    let mut rest = fragment;
    while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_hostile(*c)) {
        writer.write_all(&rest.as_bytes()[..at])?;
        hostile(writer, c)?;
        rest = &rest[at + c.len_utf8()..];
    }
    writer.write_all(rest.as_bytes())
}

/// Compact JSON that is safe to look at on a terminal: JSON leaves DEL, the C1 controls and
/// bidi overrides as they are; here they are `\u` escapes, which mean the same.
struct SafeFormatter;

impl Formatter for SafeFormatter {
    fn write_string_fragment<W>(&mut self, writer: &mut W, text: &str) -> io::Result<()>
    where
        W: ?Sized + Write,
    {
        fragment(writer, text, |writer, c| {
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            Ok(())
        })
    }

    fn write_char_escape<W>(&mut self, writer: &mut W, char_escape: CharEscape) -> io::Result<()>
    where
        W: ?Sized + Write,
    {
        CompactFormatter.write_char_escape(writer, char_escape)
    }
}

/// Compact JSON with the texts of [`escape`] in place of those of targets.
struct ShownFormatter;

impl ShownFormatter {
    fn show<W: ?Sized + Write>(writer: &mut W, c: char) -> io::Result<()> {
        let shown = escape(c.encode_utf8(&mut [0; 4])).replace('\\', r"\\");
        writer.write_all(shown.as_bytes())
    }
}

impl Formatter for ShownFormatter {
    fn write_string_fragment<W>(&mut self, writer: &mut W, text: &str) -> io::Result<()>
    where
        W: ?Sized + Write,
    {
        fragment(writer, text, Self::show)
    }

    fn write_char_escape<W>(&mut self, writer: &mut W, char_escape: CharEscape) -> io::Result<()>
    where
        W: ?Sized + Write,
    {
        let c = match char_escape {
            CharEscape::Quote | CharEscape::Solidus => {
                return CompactFormatter.write_char_escape(writer, char_escape);
            }
            CharEscape::ReverseSolidus => '\\',
            CharEscape::Backspace => '\x08',
            CharEscape::FormFeed => '\x0c',
            CharEscape::LineFeed => '\n',
            CharEscape::CarriageReturn => '\r',
            CharEscape::Tab => '\t',
            CharEscape::AsciiControl(byte) => char::from(byte),
        };
        Self::show(writer, c)
    }
}
