//! What the command line can ask for, one file each.

mod agent;
mod demo;
mod demo_watch;
mod diff;
mod doctor;
mod explain;
mod export;
mod from_agent;
mod look;
mod manual;
mod report;
mod select;
mod start;
mod watch;

use std::{ffi::OsString, process::ExitCode};

use tokio::task::LocalSet;

use crate::{
    cli::{Cli, Recorded, Target, Trigger, Watched},
    session::{Failure, Recording, signals},
};
use demo_watch::watch_demo;
use watch::{watch_command, watch_processes};

/// Where this process was started to make connections for an agent, does so until that ends.
pub fn dialer(arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    crate::agent::exporter::run_if_asked(arguments)
}

/// Does what the command line says. Returns the exit code.
///
/// # Errors
/// [`Failure`]: one line for people, and a code.
pub fn run(cli: &Cli) -> Result<u8, Failure> {
    signals::survive_file_size_limit();
    let (target, recording) = match cli.target() {
        Target::Look(look, view) => return look::run(&cli.options, &look, view),
        Target::Watch(target) => (target, Recording::None),
        Target::Record(target, Recorded::Capture) => {
            export::warn_of_name(cli.options.output.as_deref());
            (target, Recording::File)
        }
        Target::Record(target, Recorded::Export(format, by)) => {
            (target, Recording::Export(format, by))
        }
        Target::Record(target, Recorded::Flight(flight)) => {
            for trigger in &flight.triggers {
                if let Trigger::Finding(rule) = trigger {
                    explain::check(std::slice::from_ref(rule))?;
                }
            }
            (target, Recording::Flight(flight))
        }
        Target::FromAgent(wanted) => return from_agent::run(&cli.options, &wanted),
        Target::Report(report) => return report::run(&cli.options, &report),
        Target::Export(export) => return export::run(&cli.options, &export),
        Target::Diff(files) => return diff::run(&cli.options, &files),
        Target::Agent(flags) => return agent::run(&flags),
        Target::Doctor(asked) => return doctor::run(&cli.options, &asked),
        Target::Explain(rule) => return explain::run(&cli.options, rule.as_deref()),
        Target::Schema => return explain::schema(),
        Target::Completions(shell) => return manual::completions(shell),
        Target::Man(subcommand) => return manual::page(subcommand.as_deref()),
    };
    explain::check(&cli.options.watching.fail_on)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        match target {
            Watched::Processes(selection) => {
                watch_processes(&cli.options, &selection, &recording).await
            }
            Watched::Command(command) => watch_command(&cli.options, &command, &recording).await,
            Watched::Demo => watch_demo(&cli.options).await,
        }
    })
}
