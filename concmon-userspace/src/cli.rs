//! The command line: its types, what they accept, and the text of `--help`.

pub mod duration;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, Args, ColorChoice, CommandFactory, Parser, Subcommand, ValueEnum};

const EXAMPLES: &str = "\
Exit codes:
  0  ok; the target ending, or an unknown Python, is not an error
  1  failure
  2  wrong usage
  3  no such process, or it is not Python
  4  permission denied
  5  unsupported kernel: too old, no BTF, or the self-test failed
  With -- CMD: CMD's own code, 128+N when signal N killed it, 127 when it could
  not be started.

Keys of the live view: q quit, p pause, s sort, t threads, a tasks, h help.

Examples:
  sudo concmon-bpf --pid 4242                live view of a running service
  sudo concmon-bpf -p 4242 -d 30s            30 seconds of it, then the summary
  sudo concmon-bpf -p 4242 --json | jq .     one JSON object per second
  sudo concmon-bpf -- python app.py          start a program and watch it
  sudo concmon-bpf demo                      watch a program that misbehaves";

/// Show where every nanosecond of running Python programs goes: on a CPU, waiting for the GIL,
/// a lock, I/O, a blocked event loop. From outside: nothing is injected, nothing is stopped.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "concmon-bpf",
    bin_name = "concmon-bpf",
    version,
    max_term_width = 100,
    after_help = EXAMPLES,
    disable_help_subcommand = true,
    subcommand_negates_reqs = true,
    override_usage = "concmon-bpf [OPTIONS] --pid <PID>...\n       \
                      concmon-bpf [OPTIONS] -- <CMD> [ARGS]...\n       \
                      concmon-bpf [OPTIONS] demo"
)]
pub struct Cli {
    #[command(flatten)]
    what: What,

    #[command(flatten)]
    pub options: Options,

    #[command(subcommand)]
    command: Option<Command>,
}

/// Exactly one of the two, unless there is a subcommand.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// Process to watch; may be repeated
    #[arg(short, long = "pid", value_name = "PID", value_parser = clap::value_parser!(u32).range(1..=MAX_PID))]
    pids: Vec<u32>,

    /// Program to start and watch from its first instruction
    #[arg(last = true, value_name = "CMD")]
    cmd: Vec<OsString>,
}

/// The largest process id a 64-bit kernel gives out (`PID_MAX_LIMIT`, include/linux/threads.h).
const MAX_PID: i64 = 4 * 1024 * 1024;

#[derive(Clone, Copy, Debug, Subcommand)]
enum Command {
    /// Watch an embedded program that misbehaves in several ways
    Demo,
}

/// What holds for every kind of target.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Stop after this time [default: when the target ends, or at Ctrl-C]
    #[arg(short, long, global = true, value_name = "TIME", value_parser = duration::parse_duration)]
    pub duration: Option<Duration>,

    /// Time between two reports, at least 100ms
    #[arg(short, long, global = true, value_name = "TIME", default_value = "1s", value_parser = duration::parse_interval)]
    pub interval: Duration,

    /// Watch child processes, too: on by default
    #[arg(
        short,
        long = "subprocesses",
        global = true,
        overrides_with = "no_subprocesses"
    )]
    _subprocesses: bool,

    /// Do not watch child processes
    #[arg(long, global = true, overrides_with = "_subprocesses")]
    no_subprocesses: bool,

    /// Print one JSON object per interval, and the summary as the last one
    #[arg(long, global = true)]
    pub json: bool,

    /// Write reports to FILE instead of standard output
    #[arg(short, long, global = true, value_name = "FILE", value_parser = clap::builder::PathBufValueParser::new())]
    pub output: Option<PathBuf>,

    /// Use colors; auto: on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t = Color::Auto)]
    pub color: Color,

    /// Say more on standard error; -vv says everything
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,

    /// Say nothing but errors on standard error
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

/// When to use colors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lowercase")]
pub enum Color {
    Auto,
    Always,
    Never,
}

/// What to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Running processes: sorted, without doubles, at least one.
    Pids(Vec<u32>),
    /// A program to start, with its arguments; at least the program.
    Command(Vec<OsString>),
    /// The embedded demo program.
    Demo,
}

impl Cli {
    /// Parses a command line, the program's name first.
    ///
    /// An error also stands for `--help` and `--version`; [`clap::Error::exit`] prints each to
    /// the right stream and ends with 0 or 2.
    pub fn from_args<I, T>(args: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString> + Clone,
    {
        let cli = Cli::try_parse_from(args).map_err(suggest_separator)?;
        if cli.command.is_some() && !(cli.what.pids.is_empty() && cli.what.cmd.is_empty()) {
            return Err(Cli::command().error(
                ErrorKind::ArgumentConflict,
                "the subcommand 'demo' brings its own target: leave out '--pid' and '-- CMD'",
            ));
        }
        Ok(cli)
    }

    /// What to watch.
    pub fn target(&self) -> Target {
        match self.command {
            Some(Command::Demo) => Target::Demo,
            None if self.what.pids.is_empty() => Target::Command(self.what.cmd.clone()),
            None => {
                let mut pids = self.what.pids.clone();
                pids.sort_unstable();
                pids.dedup();
                Target::Pids(pids)
            }
        }
    }

    /// The command without its arguments, for `--help` pages of a given width.
    pub fn clap_command() -> clap::Command {
        Cli::command().color(ColorChoice::Auto)
    }
}

/// Helps who typed `concmon-bpf python app.py`.
fn suggest_separator(mut error: clap::Error) -> clap::Error {
    let stray = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(word)) => !word.starts_with('-'),
        _ => false,
    };
    if error.kind() == ErrorKind::UnknownArgument && stray {
        let tip = "to start a program, put `--` before it: concmon-bpf -- python app.py";
        error.insert(
            ContextKind::Suggested,
            ContextValue::StyledStrs(vec![tip.into()]),
        );
    }
    error
}

impl Options {
    /// Whether future children of a target become targets.
    pub fn subprocesses(&self) -> bool {
        !self.no_subprocesses
    }
}

impl Color {
    /// Whether to use colors: `no_color` is the environment's `NO_COLOR`, which counts when it is
    /// not empty (<https://no-color.org>) and gives way to an explicit `always`.
    pub fn enabled(self, terminal: bool, no_color: Option<&OsStr>) -> bool {
        match self {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && no_color.is_none_or(OsStr::is_empty),
        }
    }
}
