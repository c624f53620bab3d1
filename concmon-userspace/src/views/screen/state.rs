//! What the live view remembers between two draws, and what keys do to it.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

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
}

impl Section {
    pub(super) const ALL: [Section; 5] = [
        Section::Processes,
        Section::Threads,
        Section::Tasks,
        Section::Gil,
        Section::Findings,
    ];

    pub(super) const fn index(self) -> usize {
        match self {
            Section::Processes => 0,
            Section::Threads => 1,
            Section::Tasks => 2,
            Section::Gil => 3,
            Section::Findings => 4,
        }
    }
}

/// The order of thread rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Most active first, in steps of 5 % so that rows do not dance.
    Activity,
    Gil,
    OnCpu,
    Runnable,
    Tid,
}

impl Sort {
    const ALL: [Sort; 5] = [
        Sort::Activity,
        Sort::Gil,
        Sort::OnCpu,
        Sort::Runnable,
        Sort::Tid,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Sort::Activity => "activity",
            Sort::Gil => "gil",
            Sort::OnCpu => "on_cpu",
            Sort::Runnable => "runnable",
            Sort::Tid => "tid",
        }
    }

    fn next(self) -> Self {
        let index = Self::ALL.iter().position(|sort| *sort == self).unwrap_or(0);
        Self::ALL[(index + 1) % Self::ALL.len()]
    }
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
    pub(super) sort: Sort,
    /// First shown row by [`Section::index`].
    pub(super) scroll: [usize; 5],
    pub(super) help_scroll: usize,
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
            sort: Sort::Activity,
            scroll: [0; 5],
            help_scroll: 0,
            page: 10,
        }
    }

    /// Whether the screen stands still; collection never does.
    pub fn paused(&self) -> bool {
        self.paused
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
        match key.code {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Char('+' | '=') => return Action::Slower,
            KeyCode::Char('-' | '_') => return Action::Faster,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('h' | '?') => self.help = !self.help,
            KeyCode::Esc if self.help => self.help = false,
            KeyCode::Esc => self.leave(),
            KeyCode::Char('s') => {
                self.sort = self.sort.next();
                self.scroll[Section::Threads.index()] = 0;
            }
            KeyCode::Char('t') => self.toggle(Section::Threads),
            KeyCode::Char('a') => self.toggle(Section::Tasks),
            KeyCode::Char('g') => self.toggle(Section::Gil),
            KeyCode::Char('f') => self.toggle(Section::Findings),
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
            KeyCode::Up => self.move_by(-1),
            KeyCode::Down => self.move_by(1),
            KeyCode::PageUp => self.move_by(-(self.page as isize)),
            KeyCode::PageDown => self.move_by(self.page as isize),
            KeyCode::Home => *self.position() = 0,
            KeyCode::End => *self.position() = usize::MAX,
            _ => return Action::None,
        }
        Action::Redraw
    }

    fn toggle(&mut self, section: Section) {
        self.help = false;
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
        if matches!(self.focus, Section::Gil | Section::Findings) {
            (self.focus, self.zoom) = (Section::Threads, false);
        }
    }

    fn move_by(&mut self, rows: isize) {
        let position = self.position();
        *position = position.saturating_add_signed(rows);
    }

    fn position(&mut self) -> &mut usize {
        match self.help {
            true => &mut self.help_scroll,
            false => &mut self.scroll[self.focus.index()],
        }
    }
}
