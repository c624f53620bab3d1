//! Where snapshots go: the live screen, report lines, or NDJSON.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    rc::Rc,
};

use super::{
    files::{Out, Target, Written},
    outcome::{Failure, code},
    record::Progress,
};
use crate::{
    cli::Options,
    model::{snapshot::Snapshot, timing::NewStall},
    views::{Paint, json, lines, screen::Screen, stalls, summary},
};

/// Stalls that are printed at one time; the others are counted.
const MAX_STALL_LINES: usize = 5;

/// What a run prints while it goes on.
enum Windows {
    Json,
    Lines,
    Screen(Box<Screen>),
    /// Only the summary: standard output is the watched program's.
    None,
    /// Only the summary, and meanwhile on standard error how far a recording is.
    Recording(Progress),
}

/// The output of one run.
pub(super) struct Output {
    windows: Windows,
    json: bool,
    paint: Paint,
    /// The user's, while no live view silences it.
    log_level: log::LevelFilter,
    sink: Out,
}

impl Output {
    /// `shared`: the watched program writes to the same terminal.
    pub(super) fn new(options: &Options, sink: Sink, shared: bool) -> Result<Self, Failure> {
        let log_level = log::max_level();
        let Sink {
            writer,
            terminal,
            paint,
        } = sink;
        let windows = if options.json {
            Windows::Json
        } else if shared && options.output.is_none() {
            Windows::None
        } else if terminal && io::stdin().is_terminal() {
            let failed = |error| {
                Failure::new(
                    code::FAILURE,
                    format!("the terminal cannot show a live view: {error}"),
                )
            };
            let screen = Screen::start(paint == Paint::Ansi).map_err(failed)?;
            // Both would write to the same terminal.
            log::set_max_level(log::LevelFilter::Off);
            Windows::Screen(Box::new(screen))
        } else {
            Windows::Lines
        };
        Ok(Self {
            windows,
            json: options.json,
            paint,
            log_level,
            sink: writer,
        })
    }

    /// The output of a recording.
    pub(super) fn of_recording(
        options: &Options,
        sink: Sink,
        written: Rc<Written>,
        quiet: bool,
    ) -> Self {
        Self {
            windows: Windows::Recording(Progress::new(written, quiet)),
            json: options.json,
            paint: sink.paint,
            log_level: log::max_level(),
            sink: sink.writer,
        }
    }

    /// Shows how far a recording is.
    pub(super) fn progress(&mut self, window: &Snapshot, bytes: u64) {
        if let Windows::Recording(progress) = &mut self.windows {
            progress.show(window, bytes);
        }
    }

    /// Says how a recording ended; `false`: it is not whole.
    pub(super) fn recorded(&mut self, recorded: io::Result<u64>, summary: &Snapshot) -> bool {
        match &mut self.windows {
            Windows::Recording(progress) => progress.end(recorded, summary),
            _ => recorded.is_ok(),
        }
    }

    /// The live view, where there is one.
    pub(super) fn screen(&mut self) -> Option<&mut Screen> {
        match &mut self.windows {
            Windows::Screen(screen) => Some(screen),
            _ => None,
        }
    }

    /// Gives the terminal back, should there be a live view.
    pub(super) fn leave_screen(&mut self) {
        if matches!(self.windows, Windows::Screen(_)) {
            self.windows = Windows::None;
            log::set_max_level(self.log_level);
        }
    }

    pub(super) fn window(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        match &mut self.windows {
            Windows::Json => json::write(snapshot, &mut self.sink),
            Windows::Lines => lines::write(snapshot, self.paint, &mut self.sink),
            Windows::Screen(screen) => screen.draw(snapshot),
            Windows::None | Windows::Recording(_) => Ok(()),
        }
    }

    /// Stalls that have just become known. The live view shows them with its next window.
    pub(super) fn stalls(&mut self, stalls: &[NewStall]) -> io::Result<()> {
        match &mut self.windows {
            Windows::Json => stalls
                .iter()
                .try_for_each(|stall| stalls::write_json(stall, &mut self.sink)),
            Windows::Lines => {
                let mut worst: Vec<&NewStall> = stalls.iter().collect();
                worst.sort_by_key(|stall| std::cmp::Reverse(stall.stall.duration_ns));
                let (shown, hidden) = worst.split_at(worst.len().min(MAX_STALL_LINES));
                for stall in shown {
                    stalls::write_line(stall, self.paint, &mut self.sink)?;
                }
                if hidden.is_empty() {
                    return Ok(());
                }
                writeln!(self.sink, "... and {} more stalls", hidden.len())
            }
            Windows::Screen(_) | Windows::None | Windows::Recording(_) => Ok(()),
        }
    }

    /// Ends the output.
    pub(super) fn summary(mut self, snapshot: &Snapshot) -> io::Result<()> {
        self.leave_screen();
        if self.json {
            json::write(snapshot, &mut self.sink)
        } else {
            summary::write(snapshot, self.paint, &mut self.sink)
        }?;
        self.sink.finish()
    }
}

/// Where reports are written, and how.
pub(super) struct Sink {
    pub(super) writer: Out,
    /// Standard output, which was not named, is one.
    terminal: bool,
    pub(super) paint: Paint,
}

impl Sink {
    fn new(writer: Out, options: &Options) -> Self {
        let no_color = std::env::var_os("NO_COLOR");
        let color = options
            .color
            .enabled(writer.is_terminal(), no_color.as_deref());
        Self {
            terminal: options.output.is_none() && writer.is_terminal(),
            writer,
            paint: if color { Paint::Ansi } else { Paint::Plain },
        }
    }

    /// Whether bytes that are no text would meet a terminal.
    pub(super) fn is_terminal(&self) -> bool {
        self.writer.is_terminal()
    }
}

/// Opens what `-o` and `--color` say.
pub(super) fn open(options: &Options) -> Result<Sink, Failure> {
    open_beside(options, &[])
}

/// The same for a command that reads these captures.
pub(super) fn open_beside(options: &Options, inputs: &[&Path]) -> Result<Sink, Failure> {
    let writer = match &options.output {
        Some(path) => Target::beside(path, inputs)?.create()?,
        None => Out::stdout(),
    };
    Ok(Sink::new(writer, options))
}

/// Where a recording's summary goes: `-o` is the capture's. Where that is standard output, nothing
/// else goes there.
pub(super) fn open_for_recording(options: &Options, written: &Written) -> Result<Sink, Failure> {
    let writer = match written.is_stdout {
        true => Out::stderr()?,
        false => Out::stdout(),
    };
    Ok(Sink::new(writer, options))
}
