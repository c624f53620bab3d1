//! The page about hot functions, as `top` has processes.

use std::cmp::Reverse;

use ratatui::text::Line;

use super::super::escape::{brief, cut_front, left, right, width};
use super::super::format;
use super::Rows;
use super::code::{Row, Times};
use super::state::{ScreenState, Section};
use super::style;

/// Cells of a number.
const NUMBER: usize = 4;

type Part = fn(&Times) -> u64;

const PARTS: [(&str, Part); 4] = [
    ("OWN", |times| times.own),
    ("ALL", |times| times.all),
    ("GIL", |times| times.gil),
    ("LOCK", |times| times.lock),
];

/// How many rows there are.
pub(super) fn count(state: &ScreenState) -> usize {
    match &state.code {
        Some(code) => code.rows().filter(|row| is_shown(row, state)).count(),
        None => 0,
    }
}

fn is_shown(row: &Row, state: &ScreenState) -> bool {
    let (function, file) = &row.function;
    let filter = state.filter.as_ref();
    filter.is_none_or(|filter| filter.is_in(function) || filter.is_in(file))
}

pub(super) fn rows(
    cells: usize,
    from: usize,
    count: usize,
    state: &ScreenState,
    range: Option<&str>,
) -> Rows<'static> {
    let heads = PARTS.map(|(name, _)| format!(" {name:>NUMBER$}")).concat();
    let title = range.unwrap_or("FUNCTION");
    let head = format!(
        "{} |{heads} {title} (% in the window | in the watch)",
        &heads[1..]
    );
    let Some(code) = &state.code else {
        let text = "  functions come with the next window";
        return Rows {
            head,
            lines: vec![Line::styled(text, style::faint())],
        };
    };
    let (window, watch) = code.totals();
    let mut rows: Vec<Row> = code.rows().filter(|row| is_shown(row, state)).collect();
    sort(&mut rows, state);
    let lines = rows.into_iter().skip(from).take(count).map(|row| {
        let window = row.window.zip(window);
        let start = format!("{} |{} ", shares(window), shares(Some((row.watch, watch))));
        let room = cells.saturating_sub(width(&start));
        Line::raw(start + &name(&row, room))
    });
    Rows {
        head,
        lines: lines.collect(),
    }
}

/// What a function has of all; `-` where nothing is known yet, or there is nothing to have a part of.
fn shares(times: Option<(Times, Times)>) -> String {
    let share = |part: Part| {
        let Some((times, total)) = times else {
            return "-".to_owned();
        };
        match format::share(part(&times), part(&total)) {
            None => "-".to_owned(),
            Some(_) if part(&times) == 0 => ".".to_owned(),
            Some(percent) => format::percent_digits(percent),
        }
    };
    PARTS
        .map(|(_, part)| format!(" {}", right(&share(part), NUMBER)))
        .concat()
}

/// `handle /srv/app.py`: of a long path the end stays.
fn name(row: &Row, room: usize) -> String {
    let (function, file) = &row.function;
    let function = brief(function, 60);
    let file = brief(file, 200);
    let left_over = room.saturating_sub(width(&function) + 1);
    left(&format!("{function} {}", cut_front(&file, left_over)), room)
}

fn sort(rows: &mut [Row], state: &ScreenState) {
    let (sort, reverse) = state.sorted(Section::Code);
    let part: Part = match sort {
        "all" => |times| times.all,
        "gil" => |times| times.gil,
        "lock" => |times| times.lock,
        "name" => |_| 0,
        _ => |times| times.own,
    };
    // By the watch where the window has none.
    let key = |row: &Row| {
        let window = row.window.map_or(0, |times| part(&times));
        Reverse((window, part(&row.watch)))
    };
    rows.sort_by(|a, b| (key(a), &a.function).cmp(&(key(b), &b.function)));
    if reverse {
        rows.reverse();
    }
}
