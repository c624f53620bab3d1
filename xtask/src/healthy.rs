//! `cargo xtask healthy`: servers as people run them, each under load for a minute, then with a sick handler;
//! programs that stand still or only wait for work, and the exit codes of their watches.
use std::process::ExitCode;

use anyhow::Result;

use crate::workspace;

/// Watch healthy servers under load, then with one handler sick; and which exit code sick and healthy programs give
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this one: gunicorn, asyncio, uvloop, aiohttp, trio, django; exit_codes: the programs
    server: Option<String>,
    /// How long each is watched while it is healthy
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let package = ["--package=concmon-userspace", "--bin=concmon-bpf"];
    workspace::run(workspace::cargo().arg("build").args(package))?;
    let mut cargo = workspace::cargo();
    cargo.args([
        "test",
        "--package=concmon-tests",
        "--test=integration",
        "--",
    ]);
    cargo.arg(format!("healthy::{}", args.server.as_deref().unwrap_or("")));
    cargo.env("CONCMON_HEALTHY", args.seconds.to_string());
    cargo.env("CONCMON_TESTS_PYTHONS", "1");
    workspace::run(&mut cargo)?;
    Ok(ExitCode::SUCCESS)
}
