//! Files for other tools: Perfetto's trace, and time by stack for speedscope, pprof, flame graphs.

mod collapsed;
pub mod perfetto;
mod pprof;
mod speedscope;
mod stacks;
mod svg;
#[cfg(test)]
mod tests;

use std::io::{self, Write};

use crate::model::WatchInfo;
use crate::model::intervals::Intervals;

pub use stacks::By;
use stacks::Stacks;

/// A format of time by stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlameFormat {
    /// JSON of <https://www.speedscope.app>: one profile per thread.
    Speedscope,
    /// One line per stack, as `flamegraph.pl` and its kin read it; in ns.
    Collapsed,
    /// A flame graph to look at.
    Svg,
    /// Gzipped `profile.proto` of <https://github.com/google/pprof>.
    Pprof,
}

/// Writes the time by stack of a finished watch.
///
/// # Errors
/// What the writer says. A flame graph of nothing is [`io::ErrorKind::InvalidInput`].
pub fn write(
    format: FlameFormat,
    by: By,
    info: &WatchInfo,
    intervals: &Intervals,
    out: &mut dyn Write,
) -> io::Result<()> {
    let stacks = Stacks::of(intervals, by);
    match format {
        FlameFormat::Speedscope => speedscope::write(&stacks, &info.version, out)?,
        FlameFormat::Collapsed => collapsed::write(&stacks, out)?,
        FlameFormat::Svg => svg::write(&stacks, out)?,
        FlameFormat::Pprof => pprof::write(&stacks, info, intervals, out)?,
    }
    out.flush()
}
