//! The command line of what makes and reads captures: `record` and `report`.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PathBufValueParser;
use clap::{ArgAction, Args};

use super::format::{By, Format};
use super::instant::{self, Instant};
use super::trigger::{self, Trigger};
use super::{Watched, Watching, What, duration};

/// What to record, and where.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub(super) struct Record {
    #[command(flatten)]
    what: What,

    /// Write the capture to FILE, and make a capture that is there FILE.old [default:
    /// PROGRAM-PID-TIME.concmon]; with --ring, the folder where files go [default: .]; with
    /// --format, what that says
    #[arg(id = "output", short = 'o', long = "output", value_name = "FILE", value_parser = PathBufValueParser::new())]
    _output: Option<PathBuf>,

    /// Write what other tools read instead of a capture, as export does of one; until then what is
    /// recorded is in FILE.concmon, which stays where this is killed
    #[arg(short, long, value_name = "FORMAT", conflicts_with = "ring")]
    format: Option<Format>,

    /// Which time --format tells by stack; not for perfetto, which has all
    #[arg(
        long,
        value_name = "TIME",
        default_value = "on-cpu",
        requires = "format"
    )]
    by: By,

    /// Flight recorder: keep only the last TIME, in memory, and write it with 3 seconds more when a
    /// trigger says so, at SIGUSR2, at Ctrl-C, or when a target dies
    #[arg(long, value_name = "TIME", value_parser = duration::parse_duration)]
    ring: Option<Duration>,

    /// Most memory for what --ring keeps
    #[arg(long, value_name = "SIZE", default_value = "64MB", requires = "ring", value_parser = size)]
    ring_size: u64,

    /// Write when this becomes so: lag>200ms, stall, stall>1s, 'gil>0.9 for 10s', or a finding's name;
    /// may be repeated
    #[arg(long, value_name = "WHEN", requires = "ring", value_parser = trigger::parse)]
    trigger: Vec<Trigger>,

    /// Keep the ring in a file of that size, too, so that it outlives a SIGKILL of this program
    #[arg(long, requires = "ring")]
    on_disk: bool,

    /// Delete older files that a flight recorder of the same program has written whole, above this
    /// number
    #[arg(long, value_name = "N", default_value_t = 10, requires = "ring", value_parser = clap::value_parser!(u32).range(1..))]
    keep: u32,

    /// Take the last stretch of a service from the flight recorder that an agent keeps of it, instead of
    /// watching anything
    #[arg(long, group = "wanted", requires = "service", conflicts_with_all = ["selected", "cmd", "ring", "format"])]
    from_agent: bool,

    /// The service, as the agent calls it
    #[arg(long, value_name = "NAME", requires = "from_agent")]
    service: Option<String>,

    /// How much of it, at least
    #[arg(long, value_name = "TIME", default_value = "60s", requires = "from_agent", value_parser = duration::parse_duration)]
    last: Duration,

    /// The agent's local socket
    #[arg(long, value_name = "PATH", default_value = FromAgent::SOCKET, requires = "from_agent", value_parser = PathBufValueParser::new())]
    socket: PathBuf,

    /// Print the summary as one JSON object at the end
    #[arg(id = "json", long = "json")]
    _json: bool,

    #[command(flatten)]
    pub(super) watching: Watching,
}

/// What becomes of what is recorded.
#[derive(Clone, Debug, PartialEq)]
pub enum Recorded {
    /// A file.
    Capture,
    /// What `export` would make of one.
    Export(Format, By),
    Flight(Flight),
}

/// A flight recorder as it is wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Flight {
    pub span: Duration,
    /// Bytes.
    pub ring_size: u64,
    pub triggers: Vec<Trigger>,
    pub on_disk: bool,
    /// Files of a service that are kept.
    pub keep: usize,
}

/// What is wanted of an agent's flight recorder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FromAgent {
    pub service: String,
    pub last: Duration,
    pub socket: PathBuf,
}

impl FromAgent {
    /// Where an agent listens, unless it was said where.
    pub const SOCKET: &'static str = "/run/concmon/agent.sock";
}

impl Record {
    /// What is wanted of an agent; `None`: nothing.
    pub(super) fn asked(&self) -> Option<FromAgent> {
        self.from_agent.then(|| FromAgent {
            service: self.service.clone().unwrap_or_default(),
            last: self.last,
            socket: self.socket.clone(),
        })
    }

    pub(super) fn recorded(&self) -> Recorded {
        match (self.ring, self.format) {
            (Some(span), _) => Recorded::Flight(Flight {
                span,
                ring_size: self.ring_size,
                triggers: self.trigger.clone(),
                on_disk: self.on_disk,
                keep: self.keep as usize,
            }),
            (None, Some(format)) => Recorded::Export(format, self.by),
            (None, None) => Recorded::Capture,
        }
    }

    pub(super) fn watched(&self) -> Watched {
        self.what.watched()
    }
}

/// Which capture to read, and what of it.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Report {
    /// The capture to read
    #[arg(short, long, required = true, value_name = "FILE", value_parser = PathBufValueParser::new())]
    pub input: PathBuf,

    /// Report from here on: an instant (2026-01-02T03:04:05Z, or seconds after 1970), or -10s from
    /// the end; moved back to the end of a window
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true, value_parser = instant::parse)]
    pub since: Option<Instant>,

    /// Report up to here, likewise; moved forward to the end of a window
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true, value_parser = instant::parse)]
    pub until: Option<Instant>,

    /// Print windows of this length before the summary
    #[arg(long, value_name = "TIME", value_parser = duration::parse_interval)]
    pub per: Option<Duration>,

    /// Print JSON, one object per line: the summary, and before it the windows of --per
    #[arg(id = "json", long = "json")]
    _json: bool,

    /// Write a page to FILE, which needs no network: timeline, charts, flame graph, tables
    #[arg(long, value_name = "FILE", value_parser = PathBufValueParser::new())]
    pub html: Option<PathBuf>,

    #[command(flatten)]
    pub memory: Memory,

    #[command(flatten)]
    _unused: Unused,
}

/// What reading a capture may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub struct Memory {
    /// Memory that reading may take [default: 4 times the file and 256MB]
    #[arg(long = "budget-memory", value_name = "SIZE", value_parser = size)]
    pub budget_bytes: Option<u64>,
}

/// Options that say nothing about a file. They are global: hidden, and refused with a reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct Unused {
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

/// `64MB`, `1GiB`, or bytes; from 1 MB on.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    const LEAST: u64 = 1_000_000;
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "KiB" | "K" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" | "M" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" | "G" => 1 << 30,
        other => return Err(format!("`{other}` is no unit of size: use MB or GB")),
    };
    let bytes = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit));
    match bytes {
        Some(bytes) if bytes >= LEAST => Ok(bytes),
        Some(_) => Err("at least 1MB is needed".to_owned()),
        None => Err("it needs a number, as in 64MB".to_owned()),
    }
}
