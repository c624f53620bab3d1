//! The command line: its types, what they accept, and the text of `--help`.

mod agent;
pub(crate) mod budget;
mod capture;
mod doctor;
pub mod duration;
mod examples;
mod export;
mod format;
mod hands;
pub mod instant;
mod look;
pub mod selectors;
mod trigger;
mod watching;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{
    ArgAction, ArgGroup, Args, ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand,
    ValueEnum,
};

pub use clap_complete::Shell;

pub use agent::Agent;
pub use budget::{DutyCycle, Share};
pub(crate) use capture::size as parse_size;
pub use capture::{Flight, FromAgent, Recorded, Report};
pub use doctor::Doctor;
use examples::EXAMPLES;
pub use export::{Diff, Export};
pub use format::{By, Format};
pub use instant::Instant;
pub use look::{Arrangement, GroupBy, Look, LookView};
pub use selectors::{Pattern, Selection};
pub use trigger::Trigger;
pub(crate) use trigger::parse as parse_trigger;
pub use watching::Watching;

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
                      concmon-bpf [OPTIONS] --name <REGEX>|--all|--unit <NAME>|--container <ID>\n       \
                      concmon-bpf [OPTIONS] -- <CMD> [ARGS]...\n       \
                      concmon-bpf [OPTIONS] demo\n       \
                      concmon-bpf record [OPTIONS] [-o <FILE>] --pid <PID>...|--name <REGEX>|-- <CMD>...\n       \
                      concmon-bpf report [OPTIONS] -i <FILE>\n       \
                      concmon-bpf export [OPTIONS] -i <FILE> -f <FORMAT>\n       \
                      concmon-bpf diff [OPTIONS] <BEFORE> <AFTER>\n       \
                       concmon-bpf dump|tasks [OPTIONS] --pid <PID>...|--name <REGEX>\n       \
                       concmon-bpf agent [--config <FILE>] [--listen <ADDR:PORT>]\n       \
                       concmon-bpf doctor [--pid <PID>...]\n       \
                      concmon-bpf explain <RULE>|--list\n       \
                      concmon-bpf completions <SHELL>\n       \
                      concmon-bpf man [SUBCOMMAND]\n       \
                      concmon-bpf schema"
)]
pub struct Cli {
    #[command(flatten)]
    what: What,

    #[command(flatten)]
    pub options: Options,

    #[command(subcommand)]
    command: Option<Command>,
}

/// One of the two, unless there is a subcommand.
#[derive(Clone, Debug, Args)]
#[group(skip)]
#[command(group = selected(), group = wanted())]
struct What {
    #[command(flatten)]
    processes: Selection,

    /// Program to start and watch from its first instruction
    #[arg(last = true, value_name = "CMD", conflicts_with = "selected")]
    cmd: Vec<OsString>,
}

/// What selects processes.
fn selected() -> ArgGroup {
    ArgGroup::new("selected")
        .args(Selection::SELECTING)
        .multiple(true)
}

/// The same, or a program to start; something of it is needed.
fn wanted() -> ArgGroup {
    ArgGroup::new("wanted")
        .args(Selection::SELECTING)
        .arg("cmd")
        .multiple(true)
        .required(true)
}

impl What {
    fn watched(&self) -> Watched {
        match self.processes.is_empty() {
            true => Watched::Command(self.cmd.clone()),
            false => Watched::Processes(self.processes.sorted()),
        }
    }
}

/// The largest process id a 64-bit kernel gives out (`PID_MAX_LIMIT`, include/linux/threads.h).
const MAX_PID: i64 = 4 * 1024 * 1024;

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Watch an embedded program that misbehaves in several ways
    Demo {
        /// Time between two reports, at least 100ms [default: 1s]
        #[arg(short, long, value_name = "TIME", value_parser = duration::parse_interval)]
        interval: Option<Duration>,
    },
    /// Record a watch in a file, to be reported from later
    ///
    /// The file holds what came in: reports from it are those of the live watch, to the byte.
    Record(Box<capture::Record>),
    /// Report from a file that was recorded
    ///
    /// It prints the summary that the live watch would have printed. Of a damaged file it says what
    /// is missing.
    Report(Report),
    /// Turn a recorded file into one that other tools read
    ///
    /// perfetto: threads by state, loops, tasks, wakeups and counters, for ui.perfetto.dev; the others
    /// hold time by stack.
    Export(Export),
    /// Tell what changed from one recorded file to another, in rates, and what is within the noise
    ///
    /// The noise is that of windows that are independent of each other: a slow drift exceeds it.
    Diff(Diff),
    /// Look once: threads with stacks, GIL, loops with their task trees, executors
    ///
    /// It reads the memory of the processes and /proc, and loads nothing into the kernel: who may
    /// trace a process may dump it, without root.
    Dump {
        #[command(flatten)]
        look: Look,

        /// Search the memory for futures that failed and that somebody still keeps, too: reads all
        /// of it that is writable and resident, up to 1 GiB
        #[arg(long)]
        heap_scan: bool,
    },
    /// Look once: the tasks of event loops, what each waits for, and who awaits it
    ///
    /// It reads the memory of the processes and /proc, and loads nothing into the kernel: who may
    /// trace a process may list its tasks, without root.
    Tasks {
        #[command(flatten)]
        look: Look,

        /// Show who awaits whom, as a tree
        #[arg(long)]
        tree: bool,

        /// Show groups: how many tasks, where they wait, and the oldest that can be told
        #[arg(long, value_name = "KEY", conflicts_with = "tree")]
        group_by: Option<GroupBy>,
    },
    /// Watch every Python process of this host, and serve what services take to Prometheus
    ///
    /// One daemon: a collector with rights and without network, and an exporter with network and without
    /// rights. GET /metrics has sums by service in the text format, OpenMetrics or protobuf with native
    /// histograms, /healthz and /readyz say how it is. SIGHUP reads the configuration again.
    Agent(Agent),
    /// Say what works here, what does not, and what mends it
    ///
    /// It does what a watch would do, in its order, and gives its exit code: 0 where a watch would
    /// work, 3 no such process or no Python, 4 permission denied, 5 unsupported kernel. It needs no
    /// root, and says what is missing without.
    Doctor(Doctor),
    /// Say what a finding means, when it holds, and what to do
    Explain {
        /// The rule, as reports name it
        #[arg(required_unless_present = "list")]
        rule: Option<String>,

        /// List all rules
        #[arg(long, conflicts_with = "rule")]
        list: bool,
    },
    /// Print the JSON Schema of every line that --json prints
    Schema,
    /// Print what makes a shell complete this command line
    ///
    /// For bash: concmon-bpf completions bash > /etc/bash_completion.d/concmon-bpf
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Print the manual page, of a subcommand where one is named
    ///
    /// To read it: concmon-bpf man | man -l -
    Man {
        /// A subcommand
        subcommand: Option<String>,
    },
}

/// Names under which programs commonly keep what they work on.
pub const CONTEXT_VARS: [&str; 3] = ["request_id", "correlation_id", "trace_id"];

/// What holds for every kind of target.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Stop after this time [default: when the target ends, or at Ctrl-C]
    #[arg(short, long, global = true, value_name = "TIME", value_parser = duration::parse_duration)]
    pub duration: Option<Duration>,

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

    /// Context variable to show of tasks; may be repeated
    #[arg(
        long = "context-var",
        global = true,
        value_name = "NAME",
        default_values = CONTEXT_VARS,
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    pub context_vars: Vec<String>,

    #[command(flatten)]
    pub watching: Watching,

    /// Print one JSON object per interval, and the summary as the last one
    #[arg(long, global = true)]
    pub json: bool,

    /// Write reports to FILE instead of standard output; it appears when it is whole, until then it
    /// is FILE.*.part
    #[arg(short, long, global = true, value_name = "FILE", value_parser = clap::builder::PathBufValueParser::new())]
    pub output: Option<PathBuf>,

    /// Leave out command lines, context values, file paths outside Python's library, paths, routes and ids of HTTP
    /// requests, and addresses of peers
    #[arg(long, global = true)]
    pub redact: bool,

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

/// What can be counted exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lowercase")]
pub enum Exact {
    // No doc comment: the long help would be laid out in another way than the short one.
    Tasks,
    Futures,
}

/// When to use colors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lowercase")]
pub enum Color {
    Auto,
    Always,
    Never,
}

/// What to do, and with what.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    Watch(Watched),
    /// Watch, and record it.
    Record(Watched, Recorded),
    /// Take what an agent has of a service.
    FromAgent(FromAgent),
    Report(Report),
    Export(Export),
    Diff(Diff),
    Look(Look, LookView),
    Doctor(Doctor),
    Agent(Agent),
    /// Explain one rule; `None`: list them all.
    Explain(Option<String>),
    /// Print the JSON Schema.
    Schema,
    /// Print a shell's completions.
    Completions(Shell),
    /// Print the manual page of a subcommand; `None`: of the whole.
    Man(Option<String>),
}

/// What to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    /// Processes that run, and where they are selected by what they are, those that will.
    Processes(Selection),
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
        let meant = hands::meant(args.into_iter().map(Into::into));
        let matches = Cli::command()
            .try_get_matches_from(&meant.words)
            .map_err(|error| meant.advise(error))?;
        let mut cli = Cli::from_arg_matches(&matches)?;
        if let Some(name) = matches.subcommand_name()
            && !(cli.what.processes.is_empty() && cli.what.cmd.is_empty())
        {
            let message = match cli.command {
                Some(
                    Command::Dump { .. }
                    | Command::Tasks { .. }
                    | Command::Record(_)
                    | Command::Doctor(_),
                ) => {
                    let option = cli.what.processes.words();
                    let option = option.split(' ').next().unwrap_or_default();
                    let option = if option.is_empty() { "-- CMD" } else { option };
                    format!("put '{option}' behind the subcommand '{name}'")
                }
                _ => format!(
                    "the subcommand '{name}' brings its own target: leave out '--pid' and '-- CMD'"
                ),
            };
            return Err(Cli::command().error(ErrorKind::ArgumentConflict, message));
        }
        if let Some((name, look)) = matches.subcommand() {
            look::refuse_what_a_look_has_not(&matches, name, look)?;
            refuse_what_a_file_has_not(&matches, name, look)?;
            watching::refuse_what_stands_before_it(&matches, name)?;
            if name == "agent" {
                agent::refuse_what_it_has_not(&matches, look)?;
            }
        }
        cli.take_over();
        Ok(cli)
    }

    /// What stands behind a subcommand holds for the watch that it makes.
    fn take_over(&mut self) {
        match &self.command {
            Some(Command::Demo {
                interval: Some(interval),
            }) => self.options.watching.interval = *interval,
            Some(Command::Record(record)) => self.options.watching = record.watching.clone(),
            _ => {}
        }
    }

    /// What to do.
    pub fn target(&self) -> Target {
        match &self.command {
            Some(Command::Demo { .. }) => Target::Watch(Watched::Demo),
            Some(Command::Dump { look, heap_scan }) => Target::Look(
                look.sorted(),
                LookView::Dump {
                    heap_scan: *heap_scan,
                },
            ),
            Some(Command::Tasks {
                look,
                tree,
                group_by,
            }) => {
                let arrangement = match group_by {
                    Some(key) => Arrangement::Groups(*key),
                    None if *tree => Arrangement::Tree,
                    None => Arrangement::Table,
                };
                Target::Look(look.sorted(), LookView::Tasks(arrangement))
            }
            Some(Command::Record(record)) => match record.asked() {
                Some(asked) => Target::FromAgent(asked),
                None => Target::Record(record.watched(), record.recorded()),
            },
            Some(Command::Report(report)) => Target::Report(report.clone()),
            Some(Command::Export(export)) => Target::Export(export.clone()),
            Some(Command::Diff(diff)) => Target::Diff(diff.clone()),
            Some(Command::Agent(agent)) => Target::Agent(agent.clone()),
            Some(Command::Doctor(doctor)) => Target::Doctor(doctor.clone()),
            Some(Command::Explain { rule, list: _ }) => Target::Explain(rule.clone()),
            Some(Command::Schema) => Target::Schema,
            Some(Command::Completions { shell }) => Target::Completions(*shell),
            Some(Command::Man { subcommand }) => Target::Man(subcommand.clone()),
            None => Target::Watch(self.what.watched()),
        }
    }

    /// The command without its arguments, for `--help` pages of a given width.
    pub fn clap_command() -> clap::Command {
        Cli::command().color(ColorChoice::Auto)
    }
}

fn by_user(matches: &clap::ArgMatches, id: &str) -> bool {
    matches.value_source(id) == Some(clap::parser::ValueSource::CommandLine)
}

/// Refuses options that say nothing about a capture; `file` are those of the subcommand `name`.
fn refuse_what_a_file_has_not(
    all: &clap::ArgMatches,
    name: &str,
    file: &clap::ArgMatches,
) -> Result<(), clap::Error> {
    if !["report", "export", "diff"].contains(&name) {
        return Ok(());
    }
    let json = (name == "export").then_some(("json", "json"));
    for (id, option) in capture::Unused::ALL.into_iter().chain(json) {
        if by_user(all, id) || by_user(file, id) {
            let message = format!("the subcommand '{name}' reads a file: leave out '--{option}'");
            return Err(Cli::command().error(ErrorKind::ArgumentConflict, message));
        }
    }
    Ok(())
}

impl Options {
    /// Whether future children of a target become targets.
    pub fn subprocesses(&self) -> bool {
        !self.no_subprocesses
    }

    /// Whether a single look goes to the descendants of its targets, too.
    pub fn follows_descendants(&self) -> bool {
        self._subprocesses
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
