//! The command line of how to watch, and what it may cost.

use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Arg, ArgMatches, Args, Command, CommandFactory};

use super::{Cli, Exact, Share, budget, by_user, duration};

/// How to watch: the same for a live view and a recording.
#[derive(Clone, Debug, PartialEq, Args)]
pub struct Watching {
    /// Time between two reports, or two windows of a recording, at least 100ms
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = duration::parse_interval)]
    pub interval: Duration,

    /// Samples per second and CPU, by which it is told whose the time was; 0: none
    #[arg(short, long, value_name = "HZ", default_value_t = 99, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub rate: u32,

    /// Count by probes in the watched processes. tasks: starts, ends, outcomes and durations of
    /// asyncio's tasks by name; futures: what is submitted to thread pools, fails there, and is
    /// not asked for its exception. Off by default, for a probe takes 1 to 3 us: making a task
    /// passes one or two, and each of its steps two; each submit passes one, and each exception
    /// one for every frame that it leaves or is caught in
    #[arg(long, value_name = "WHAT", value_enum, value_delimiter = ',')]
    pub exact: Vec<Exact>,

    /// HTTP/1 requests: how long each lay unread, how long its response took, and which are under way. 1 to 2 us of
    /// kernel time for each request. This is the default where the kernel tells of them (Linux 6.3); with the option,
    /// there is a warning where it does not
    #[arg(long, overrides_with = "no_http")]
    pub http: bool,

    /// Do not look for HTTP requests
    #[arg(long, overrides_with = "http")]
    pub no_http: bool,

    /// A header that says which request it is; may be repeated [default: x-request-id, traceparent]
    #[arg(long, value_name = "H", conflicts_with = "no_http", value_parser = parse_header)]
    pub request_id_header: Vec<String>,

    /// A step of an event loop longer than this is a stall [default: the loop's own
    /// slow_callback_duration, else 100ms]
    #[arg(long, value_name = "TIME", value_parser = duration::parse_threshold)]
    pub stall_threshold: Option<Duration>,

    /// Own CPU time, 100% is one core; past it, detail is left out, and that is said
    #[arg(long, value_name = "PERCENT", default_value = "10%", value_parser = budget::parse_share)]
    pub budget_cpu: Share,

    /// Own memory; past it, detail is left out, and that is said
    #[arg(long, value_name = "SIZE", default_value = "128MB", value_parser = budget::parse_bytes)]
    pub budget_memory: u64,

    /// Exit with code 6 when this finding has held (any: whichever); may be repeated
    #[arg(long, value_name = "RULE")]
    pub fail_on: Vec<String>,
}

impl Watching {
    /// The headers of requests whose values are kept; `None`: requests are not looked for.
    pub(crate) fn http(&self) -> Option<Vec<String>> {
        if self.no_http {
            return None;
        }
        Some(match self.request_id_header.is_empty() {
            true => ["x-request-id", "traceparent"].map(str::to_owned).into(),
            false => self.request_id_header.clone(),
        })
    }
}

/// The name of a header, in lower case.
fn parse_header(text: &str) -> Result<String, String> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    match text.bytes().all(is_token) && (1..=64).contains(&text.len()) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("it must be the name of a header, such as x-request-id".to_owned()),
    }
}

/// Refuses options of a watch before a subcommand that has them itself or does not watch: they would
/// hold for nothing.
pub(super) fn refuse_what_stands_before_it(
    all: &ArgMatches,
    name: &str,
) -> Result<(), clap::Error> {
    if name == "demo" {
        return Ok(());
    }
    let watching = Watching::augment_args(Command::new(""));
    let before = watching
        .get_arguments()
        .find(|option| by_user(all, option.get_id().as_str()));
    let Some(option) = before.and_then(Arg::get_long) else {
        return Ok(());
    };
    let message = match name {
        "record" => format!("put '--{option}' behind the subcommand 'record'"),
        "agent" if ["interval", "budget-cpu", "budget-memory"].contains(&option) => {
            format!("put '--{option}' behind the subcommand 'agent'")
        }
        _ => format!("the subcommand '{name}' does not watch: leave out '--{option}'"),
    };
    Err(Cli::command().error(ErrorKind::ArgumentConflict, message))
}
