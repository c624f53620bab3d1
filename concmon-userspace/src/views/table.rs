//! Aligned text tables for the summary.

use super::escape;
use super::paint::Paint;

/// Where a column's cells stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Rows of cells under a heading; all cells are escaped already.
#[derive(Debug, Default)]
pub(super) struct Table {
    heads: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn column(&mut self, head: impl Into<String>, align: Align) {
        self.heads.push((head.into(), align));
    }

    /// Cells missing at the end stay empty.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as lines, each ending in a newline, two cells between columns.
    pub(super) fn render(&self, indent: &str, paint: Paint) -> String {
        let widths: Vec<usize> = (0..self.heads.len())
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                let widest = cells.map(|cell| escape::width(cell)).max().unwrap_or(0);
                widest.max(escape::width(&self.heads[column].0))
            })
            .collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut line = indent.to_owned();
            for ((cell, width), (_, align)) in cells.zip(&widths).zip(&self.heads) {
                match align {
                    Align::Left => line.push_str(&escape::left(cell, *width)),
                    Align::Right => line.push_str(&escape::right(cell, *width)),
                }
                line.push_str("  ");
            }
            line.trim_end().to_owned()
        };
        let heads = line(&mut self.heads.iter().map(|(head, _)| head.as_str()));
        let mut text = paint.bold(&heads) + "\n";
        for row in &self.rows {
            text += &line(&mut row.iter().map(String::as_str));
            text.push('\n');
        }
        text
    }
}
