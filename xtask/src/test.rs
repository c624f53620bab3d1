//! `cargo xtask test`: every test of the workspace, with one closing line for all of them.
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::workspace;

/// Build concmon-bpf and run all tests of the workspace
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only tests whose name contains this
    filter: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let begin = Instant::now();
    let mut cargo = workspace::cargo();
    // This builds `concmon-bpf`, too, for the tests of its package.
    cargo.args(["test", "--workspace", "--no-fail-fast"]);
    if let Some(filter) = &args.filter {
        cargo.args(["--", filter]);
    }
    // What harnesses cannot say in the lines of a test runner; see `concmon_tests::harness`.
    let repeated = tempfile::NamedTempFile::new().context("making a temporary file")?;
    let mut child = cargo
        .env("CONCMON_TESTS_REPEATED", repeated.path())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting cargo test")?;
    let mut reader = BufReader::new(child.stdout.take().context("cargo test has no output")?);
    let mut stdout = std::io::stdout();
    let mut tally = Tally::default();
    let mut line = Vec::new();
    while reader
        .read_until(b'\n', &mut line)
        .context("reading cargo test")?
        > 0
    {
        stdout.write_all(&line).and_then(|()| stdout.flush())?;
        tally.read(&String::from_utf8_lossy(&line));
        line.clear();
    }
    let status = child.wait().context("waiting for cargo test")?;
    if !status.success() && tally.failed == 0 {
        println!("\ncargo test ended with {status}: something failed outside a test, see above");
        tally.failed = 1;
    }
    if !tally.failures.is_empty() {
        println!("\nfailed:");
        for name in &tally.failures {
            println!("  {name}");
        }
    }
    let repeated = std::fs::read_to_string(repeated.path()).unwrap_or_default();
    if !repeated.is_empty() {
        println!("\nrepeated, since an attempt failed or could not be judged:");
        for what in repeated.lines() {
            println!("  {what}");
        }
    }
    if !tally.ignored.is_empty() {
        println!("\nskipped:");
        for (name, reason) in &tally.ignored {
            println!("  {name}: {reason}");
        }
    }
    if tally.total() == 0 {
        println!("\nno test ran");
    }
    println!("\ncargo test took {:.0} s", begin.elapsed().as_secs_f64());
    println!(
        "\n{} passed, {} failed, {} skipped",
        tally.passed, tally.failed, tally.skipped
    );
    Ok(if tally.failed == 0 && tally.total() > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What the outputs of the test binaries add up to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
    failures: Vec<String>,
    /// Name, and the reason as its harness gave it.
    ignored: Vec<(String, String)>,
}

impl Tally {
    fn total(&self) -> u64 {
        self.passed + self.failed + self.skipped
    }

    /// Takes one line of libtest's (or libtest-mimic's) output.
    fn read(&mut self, line: &str) {
        let line = line.trim();
        if let Some(counts) = line.strip_prefix("test result: ") {
            // "ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s"
            let counts = counts.split_once(". ").map_or(counts, |(_, counts)| counts);
            for count in counts.split(';') {
                let Some((number, word)) = count.trim().split_once(' ') else {
                    continue;
                };
                let Ok(number) = number.parse::<u64>() else {
                    continue;
                };
                match word {
                    "passed" => self.passed += number,
                    "failed" => self.failed += number,
                    "ignored" => self.skipped += number,
                    _ => {}
                }
            }
            return;
        }
        let Some((name, outcome)) = line
            .strip_prefix("test ")
            .and_then(|test| test.rsplit_once(" ... "))
        else {
            return;
        };
        let name = name.trim().to_owned();
        if outcome == "FAILED" {
            self.failures.push(name);
        } else if let Some((reason, name)) = name
            .strip_prefix("[skipped: ")
            .and_then(|name| name.rsplit_once("] "))
        {
            let name = name.trim().to_owned();
            self.ignored.push((name, reason.to_owned()));
        } else if let Some(reason) = outcome.strip_prefix("ignored") {
            let reason = reason.trim_start_matches([',', ':', ' ']);
            let reason = if reason.is_empty() {
                "no reason given"
            } else {
                reason
            };
            self.ignored.push((name, reason.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up_several_binaries() {
        let mut tally = Tally::default();
        for line in "\
running 3 tests
test one ... ok
test two::three ... ignored, needs root
test four ... FAILED
test five - should panic ... ok

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.00s

     Running unittests
test src/lib.rs - thing (line 3) ... ignored
test dump     ... ignored
test [skipped: needs [root]] lag::three    ... ignored

test result: ok. 5 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out; finished in 1.00s
"
        .lines()
        {
            tally.read(line);
        }
        assert_eq!(
            tally,
            Tally {
                passed: 7,
                failed: 1,
                skipped: 4,
                failures: vec!["four".into()],
                ignored: vec![
                    ("two::three".into(), "needs root".into()),
                    (
                        "src/lib.rs - thing (line 3)".into(),
                        "no reason given".into()
                    ),
                    ("dump".into(), "no reason given".into()),
                    ("lag::three".into(), "needs [root]".into()),
                ],
            }
        );
    }
}
