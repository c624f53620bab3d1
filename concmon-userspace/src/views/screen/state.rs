//! What the live view remembers between two draws, and what keys do to it.

use std::cell::Cell;

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::code::Code;
use super::filter::Filter;
use crate::model::intervals::Intervals;
use crate::schema::{Address, Snapshot};

/// How many sections there are.
pub(super) const SECTIONS: usize = Section::ALL.len();
/// Characters of a filter.
const MAX_FILTER: usize = 100;

/// What the caller has to do after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    None,
    /// Draw the latest snapshot again: the view of it has changed.
    Redraw,
    /// Make the interval longer.
    Slower,
    /// Make the interval shorter.
    Faster,
    /// End the watch.
    Quit,
}

/// A part of the screen with rows of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    Processes,
    Threads,
    Tasks,
    /// These are shown only when they have the screen for themselves.
    Gil,
    Findings,
    Code,
    Requests,
}

impl Section {
    pub(super) const ALL: [Section; 7] = [
        Section::Processes,
        Section::Threads,
        Section::Tasks,
        Section::Gil,
        Section::Findings,
        Section::Code,
        Section::Requests,
    ];

    pub(super) const fn index(self) -> usize {
        match self {
            Section::Processes => 0,
            Section::Threads => 1,
            Section::Tasks => 2,
            Section::Gil => 3,
            Section::Findings => 4,
            Section::Code => 5,
            Section::Requests => 6,
        }
    }

    /// By what its rows can be sorted, in the order of `s`; empty: they have an order of their own.
    pub(super) const fn sorts(self) -> &'static [&'static str] {
        match self {
            Section::Processes => &[
                "tree", "cpu", "rss", "threads", "children", "switches", "zombies", "files",
                "limit", "waits", "worst", "name", "role", "pid",
            ],
            // The first two lead to what there is to see; the columns follow in their order.
            Section::Threads => &[
                "activity", "gil", "on_cpu", "runnable", "lock", "poll", "sleep", "io", "child",
                "disk", "stopped", "other", "unknown", "wake99", "lock_for", "name", "pid", "tid",
            ],
            Section::Tasks => &["state", "age", "name", "place"],
            Section::Code => &["own", "all", "gil", "lock", "name"],
            Section::Gil | Section::Findings | Section::Requests => &[],
        }
    }
}

/// What details are shown of; it may be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    Process(u32),
    /// Process and thread.
    Thread(u32, u32),
    /// Process, the loop's thread, and the task.
    Task(u32, u32, Address),
}

/// The state of the live view; a new one shows all sections.
#[derive(Clone, Debug)]
pub struct ScreenState {
    pub(super) color: bool,
    pub(super) paused: bool,
    pub(super) help: bool,
    /// The section that scrolls.
    pub(super) focus: Section,
    /// The section in focus has the screen for itself.
    pub(super) zoom: bool,
    /// By [`Section::index`]: which of its [`Section::sorts`], and whether that is turned around.
    pub(super) sort: [(usize, bool); SECTIONS],
    /// First shown row by [`Section::index`].
    pub(super) scroll: [usize; SECTIONS],
    /// The row that `Enter` opens, likewise.
    pub(super) selected: [usize; SECTIONS],
    pub(super) help_scroll: usize,
    pub(super) filter: Option<Filter>,
    /// The filter is being typed.
    pub(super) typing: bool,
    /// The selected row is to be opened.
    pub(super) opens: bool,
    pub(super) detail: Option<Detail>,
    pub(super) detail_scroll: usize,
    /// The furthest that the page which was drawn last scrolls.
    pub(super) detail_end: Cell<usize>,
    /// Hot functions, while they are shown.
    pub(super) code: Option<Code>,
    /// Rows that a page moves.
    pub(super) page: usize,
}

impl ScreenState {
    /// All sections, sorted by activity, running.
    pub fn new(color: bool) -> Self {
        Self {
            color,
            paused: false,
            help: false,
            focus: Section::Threads,
            zoom: false,
            sort: [(0, false); SECTIONS],
            scroll: [0; SECTIONS],
            selected: [0; SECTIONS],
            help_scroll: 0,
            filter: None,
            typing: false,
            opens: false,
            detail: None,
            detail_scroll: 0,
            detail_end: Cell::new(0),
            code: None,
            page: 10,
        }
    }

    /// Whether the screen stands still; collection never does.
    pub fn paused(&self) -> bool {
        self.paused
    }

    /// Counts the functions of a new window, while they are shown.
    pub fn take_code(&mut self, snapshot: &Snapshot, intervals: Option<&Intervals>) {
        match intervals.filter(|_| self.focus == Section::Code) {
            Some(intervals) => {
                let code = self.code.get_or_insert_default();
                code.take(snapshot.window.start_unix_ns, intervals);
            }
            None => self.code = None,
        }
    }

    /// By what a section is sorted, and whether that is turned around; empty: by nothing.
    pub(super) fn sorted(&self, section: Section) -> (&'static str, bool) {
        let (sort, reverse) = self.sort[section.index()];
        let name = section.sorts().get(sort).copied();
        (name.unwrap_or_default(), reverse)
    }

    /// Takes a key.
    pub fn on_key(&mut self, key: KeyEvent) -> Action {
        if key.kind == KeyEventKind::Release {
            return Action::None;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            // Raw mode turns Ctrl-C from a signal into a key.
            return match key.code {
                KeyCode::Char('c' | 'd') => Action::Quit,
                KeyCode::Char('l') => Action::Redraw,
                _ => Action::None,
            };
        }
        if self.typing {
            self.type_filter(key.code);
            return Action::Redraw;
        }
        match key.code {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Char('+' | '=') => return Action::Slower,
            KeyCode::Char('-' | '_') => return Action::Faster,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('h' | '?') => self.help = !self.help,
            KeyCode::Esc if self.help => self.help = false,
            KeyCode::Esc if self.detail.is_some() => self.detail = None,
            KeyCode::Esc if self.filter.is_some() => self.filter = None,
            KeyCode::Esc => self.leave(),
            KeyCode::Char('/') => {
                (self.typing, self.help, self.detail) = (true, false, None);
            }
            KeyCode::Enter if self.detail.is_some() => self.detail = None,
            KeyCode::Enter => (self.opens, self.detail_scroll) = (!self.help, 0),
            KeyCode::Char('s') => {
                let sorts = self.focus.sorts().len().max(1);
                let (sort, _) = &mut self.sort[self.focus.index()];
                *sort = (*sort + 1) % sorts;
                self.select_first();
            }
            KeyCode::Char('S') => {
                let (_, reverse) = &mut self.sort[self.focus.index()];
                *reverse = !*reverse;
                self.select_first();
            }
            KeyCode::Char('t') => self.toggle(Section::Threads),
            KeyCode::Char('a') => self.toggle(Section::Tasks),
            KeyCode::Char('g') => self.toggle(Section::Gil),
            KeyCode::Char('c') => self.toggle(Section::Code),
            KeyCode::Char('f') => self.toggle(Section::Findings),
            KeyCode::Char('r') => self.toggle(Section::Requests),
            KeyCode::Tab | KeyCode::BackTab => {
                // GILs and findings have pages, not a part of the overview.
                let parts = Section::Gil.index();
                let step = if key.code == KeyCode::Tab {
                    1
                } else {
                    parts - 1
                };
                self.leave_page();
                self.focus = Section::ALL[(self.focus.index() + step) % parts];
            }
            KeyCode::Up => self.move_by(-1, false),
            KeyCode::Down => self.move_by(1, false),
            KeyCode::PageUp => self.move_by(-(self.page as isize), true),
            KeyCode::PageDown => self.move_by(self.page as isize, true),
            KeyCode::Home => self.move_by(isize::MIN, true),
            KeyCode::End => self.move_by(isize::MAX, true),
            _ => return Action::None,
        }
        Action::Redraw
    }

    /// What is typed filters at once; an empty filter is none.
    fn type_filter(&mut self, key: KeyCode) {
        let mut text = self
            .filter
            .take()
            .map_or_else(String::new, |filter| filter.text().to_owned());
        match key {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                text.clear();
            }
            KeyCode::Backspace => drop(text.pop()),
            KeyCode::Char(c) if text.chars().count() < MAX_FILTER => text.push(c),
            _ => {}
        }
        self.filter = Filter::new(&text);
    }

    fn select_first(&mut self) {
        self.scroll[self.focus.index()] = 0;
        self.selected[self.focus.index()] = 0;
    }

    fn toggle(&mut self, section: Section) {
        (self.help, self.detail) = (false, None);
        self.zoom = !(self.zoom && self.focus == section);
        self.focus = section;
        if !self.zoom {
            self.leave_page();
        }
    }

    fn leave(&mut self) {
        self.zoom = false;
        self.leave_page();
    }

    fn leave_page(&mut self) {
        if self.focus.index() >= Section::Gil.index() {
            (self.focus, self.zoom) = (Section::Threads, false);
        }
    }

    /// Moves the selected row; by a page, what is shown with it.
    fn move_by(&mut self, rows: isize, page: bool) {
        let index = self.focus.index();
        let moved = |at: usize| at.saturating_add_signed(rows);
        if self.help {
            self.help_scroll = moved(self.help_scroll);
        } else if self.detail.is_some() {
            let end = self.detail_end.get();
            self.detail_scroll = moved(self.detail_scroll.min(end)).min(end);
        } else {
            self.selected[index] = moved(self.selected[index]);
            // Without rows to be opened there is nothing else that moves.
            if page || self.focus.sorts().is_empty() {
                self.scroll[index] = moved(self.scroll[index]);
            }
        }
    }
}
