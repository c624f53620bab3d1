//! What `export`, and `record` in one step, can make of a capture.

use clap::ValueEnum;

/// Formats of other tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lowercase")]
pub enum Format {
    /// A trace for ui.perfetto.dev
    Perfetto,
    /// JSON for speedscope.app
    Speedscope,
    /// Collapsed stacks, in ns
    Collapsed,
    /// A flame graph as a picture
    Svg,
    /// profile.proto, gzipped
    Pprof,
}

/// Which time stacks tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "kebab-case")]
pub enum By {
    OnCpu,
    Gil,
    Lock,
    Io,
    Wall,
    /// Of the GIL and of locks: of whoever is known to have had them, while others waited
    Blame,
}
