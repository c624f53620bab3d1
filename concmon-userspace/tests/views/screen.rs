//! The live view, drawn on a terminal made of memory.

use concmon::capture::Reader;
use concmon::model::intervals::{Intervals, NoSink};
use concmon::schema::Snapshot;
use concmon::source::replay::{Replay, Step};
use concmon::views::escape::is_hostile;
use concmon::views::screen::{Action, NoSources, ScreenState, Sources, render};
use concmon::views::{Form, Paint, summary};
use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier};

use crate::{fixture, services};

fn press(state: &mut ScreenState, code: KeyCode) -> Action {
    state.on_key(KeyEvent::new(code, KeyModifiers::NONE))
}

fn draw(snapshot: &Snapshot, state: &mut ScreenState, width: u16, height: u16) -> Buffer {
    state.settle(snapshot, Rect::new(0, 0, width, height));
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("memory");
    terminal
        .draw(|frame| render(frame, snapshot, state, &NoSources))
        .expect("memory");
    terminal.backend().buffer().clone()
}

/// The rows of a buffer without trailing blanks.
fn rows(buffer: &Buffer) -> Vec<String> {
    let Rect { width, height, .. } = buffer.area;
    let row = |y| {
        let mut row = String::new();
        let mut x = 0;
        while x < width {
            let symbol = buffer[(x, y)].symbol();
            row.push_str(symbol);
            x += concmon::views::escape::width(symbol).max(1) as u16;
        }
        row.trim_end().to_owned()
    };
    (0..height).map(row).collect()
}

fn text(snapshot: &Snapshot, keys: &[KeyCode], width: u16, height: u16) -> String {
    let mut state = ScreenState::new(true);
    for key in keys {
        press(&mut state, *key);
    }
    rows(&draw(snapshot, &mut state, width, height)).join("\n")
}

#[test]
fn overviews() {
    for (name, snapshot) in fixture::all() {
        for (width, height) in [(80, 24), (40, 10), (132, 40)] {
            let screen = text(&snapshot, &[], width, height);
            insta::assert_snapshot!(format!("screen_{name}_{width}x{height}"), screen);
        }
    }
}

#[test]
fn services_have_an_overview() {
    for (name, snapshot) in services::all() {
        for (width, height) in [(80, 24), (200, 60)] {
            let screen = text(&snapshot, &[], width, height);
            insta::assert_snapshot!(format!("screen_{name}_{width}x{height}"), screen);
        }
    }
}

/// A process is told in one way: by the summary and by the screen, whatever the filter leaves of it.
#[test]
fn screen_and_summary_say_the_same_of_a_process() {
    for (name, snapshot) in fixture::all().into_iter().chain(services::all()) {
        let mut summary = Vec::new();
        let form = Form::new(Paint::Plain, Some(400), true);
        summary::write(&snapshot, form, &mut summary).expect("memory");
        let summary = String::from_utf8(summary).expect("text");
        let of_summary: Vec<&str> = summary
            .lines()
            .skip_while(|line| !line.contains("  WORST"))
            .collect();
        let worst = of_summary.first().and_then(|head| head.find("WORST"));
        for process in snapshot.processes.iter().take(6) {
            let pid = process.pid.to_string();
            let starts = |line: &&&str| line.split_whitespace().next() == Some(&pid);
            let Some(line) = of_summary.iter().skip(1).find(starts) else {
                panic!("{name}: no line of {pid} in {summary}");
            };
            let worst: String = line.chars().skip(worst.unwrap_or_default()).collect();
            for thread in std::iter::once(None).chain(process.threads.iter().take(2).map(Some)) {
                let mut state = ScreenState::new(false);
                press(&mut state, KeyCode::Char('/'));
                let filter = thread.map_or(process.pid, |thread| thread.tid);
                typed(&mut state, &format!("^{filter}$"));
                press(&mut state, KeyCode::Enter);
                let rows = rows(&draw(&snapshot, &mut state, 300, 40));
                let below = rows.iter().skip_while(|row| !row.contains("WAITS FOR"));
                let row = below
                    .skip(1)
                    .find(|row| row.split_whitespace().next() == Some(&pid));
                let row = row.unwrap_or_else(|| panic!("{name}: {pid} by {filter}: {rows:?}"));
                assert!(
                    row.ends_with(&format!("  {}", worst.trim())),
                    "{row} / {line}"
                );
            }
        }
    }
}

#[test]
fn zooms_and_help() {
    let (threads, tasks, help) = (KeyCode::Char('t'), KeyCode::Char('a'), KeyCode::Char('h'));
    for (name, snapshot, keys) in [
        ("threads", fixture::crowd(), [threads].as_slice()),
        ("tasks", fixture::crowd(), &[tasks]),
        (
            "tasks_scrolled",
            fixture::crowd(),
            &[tasks, KeyCode::PageDown, KeyCode::Down],
        ),
        ("tasks_end", fixture::crowd(), &[tasks, KeyCode::End]),
        ("gil", fixture::gil_fight(), &[KeyCode::Char('g')]),
        ("no_gil", fixture::unsupported(), &[KeyCode::Char('g')]),
        ("requests", fixture::requests(), &[KeyCode::Char('r')]),
        ("no_requests", fixture::stalls(), &[KeyCode::Char('r')]),
        ("findings", fixture::stalls(), &[KeyCode::Char('f')]),
        ("no_findings", fixture::gil_fight(), &[KeyCode::Char('f')]),
        ("stalled_tasks", fixture::stalls(), &[tasks]),
        ("hanging_tasks", fixture::hang(), &[tasks]),
        ("hang", fixture::hang(), &[KeyCode::Char('f')]),
        ("help", fixture::blocked_loop(), &[help]),
        (
            "paused_by_gil",
            fixture::gil_fight(),
            &[KeyCode::Char('p'), KeyCode::Char('s')],
        ),
    ] {
        insta::assert_snapshot!(format!("screen_{name}"), text(&snapshot, keys, 80, 24));
    }
    let help_narrow = text(&fixture::blocked_loop(), &[help, KeyCode::PageDown], 40, 10);
    insta::assert_snapshot!("screen_help_40x10", help_narrow);
}

/// Whichever way one leaves the GIL's page, the overview is what one comes back to.
#[test]
fn the_gil_page_is_left_by_g_by_escape_and_by_tab() {
    let overview = text(&fixture::gil_fight(), &[], 80, 24);
    let g = KeyCode::Char('g');
    for keys in [[g, g], [g, KeyCode::Esc]] {
        assert_eq!(text(&fixture::gil_fight(), &keys, 80, 24), overview);
    }
    let tabbed = text(&fixture::gil_fight(), &[g, KeyCode::BackTab], 80, 24);
    assert!(tabbed.contains("WAITS FOR"), "{tabbed}");
}

fn typed(state: &mut ScreenState, text: &str) {
    for c in text.chars() {
        press(state, KeyCode::Char(c));
    }
}

/// The rows of a section, below its head.
fn section(snapshot: &Snapshot, state: &mut ScreenState, head: &str) -> Vec<String> {
    let all = rows(&draw(snapshot, state, 160, 60));
    let below = all
        .into_iter()
        .skip_while(|row| !row.contains(head))
        .skip(1);
    below.take_while(|row| row.starts_with(' ')).collect()
}

#[test]
fn a_filter_leaves_what_has_the_name() {
    let crowd = fixture::crowd();
    let mut state = ScreenState::new(false);
    press(&mut state, KeyCode::Char('/'));
    let tid = crowd.processes[0].threads[3].tid.to_string();
    // Keys are text meanwhile.
    typed(&mut state, "q");
    press(&mut state, KeyCode::Backspace);
    typed(&mut state, &tid);
    let screen = rows(&draw(&crowd, &mut state, 80, 24));
    assert!(
        screen[23].starts_with(&format!("/{tid}_")),
        "{}",
        screen[23]
    );
    press(&mut state, KeyCode::Enter);
    let left = section(&crowd, &mut state, " TID ");
    assert!(
        !left.is_empty() && left.iter().all(|row| row.contains(&tid)),
        "{left:?}"
    );
    // What is no expression is meant as it stands, and nothing may be left.
    press(&mut state, KeyCode::Char('/'));
    typed(&mut state, "[(");
    assert!(section(&crowd, &mut state, " TID ").is_empty());
    press(&mut state, KeyCode::Esc);
    let whole = rows(&draw(&crowd, &mut ScreenState::new(false), 160, 60));
    assert_eq!(rows(&draw(&crowd, &mut state, 160, 60)), whole);
    // Of a process that has the name everything is left.
    let fight = fixture::gil_fight();
    let pid = fight.processes[0].pid.to_string();
    press(&mut state, KeyCode::Char('/'));
    typed(&mut state, &format!("^{pid}$"));
    press(&mut state, KeyCode::Enter);
    assert_eq!(
        section(&fight, &mut state, " TID ").len(),
        fight.processes[0].threads.len()
    );
    // Esc drops a filter that was kept, too.
    press(&mut state, KeyCode::Esc);
    let whole = rows(&draw(&crowd, &mut ScreenState::new(false), 160, 60));
    assert_eq!(rows(&draw(&crowd, &mut state, 160, 60)), whole);
}

#[test]
fn rows_are_sorted_by_any_column_and_from_either_end() {
    let fight = fixture::gil_fight();
    let tids = |state: &mut ScreenState| -> Vec<u32> {
        let rows = section(&fight, state, " TID ");
        rows.iter()
            .map_while(|row| row.split_whitespace().next()?.parse().ok())
            .collect()
    };
    let mut state = ScreenState::new(false);
    let mut orders = vec![tids(&mut state)];
    for _ in 0..18 {
        press(&mut state, KeyCode::Char('s'));
        let order = tids(&mut state);
        press(&mut state, KeyCode::Char('S'));
        let mut reversed = tids(&mut state);
        press(&mut state, KeyCode::Char('S'));
        reversed.reverse();
        assert_eq!(order, reversed);
        orders.push(order);
    }
    // After all of them it is as in the beginning, and the last but one is by id.
    assert_eq!(orders.first(), orders.last());
    assert!(orders[17].is_sorted(), "{orders:?}");
    assert_ne!(orders[0], orders[17]);
    // A section has its own order.
    press(&mut state, KeyCode::BackTab);
    press(&mut state, KeyCode::Char('S'));
    assert_eq!(tids(&mut state), orders[0]);
}

/// Has one line of source for whatever is asked.
struct Line;

impl Sources for Line {
    fn line(&self, _: u32, _: &str, line: u32) -> Option<String> {
        Some(format!("\t source\x1b[31m of {line}"))
    }
}

#[test]
fn enter_opens_the_selected_row() {
    let open = |snapshot: &Snapshot, keys: &[KeyCode]| {
        let mut state = ScreenState::new(false);
        for key in keys {
            press(&mut state, *key);
            state.settle(snapshot, Rect::new(0, 0, 100, 30));
        }
        let mut terminal = Terminal::new(TestBackend::new(100, 30)).expect("memory");
        terminal
            .draw(|frame| render(frame, snapshot, &state, &Line))
            .expect("memory");
        (rows(terminal.backend().buffer()).join("\n"), state)
    };
    let enter = KeyCode::Enter;
    let blocked = fixture::blocked_loop();
    insta::assert_snapshot!("screen_thread", open(&blocked, &[enter]).0);
    let task = [KeyCode::Char('a'), KeyCode::Down, enter];
    insta::assert_snapshot!("screen_task", open(&blocked, &task).0);
    let process = [KeyCode::BackTab, enter];
    insta::assert_snapshot!("screen_process", open(&fixture::stalls(), &process).0);
    // It stays with what was opened, and says when that is gone.
    let (_, mut state) = open(&blocked, &task);
    let mut later = blocked.clone();
    later.processes[0].loops[0].tasks.clear();
    let gone = rows(&draw(&later, &mut state, 100, 30)).join("\n");
    assert!(gone.contains("is gone"), "{gone}");
    press(&mut state, KeyCode::Esc);
    let back = rows(&draw(&blocked, &mut state, 100, 30)).join("\n");
    assert!(!back.contains("is gone"), "{back}");
    for key in [KeyCode::Char('g'), KeyCode::Char('f')] {
        // There is nothing to be opened.
        let (page, _) = open(&fixture::stalls(), &[key]);
        assert_eq!(open(&fixture::stalls(), &[key, enter]).0, page);
    }
}

/// Of the recorded demo: parts of a whole, the largest first, in each window and in the watch.
#[test]
fn hot_functions_are_parts_of_a_whole() {
    let capture: &[u8] = include_bytes!("../../src/demo/misbehave.concmon");
    let replay = Replay::new(Reader::embedded(capture).expect("a capture"));
    let mut intervals = Intervals::new(&replay.header().info);
    let mut state = ScreenState::new(false);
    press(&mut state, KeyCode::Char('c'));
    let mut pages = Vec::new();
    let mut page = |state: &mut ScreenState, window: &Snapshot| {
        pages.push(rows(&draw(window, state, 120, 60)));
    };
    let summary = replay.run(&mut |step| match step {
        Step::Before(event) => intervals.before(event),
        Step::Event(event) => intervals.apply(event, &mut NoSink),
        Step::Window(window) => {
            state.take_code(&window, Some(&intervals));
            page(&mut state, &window);
            // The same window again changes nothing.
            state.take_code(&window, Some(&intervals));
            page(&mut state, &window);
        }
    });
    let summary = summary.expect("a capture");
    assert!(pages.len() > 8);
    for (at, pair) in pages.chunks(2).enumerate() {
        assert_eq!(pair[0], pair[1]);
        let below = pair[0]
            .iter()
            .skip_while(|row| !row.contains("OWN"))
            .skip(1);
        let functions: Vec<Vec<&str>> = below
            .map(|row| row.split_whitespace().collect::<Vec<_>>())
            .take_while(|row| row.len() > 9 && row[4] == "|")
            .collect();
        let number = |text: &str| match text {
            "." | "-" => 0.0,
            "<1" => 0.5,
            digits => digits.parse::<f64>().expect("a number"),
        };
        for first in [0, 5] {
            let own = functions.iter().map(|row| number(row[first]));
            // Each may have been rounded up.
            let most = 100.0 + functions.len() as f64 / 2.0;
            assert!(own.clone().sum::<f64>() <= most, "{:#?}", pair[0]);
            for row in &functions {
                assert!(number(row[first]) <= number(row[first + 1]), "{row:?}");
            }
            // The first window is the whole watch so far, and has no numbers of its own.
            if first == 0 && at == 0 {
                assert!(functions.iter().all(|row| row[0] == "-"), "{functions:?}");
            } else if first == 0 {
                assert!(own.map(|own| -own).is_sorted(), "{:#?}", pair[0]);
            }
        }
    }
    let last = pages.last().expect("a page").join("\n");
    assert!(last.contains("fight_for_the_gil"), "{last}");
    // A filter is over functions and files there.
    press(&mut state, KeyCode::Char('/'));
    typed(&mut state, "nothing is called so");
    let filtered = rows(&draw(&summary, &mut state, 120, 60)).join("\n");
    assert!(!filtered.contains("fight_for_the_gil"), "{filtered}");
    press(&mut state, KeyCode::Esc);
    // Who leaves the page and comes back begins anew.
    press(&mut state, KeyCode::Char('c'));
    state.take_code(&summary, Some(&intervals));
    press(&mut state, KeyCode::Char('c'));
    let again = rows(&draw(&summary, &mut state, 120, 60)).join("\n");
    assert!(again.contains("come with the next window"), "{again}");
}

#[test]
fn any_size_draws() {
    let keys = [
        KeyCode::Char('a'),
        KeyCode::Char('t'),
        KeyCode::Char('t'),
        KeyCode::Char('g'),
        KeyCode::Char('f'),
        KeyCode::Char('c'),
        KeyCode::Char('h'),
        KeyCode::Char('h'),
        KeyCode::Tab,
        KeyCode::End,
        KeyCode::Char('h'),
        KeyCode::End,
        KeyCode::PageUp,
        KeyCode::Esc,
        KeyCode::Enter,
        KeyCode::Down,
        KeyCode::Esc,
        KeyCode::Char('S'),
        KeyCode::Char('/'),
        KeyCode::Char('a'),
        KeyCode::Enter,
        KeyCode::Esc,
    ];
    for (_, snapshot) in fixture::all() {
        let mut state = ScreenState::new(true);
        for (width, height) in [
            (1, 1),
            (3, 2),
            (20, 3),
            (40, 10),
            (65, 7),
            (79, 13),
            (300, 5),
            (9, 80),
        ] {
            for key in keys {
                press(&mut state, key);
                draw(&snapshot, &mut state, width, height);
            }
        }
        draw(&snapshot, &mut ScreenState::new(false), 0, 0);
    }
}

#[test]
fn nothing_hostile_reaches_a_cell() {
    for (width, height) in [(80, 24), (40, 10), (200, 60)] {
        let open = KeyCode::Enter;
        for keys in [
            &[][..],
            &[open],
            &[KeyCode::BackTab, open],
            &[KeyCode::Tab, open],
            &[KeyCode::Tab, KeyCode::Down, open],
        ] {
            let screen = text(&fixture::hostile(), keys, width, height);
            assert!(
                !screen.chars().any(|c| c != '\n' && is_hostile(c)),
                "{screen}"
            );
        }
    }
}

/// The modifiers and color of the cells where `word` stands.
fn looks(buffer: &Buffer, word: &str) -> (Modifier, Color) {
    for (y, row) in rows(buffer).iter().enumerate() {
        if let Some(at) = row.find(word) {
            let x = row[..at].chars().count() as u16;
            let cell = &buffer[(x, y as u16)];
            return (cell.modifier, cell.fg);
        }
    }
    panic!("{word} is not on the screen");
}

#[test]
fn the_bottleneck_stands_out_with_and_without_color() {
    let fight = fixture::gil_fight();
    let colored = draw(&fight, &mut ScreenState::new(true), 80, 24);
    assert_eq!(looks(&colored, "gil 78%"), (Modifier::BOLD, Color::Red));
    let plain = draw(&fight, &mut ScreenState::new(false), 80, 24);
    assert_eq!(looks(&plain, "gil 78%"), (Modifier::BOLD, Color::Reset));
    assert!(
        plain
            .content
            .iter()
            .all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset)
    );
    assert_eq!(
        rows(&colored),
        rows(&plain),
        "color carries no information of its own"
    );
}

#[test]
fn keys() {
    let mut state = ScreenState::new(false);
    for (code, action) in [
        (KeyCode::Char('x'), Action::None),
        (KeyCode::Char('+'), Action::Slower),
        (KeyCode::Char('-'), Action::Faster),
        (KeyCode::Char('p'), Action::Redraw),
        (KeyCode::Char('s'), Action::Redraw),
        (KeyCode::Char('q'), Action::Quit),
    ] {
        assert_eq!(press(&mut state, code), action, "{code:?}");
    }
    assert!(state.paused());
    press(&mut state, KeyCode::Char('p'));
    assert!(!state.paused());
    let control = |c| KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL);
    assert_eq!(state.on_key(control('c')), Action::Quit);
    assert_eq!(state.on_key(control('p')), Action::None);
    let mut released = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE);
    released.kind = KeyEventKind::Release;
    assert_eq!(state.on_key(released), Action::None);
}

/// Scrolling past the end does not have to be undone key by key.
#[test]
fn scrolling_stops_at_the_ends() {
    let crowd = fixture::crowd();
    let mut state = ScreenState::new(false);
    press(&mut state, KeyCode::Char('t'));
    let first = rows(&draw(&crowd, &mut state, 80, 24));
    for _ in 0..100 {
        press(&mut state, KeyCode::PageDown);
        draw(&crowd, &mut state, 80, 24);
    }
    let last = rows(&draw(&crowd, &mut state, 80, 24));
    assert!(last[2].contains("701-720/720"), "{}", last[2]);
    // The selected row moves first, from the last to the first on the screen.
    for _ in 0..20 {
        press(&mut state, KeyCode::Up);
    }
    let one_up = rows(&draw(&crowd, &mut state, 80, 24));
    assert!(one_up[2].contains("700-719/720"), "{}", one_up[2]);
    press(&mut state, KeyCode::Home);
    assert_eq!(rows(&draw(&crowd, &mut state, 80, 24)), first);
}

/// A change of a few percent does not reorder rows; one of a third does.
#[test]
fn rows_keep_their_order() {
    let tids = |snapshot: &Snapshot| -> Vec<u32> {
        let screen = rows(&draw(snapshot, &mut ScreenState::new(false), 80, 24));
        let rows = screen
            .iter()
            .skip_while(|row| !row.contains(" TID "))
            .skip(1);
        rows.map_while(|row| row.split_whitespace().next()?.parse().ok())
            .collect()
    };
    let mut snapshot = fixture::gil_fight();
    assert_eq!(tids(&snapshot), [5001, 5002, 5003, 5004, 5000]);
    snapshot.processes[0].threads[1].ledger = snapshot.processes[0].threads[0].ledger;
    assert_eq!(tids(&snapshot), [5002, 5003, 5004, 5000, 5001]);
    let jitter = &mut snapshot.processes[0].threads[2].ledger;
    jitter.blocked_ns.gil -= 10 * fixture::MS;
    jitter.blocked_ns.io += 10 * fixture::MS;
    assert_eq!(tids(&snapshot), [5002, 5003, 5004, 5000, 5001]);
}
