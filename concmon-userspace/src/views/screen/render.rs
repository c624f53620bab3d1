//! Draws one snapshot: a pure function of snapshot, state and size.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::super::escape::{cut_middle, left};
use super::super::{digest, format};
use super::layout::{self, Plan};
use super::state::{ScreenState, Section};
use super::{findings, gil, help, processes, style, tasks, threads};
use crate::schema::Snapshot;

/// Below this width texts are shortened.
const NARROW: usize = 60;

/// Draws the screen. Any size will do; what has no room is left out.
pub fn render(frame: &mut Frame<'_>, snapshot: &Snapshot, state: &ScreenState) {
    let area = frame.area();
    if state.help {
        let parts = layout::split(area, false);
        header(frame, snapshot, state, parts.header, &[]);
        let troubles = layout::troubles(snapshot);
        let lines = help::lines(usize::from(parts.body.width), &troubles).into_iter();
        put_lines(frame, parts.body, lines.skip(state.help_scroll));
        put(
            frame,
            parts.footer,
            0,
            Line::styled("h or Esc back  Up/Down scroll  q quit", style::faint()),
        );
        return;
    }
    let plan = Plan::new(snapshot, state, area);
    header(frame, snapshot, state, plan.parts.header, &plan.troubles);
    for section in Section::ALL {
        draw_section(frame, snapshot, state, &plan, section);
    }
    footer(frame, state, plan.parts.footer);
}

fn draw_section(
    frame: &mut Frame<'_>,
    snapshot: &Snapshot,
    state: &ScreenState,
    plan: &Plan,
    section: Section,
) {
    let area = plan.area(section);
    if area.height == 0 {
        return;
    }
    let cells = usize::from(area.width);
    let (from, count) = (state.scroll[section.index()], plan.visible(section));
    let total = plan.rows(section);
    let range = (total > count).then(|| match count {
        0 => format!("0/{total}"),
        _ => format!("{}-{}/{total}", from + 1, (from + count).min(total)),
    });
    let range = range.as_deref();
    let rows = match section {
        Section::Processes => processes::rows(snapshot, cells, from, count, state, range),
        Section::Threads => threads::rows(snapshot, cells, from, count, state, range),
        Section::Tasks => tasks::rows(snapshot, cells, from, count, state, range),
        Section::Gil => gil::rows(snapshot, cells, from, count, state, range),
        Section::Findings => findings::rows(snapshot, cells, from, count, state, range),
    };
    let mark = if section == state.focus { '>' } else { ' ' };
    let head = left(&format!("{mark}{}", rows.head), cells);
    put(frame, area, 0, Line::styled(head, style::head()));
    let below = Rect {
        y: area.y + 1,
        height: area.height - 1,
        ..area
    };
    put_lines(frame, below, rows.lines.into_iter());
}

fn header(
    frame: &mut Frame<'_>,
    snapshot: &Snapshot,
    state: &ScreenState,
    area: Rect,
    troubles: &[String],
) {
    let (window, monitor) = (snapshot.window, &snapshot.monitor);
    let cells = usize::from(area.width);
    let processes = &snapshot.processes;
    let target = match processes.split_first() {
        None => "no process".to_owned(),
        Some((first, others)) => {
            let label = digest::process_label(first);
            let label = cut_middle(&label, if cells < NARROW { 16 } else { 32 });
            let more = match others.len() {
                0 => String::new(),
                n => format!(" +{n} processes"),
            };
            format!("{label} [{}]{more}", first.pid)
        }
    };
    let duration = format::duration(window.duration_ns);
    let end = window.start_unix_ns.saturating_add(window.duration_ns);
    let window_text = match cells {
        0..NARROW => format!("  {duration}"),
        _ => format!("  window {duration} to {}", format::time_of_day(end)),
    };
    let mut first = vec![Span::styled("concmon ", style::title(state))];
    if state.paused {
        first.push(Span::styled(" PAUSED ", style::head()));
        first.push(Span::raw(" "));
    }
    first.push(Span::styled(target, style::strong()));
    first.push(Span::raw(window_text));
    put(frame, area, 0, Line::from(first));

    let own = format::share(monitor.cpu_ns, window.duration_ns);
    let text = format!(
        "  cpu {}  rss {}  kernel {}  {} events/s",
        own.map_or_else(|| "-".to_owned(), format::fine_percent),
        format::bytes(monitor.rss_bytes),
        digest::kernel_percent(monitor, window.duration_ns),
        format::rate(monitor.events, window.duration_ns),
    );
    // Loss first: it must not fall off a narrow screen.
    let lost = match monitor.events_lost {
        0 => Span::styled("lost 0", style::faint()),
        n => Span::styled(format!("LOST {}", format::count(n)), style::alarm(state)),
    };
    let more = match troubles.len() {
        0 => String::new(),
        // Without room for the line that says what, say that there is something.
        n if area.height < 3 => format!(" !{n}, see h"),
        _ => String::new(),
    };
    let name = if cells < NARROW { "" } else { "monitor " };
    let spans = vec![
        Span::styled(name, style::faint()),
        lost,
        Span::styled(more, style::strong()),
        Span::styled(text, style::faint()),
    ];
    put(frame, area, 1, Line::from(spans));

    if let Some(first) = troubles.first() {
        let more = match troubles.len() {
            1 => String::new(),
            n => format!(" (+{}, see h)", n - 1),
        };
        let text = left(&format!("! {first}"), cells.saturating_sub(more.len()));
        put(
            frame,
            area,
            2,
            Line::styled(format!("{}{more}", text.trim_end()), style::strong()),
        );
    }
}

fn footer(frame: &mut Frame<'_>, state: &ScreenState, area: Rect) {
    let sort = state.sort.name();
    let keys = match usize::from(area.width) {
        0..NARROW => format!("q quit h help p pause s {sort} t a g f"),
        _ => {
            format!(
                "q quit  h help  p pause  s sort: {sort}  t threads  a tasks  g GIL  f findings"
            )
        }
    };
    put(frame, area, 0, Line::styled(keys, style::faint()));
}

/// Draws a line of text `below` the top of an area, if that is inside.
fn put(frame: &mut Frame<'_>, area: Rect, below: u16, line: Line<'_>) {
    if below < area.height {
        let row = Rect {
            y: area.y + below,
            height: 1,
            ..area
        };
        frame.render_widget(line, row);
    }
}

fn put_lines<'a>(frame: &mut Frame<'_>, area: Rect, lines: impl Iterator<Item = Line<'a>>) {
    for (below, line) in (0..area.height).zip(lines) {
        put(frame, area, below, line);
    }
}
