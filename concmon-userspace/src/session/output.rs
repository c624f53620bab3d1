//! Where snapshots go: the live screen, report lines, or NDJSON.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write},
    os::{
        fd::AsRawFd as _,
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::Path,
};

use super::{
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
    sink: Box<dyn Write>,
}

impl Output {
    /// `shared`: the watched program writes to the same terminal.
    pub(super) fn new(options: &Options, shared: bool) -> Result<Self, Failure> {
        let log_level = log::max_level();
        let Sink {
            writer,
            terminal,
            paint,
        } = open(options)?;
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

    /// The output of a recording: the file of `-o` is the capture's.
    pub(super) fn of_recording(options: &Options, quiet: bool) -> Result<Self, Failure> {
        let mut report = options.clone();
        report.output = None;
        let Sink { writer, paint, .. } = open(&report)?;
        Ok(Self {
            windows: Windows::Recording(Progress::new(quiet)),
            json: options.json,
            paint,
            log_level: log::max_level(),
            sink: writer,
        })
    }

    /// Shows how far a recording is.
    pub(super) fn progress(&mut self, window: &Snapshot, bytes: u64) {
        if let Windows::Recording(progress) = &mut self.windows {
            progress.show(window, bytes);
        }
    }

    /// Says how a recording ended; `false`: it is not whole.
    pub(super) fn recorded(
        &mut self,
        recorded: io::Result<u64>,
        summary: &Snapshot,
        path: Option<&Path>,
    ) -> bool {
        match &mut self.windows {
            Windows::Recording(progress) => progress.end(recorded, summary, path),
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

    pub(super) fn summary(mut self, snapshot: &Snapshot) -> io::Result<()> {
        self.leave_screen();
        if self.json {
            json::write(snapshot, &mut self.sink)
        } else {
            summary::write(snapshot, self.paint, &mut self.sink)
        }
    }
}

/// Where reports are written, and how.
pub(super) struct Sink {
    pub(super) writer: Box<dyn Write>,
    terminal: bool,
    pub(super) paint: Paint,
}

/// Opens what `-o` and `--color` say.
pub(super) fn open(options: &Options) -> Result<Sink, Failure> {
    let (writer, terminal): (Box<dyn Write>, bool) = match &options.output {
        Some(path) => (Box::new(create(path)?), false),
        None => (Box::new(io::stdout()), io::stdout().is_terminal()),
    };
    let no_color = std::env::var_os("NO_COLOR");
    let color = options.color.enabled(terminal, no_color.as_deref());
    Ok(Sink {
        writer,
        terminal,
        paint: if color { Paint::Ansi } else { Paint::Plain },
    })
}

/// Refuses to write over the capture that is read.
pub(super) fn refuse_input(output: Option<&Path>, inputs: &[&Path]) -> Result<(), Failure> {
    let identity = |path: &Path| path.metadata().ok().map(|file| (file.dev(), file.ino()));
    let Some((output, written)) = output.and_then(|path| Some((path, identity(path)?))) else {
        return Ok(());
    };
    if inputs.iter().any(|input| identity(input) == Some(written)) {
        let message = format!("{} is read: name another file to write", output.display());
        return Err(Failure::new(code::USAGE, message));
    }
    Ok(())
}

/// Removes the file that could not be written to its end: nobody can read a part of it. What is no
/// ordinary file stays.
pub(super) fn discard_part(written: &io::Result<()>, path: Option<&Path>) {
    if let (Err(_), Some(path)) = (written, path)
        && path.symlink_metadata().is_ok_and(|file| file.is_file())
        && let Err(error) = std::fs::remove_file(path)
    {
        log::warn!("{} is not whole, and stays: {error}", path.display());
    }
}

/// Creates a file that only its owner can read. Under sudo, that is the user who called it.
pub(super) fn create(path: &Path) -> Result<File, Failure> {
    let failed = |error: io::Error| {
        Failure::new(
            code::FAILURE,
            format!("cannot write {}: {error}", path.display()),
        )
    };
    let mut options = std::fs::OpenOptions::new();
    options.write(true).mode(0o600);
    match options.clone().create_new(true).open(path) {
        Ok(file) => {
            give_to_caller(&file).map_err(failed)?;
            Ok(file)
        }
        // What is there already keeps its owner: it may be a device.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            options.truncate(true).open(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

fn give_to_caller(file: &File) -> io::Result<()> {
    let id = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u32>().ok())
    };
    // SAFETY: a system call without pointers.
    if unsafe { libc::geteuid() } != 0 {
        return Ok(());
    }
    let (Some(user), Some(group)) = (id("SUDO_UID"), id("SUDO_GID")) else {
        return Ok(());
    };
    // SAFETY: an open descriptor.
    if unsafe { libc::fchown(file.as_raw_fd(), user, group) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
