//! The command line of what makes and reads captures: `record` and `report`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PathBufValueParser;
use clap::{ArgAction, Args};

use super::{MAX_PID, Watched, duration, sorted};

/// What to record, and where.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub(super) struct Record {
    #[command(flatten)]
    what: What,

    /// Write the capture to FILE
    #[arg(id = "output", short = 'o', long = "output", required = true, value_name = "FILE", value_parser = PathBufValueParser::new())]
    _output: PathBuf,

    /// Print the summary as one JSON object at the end
    #[arg(id = "json", long = "json")]
    _json: bool,

    /// Time between two windows of the capture, at least 100ms
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = duration::parse_interval)]
    pub(super) interval: Duration,

    /// Samples per second and CPU, by which it is told whose the time was; 0: none
    #[arg(short, long, value_name = "HZ", default_value_t = 99, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(super) rate: u32,

    /// A step of an event loop longer than this is a stall [default: the loop's own
    /// slow_callback_duration, else 100ms]
    #[arg(long, value_name = "TIME", value_parser = duration::parse_threshold)]
    pub(super) stall_threshold: Option<Duration>,
}

/// Exactly one of the two.
#[derive(Clone, Debug, Args)]
#[group(id = "recorded", required = true, multiple = false)]
struct What {
    /// Process to record; may be repeated
    #[arg(short, long = "pid", value_name = "PID", value_parser = clap::value_parser!(u32).range(1..=MAX_PID))]
    pids: Vec<u32>,

    /// Program to start and record from its first instruction
    #[arg(last = true, value_name = "CMD")]
    cmd: Vec<OsString>,
}

impl Record {
    pub(super) fn watched(&self) -> Watched {
        if self.what.pids.is_empty() {
            Watched::Command(self.what.cmd.clone())
        } else {
            Watched::Pids(sorted(&self.what.pids))
        }
    }
}

/// Which capture to read, and what of it.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Report {
    /// The capture to read
    #[arg(short, long, required = true, value_name = "FILE", value_parser = PathBufValueParser::new())]
    pub input: PathBuf,

    /// Print the summary as one JSON object
    #[arg(id = "json", long = "json")]
    _json: bool,

    /// Write a page to FILE, which needs no network: timeline, charts, flame graph, tables
    #[arg(long, value_name = "FILE", value_parser = PathBufValueParser::new())]
    pub html: Option<PathBuf>,

    #[command(flatten)]
    _unused: Unused,
}

/// Options that say nothing about a file. They are global: hidden, and refused with a reason.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(super) struct Unused {
    #[arg(id = "duration", short = 'd', long = "duration", hide = true, value_parser = duration::parse_duration)]
    _duration: Option<Duration>,
    #[arg(id = "_subprocesses", short = 's', long = "subprocesses", hide = true)]
    _subprocesses: bool,
    #[arg(id = "no_subprocesses", long = "no-subprocesses", hide = true)]
    _no_subprocesses: bool,
    #[arg(id = "context_vars", long = "context-var", hide = true, action = ArgAction::Append, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    _context_vars: Vec<String>,
}

impl Unused {
    pub(super) const ALL: [(&'static str, &'static str); 4] = [
        ("duration", "duration"),
        ("_subprocesses", "subprocesses"),
        ("no_subprocesses", "no-subprocesses"),
        ("context_vars", "context-var"),
    ];
}
