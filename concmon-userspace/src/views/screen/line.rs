//! Lines that are filled with as much as fits.

use ratatui::text::Span;

/// Adds parts to a line, as many as fit whole.
pub(super) fn push_fitting<'a>(
    line: &mut Vec<Span<'a>>,
    parts: impl IntoIterator<Item = Span<'a>>,
    cells: usize,
) {
    let mut used: usize = line.iter().map(Span::width).sum();
    for part in parts {
        used += part.width();
        if used > cells {
            break;
        }
        line.push(part);
    }
}
