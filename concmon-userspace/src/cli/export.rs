//! The command line of what is made of captures: `export` and `diff`.

use std::path::PathBuf;

use clap::builder::PathBufValueParser;
use clap::{Args, ValueEnum};

use super::capture::{Memory, Unused};

/// What to make of a capture.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Export {
    /// The capture to read
    #[arg(short, long, required = true, value_name = "FILE", value_parser = PathBufValueParser::new())]
    pub input: PathBuf,

    /// What to write
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Format,

    /// Which time to tell by stack; io: also in selectors and disk. Not for perfetto, which has all
    #[arg(long, value_name = "TIME", default_value = "on-cpu")]
    pub by: By,

    #[arg(id = "json", long = "json", hide = true)]
    _json: bool,

    #[command(flatten)]
    pub memory: Memory,

    #[command(flatten)]
    _unused: Unused,
}

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
}

/// Which captures to compare.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Diff {
    /// The capture to compare with
    #[arg(value_parser = PathBufValueParser::new())]
    pub before: PathBuf,

    /// The capture that may differ
    #[arg(value_parser = PathBufValueParser::new())]
    pub after: PathBuf,

    /// Print the changes as one JSON object
    #[arg(id = "json", long = "json")]
    _json: bool,

    #[command(flatten)]
    pub memory: Memory,

    #[command(flatten)]
    _unused: Unused,
}
