//! `cargo xtask fuzz`: looks at mutated memory images, and parses mutated files and texts.
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

use crate::workspace;

/// Fuzz the walkers of interpreter memory, and the parsers of a target's files
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long, `90s` or `10m`
    #[arg(long, default_value = "1m", value_parser = seconds)]
    time: u64,
    /// How many at once
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// What everything that is random follows from; default the time
    #[arg(long)]
    seed: Option<u64>,
    /// Only these images (3.12) and parsers (capture), with commas between them
    #[arg(long, value_delimiter = ',', value_name = "INPUT")]
    only: Vec<String>,
    /// Run only these cases, as earlier runs printed them
    cases: Vec<String>,
}

fn seconds(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| format!("`{text}` is not like `90s` or `10m`"))
}

/// Runs the command; fails when something was found.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    workspace::run(workspace::cargo().args([
        "build",
        "--release",
        "--package=concmon-userspace",
        "--example=fuzz",
    ]))?;
    let program = workspace::target_dir()?.join("release/examples/fuzz");
    let mut fuzz = Command::new(&program);
    fuzz.args(["--time", &args.time.to_string()])
        .args(["--jobs", &args.jobs.to_string()]);
    if let Some(seed) = args.seed {
        fuzz.args(["--seed", &seed.to_string()]);
    }
    for input in &args.only {
        fuzz.args(["--only", input]);
    }
    let status = fuzz
        .args(&args.cases)
        .status()
        .with_context(|| format!("starting {}", program.display()))?;
    ensure!(
        status.success(),
        "fuzzing ended with {status}; `cargo xtask fuzz CASE` runs a case again, and \
         concmon-userspace/tests/fuzz_cases.txt is where it is kept"
    );
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_with_and_without_a_unit() {
        assert_eq!(seconds("90"), Ok(90));
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("10m"), Ok(600));
        for wrong in ["", "m", "1h", "-1s", "99999999999999999999m"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
