//! Where snapshots go: the live screen, report lines, or NDJSON.

use std::{
    io::{self, IsTerminal as _, Write},
    path::Path,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::termios::tcgetwinsize;
use tokio::signal::unix::SignalKind;

use super::{
    files::{Out, Target, Written, named},
    outcome::Failure,
    record::Progress,
    signals::{Request, Signals},
    sources::Sources,
    stream::{self, GLANCE, Kind, Pieces, Reader, Stream},
};
use crate::{
    cli::Options,
    model::{intervals::Intervals, timing::Notice},
    schema::Snapshot,
    views::{Form, Paint, json, lines, screen::Screen, stalls, summary},
};

/// Stalls and hangs that are printed at one time; the others are counted.
const MAX_STALL_LINES: usize = 5;
/// Those that wait for a reader; the others are counted.
const MAX_HELD_STALLS: usize = 1_024;

/// What a run prints while it goes on.
enum Windows {
    Json(Arc<Mutex<json::Stream>>),
    Lines,
    Screen(Box<Screen>, Sources),
    /// Only the summary: standard output is the watched program's.
    None,
    /// Only the summary, and meanwhile on standard error how far a recording is.
    Recording(Progress),
}

/// The output of one run.
pub(crate) struct Output {
    windows: Windows,
    json: bool,
    form: Form,
    /// The user's, while no live view silences it.
    log_level: log::LevelFilter,
    out: To,
    /// Stalls and hangs that have no line yet, because nobody reads.
    held: Vec<Notice>,
    /// Those above that, which get none.
    untold: usize,
    /// What comes now is the rest, which is taken whether there is room or not.
    ending: bool,
}

/// Where text goes.
enum To {
    File(Out),
    /// What somebody must read, and its name.
    Stream(Stream, String),
    /// It is ended.
    Ended,
}

impl To {
    fn new(writer: Out) -> io::Result<Self> {
        Ok(match writer.stream()? {
            Some(file) => To::Stream(Stream::new(file, "stdout")?, writer.shown()),
            None => To::File(writer),
        })
    }

    /// Writes a piece of output.
    fn put(
        &mut self,
        kind: Kind,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        match self {
            To::File(file) => write(file),
            To::Stream(stream, name) => {
                let mut text = Vec::new();
                write(&mut text)?;
                let sent = stream.send(kind, text);
                sent.map_err(|error| named(name, &error, ""))
            }
            To::Ended => Ok(()),
        }
    }

    /// The same, by whoever writes, when it is its turn.
    fn put_later(
        &mut self,
        kind: Kind,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let To::Stream(stream, name) = self else {
            return self.put(kind, write);
        };
        let make = || {
            let mut text = Vec::new();
            write(&mut text)?;
            Ok(text)
        };
        let sent = stream.send_later(kind, make);
        sent.map_err(|error| named(name, &error, ""))
    }
}

impl Output {
    /// `shared`: the watched program writes to the same terminal.
    pub(crate) fn new(options: &Options, sink: Sink, shared: bool) -> Result<Self, Failure> {
        let log_level = log::max_level();
        let Sink {
            writer,
            terminal,
            form,
        } = sink;
        let out = To::new(writer)?;
        let windows = if options.json {
            Windows::Json(Arc::new(Mutex::new(json::Stream::new(form.all()))))
        } else if shared && options.output.is_none() {
            Windows::None
        } else if terminal && io::stdin().is_terminal() {
            match screen(&out, form.paint) {
                Ok(screen) => {
                    // Both would write to the same terminal.
                    log::set_max_level(log::LevelFilter::Off);
                    Windows::Screen(Box::new(screen), Sources::default())
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
            form,
            log_level,
            out,
            held: Vec::new(),
            untold: 0,
            ending: false,
        })
    }

    /// The output of a recording.
    pub(crate) fn of_recording(
        options: &Options,
        sink: Sink,
        written: Rc<Written>,
        quiet: bool,
    ) -> Result<Self, Failure> {
        Ok(Self {
            windows: Windows::Recording(Progress::new(written, quiet)),
            json: options.json,
            form: sink.form,
            log_level: log::max_level(),
            out: To::new(sink.writer)?,
            held: Vec::new(),
            untold: 0,
            ending: false,
        })
    }

    /// Shows how far a recording is.
    pub(crate) fn progress(&mut self, window: &Snapshot, bytes: u64) {
        if let Windows::Recording(progress) = &mut self.windows {
            progress.show(window, bytes);
        }
    }

    /// Says how a recording ended; `false`: it is not whole.
    pub(crate) fn recorded(&mut self, recorded: io::Result<u64>, summary: &Snapshot) -> bool {
        match &mut self.windows {
            Windows::Recording(progress) => progress.end(recorded, summary),
            _ => recorded.is_ok(),
        }
    }

    /// The live view, where there is one.
    pub(crate) fn screen(&mut self) -> Option<&mut Screen> {
        match &mut self.windows {
            Windows::Screen(screen, _) => Some(screen),
            _ => None,
        }
    }

    /// Whether another report may be made. Where nobody reads, windows get longer instead.
    pub(crate) fn has_room(&self) -> bool {
        match &self.out {
            To::File(_) | To::Ended => true,
            To::Stream(stream, _) => self.ending || stream.has_room(),
        }
    }

    /// Gives the terminal back, should there be a live view. What comes now is the rest.
    pub(crate) fn end(&mut self) {
        self.ending = true;
        if matches!(self.windows, Windows::Screen(..)) {
            self.windows = Windows::None;
            log::set_max_level(self.log_level);
        }
    }

    /// Tells of a window. `intervals`: of the same watch, for who shows time by stack. Where there is a screen, gives
    /// it back.
    pub(crate) fn window(
        &mut self,
        snapshot: Snapshot,
        intervals: Option<&Intervals>,
    ) -> io::Result<Option<Snapshot>> {
        let form = self.form;
        match &mut self.windows {
            Windows::Json(stream) => {
                let stream = Arc::clone(stream);
                self.out.put_later(Kind::Report, move |out| {
                    let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
                    stream.write(snapshot, out)
                })?;
            }
            Windows::Lines => self
                .out
                .put_later(Kind::Report, move |out| lines::write(&snapshot, form, out))?,
            Windows::Screen(screen, sources) => {
                match &self.out {
                    // The next window is shown instead.
                    To::Stream(stream, _) if !stream.has_room() => {}
                    _ => screen.draw(&snapshot, intervals, sources)?,
                }
                return Ok(Some(snapshot));
            }
            Windows::None | Windows::Recording(_) => {}
        }
        Ok(None)
    }

    /// Stalls and hangs that have just become known. The live view shows them with its next window.
    ///
    /// It also says when nobody reads any more.
    pub(crate) fn notices(&mut self, notices: Vec<Notice>) -> io::Result<()> {
        if let To::Stream(stream, name) = &self.out {
            let written = stream.check();
            written.map_err(|error| named(name, &error, ""))?;
        }
        if !matches!(self.windows, Windows::Json(_) | Windows::Lines) {
            return Ok(());
        }
        let json = self.json;
        let has_line = |notice: &Notice| match json {
            true => !matches!(notice, Notice::StillHangs(_)),
            // A hang that is over in a moment has the line of its stall.
            false => !matches!(notice, Notice::Hang(_)),
        };
        for notice in notices.into_iter().filter(has_line) {
            match self.held.len() < MAX_HELD_STALLS {
                true => self.held.push(notice),
                false => self.untold += 1,
            }
        }
        if self.held.is_empty() || !self.has_room() {
            return Ok(());
        }
        let mut notices = std::mem::take(&mut self.held);
        if self.json {
            return self.out.put(Kind::Stalls(notices.len()), |out| {
                notices
                    .iter()
                    .try_for_each(|notice| stalls::write_json(notice, out))
            });
        }
        let (form, untold) = (self.form, std::mem::take(&mut self.untold));
        notices.sort_by_key(|notice| std::cmp::Reverse(notice.length_ns()));
        self.out.put(Kind::Stalls(notices.len() + untold), |out| {
            let (shown, hidden) = notices.split_at(notices.len().min(MAX_STALL_LINES));
            for notice in shown {
                stalls::write_line(notice, form, out)?;
            }
            match hidden.len() + untold {
                0 => Ok(()),
                more => writeln!(out, "... and {more} more stalls and hangs"),
            }
        })
    }

    pub(crate) fn summary(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let form = self.form;
        let json = self.json;
        self.out.put(Kind::Summary, |out| match json {
            true => json::write(snapshot, out),
            false => summary::write(snapshot, form, out),
        })
    }

    /// Ends the output: a file gets its name. Waits until everything is read, or, once a signal has come, until nobody has read for a while.
    /// `signal` is the one that has come. `false`: something was dropped, which is said.
    ///
    /// # Errors
    /// With which writing has failed.
    pub(crate) async fn drain(
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
        let (stream, name) = match std::mem::replace(&mut self.out, To::Ended) {
            To::File(file) => return file.finish().map(|()| true),
            To::Ended => return Ok(true),
            To::Stream(stream, name) => (stream, name),
        };
        self.out = To::Stream(stream.clone(), name.clone());
        let mut reader = Reader::new(&stream);
        while !stream.is_idle() {
            if signal.is_none() {
                reader = Reader::new(&stream);
            } else if reader.is_gone(&stream) {
                let dropped = stream.give_up();
                stream::say(&format!("concmon-bpf: {dropped}: nobody reads {name}\n"));
                return Ok(false);
            }
            tokio::select! {
                biased;
                request = signals.next(), if signal.is_none() => if let Request::End(kind) = request {
                    *signal = Some(kind);
                },
                () = tokio::time::sleep(GLANCE) => {}
            }
        }
        let written = stream.check();
        written.map_err(|error| named(&name, &error, ""))?;
        Ok(true)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.end();
        if let To::Stream(stream, _) = &self.out {
            stream.drain();
        }
    }
}

/// The live view, on a terminal that can show it.
fn screen(out: &To, paint: Paint) -> io::Result<Screen> {
    let To::Stream(stream, _) = out else {
        return Err(io::Error::other("standard output is no terminal"));
    };
    if std::env::var_os("TERM").is_some_and(|kind| kind == "dumb") {
        return Err(io::Error::other("TERM=dumb"));
    }
    let pieces = || Box::new(Pieces::new(stream.clone()));
    Screen::start(paint == Paint::Ansi, pieces(), pieces())
}

/// Where reports are written, and how.
pub(crate) struct Sink {
    pub(crate) writer: Out,
    /// Standard output, which was not named, is one.
    terminal: bool,
    pub(crate) form: Form,
}

impl Sink {
    fn new(writer: Out, options: &Options) -> Self {
        let no_color = std::env::var_os("NO_COLOR");
        let color = options
            .color
            .enabled(writer.is_terminal(), no_color.as_deref());
        let paint = if color { Paint::Ansi } else { Paint::Plain };
        let terminal = options.output.is_none() && writer.is_terminal();
        // Of the terminal, where standard output is one.
        let size = terminal.then(|| tcgetwinsize(io::stdout()).ok()).flatten();
        let width = size.map(|size| usize::from(size.ws_col));
        Self {
            terminal,
            writer,
            form: Form::new(paint, width, options.verbose > 0),
        }
    }
}

/// Opens what `-o` and `--color` say.
pub(crate) fn open(options: &Options) -> Result<Sink, Failure> {
    open_beside(options, &[])
}

/// The same for a command that reads these captures.
pub(crate) fn open_beside(options: &Options, inputs: &[&Path]) -> Result<Sink, Failure> {
    let writer = match &options.output {
        Some(path) => Target::beside(path, inputs)?.create()?,
        None => Out::stdout(),
    };
    Ok(Sink::new(writer, options))
}

/// Where a recording's summary goes: `-o` is the capture's. Where that is standard output, nothing
/// else goes there.
pub(crate) fn open_for_recording(options: &Options, written: &Written) -> Result<Sink, Failure> {
    let writer = match written.is_stdout {
        true => Out::stderr()?,
        false => Out::stdout(),
    };
    Ok(Sink::new(writer, options))
}
