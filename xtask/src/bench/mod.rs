//! `cargo xtask bench`: what watching costs the watched, and everybody else.
mod attach;
mod child;
mod look;
mod record;
mod replay;
mod servers;
mod switch;
mod targets;
mod tracer;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;

use crate::workspace;

/// Measure what watching costs
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Attach(attach::Args),
    Look(look::Args),
    Record(record::Args),
    Servers(servers::Args),
    Replay(replay::Args),
    Switch(switch::Args),
    Targets(targets::Args),
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.what {
        What::Attach(args) => attach::run(args),
        What::Look(args) => look::run(args),
        What::Record(args) => record::run(args),
        What::Servers(args) => servers::run(args),
        What::Replay(args) => replay::run(args),
        What::Switch(args) => switch::run(args),
        What::Targets(args) => targets::run(args),
    }
}

/// The concmon-bpf to measure: the one given, or a release build.
fn binary(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(binary) = given {
        return Ok(binary.to_owned());
    }
    workspace::run(workspace::cargo().args([
        "build",
        "--release",
        "--package=concmon-userspace",
        "--bin=concmon-bpf",
    ]))?;
    Ok(workspace::target_dir()?.join("release/concmon-bpf"))
}
