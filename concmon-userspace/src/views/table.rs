//! Aligned text tables that fit the width of a page.

use super::escape::{self, cut_front, cut_middle};
use super::form::Form;

/// Where a column's cells stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// What becomes of a column where there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    /// It stays as it is.
    Whole,
    /// Its cells are cut down to so many, in the middle or at the front.
    Cut { least: usize, front: bool },
    /// It is left out, the last one first.
    Optional,
}

#[derive(Debug)]
struct Head {
    name: String,
    align: Align,
    fit: Fit,
}

/// Cells between two columns.
const GAP: usize = 2;

/// Rows of cells under a heading; all cells are escaped already.
#[derive(Debug, Default)]
pub(super) struct Table {
    heads: Vec<Head>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn add(&mut self, name: impl Into<String>, align: Align, fit: Fit) {
        let name = name.into();
        self.heads.push(Head { name, align, fit });
    }

    pub(super) fn column(&mut self, head: impl Into<String>, align: Align) {
        self.add(head, align, Fit::Whole);
    }

    /// A column of names, which may be cut to `least` cells.
    pub(super) fn names(&mut self, head: impl Into<String>, least: usize) {
        let front = false;
        self.add(head, Align::Left, Fit::Cut { least, front });
    }

    /// A column of places, of which the end matters.
    pub(super) fn places(&mut self, head: impl Into<String>, least: usize) {
        let front = true;
        self.add(head, Align::Left, Fit::Cut { least, front });
    }

    /// A column that is left out where there is no room for it.
    pub(super) fn optional(&mut self, head: impl Into<String>, align: Align) {
        self.add(head, align, Fit::Optional);
    }

    /// Cells missing at the end stay empty.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn natural(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| escape::width(cell)).max().unwrap_or(0);
        widest.max(escape::width(&self.heads[column].name))
    }

    /// The cells that the table needs at least, with all its columns.
    pub(super) fn least_width(&self, indent: &str) -> usize {
        let columns: Vec<usize> = (0..self.heads.len()).collect();
        let widths = columns.iter().map(|column| self.least(*column));
        indent.len() + widths.sum::<usize>() + GAP * columns.len().saturating_sub(1)
    }

    fn least(&self, column: usize) -> usize {
        let natural = self.natural(column);
        match self.heads[column].fit {
            Fit::Cut { least, .. } => {
                natural.min(least.max(escape::width(&self.heads[column].name)))
            }
            Fit::Whole | Fit::Optional => natural,
        }
    }

    /// The columns that are shown, and how wide each is.
    fn layout(&self, room: usize) -> Vec<(usize, usize)> {
        let mut shown: Vec<usize> = (0..self.heads.len()).collect();
        let total =
            |widths: &[usize]| widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
        loop {
            let least: Vec<usize> = shown.iter().map(|column| self.least(*column)).collect();
            let optional = |column: &usize| self.heads[*column].fit == Fit::Optional;
            match shown.iter().rposition(optional) {
                Some(last) if total(&least) > room => drop(shown.remove(last)),
                _ => break,
            }
        }
        let mut widths: Vec<usize> = shown.iter().map(|column| self.natural(*column)).collect();
        let least: Vec<usize> = shown.iter().map(|column| self.least(*column)).collect();
        while total(&widths) > room {
            let spare = |index: usize| (widths[index] - least[index], index);
            let Some((1.., widest)) = (0..shown.len()).map(spare).max() else {
                break;
            };
            widths[widest] -= 1;
        }
        shown.into_iter().zip(widths).collect()
    }

    /// The table as lines, each ending in a newline, two cells between columns.
    pub(super) fn render(&self, indent: &str, form: Form) -> String {
        let layout = self.layout(form.width().saturating_sub(indent.len()));
        let line = |cell_of: &dyn Fn(usize) -> String| {
            let mut line = indent.to_owned();
            for (column, width) in &layout {
                let cell = cell_of(*column);
                let Head { align, fit, .. } = &self.heads[*column];
                let cell = match fit {
                    Fit::Cut { front: true, .. } => cut_front(&cell, *width),
                    _ => cut_middle(&cell, *width),
                };
                line.push_str(&match align {
                    Align::Left => escape::left(&cell, *width),
                    Align::Right => escape::right(&cell, *width),
                });
                line.push_str(&" ".repeat(GAP));
            }
            escape::cut(line.trim_end(), form.width()).into_owned()
        };
        let heads = line(&|column| self.heads[column].name.clone());
        let mut text = form.paint.bold(&heads) + "\n";
        for row in &self.rows {
            text += &line(&|column| row.get(column).cloned().unwrap_or_default());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::Paint;

    #[test]
    fn what_does_not_fit_is_cut_or_left_out() {
        let mut table = Table::default();
        table.column("TID", Align::Right);
        table.names("THREAD", 8);
        table.optional("MIGR", Align::Right);
        table.optional("USER", Align::Right);
        table.places("IN", 10);
        table.row(
            [
                "12",
                "ThreadPoolExecutor-0_3",
                "17",
                "1.20ms",
                "consume (application.py:12)",
            ]
            .map(str::to_owned)
            .into(),
        );
        let wide = table.render("  ", Form::unlimited(Paint::Plain));
        assert_eq!(
            wide.lines().nth(1),
            Some("   12  ThreadPoolExecutor-0_3    17  1.20ms  consume (application.py:12)")
        );
        for width in 40..80 {
            let form = Form::new(Paint::Plain, Some(width), false);
            let text = table.render("  ", form);
            assert!(
                text.lines().all(|line| escape::width(line) <= width),
                "{text}"
            );
            assert!(text.contains("py:12)"), "{text}");
            assert!(text.contains("_3"), "{text}");
        }
        let narrow = table.render("  ", Form::new(Paint::Plain, Some(40), false));
        assert!(!narrow.contains("USER"), "{narrow}");
    }
}
