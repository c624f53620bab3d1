//! Draws one snapshot: a pure function of snapshot, state and size.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::super::escape::{brief, cut_middle, left};
use super::super::{digest, format};
use super::layout::{self, Plan};
use super::line::push_fitting;
use super::state::{ScreenState, Section};
use super::{
    Sources, detail, findings, functions, gil, help, processes, requests, style, tasks, threads,
};
use crate::schema::{Process, Snapshot};

/// Below this width texts are shortened.
const NARROW: usize = 60;
/// From this width on, all that the first line has to say fits.
const WIDE: usize = 110;

/// Draws the screen. Any size will do; what has no room is left out.
pub fn render(
    frame: &mut Frame<'_>,
    snapshot: &Snapshot,
    state: &ScreenState,
    sources: &dyn Sources,
) {
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
    if let Some(detail) = state.detail {
        let lines = detail::lines(snapshot, detail, state, sources);
        // Its end stays on the screen.
        let last = lines
            .len()
            .saturating_sub(usize::from(plan.parts.body.height));
        state.detail_end.set(last);
        let lines = lines.into_iter().skip(state.detail_scroll.min(last));
        put_lines(frame, plan.parts.body, lines);
        put(
            frame,
            plan.parts.footer,
            0,
            Line::styled("Esc back  Up/Down scroll  p pause  q quit", style::faint()),
        );
        return;
    }
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
        Section::Code => functions::rows(cells, from, count, state, range),
        Section::Requests => requests::rows(snapshot, cells, from, count, state, range),
    };
    let mark = if section == state.focus { '>' } else { ' ' };
    let head = left(&format!("{mark}{}", rows.head), cells);
    put(frame, area, 0, Line::styled(head, style::head()));
    let below = Rect {
        y: area.y + 1,
        height: area.height - 1,
        ..area
    };
    let selected = state.selected[section.index()].checked_sub(from);
    let selected = selected.filter(|_| section == state.focus && !section.sorts().is_empty());
    let lines = rows.lines.into_iter().enumerate();
    put_lines(
        frame,
        below,
        lines.map(|(row, line)| match Some(row) == selected {
            true => line.patch_style(style::selected()),
            false => line,
        }),
    );
}

/// What is shown until there is something to show.
pub(super) fn waiting(frame: &mut Frame<'_>) {
    let text = "concmon has attached; the first window comes in a moment";
    put(frame, frame.area(), 0, Line::raw(text));
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
                n if cells < WIDE => format!(" +{n}"),
                n => format!(" +{n} processes"),
            };
            format!("{label} [{}]{more}", first.pid)
        }
    };
    let duration = format::duration(window.duration_ns);
    let end = window.start_unix_ns.saturating_add(window.duration_ns);
    let window_text = match cells {
        0..NARROW => format!("  {duration}"),
        // Totals need the room.
        NARROW..WIDE if processes.len() > 1 => format!("  {duration}"),
        _ => format!("  window {duration} to {}", format::time_of_day(end)),
    };
    let mut first = vec![Span::styled("concmon ", style::title(state))];
    if state.paused {
        first.push(Span::styled(" PAUSED ", style::head()));
        first.push(Span::raw(" "));
    }
    if let Some(filter) = &state.filter {
        let text = format!(" /{} ", brief(filter.text(), 24));
        first.push(Span::styled(text, style::head()));
        first.push(Span::raw(" "));
    }
    first.push(Span::styled(target, style::strong()));
    first.push(Span::raw(window_text));
    if processes.len() > 1 && cells >= NARROW {
        push_fitting(&mut first, totals(processes).map(Span::raw), cells);
    }
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

/// Of all processes: `  all: cpu 182%  rss 1.2G  threads 45`, in its parts.
fn totals(processes: &[Process]) -> [String; 3] {
    let living = || processes.iter().filter(|process| process.exited.is_none());
    let rss: u64 = living().filter_map(|process| process.rss_bytes).sum();
    let threads: u64 = living().filter_map(|process| process.threads_count).sum();
    let cpu: f64 = processes.iter().map(|process| process.cpu_percent).sum();
    [
        format!("  all: cpu {}", format::percent(cpu)),
        format!("  rss {}", format::bytes(rss)),
        format!("  threads {}", format::count(threads)),
    ]
}

fn footer(frame: &mut Frame<'_>, state: &ScreenState, area: Rect) {
    if state.typing {
        let text = state.filter.as_ref().map_or("", |filter| filter.text());
        let line = format!("/{}_  Enter keep  Esc drop", brief(text, 60));
        put(frame, area, 0, Line::styled(line, style::strong()));
        return;
    }
    let sort = match state.sorted(state.focus) {
        (sort, true) => format!("-{sort}"),
        (sort, false) => sort.to_owned(),
    };
    let keys = match usize::from(area.width) {
        0..NARROW => format!("q quit h help p pause s {sort} / t a g f c r"),
        NARROW..100 => {
            format!("q quit  h help  p pause  s {sort}  / filter  Enter more  t a g f c r")
        }
        _ => format!(
            "q quit  h help  p pause  s S sort: {sort}  / filter  Enter details  t threads  a tasks  \
             g GIL  f findings  c code  r requests"
        ),
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
