//! `cargo xtask bench`: what watching costs the watched, and everybody else.
mod agent;
mod attach;
mod child;
mod look;
mod on_cpu;
mod perf_sched;
mod record;
mod replay;
mod servers;
mod soak;
mod sockets;
mod switch;
mod targets;
mod tracer;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};

use crate::workspace;

/// Measure what watching costs
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

/// What is measured, and with what.
#[derive(clap::Args)]
pub(crate) struct Tools {
    /// The Python that what is watched runs
    #[arg(long, default_value = "python3", value_name = "FILE")]
    python: PathBuf,
    /// concmon-bpf to measure; without it a release build is made
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

impl Tools {
    fn binary(&self) -> Result<PathBuf> {
        self.binary.clone().map_or_else(release_build, Ok)
    }

    /// The same for what watches, and so needs root.
    fn binary_as_root(&self) -> Result<PathBuf> {
        ensure!(
            workspace::is_root(),
            "watching needs root: run this through sudo, with the environment kept (`sudo -E`)"
        );
        self.binary()
    }
}

#[derive(clap::Subcommand)]
enum What {
    Agent(agent::Args),
    Attach(attach::Args),
    Look(look::Args),
    OnCpu(on_cpu::Args),
    Record(record::Args),
    Servers(servers::Args),
    Replay(replay::Args),
    Soak(soak::Args),
    Sockets(sockets::Args),
    Switch(switch::Args),
    Targets(targets::Args),
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.what {
        What::Agent(args) => agent::run(args),
        What::Attach(args) => attach::run(args),
        What::Look(args) => look::run(args),
        What::OnCpu(args) => on_cpu::run(args),
        What::Record(args) => record::run(args),
        What::Servers(args) => servers::run(args),
        What::Replay(args) => replay::run(args),
        What::Soak(args) => soak::run(args),
        What::Sockets(args) => sockets::run(args),
        What::Switch(args) => switch::run(args),
        What::Targets(args) => targets::run(args),
    }
}

fn release_build() -> Result<PathBuf> {
    workspace::run(workspace::cargo().args([
        "build",
        "--release",
        "--package=concmon-userspace",
        "--bin=concmon-bpf",
    ]))?;
    Ok(workspace::target_dir()?.join("release/concmon-bpf"))
}
