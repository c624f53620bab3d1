//! Time by stack of a recording.

use std::io::{self, Read, Write};

use crate::{
    model::intervals::{Intervals, NoSink},
    schema::Snapshot,
    source::replay::{Replay, Step},
    views::export::{self, By, FlameFormat},
};

/// Writes the time by stack of a capture. Gives how writing went, and the summary of the capture.
///
/// # Errors
/// Those of reading.
pub(crate) fn write<R: Read>(
    replay: Replay<R>,
    format: FlameFormat,
    by: By,
    out: &mut dyn Write,
) -> io::Result<io::Result<Snapshot>> {
    let info = replay.header().info.clone();
    let mut intervals = Intervals::new(&info);
    if by == By::Blame {
        intervals = intervals.with_blame();
    }
    let summary = replay.run(&mut |step| match step {
        Step::Before(event) => intervals.before(event),
        Step::Event(event) => intervals.apply(event, &mut NoSink),
        Step::Window(_) => {}
    });
    let summary = summary?;
    warn_of_gaps(&summary);
    intervals.finish(&mut NoSink);
    intervals.settle(&summary);
    if intervals.flames().samples() == 0 {
        log::warn!("no stack was taken in this watch: its time is without stacks");
    }
    Ok(export::write(format, by, &info, &intervals, out).map(|()| summary))
}

/// What of a capture is missing, on standard error: other formats have no place for it.
pub(crate) fn warn_of_gaps(summary: &Snapshot) {
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
