//! `cargo xtask bench replay`: how fast a capture is written and replayed, and in how much memory.
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::workspace;

/// Threads of the made-up programs.
const THREADS: [u64; 3] = [2, 100, 10_000];

/// How fast a capture is replayed, and in how much memory
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Records of each capture
    #[arg(long, default_value_t = 5_000_000)]
    records: u64,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    workspace::run(workspace::cargo().args([
        "build",
        "--release",
        "--package=concmon-userspace",
        "--example=bench_replay",
    ]))?;
    let program = workspace::target_dir()?.join("release/examples/bench_replay");
    println!("threads   records  bytes/record  write ns  replay ns  million/s  memory MB");
    for threads in THREADS {
        for records in [args.records / 5, args.records] {
            let output = Command::new(&program)
                .args([records.to_string(), threads.to_string()])
                .output()
                .with_context(|| format!("starting {}", program.display()))?;
            ensure!(
                output.status.success(),
                "{}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
            let found: Value = serde_json::from_slice(&output.stdout)?;
            let number = |key: &str| found[key].as_f64().context("a number is missing");
            println!(
                "{threads:>7} {records:>9} {:>13.2} {:>9.0} {:>10.0} {:>10.2} {:>10.1}",
                number("bytes_per_record")?,
                number("write_ns_per_record")?,
                number("replay_ns_per_record")?,
                number("million_records_per_s")?,
                number("grown_bytes")? / 1e6,
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}
