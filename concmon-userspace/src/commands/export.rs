//! `export`: what other tools read of a capture.

use std::{
    fs::File,
    io::{self, BufWriter, Read, Seek as _, Write as _},
    path::Path,
    rc::Rc,
};

use crate::session::{
    files::{Out, Recording, Target, Written},
    flames,
    outcome::{Failure, code},
    output, printed, privileges, say,
};
use crate::{
    capture::{CaptureError, Reader},
    cli::{By, Export, Format, Options},
    model::intervals::Intervals,
    source::replay::{Replay, Step},
    views::{
        escape::escape,
        export::{self, FlameFormat, perfetto::Perfetto},
    },
};

/// Writes what `export` says.
pub(super) fn run(options: &Options, export: &Export) -> Result<u8, Failure> {
    let unread = unread(&export.input);
    let mut replay = Replay::open(&export.input)
        .map_err(&unread)?
        .granted(export.memory.budget_bytes);
    if options.redact {
        replay = replay.redacted();
    }
    let sink = output::open_beside(options, &[&export.input])?;
    check_terminal(export.format, &sink.writer)?;
    let mut out = BufWriter::new(sink.writer);
    crate::session::settle_reader(privileges::CAPTURES, options.output.as_deref());
    let written = convert(replay, export.format, export.by, &mut out)
        .map_err(|error| unread(error.into()))?;
    finish(written, out)
}

fn check_terminal(format: Format, out: &Out) -> Result<(), Failure> {
    if matches!(format, Format::Perfetto | Format::Pprof) && out.is_terminal() {
        let message = "this format is not for terminals: name a file with -o FILE";
        return Err(Failure::new(code::USAGE, message));
    }
    Ok(())
}

/// Makes of a capture what another tool reads. Gives how writing went.
///
/// # Errors
/// Those of reading.
fn convert<R: Read>(
    replay: Replay<R>,
    format: Format,
    by: By,
    out: &mut BufWriter<Out>,
) -> io::Result<io::Result<()>> {
    let format = match format {
        Format::Perfetto => return perfetto(replay, out),
        Format::Speedscope => FlameFormat::Speedscope,
        Format::Collapsed => FlameFormat::Collapsed,
        Format::Svg => FlameFormat::Svg,
        Format::Pprof => FlameFormat::Pprof,
    };
    let by = match by {
        By::OnCpu => export::By::OnCpu,
        By::Gil => export::By::Gil,
        By::Lock => export::By::Lock,
        By::Io => export::By::Io,
        By::Wall => export::By::Wall,
        By::Blame => export::By::Blame,
    };
    Ok(flames::write(replay, format, by, out)?.map(|_| ()))
}

fn perfetto<R: Read>(replay: Replay<R>, out: &mut BufWriter<Out>) -> io::Result<io::Result<()>> {
    let info = replay.header().info.clone();
    let mut intervals = Intervals::new(&info);
    let mut trace = Perfetto::new(&info, &mut *out);
    let summary = replay.run(&mut |step| match step {
        Step::Before(event) => intervals.before(event),
        Step::Event(event) => intervals.apply(event, &mut trace),
        Step::Window(window) => trace.window(&window),
    });
    let summary = summary?;
    flames::warn_of_gaps(&summary);
    intervals.finish(&mut trace);
    let corrections = intervals.settle(&summary);
    Ok(trace.finish(&intervals, &corrections))
}

/// What a picture is made of.
enum Capture {
    /// It has no name, as what is made of it has none.
    Unnamed(File),
    Named(Rc<Written>),
}

/// What `record -f` makes at the end of a watch, of a capture that goes away then.
pub(super) struct AtEnd {
    capture: Capture,
    format: Format,
    by: By,
    /// `None`: it was written.
    out: Option<Out>,
}

impl Drop for AtEnd {
    /// Says where the capture is, where nothing was made of it.
    fn drop(&mut self) {
        if let Capture::Named(written) = &self.capture
            && matches!(written.open(), Ok(Some(_)))
        {
            let name = written.name.borrow();
            say(&format!(
                "concmon-bpf: what was recorded is in {name}, for report and export\n"
            ));
        }
    }
}

impl AtEnd {
    /// Nothing ran that could be recorded.
    pub(super) fn discard(self) {
        if let Capture::Named(written) = &self.capture
            && let Ok(Some(file)) = written.open()
        {
            written.remove(&file);
        }
    }

    /// Begins the file that `-o` names; without it one whose name begins with `stem`.
    pub(super) fn new(
        options: &Options,
        (format, by): (Format, By),
        stem: String,
    ) -> Result<(Self, Recording), Failure> {
        let path = options.output.as_deref();
        let target = path.map(Target::of).transpose()?;
        let open = target.as_ref().filter(|target| target.is_open());
        let unnamed = open.map(Target::is_stdout);
        let out = match target {
            Some(target) => target.create()?,
            None => Out::free(stem.clone(), ending(format))?,
        };
        check_terminal(format, &out)?;
        let (recording, capture) = match unnamed {
            Some(is_stdout) => {
                let (recording, file) = Recording::temporary(is_stdout)?;
                (recording, Capture::Unnamed(file))
            }
            None => {
                let recording = Recording::passing(path, &stem)?;
                let written = recording.written();
                (recording, Capture::Named(written))
            }
        };
        let at_end = Self {
            capture,
            format,
            by,
            out: Some(out),
        };
        Ok((at_end, recording))
    }

    /// The watch is over, and recorded.
    pub(super) fn write(mut self, quiet: bool) -> Result<(), Failure> {
        let failed = |error: CaptureError| {
            let message = format!("cannot read what was recorded: {error}");
            Failure::new(code::FAILURE, message)
        };
        let mut file = match &self.capture {
            Capture::Unnamed(file) => file.try_clone()?,
            Capture::Named(written) => match written.open()? {
                Some(file) => file,
                None => return Ok(()),
            },
        };
        file.rewind()?;
        let same = file.try_clone()?;
        let Some(out) = self.out.take() else {
            return Ok(());
        };
        let replay = Replay::new(Reader::new(file).map_err(failed)?);
        let mut out = BufWriter::new(out);
        let written = convert(replay, self.format, self.by, &mut out)
            .map_err(|error| failed(error.into()))?;
        let named = whole(written, out);
        if let (Capture::Named(written), Ok(_)) = (&self.capture, &named) {
            written.remove(&same);
        }
        let name = named.as_ref().map_or_else(|_| String::new(), String::clone);
        if printed(named.map(drop))? && !quiet {
            say(&format!("concmon-bpf: wrote {name}\n"));
        }
        Ok(())
    }
}

/// What names of files end with that have no name of the user's.
const fn ending(format: Format) -> &'static str {
    match format {
        Format::Perfetto => ".perfetto-trace",
        Format::Speedscope => ".speedscope.json",
        Format::Collapsed => ".collapsed",
        Format::Svg => ".svg",
        Format::Pprof => ".pb.gz",
    }
}

/// Says it where a capture gets a name that other tools' files have: `-f` was forgotten.
pub(super) fn warn_of_name(path: Option<&Path>) {
    let Some(path) = path else {
        return;
    };
    let name = path.to_string_lossy();
    let format = match name.rsplit('.').next() {
        Some("svg") => "svg",
        Some("json") => "speedscope",
        Some("pb" | "gz" | "pprof") => "pprof",
        Some("pftrace" | "perfetto-trace") => "perfetto",
        _ => return,
    };
    log::warn!(
        "{} will hold a capture, whatever its name is: with -f {format} it is what other tools read",
        escape(&name)
    );
}

/// Ends what was written to a file, of which no part is left where it is not whole.
pub(super) fn finish(written: io::Result<()>, out: BufWriter<Out>) -> Result<u8, Failure> {
    printed(whole(written, out).map(drop))?;
    Ok(code::OK)
}

/// Writes what is buffered behind what was written. Tells what the file is called.
fn whole(written: io::Result<()>, out: BufWriter<Out>) -> io::Result<String> {
    // What is buffered behind an error is not tried again.
    let (out, buffered) = out.into_parts();
    written?;
    let mut out = out;
    out.write_all(&buffered.unwrap_or_default())?;
    out.finish_named()
}

/// The failure to read a capture.
pub(super) fn unread(path: &Path) -> impl Fn(CaptureError) -> Failure {
    let name = escape(&path.to_string_lossy()).into_owned();
    move |error| Failure::new(code::FAILURE, format!("cannot read {name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All of the report's time is in the stacks, to the nanosecond.
    #[test]
    fn times_by_stack_add_up_to_the_report() {
        let capture: &[u8] = include_bytes!("../demo/misbehave.concmon");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("capture");
        std::fs::write(&file, capture).unwrap();
        let open = || Replay::open(&file).map(|replay| replay.granted(Some(u64::MAX / 2)));
        let (first, second) = match (open(), open()) {
            (Ok(first), Ok(second)) => (first, second),
            // It was made on another architecture.
            (Err(error), _) | (_, Err(error)) => {
                return eprintln!("SKIPPED times_by_stack_add_up_to_the_report: {error}");
            }
        };
        let summary = first.run(&mut |_| {}).unwrap();
        let mut want_ns = 0;
        for process in &summary.processes {
            let threads = process.threads.iter().map(|thread| thread.ledger.wall_ns);
            want_ns += threads.sum::<u64>() + process.ended.ledger.wall_ns;
        }
        for group in &summary.groups {
            want_ns += group.ended.ledger.wall_ns;
        }
        let out = Target::of(&folder.path().join("stacks")).unwrap();
        let mut out = BufWriter::new(out.create().unwrap());
        let written = convert(second, Format::Collapsed, By::Wall, &mut out).unwrap();
        whole(written, out).unwrap();
        let text = std::fs::read_to_string(folder.path().join("stacks")).unwrap();
        let counts = text.lines().filter_map(|line| line.rsplit_once(' '));
        let sum_ns: u64 = counts.map(|(_, ns)| ns.parse::<u64>().unwrap()).sum();
        assert!(want_ns > 0);
        assert_eq!(sum_ns, want_ns);
    }

    /// One step gives the bytes of two: recording, and exporting that.
    #[test]
    fn in_one_step_it_is_the_same() {
        let capture: &[u8] = include_bytes!("../demo/misbehave.concmon");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("capture");
        std::fs::write(&file, capture).unwrap();
        let out = |name: &str| Target::of(&folder.path().join(name)).unwrap();
        let bytes = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        for format in [
            Format::Perfetto,
            Format::Speedscope,
            Format::Collapsed,
            Format::Svg,
            Format::Pprof,
        ] {
            let replay = match Replay::open(&file) {
                // Other tests of this process take memory, too, which counts as the replay's.
                Ok(replay) => replay.granted(Some(u64::MAX / 2)),
                // It was made on another architecture.
                Err(error) => return eprintln!("SKIPPED in_one_step_it_is_the_same: {error}"),
            };
            let mut two = BufWriter::new(out("two").create().unwrap());
            let written = convert(replay, format, By::Wall, &mut two).unwrap();
            whole(written, two).unwrap();
            // As it stands behind its last byte when it has been recorded.
            let mut capture = File::open(&file).unwrap();
            io::copy(&mut capture, &mut io::sink()).unwrap();
            let at_end = AtEnd {
                capture: Capture::Unnamed(capture),
                format,
                by: By::Wall,
                out: Some(out("one").create().unwrap()),
            };
            at_end.write(true).unwrap();
            assert!(bytes("one").len() > 100, "{format:?}");
            assert_eq!(bytes("one"), bytes("two"), "{format:?}");
        }
    }
}
