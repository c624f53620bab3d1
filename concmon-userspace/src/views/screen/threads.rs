//! The thread rows: where the wall of each thread went in this window, in percent and as a bar.

use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::super::columns::{self, Column};
use super::super::escape::{cut_middle, left, right};
use super::super::{digest, format};
use super::Rows;
use super::state::{ScreenState, Section};
use super::style;
use crate::schema::{Process, Snapshot, Thread};

/// Below this width a row has no room for columns: it says the largest shares in words.
const MIN_TABLE: usize = 66;
/// From this width on every ledger column is shown.
const MIN_WIDE: usize = 124;
const MIN_BAR: usize = 8;

/// The columns of a narrow table; all others are in `REST`, so that a row still sums up to 100.
const NARROW: [Column; 7] = [
    Column::OnCpu,
    Column::Runnable,
    Column::Gil,
    Column::Lock,
    Column::Poll,
    Column::Sleep,
    Column::Io,
];

pub(super) fn rows(
    snapshot: &Snapshot,
    cells: usize,
    from: usize,
    count: usize,
    state: &ScreenState,
    range: Option<&str>,
) -> Rows<'static> {
    let threads = ordered(snapshot, state);
    let several = snapshot.processes.len() > 1;
    let table = Table::new(cells, several);
    let shown = threads.into_iter().skip(from).take(count);
    Rows {
        head: table.head(range),
        lines: shown
            .map(|(process, thread)| table.line(process, thread, state))
            .collect(),
    }
}

/// All threads that the filter leaves, in the order of their rows.
pub(super) fn ordered<'a>(
    snapshot: &'a Snapshot,
    state: &'a ScreenState,
) -> Vec<(&'a Process, &'a Thread)> {
    let (sort, reverse) = state.sorted(Section::Threads);
    let mut threads = Vec::new();
    for process in &snapshot.processes {
        threads.extend(state.threads(process).map(|thread| (process, thread)));
    }
    threads.sort_by_cached_key(|(process, thread)| {
        let name = match sort {
            "name" => digest::thread_label(thread),
            "lock_for" => digest::main_lock_wait(thread).unwrap_or("~").to_owned(),
            _ => String::new(),
        };
        let rank = std::cmp::Reverse(rank(thread, sort));
        // Ids of threads are of one row for all processes.
        let pid = if sort == "tid" { 0 } else { process.pid };
        (rank, name, pid, thread.tid)
    });
    if reverse {
        threads.reverse();
    }
    threads
}

/// Larger ranks come first; steps of 5 % of wall keep the order still.
fn rank(thread: &Thread, sort: &str) -> u64 {
    let column = Column::ALL.into_iter().find(|one| one.name() == sort);
    let ns = match (sort, column) {
        ("activity", _) => digest::activity_ns(thread),
        ("wake99", _) => return thread.wakeup_latency.p99_ns.unwrap_or(0),
        (_, Some(column)) => column.of(&thread.ledger),
        (_, None) => return 0,
    };
    format::share(ns, thread.ledger.wall_ns).map_or(0, |percent| (percent / 5.0).round() as u64)
}

/// The columns that have room.
struct Table {
    cells: usize,
    several: bool,
    name: usize,
    columns: &'static [Column],
    bar: usize,
}

impl Table {
    fn new(cells: usize, several: bool) -> Self {
        let columns: &'static [Column] = match cells {
            0..MIN_TABLE => &[],
            MIN_TABLE..MIN_WIDE => &NARROW,
            _ => &Column::LIVE,
        };
        let name = match cells {
            0..MIN_TABLE => 12,
            MIN_TABLE..MIN_WIDE => 15,
            _ => 24,
        };
        let mut table = Self {
            cells,
            several,
            name,
            columns,
            bar: 0,
        };
        // One cell between the columns and the bar.
        let used = table.head(None).len() + 2;
        table.bar = match cells.saturating_sub(used) {
            left if columns.is_empty() || left < MIN_BAR => 0,
            left => left.min(40),
        };
        table
    }

    fn is_narrow(&self) -> bool {
        self.columns.len() < Column::LIVE.len()
    }

    fn head(&self, range: Option<&str>) -> String {
        let mut head = format!(
            "{:>6} {}",
            "TID",
            left(range.unwrap_or("THREAD"), self.name)
        );
        if self.several && !self.columns.is_empty() {
            head += &format!(" {:>7}", "PID");
        }
        if self.columns.is_empty() {
            return head + " % OF WALL";
        }
        for column in self.columns {
            head += &format!(" {:>1$}", column.short(), column.short().len().max(3));
        }
        if self.is_narrow() {
            head += " REST";
        }
        head += " ~WAKE99";
        if !self.is_narrow() {
            head += " ~LOCK FOR";
        }
        if self.bar > 0 {
            head + "  % OF WALL"
        } else {
            head
        }
    }

    fn line(&self, process: &Process, thread: &Thread, state: &ScreenState) -> Line<'static> {
        let name = digest::thread_label(thread);
        let name = left(&cut_middle(&name, self.name), self.name);
        let name_style = if thread.alive {
            style::strong()
        } else {
            style::faint()
        };
        let mut spans = vec![
            Span::raw(format!("{:>7} ", thread.tid)),
            Span::styled(name, name_style),
        ];
        if self.columns.is_empty() {
            let room = self.cells.saturating_sub(8 + self.name);
            spans.extend(in_words(process, thread, state, room));
            return Line::from(spans);
        }
        if self.several {
            spans.push(Span::raw(format!(" {:>7}", process.pid)));
        }
        for column in self.columns {
            let width = column.short().len().max(3);
            let text = share(process, thread, *column);
            let style = match digest::is_alarming(thread, *column) {
                true => style::alarm(state),
                false => Style::new(),
            };
            spans.push(Span::raw(" "));
            spans.push(Span::styled(right(&text, width), style));
        }
        if self.is_narrow() {
            let hidden = Column::ALL
                .iter()
                .filter(|column| !self.columns.contains(column));
            let rest = hidden.map(|column| column.of(&thread.ledger)).sum();
            spans.push(Span::raw(format!(
                " {:>4}",
                digits(rest, thread.ledger.wall_ns)
            )));
        }
        let wake = format::maybe_duration(thread.wakeup_latency.p99_ns);
        spans.push(Span::raw(format!(" {}", right(&wake, 7))));
        if !self.is_narrow() {
            let lock = digest::main_lock_wait(thread).unwrap_or("-");
            spans.push(Span::raw(format!(" {}", right(lock, 9))));
        }
        if self.bar > 0 {
            spans.push(Span::raw("  "));
            for (column, cells) in columns::bar(&thread.ledger, self.bar) {
                let part = column.letter().to_string().repeat(cells);
                spans.push(Span::styled(part, style::bar(state, column)));
            }
        }
        Line::from(spans)
    }
}

/// A share of wall without its sign: `.` for nothing, `?` for what cannot be told.
fn share(process: &Process, thread: &Thread, column: Column) -> String {
    match column.of(&thread.ledger) {
        0 if digest::is_limited(process, thread, column) => "?".to_owned(),
        ns => digits(ns, thread.ledger.wall_ns),
    }
}

fn digits(ns: u64, wall_ns: u64) -> String {
    match (ns, format::share(ns, wall_ns)) {
        (_, None) => "-".to_owned(),
        (0, _) => ".".to_owned(),
        (_, Some(percent)) => format::percent_digits(percent),
    }
}

/// `gil 75% on_cpu 25%`: the shares that count, largest first, as many as fit.
fn in_words(
    process: &Process,
    thread: &Thread,
    state: &ScreenState,
    room: usize,
) -> Vec<Span<'static>> {
    let ns = |column: &Column| column.of(&thread.ledger);
    let mut columns: Vec<Column> = Column::ALL.into_iter().filter(|c| ns(c) > 0).collect();
    columns.sort_by_key(|column| std::cmp::Reverse(ns(column)));
    let mut words: Vec<Span<'static>> = Vec::new();
    if digest::is_limited(process, thread, Column::Gil) {
        words.push(Span::raw(" gil ?"));
    }
    let mut used = words.iter().map(Span::width).sum::<usize>();
    for column in columns {
        let share = digits(ns(&column), thread.ledger.wall_ns);
        let text = format!(" {} {share}%", column.name());
        used += text.len();
        if used > room {
            break;
        }
        let style = match digest::is_alarming(thread, column) {
            true => style::alarm(state),
            false => Style::new(),
        };
        words.push(Span::styled(text, style));
    }
    words
}
