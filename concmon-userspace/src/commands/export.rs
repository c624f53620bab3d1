//! `export`: what other tools read of a capture.

use std::{
    io::{self, BufWriter, Write as _},
    path::Path,
};

use crate::session::{
    files::Out,
    outcome::{Failure, code},
    output, printed, privileges,
};
use crate::{
    capture::CaptureError,
    cli::{By, Export, Format, Options},
    model::intervals::{Intervals, NoSink},
    schema::Snapshot,
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
    let info = replay.header().info.clone();
    let sink = output::open_beside(options, &[&export.input])?;
    let binary = matches!(export.format, Format::Perfetto | Format::Pprof);
    if binary && sink.is_terminal() {
        let message = "this format is not for terminals: name a file with -o FILE";
        return Err(Failure::new(code::USAGE, message));
    }
    let mut out = BufWriter::new(sink.writer);
    crate::session::settle_reader(privileges::CAPTURES, options.output.as_deref());
    let mut intervals = Intervals::new(&info);
    let format = match export.format {
        Format::Perfetto => {
            let mut trace = Perfetto::new(&info, &mut out);
            let summary = replay.run(&mut |step| match step {
                Step::Before(event) => intervals.before(event),
                Step::Event(event) => intervals.apply(event, &mut trace),
                Step::Window(window) => trace.window(&window),
            });
            warn_of_gaps(&summary.map_err(|error| unread(error.into()))?);
            intervals.finish(&mut trace);
            let written = trace.finish(&intervals);
            return finish(written, out);
        }
        Format::Speedscope => FlameFormat::Speedscope,
        Format::Collapsed => FlameFormat::Collapsed,
        Format::Svg => FlameFormat::Svg,
        Format::Pprof => FlameFormat::Pprof,
    };
    let by = match export.by {
        By::OnCpu => export::By::OnCpu,
        By::Gil => export::By::Gil,
        By::Lock => export::By::Lock,
        By::Io => export::By::Io,
        By::Wall => export::By::Wall,
    };
    let summary = replay.run(&mut |step| match step {
        Step::Before(event) => intervals.before(event),
        Step::Event(event) => intervals.apply(event, &mut NoSink),
        Step::Window(_) => {}
    });
    warn_of_gaps(&summary.map_err(|error| unread(error.into()))?);
    intervals.finish(&mut NoSink);
    if intervals.flames().samples() == 0 {
        log::warn!("no stack was taken in this watch: its time is without stacks");
    }
    let written = export::write(format, by, &info, &intervals, &mut out);
    finish(written, out)
}

/// Ends what was written to a file, of which no part is left where it is not whole.
/// Writes what is buffered behind what was written.
pub(super) fn finish(written: io::Result<()>, out: BufWriter<Out>) -> Result<u8, Failure> {
    // What is buffered behind an error is not tried again.
    let (out, buffered) = out.into_parts();
    let written = written.and_then(|()| {
        let mut out = out;
        out.write_all(&buffered.unwrap_or_default())?;
        out.finish()
    });
    printed(written)?;
    Ok(code::OK)
}

/// What of a capture is missing, on standard error: other formats have no place for it.
fn warn_of_gaps(summary: &Snapshot) {
    for limit in summary
        .limits
        .iter()
        .filter(|limit| limit.field == "capture")
    {
        log::warn!("{}", limit.reason);
    }
    if summary.monitor.events_lost > 0 {
        log::warn!(
            "{} records were lost: detail is missing from the file that is written",
            summary.monitor.events_lost
        );
    }
}

/// The failure to read a capture.
pub(super) fn unread(path: &Path) -> impl Fn(CaptureError) -> Failure {
    let name = escape(&path.to_string_lossy()).into_owned();
    move |error| Failure::new(code::FAILURE, format!("cannot read {name}: {error}"))
}
