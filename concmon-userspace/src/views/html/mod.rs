//! One self-contained page about a whole watch: timeline, charts, flame graph, tables, findings.
//!
//! The page asks the network for nothing: style, program and data are in it, and its own policy
//! (`Content-Security-Policy`) forbids the rest. The data is JSON without any `<`, so that no name of a
//! target can end the element it stands in; the program puts text into the page as text only. What is
//! invisible in a name, or changes the order of its neighbours, is escaped as on a terminal.

mod cells;
mod data;
mod flame;
mod requests;
mod series;
#[cfg(test)]
mod tests;

use std::io::{self, Write};

use crate::model::intervals::Intervals;
use crate::schema::Snapshot;

pub use series::Series;

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/style.css");
/// In the order in which they depend on each other.
const PROGRAM: [&str; 8] = [
    include_str!("page/base.js"),
    include_str!("page/view.js"),
    include_str!("page/timeline.js"),
    include_str!("page/charts.js"),
    include_str!("page/flame.js"),
    include_str!("page/tables.js"),
    include_str!("page/requests.js"),
    include_str!("page/main.js"),
];

/// Everything that the page shows.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// Of the whole watch, judged.
    pub summary: &'a Snapshot,
    /// Finished.
    pub intervals: &'a Intervals,
    pub series: &'a Series,
}

/// Writes the page.
///
/// # Errors
/// What the writer says.
pub fn write(report: &Report<'_>, out: &mut dyn Write) -> io::Result<()> {
    for part in PAGE.split_inclusive("-->") {
        let (text, mark) = match part.rfind("<!--") {
            Some(at) if part.ends_with("-->") => (&part[..at], part[at + 4..part.len() - 3].trim()),
            _ => (part, ""),
        };
        out.write_all(text.as_bytes())?;
        match mark {
            "style" => out.write_all(STYLE.as_bytes())?,
            "program" => {
                for part in PROGRAM {
                    out.write_all(part.as_bytes())?;
                }
            }
            "data" => {
                let mut safe = Inert(&mut *out);
                super::json::write_shown(&data::Data::of(report), &mut safe)?;
            }
            _ => {}
        }
    }
    out.flush()
}

/// Writes JSON so that nothing in it can be taken for markup: such characters stand in strings only.
struct Inert<'a>(&'a mut dyn Write);

impl Write for Inert<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        while let Some(at) = rest
            .iter()
            .position(|byte| matches!(byte, b'<' | b'>' | b'&'))
        {
            self.0.write_all(&rest[..at])?;
            write!(self.0, "\\u{:04x}", rest[at])?;
            rest = &rest[at + 1..];
        }
        self.0.write_all(rest)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
