//! The command line of `agent`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgMatches, Args, CommandFactory as _, builder::PathBufValueParser};

use super::capture::Unused;
use super::{Cli, Color, DutyCycle, Share, budget, by_user, duration};

/// What of the configuration is given on the command line.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub struct Agent {
    /// Read this configuration [default: /etc/concmon/agent.toml, where it is there]
    #[arg(long, value_name = "FILE", value_parser = clap::builder::PathBufValueParser::new())]
    pub config: Option<PathBuf>,

    /// Serve metrics at this address [default: 127.0.0.1:9788]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,

    /// The socket where its owner asks for profiles; `none`: nowhere [default: /run/concmon/agent.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<String>,

    /// Only say whether the configuration is right; exit code 2: it is not
    #[arg(long)]
    pub check_config: bool,

    /// Time between two readings, at least 100ms [default: 5s]
    #[arg(short, long, value_name = "TIME", value_parser = duration::parse_interval)]
    pub interval: Option<Duration>,

    /// Own CPU time, that of its kernel programs included, 100% is one core; past it, detail is left out [default: 1%]
    #[arg(long, value_name = "PERCENT", value_parser = budget::parse_share)]
    pub budget_cpu: Option<Share>,

    /// Own memory; past it, detail is left out [default: 128MB]
    #[arg(long, value_name = "SIZE", value_parser = budget::parse_bytes)]
    pub budget_memory: Option<u64>,

    /// Look at threads for this part of the time only, about every four intervals; 10% costs a tenth on a busy host.
    /// What they did in between is told as unobserved. `auto`: as much as the budget allows, at least 10%
    /// [default: auto]
    #[arg(long, value_name = "PERCENT|auto", value_parser = budget::parse_duty)]
    pub duty: Option<DutyCycle>,

    /// HTTP requests of services, where the kernel tells of them (Linux 6.3), whatever the configuration says
    #[arg(long, overrides_with = "no_http")]
    pub http: bool,

    /// No HTTP requests
    #[arg(long, overrides_with = "http")]
    pub no_http: bool,

    #[command(flatten)]
    pub(crate) _unused: Unused,

    #[command(flatten)]
    pub(crate) _outputs: Outputs,
}

/// Options of reports, which it does not write. They are global: hidden, and refused with a reason.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct Outputs {
    #[arg(id = "json", long = "json", hide = true)]
    _json: bool,
    #[arg(id = "output", short = 'o', long = "output", hide = true, value_parser = PathBufValueParser::new())]
    _output: Option<PathBuf>,
    #[arg(id = "redact", long = "redact", hide = true)]
    _redact: bool,
    #[arg(id = "color", long = "color", hide = true, value_enum)]
    _color: Option<Color>,
}

/// Refuses options that say nothing about the agent; `agent` are those behind its name.
pub(super) fn refuse_what_it_has_not(
    all: &ArgMatches,
    agent: &ArgMatches,
) -> Result<(), clap::Error> {
    let outputs = ["json", "output", "redact", "color"].map(|name| (name, name));
    for (id, option) in Unused::ALL.into_iter().chain(outputs) {
        if by_user(all, id) || by_user(agent, id) {
            let message =
                format!("the agent serves metrics of all processes: leave out '--{option}'");
            return Err(Cli::command().error(ErrorKind::ArgumentConflict, message));
        }
    }
    Ok(())
}
