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

use tokio::signal::unix::SignalKind;

use super::{
    outcome::{Failure, code, why},
    record::Progress,
    signals::{Request, Signals},
    stream::{self, GLANCE, Kind, Pieces, Reader, Stream},
};
use crate::{
    cli::Options,
    model::{snapshot::Snapshot, timing::NewStall},
    views::{Paint, escape::escape, json, lines, screen::Screen, stalls, summary},
};

/// Stalls that are printed at one time; the others are counted.
const MAX_STALL_LINES: usize = 5;
/// Stalls that wait for a reader; the others are counted.
const MAX_HELD_STALLS: usize = 1_024;

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
    out: Out,
    /// Stalls that have no line yet, because nobody reads.
    held: Vec<NewStall>,
    /// Stalls above that, which get none.
    untold: usize,
    /// What comes now is the rest, which is taken whether there is room or not.
    ending: bool,
}

/// Where text goes.
enum Out {
    File(Box<dyn Write>),
    /// What somebody must read.
    Stream(Stream),
}

impl Out {
    fn new(writer: Box<dyn Write>, stream: Option<File>) -> io::Result<Self> {
        Ok(match stream {
            Some(file) => Out::Stream(Stream::new(file, "stdout")?),
            None => Out::File(writer),
        })
    }

    /// Writes a piece of output.
    fn put(
        &mut self,
        kind: Kind,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        match self {
            Out::File(file) => write(file),
            Out::Stream(stream) => {
                let mut text = Vec::new();
                write(&mut text)?;
                stream.send(kind, text)
            }
        }
    }
}

impl Output {
    /// `shared`: the watched program writes to the same terminal.
    pub(super) fn new(options: &Options, shared: bool) -> Result<Self, Failure> {
        let log_level = log::max_level();
        let Sink {
            writer,
            stream,
            terminal,
            paint,
        } = open(options)?;
        let out = Out::new(writer, stream)?;
        let windows = if options.json {
            Windows::Json
        } else if shared && options.output.is_none() {
            Windows::None
        } else if terminal && io::stdin().is_terminal() {
            match screen(&out, paint) {
                Ok(screen) => {
                    // Both would write to the same terminal.
                    log::set_max_level(log::LevelFilter::Off);
                    Windows::Screen(Box::new(screen))
                }
                Err(error) => {
                    stream::say(&format!(
                        "concmon-bpf: the terminal cannot show a live view ({error}): report lines instead\n"
                    ));
                    Windows::Lines
                }
            }
        } else {
            Windows::Lines
        };
        Ok(Self {
            windows,
            json: options.json,
            paint,
            log_level,
            out,
            held: Vec::new(),
            untold: 0,
            ending: false,
        })
    }

    /// The output of a recording: the file of `-o` is the capture's.
    pub(super) fn of_recording(options: &Options, quiet: bool) -> Result<Self, Failure> {
        let mut report = options.clone();
        report.output = None;
        let Sink {
            writer,
            stream,
            paint,
            ..
        } = open(&report)?;
        Ok(Self {
            windows: Windows::Recording(Progress::new(quiet)),
            json: options.json,
            paint,
            log_level: log::max_level(),
            out: Out::new(writer, stream)?,
            held: Vec::new(),
            untold: 0,
            ending: false,
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

    /// Whether another report may be made. Where nobody reads, windows get longer instead.
    pub(super) fn has_room(&self) -> bool {
        match &self.out {
            Out::File(_) => true,
            Out::Stream(stream) => self.ending || stream.has_room(),
        }
    }

    /// Gives the terminal back, should there be a live view. What comes now is the rest.
    pub(super) fn end(&mut self) {
        self.ending = true;
        if matches!(self.windows, Windows::Screen(_)) {
            self.windows = Windows::None;
            log::set_max_level(self.log_level);
        }
    }

    pub(super) fn window(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let paint = self.paint;
        match &mut self.windows {
            Windows::Json => self
                .out
                .put(Kind::Report, |mut out| json::write(snapshot, &mut out)),
            Windows::Lines => self.out.put(Kind::Report, |mut out| {
                lines::write(snapshot, paint, &mut out)
            }),
            Windows::Screen(screen) => match &self.out {
                // The next window is shown instead.
                Out::Stream(stream) if !stream.has_room() => Ok(()),
                _ => screen.draw(snapshot),
            },
            Windows::None | Windows::Recording(_) => Ok(()),
        }
    }

    /// Stalls that have just become known. The live view shows them with its next window.
    ///
    /// It also says when nobody reads any more.
    pub(super) fn stalls(&mut self, stalls: Vec<NewStall>) -> io::Result<()> {
        if let Out::Stream(stream) = &self.out {
            stream.check()?;
        }
        if !matches!(self.windows, Windows::Json | Windows::Lines) {
            return Ok(());
        }
        for stall in stalls {
            match self.held.len() < MAX_HELD_STALLS {
                true => self.held.push(stall),
                false => self.untold += 1,
            }
        }
        if self.held.is_empty() || !self.has_room() {
            return Ok(());
        }
        let mut stalls = std::mem::take(&mut self.held);
        if self.json {
            return self.out.put(Kind::Stalls(stalls.len()), |out| {
                stalls
                    .iter()
                    .try_for_each(|stall| stalls::write_json(stall, out))
            });
        }
        let (paint, untold) = (self.paint, std::mem::take(&mut self.untold));
        stalls.sort_by_key(|stall| std::cmp::Reverse(stall.stall.duration_ns));
        self.out.put(Kind::Stalls(stalls.len() + untold), |out| {
            let (shown, hidden) = stalls.split_at(stalls.len().min(MAX_STALL_LINES));
            for stall in shown {
                stalls::write_line(stall, paint, out)?;
            }
            match hidden.len() + untold {
                0 => Ok(()),
                more => writeln!(out, "... and {more} more stalls"),
            }
        })
    }

    pub(super) fn summary(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let paint = self.paint;
        let json = self.json;
        self.out.put(Kind::Summary, |out| match json {
            true => json::write(snapshot, out),
            false => summary::write(snapshot, paint, out),
        })
    }

    /// Waits until everything is read, or, once a signal has come, until nobody has read for a while.
    /// `signal` is the one that has come. `false`: something was dropped, which is said.
    ///
    /// # Errors
    /// With which writing has failed.
    pub(super) async fn drain(
        &mut self,
        signals: &mut Signals,
        signal: &mut Option<SignalKind>,
    ) -> io::Result<bool> {
        if self.untold > 0 {
            stream::say(&format!(
                "concmon-bpf: {} stalls have no line of their own, as nobody read: reports count them\n",
                self.untold
            ));
        }
        let Out::Stream(stream) = &self.out else {
            return Ok(true);
        };
        let mut reader = Reader::new(stream);
        while !stream.is_idle() {
            if signal.is_none() {
                reader = Reader::new(stream);
            } else if reader.is_gone(stream) {
                let dropped = stream.give_up();
                stream::say(&format!(
                    "concmon-bpf: {dropped}: nobody reads standard output\n"
                ));
                return Ok(false);
            }
            tokio::select! {
                biased;
                request = signals.next(), if signal.is_none() => if let Request::End(kind) = request {
                    *signal = Some(kind);
                    signals.next_aborts(*signal);
                },
                () = tokio::time::sleep(GLANCE) => {}
            }
        }
        stream.check()?;
        Ok(true)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.end();
        if let Out::Stream(stream) = &self.out {
            stream.drain();
        }
    }
}

/// The live view, on a terminal that can show it.
fn screen(out: &Out, paint: Paint) -> io::Result<Screen> {
    let Out::Stream(stream) = out else {
        return Err(io::Error::other("standard output is no terminal"));
    };
    if std::env::var_os("TERM").is_some_and(|kind| kind == "dumb") {
        return Err(io::Error::other("TERM=dumb"));
    }
    let pieces = || Box::new(Pieces::new(stream.clone()));
    Screen::start(paint == Paint::Ansi, pieces(), pieces())
}

/// Where reports are written, and how.
pub(super) struct Sink {
    pub(super) writer: Box<dyn Write>,
    /// The same, unless it is an ordinary file.
    stream: Option<File>,
    terminal: bool,
    pub(super) paint: Paint,
}

/// Opens what `-o` and `--color` say.
pub(super) fn open(options: &Options) -> Result<Sink, Failure> {
    let (writer, stream, terminal): (Box<dyn Write>, _, bool) = match &options.output {
        Some(path) => {
            let file = create(path)?;
            let stream = stream::of(&file)?;
            (Box::new(file), stream, false)
        }
        None => {
            let stdout = io::stdout();
            let stream = stream::of(&stdout)?;
            let terminal = stdout.is_terminal();
            (Box::new(stdout), stream, terminal)
        }
    };
    let no_color = std::env::var_os("NO_COLOR");
    let color = options.color.enabled(terminal, no_color.as_deref());
    Ok(Sink {
        writer,
        stream,
        terminal,
        paint: if color { Paint::Ansi } else { Paint::Plain },
    })
}

/// The name of a file, for a message.
pub(super) fn shown(path: &Path) -> String {
    escape(&path.to_string_lossy()).into_owned()
}

/// Refuses to write over the capture that is read.
pub(super) fn refuse_input(output: Option<&Path>, inputs: &[&Path]) -> Result<(), Failure> {
    let identity = |path: &Path| path.metadata().ok().map(|file| (file.dev(), file.ino()));
    let Some((output, written)) = output.and_then(|path| Some((path, identity(path)?))) else {
        return Ok(());
    };
    if inputs.iter().any(|input| identity(input) == Some(written)) {
        let message = format!("{} is read: name another file to write", shown(output));
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
        log::warn!("{} is not whole, and stays: {error}", shown(path));
    }
}

/// Creates a file that only its owner can read. Under sudo, that is the user who called it.
pub(super) fn create(path: &Path) -> Result<File, Failure> {
    let failed = |error: io::Error| {
        Failure::new(
            code::FAILURE,
            format!("cannot write {}: {}", shown(path), why(&error)),
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
