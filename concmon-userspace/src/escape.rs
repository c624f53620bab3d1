//! Makes text from a target safe to print, and fits it into columns.
//!
//! Names, command lines and paths are chosen by the watched program. Whatever moves a cursor,
//! changes a color, hides, reorders or breaks a line is shown as an escape instead.

use std::borrow::Cow;

use unicode_width::UnicodeWidthChar;

/// Whether a character must not reach a terminal as it is.
///
/// Control characters, line separators, and what is invisible or changes the order or look of its
/// neighbours: general category Cf, the default ignorable code points (variation selectors, fillers) and
/// two noncharacters, which XML forbids. Of Unicode 16.
pub fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(u32::from(c),
            0xad | 0x34f | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x890..=0x891 | 0x8e2
            | 0x115f..=0x1160 | 0x17b4..=0x17b5 | 0x180b..=0x180f | 0x200b..=0x200f
            | 0x2028..=0x202e | 0x2060..=0x206f | 0x3164 | 0xfe00..=0xfe0f | 0xfeff | 0xffa0
            | 0xfff0..=0xfffb | 0xfffe..=0xffff | 0x110bd | 0x110cd | 0x13430..=0x1345f | 0x1bca0..=0x1bca3
            | 0x1d173..=0x1d17a | 0xe0000..=0xe0fff)
}

/// The text with every hostile character, and the backslash, as an escape.
///
/// Nothing else changes, so that equal outputs come from equal texts.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|c| c == '\\' || is_hostile(c)) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\\' => safe.push_str("\\\\"),
            '\n' => safe.push_str("\\n"),
            '\r' => safe.push_str("\\r"),
            '\t' => safe.push_str("\\t"),
            c if is_hostile(c) && u32::from(c) < 0x100 => {
                safe.push_str(&format!("\\x{:02x}", u32::from(c)));
            }
            c if is_hostile(c) => safe.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
            c => safe.push(c),
        }
    }
    Cow::Owned(safe)
}

/// The terminal cells that an escaped text takes.
pub fn width(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// Cuts an escaped text to at most `cells`; where something is missing, the last cell is `…`.
pub fn cut(text: &str, cells: usize) -> Cow<'_, str> {
    if width(text) <= cells {
        return Cow::Borrowed(text);
    }
    let kept = take(text.chars(), cells);
    Cow::Owned(kept.into_iter().chain(ellipsis(cells)).collect())
}

/// Like [`cut`], keeping the end of the text.
pub fn cut_front(text: &str, cells: usize) -> Cow<'_, str> {
    if width(text) <= cells {
        return Cow::Borrowed(text);
    }
    let kept = take(text.chars().rev(), cells);
    Cow::Owned(
        ellipsis(cells)
            .into_iter()
            .chain(kept.into_iter().rev())
            .collect(),
    )
}

/// Like [`cut`], keeping both ends: of `ThreadPoolExecutor-0_17` the number counts, too.
pub fn cut_middle(text: &str, cells: usize) -> Cow<'_, str> {
    if width(text) <= cells {
        return Cow::Borrowed(text);
    }
    // Each end leaves a cell free; one of the two is the ellipsis.
    let front = take(text.chars(), cells / 2 + 1);
    let room = cells.saturating_sub(front.iter().map(|c| c.width().unwrap_or(0)).sum());
    let back = take(text.chars().rev(), room);
    let back = ellipsis(cells).into_iter().chain(back.into_iter().rev());
    Cow::Owned(front.into_iter().chain(back).collect())
}

/// A foreign text made safe, of at most `cells` cells.
pub fn brief(text: &str, cells: usize) -> String {
    if is_brief(text, cells) {
        return text.to_owned();
    }
    // What is left of each end is enough to cut from, and bounds the work for a name of a megabyte.
    let mut chars = text.chars();
    let front: String = chars.by_ref().take(cells + 1).collect();
    let rest = chars.as_str();
    let back = rest.char_indices().rev().nth(cells).map_or(0, |(at, _)| at);
    let ends = front + &rest[back..];
    cut_middle(&escape(&ends), cells).into_owned()
}

/// Whether it is safe and short without anybody looking closer: most texts are plain ASCII.
pub fn is_brief(text: &str, cells: usize) -> bool {
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'\\';
    text.len() <= cells && text.bytes().all(is_plain)
}

fn ellipsis(cells: usize) -> Option<char> {
    (cells > 0).then_some('…')
}

/// As many characters as fit into `cells` with one cell to spare.
fn take(chars: impl Iterator<Item = char>, cells: usize) -> Vec<char> {
    let mut used = 0;
    chars
        .take_while(|c| {
            used += c.width().unwrap_or(0);
            used < cells
        })
        .collect()
}

/// An escaped text in exactly `cells` cells, flush left.
pub fn left(text: &str, cells: usize) -> String {
    let text = cut(text, cells);
    let gap = cells.saturating_sub(width(&text));
    format!("{text}{:gap$}", "")
}

/// An escaped text in exactly `cells` cells, flush right.
pub fn right(text: &str, cells: usize) -> String {
    let text = cut(text, cells);
    let gap = cells.saturating_sub(width(&text));
    format!("{:gap$}{text}", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_hostile_comes_through() {
        for (text, safe) in [
            ("worker-1", "worker-1"),
            ("größe_列", "größe_列"),
            ("a\nb\rc\td", r"a\nb\rc\td"),
            ("\x1b[2J\x1b]0;owned\x07", r"\x1b[2J\x1b]0;owned\x07"),
            ("\u{9b}31m\u{7f}\0", r"\x9b31m\x7f\x00"),
            ("\u{202e}gpj.exe\u{2066}", r"\u{202e}gpj.exe\u{2066}"),
            (
                "a\u{200b}b\u{2028}c\u{feff}",
                r"a\u{200b}b\u{2028}c\u{feff}",
            ),
            ("\u{e0041}\u{fe0f}\u{ad}", r"\u{e0041}\u{fe0f}\xad"),
            (r"\x1b", r"\\x1b"),
        ] {
            assert_eq!(escape(text), safe, "{text:?}");
            assert!(!escape(text).chars().any(is_hostile));
        }
        let everything: String = ('\0'..=char::MAX).collect();
        let safe = escape(&everything);
        assert!(safe.chars().all(|c| !c.is_control() && !is_hostile(c)));
    }

    #[test]
    fn the_middle_gives_way() {
        for (text, cells, cut) in [
            ("ThreadPoolExecutor-0_17", 15, "ThreadP…or-0_17"),
            ("ThreadPoolExecutor-0_17", 12, "Thread…-0_17"),
            ("abcdef", 6, "abcdef"),
            ("abcdef", 5, "ab…ef"),
            ("abcdef", 3, "a…f"),
            ("abcdef", 2, "a…"),
            ("abcdef", 1, "…"),
            ("abcdef", 0, ""),
            ("列列列列", 6, "列…列"),
        ] {
            assert_eq!(cut_middle(text, cells), cut, "{text} {cells}");
        }
        assert_eq!(brief("a\nb", 10), r"a\nb");
        let long = brief(&format!("first{}last", "x".repeat(1 << 20)), 64);
        assert!(long.starts_with("first") && long.ends_with("last") && width(&long) == 64);
    }

    #[test]
    fn texts_fit_their_cells() {
        for (text, cells, is_left, is_right, front) in [
            ("abc", 5, "abc  ", "  abc", "abc"),
            ("abcdef", 6, "abcdef", "abcdef", "abcdef"),
            ("abcdef", 4, "abc…", "abc…", "…def"),
            ("abcdef", 1, "…", "…", "…"),
            ("abcdef", 0, "", "", ""),
            ("列列列", 5, "列列…", "列列…", "…列列"),
            ("列列列", 4, "列… ", " 列…", "…列"),
            ("", 2, "  ", "  ", ""),
        ] {
            assert_eq!(left(text, cells), is_left, "{text} {cells}");
            assert_eq!(right(text, cells), is_right, "{text} {cells}");
            assert_eq!(cut_front(text, cells), front, "{text} {cells}");
            assert!(width(&left(text, cells)) == cells);
        }
    }
}
