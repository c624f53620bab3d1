//! `cargo xtask demo`: builds concmon and runs its demonstration.
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Result, bail, ensure};

use crate::workspace;

/// The profile of this build: a release takes more than twice as long to build.
const PROFILE: &str = "demo";

/// Build concmon and run `concmon-bpf demo`
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Passed on to `concmon-bpf demo`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Runs the command; on success this process becomes the demonstration.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    workspace::run(workspace::cargo().args([
        "build",
        "--profile",
        PROFILE,
        "--package=concmon-userspace",
        "--bin=concmon-bpf",
    ]))?;
    let folder = workspace::target_dir()?.join(PROFILE);
    let binary = folder.join("concmon-bpf");
    let mut command = if workspace::is_root() {
        Command::new(&binary)
    } else {
        ensure!(
            workspace::in_path("sudo").is_some(),
            "loading kernel programs needs root, and there is no sudo: run `{} demo` as root",
            binary.display()
        );
        eprintln!("Loading kernel programs needs root: running the demo through sudo.");
        let mut sudo = Command::new("sudo");
        sudo.arg(&binary);
        sudo
    };
    command.arg("demo").args(&args.args);
    let error = command.exec();
    bail!("starting {}: {error}", binary.display())
}
