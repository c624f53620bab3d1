//! The command line of what is made of captures: `export` and `diff`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::PathBufValueParser;

use super::capture::{Memory, Unused};
use super::format::{By, Format};

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
