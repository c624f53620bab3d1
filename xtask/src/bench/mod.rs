//! `cargo xtask bench`: what watching costs the watched, and everybody else.
mod switch;
mod tracer;

use std::process::ExitCode;

use anyhow::Result;

/// Measure what watching costs
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Switch(switch::Args),
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.what {
        What::Switch(args) => switch::run(args),
    }
}
