//! The live view of a terminal: processes, threads, loops and tasks, redrawn per snapshot.

mod code;
mod detail;
mod filter;
mod findings;
mod functions;
mod gil;
mod help;
mod layout;
mod left;
mod line;
mod processes;
mod render;
mod requests;
mod state;
mod style;
mod tasks;
mod terminal;
mod threads;

use std::io::{self, Write};

use crossterm::event::{Event, KeyEvent};
use ratatui::Terminal;
use ratatui::backend::{Backend as _, CrosstermBackend};
use ratatui::text::Line;

pub use render::render;
pub use state::{Action, ScreenState, Section};
pub use terminal::TerminalGuard;

use crate::model::intervals::Intervals;
use crate::schema::Snapshot;

/// The rows of a section that are on the screen, and the line above them.
struct Rows<'a> {
    head: String,
    lines: Vec<Line<'a>>,
}

/// Lines of source, from who can read them.
pub trait Sources {
    /// The line of a file as a process sees it; `None`: it cannot be read, or is not known yet.
    fn line(&self, pid: u32, file: &str, line: u32) -> Option<String>;
}

/// No line can be read.
#[derive(Clone, Copy, Debug)]
pub struct NoSources;

impl Sources for NoSources {
    fn line(&self, _: u32, _: &str, _: u32) -> Option<String> {
        None
    }
}

/// The terminal while the live view has it. Dropping it, and a panic, give the terminal back.
pub struct Screen {
    state: ScreenState,
    /// What a paused screen shows.
    frozen: Option<Snapshot>,
    // Before the guard: its own drop shows the cursor, which belongs to the screen being left.
    terminal: Terminal<CrosstermBackend<Box<dyn Write>>>,
    _guard: TerminalGuard,
}

impl Screen {
    /// Takes the terminal that standard output is; `screen` and `end` write to it, the latter what
    /// gives it back. The terminal is asked nothing: some never answer.
    ///
    /// # Errors
    /// When the terminal cannot be set up, for one because standard output is none.
    pub fn start(color: bool, screen: Box<dyn Write>, end: Box<dyn Write>) -> io::Result<Self> {
        // crossterm looks at NO_COLOR by itself; here that has been decided with `--color`.
        crossterm::style::force_color_output(color);
        let guard = TerminalGuard::enter(end)?;
        let mut terminal = Terminal::new(CrosstermBackend::new(screen))?;
        // `Terminal::clear` asks where the cursor is.
        terminal.backend_mut().clear()?;
        // The first window takes a moment.
        terminal.draw(render::waiting)?;
        Ok(Self {
            state: ScreenState::new(color),
            frozen: None,
            terminal,
            _guard: guard,
        })
    }

    /// Shows a snapshot; while the screen is paused, the one that it was paused at.
    ///
    /// # Errors
    /// When the terminal cannot be written, for one because it is gone.
    pub fn draw(
        &mut self,
        snapshot: &Snapshot,
        intervals: Option<&Intervals>,
        sources: &dyn Sources,
    ) -> io::Result<()> {
        let snapshot = match self.state.paused() {
            true => self.frozen.get_or_insert_with(|| snapshot.clone()),
            false => {
                self.frozen = None;
                self.state.take_code(snapshot, intervals);
                snapshot
            }
        };
        let size = self.terminal.size()?;
        self.state.settle(snapshot, size.into());
        self.terminal
            .draw(|frame| render(frame, snapshot, &self.state, sources))?;
        Ok(())
    }

    /// Takes a key; the caller does what the action says.
    pub fn on_key(&mut self, key: KeyEvent) -> Action {
        self.state.on_key(key)
    }

    /// Takes any event of the terminal: a key, or a new size.
    pub fn on_event(&mut self, event: &Event) -> Action {
        match event {
            Event::Key(key) => self.on_key(*key),
            Event::Resize(..) => Action::Redraw,
            _ => Action::None,
        }
    }
}
