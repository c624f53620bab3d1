//! The command line of what looks once: `dump` and `tasks`.

use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgMatches, Args, CommandFactory, ValueEnum};

use super::{Cli, Selection, by_user, duration, selected};

/// What tasks of one group have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lowercase")]
pub enum GroupBy {
    /// Where they wait, and for what
    Await,
    /// Their coroutine
    Coroutine,
    /// Their name, without a number at its end
    Name,
}

/// Whom to look at once.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[group(skip)]
#[command(group = selected().required(true))]
pub struct Look {
    #[command(flatten)]
    pub processes: Selection,

    /// Look at its descendants, too: off by default
    #[arg(
        id = "_subprocesses",
        short = 's',
        long = "subprocesses",
        overrides_with = "no_subprocesses"
    )]
    _subprocesses: bool,

    /// Look at no descendants
    #[arg(
        id = "no_subprocesses",
        long = "no-subprocesses",
        overrides_with = "_subprocesses",
        hide = true
    )]
    _no_subprocesses: bool,

    /// Print one JSON object instead of text
    #[arg(id = "json", long = "json")]
    _json: bool,

    // Of no use here, but global: hidden, and refused with a reason.
    #[arg(id = "duration", short = 'd', long = "duration", hide = true, value_parser = duration::parse_duration)]
    _duration: Option<Duration>,
    #[arg(id = "interval", short = 'i', long = "interval", hide = true, default_value = "1s", value_parser = duration::parse_interval)]
    _interval: Duration,
}

impl Look {
    /// The same, with ids in order and without doubles.
    pub(super) fn sorted(&self) -> Self {
        Self {
            processes: self.processes.sorted(),
            ..self.clone()
        }
    }
}

/// What is shown of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookView {
    Dump { heap_scan: bool },
    Tasks(Arrangement),
}

/// How tasks are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    Table,
    Tree,
    Groups(GroupBy),
}

/// Refuses options that say nothing about a single look; `look` are those of the subcommand `name`.
pub(super) fn refuse_what_a_look_has_not(
    all: &ArgMatches,
    name: &str,
    look: &ArgMatches,
) -> Result<(), clap::Error> {
    if !["dump", "tasks"].contains(&name) {
        return Ok(());
    }
    let given = |option: &str| by_user(all, option) || by_user(look, option);
    let refuse = |message: String| Err(Cli::command().error(ErrorKind::ArgumentConflict, message));
    for option in ["duration", "interval"] {
        if given(option) {
            return refuse(format!(
                "the subcommand '{name}' looks once: leave out '--{option}'"
            ));
        }
    }
    if name == "tasks" && given("json") {
        for (option, flag) in [("tree", "--tree"), ("group_by", "--group-by")] {
            if by_user(look, option) {
                return refuse(format!(
                    "'--json' has every task with its awaiters: leave out '{flag}'"
                ));
            }
        }
    }
    Ok(())
}
