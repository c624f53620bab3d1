//! How wide text may be, how it is emphasised, and whether it shows each thing by itself.

use super::Paint;
use super::escape::{cut, width};

/// Cells of a line where no terminal says so.
pub const WIDTH: usize = 100;
/// A terminal that is narrower is written to as if it had so many.
const MIN_WIDTH: usize = 40;

/// What a text is made for.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    pub paint: Paint,
    /// Cells of a line.
    width: usize,
    /// Equal things are shown one by one, lists are whole.
    pub(super) all: bool,
}

impl Form {
    /// `width`: of the terminal, where there is one.
    pub fn new(paint: Paint, width: Option<usize>, all: bool) -> Self {
        let width = width.filter(|width| *width > 0).unwrap_or(WIDTH);
        Self {
            paint,
            width: width.max(MIN_WIDTH),
            all,
        }
    }

    /// For text that nothing limits: what is cut there would be missed.
    pub(super) fn unlimited(paint: Paint) -> Self {
        Self {
            paint,
            width: usize::MAX,
            all: true,
        }
    }

    /// Equal things are shown one by one, lists are whole.
    pub fn all(self) -> bool {
        self.all
    }

    pub(super) fn width(self) -> usize {
        self.width
    }

    /// `few`, or everything where everything is shown.
    pub(super) fn most(self, few: usize) -> usize {
        if self.all { usize::MAX } else { few }
    }

    /// Appends a heading, behind an empty line.
    pub(super) fn heading(self, to: &mut String, indent: usize, heading: &str) {
        to.push('\n');
        self.wrap(to, indent, 2, &self.paint.bold(heading));
    }

    /// Appends a text, as many lines as it needs, all but the first indented by `hang` cells more. Parts between
    /// two spaces stay together where they can, words always; a word that is too long is cut.
    pub(super) fn wrap(self, to: &mut String, indent: usize, hang: usize, text: &str) {
        let mut page = Page {
            room: self.width.saturating_sub(indent),
            next_room: self.width.saturating_sub(indent + hang),
            next_indent: indent + hang,
            used: 0,
            to,
        };
        page.to.push_str(&" ".repeat(indent));
        for (index, part) in text.split("  ").enumerate() {
            let gap = if index == 0 { 0 } else { 2 };
            let cells = shown_width(part);
            if page.used > 0 && page.used + gap + cells > page.room && cells <= page.next_room {
                page.break_line();
            }
            for (index, word) in part.split(' ').enumerate() {
                page.word(word, if index == 0 { gap } else { 1 });
            }
        }
        page.end();
    }
}

/// Lines that are being filled.
struct Page<'a> {
    to: &'a mut String,
    /// Cells of this line, and what is used of them.
    room: usize,
    used: usize,
    next_room: usize,
    next_indent: usize,
}

impl Page<'_> {
    fn end(&mut self) {
        self.to.truncate(self.to.trim_end_matches(' ').len());
        self.to.push('\n');
    }

    fn break_line(&mut self) {
        self.end();
        self.to.push_str(&" ".repeat(self.next_indent));
        (self.room, self.used) = (self.next_room, 0);
    }

    /// `gap`: so many spaces are before it, unless it begins a line.
    fn word(&mut self, word: &str, gap: usize) {
        let cells = shown_width(word);
        if self.used > 0 && self.used + gap + cells > self.room {
            self.break_line();
        } else if self.used > 0 {
            self.to.push_str(&" ".repeat(gap));
            self.used += gap;
        }
        match cells > self.room {
            true => self.to.push_str(&cut(word, self.room)),
            false => self.to.push_str(word),
        }
        self.used += cells.min(self.room);
    }
}

/// The cells of a text in which only [`Paint`] has written escape sequences.
pub(super) fn shown_width(text: &str) -> usize {
    let mut cells = 0;
    for (index, piece) in text.split('\x1b').enumerate() {
        let shown = match index {
            0 => piece,
            _ => piece.split_once('m').map_or("", |(_, shown)| shown),
        };
        cells += width(shown);
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(cells: usize, text: &str) -> Vec<String> {
        let mut to = String::new();
        Form::new(Paint::Plain, Some(cells), false).wrap(&mut to, 2, 2, text);
        to.lines().map(str::to_owned).collect()
    }

    #[test]
    fn lines_are_broken_between_words() {
        let text = "the event loop stood still for 310 ms in task Task-102 (handle_request)";
        assert_eq!(
            wrapped(44, text),
            [
                "  the event loop stood still for 310 ms in",
                "    task Task-102 (handle_request)",
            ]
        );
        assert_eq!(wrapped(100, text), [format!("  {text}")]);
        let parts = "thread 5000  worker-1  gil 75%  on_cpu 24% of wall";
        assert_eq!(
            wrapped(44, parts),
            ["  thread 5000  worker-1  gil 75%", "    on_cpu 24% of wall"]
        );
        for cells in 40..100 {
            let lines = wrapped(cells, text);
            assert!(lines.iter().all(|line| width(line) <= cells), "{lines:?}");
            let words = |text: &str| {
                text.split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            };
            assert_eq!(words(&lines.join(" ")), words(text));
        }
        let long = "x".repeat(200);
        assert!(wrapped(50, &long).iter().all(|line| width(line) <= 50));
    }

    #[test]
    fn paint_takes_no_room() {
        assert_eq!(shown_width(&Paint::Ansi.alarm("gil 75%")), 7);
        assert_eq!(shown_width("线程"), 4);
        assert_eq!(shown_width(""), 0);
    }
}
