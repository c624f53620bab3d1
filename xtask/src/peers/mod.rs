//! `cargo xtask peers`: CPython's own tools for looking at other processes, as judges.
//!
//! A module that asks concmon-bpf stands in for the unwinder of 3.14 and 3.15. CPython's own tests of its
//! unwinder run with it, and `python -m asyncio pstree` is to draw the same trees with it as without.

mod programs;
mod root;
mod tests;
mod tree;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};

use crate::{pythons, workspace};
use root::Root;

/// The minor version: 14 of 3.14.
type Version = u32;

const VERSIONS: [Version; 2] = [14, 15];

/// Compare with CPython's own unwinder: its tests, its trees of tasks, its stacks (needs root)
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only tests and programs whose name contains this
    #[arg(default_value = "")]
    filter: String,
    /// Use this concmon-bpf instead of building one
    #[arg(long, value_name = "PATH")]
    monitor: Option<PathBuf>,
    /// Show whole differences, not only how they begin
    #[arg(long, short)]
    verbose: bool,
}

/// Runs the command; fails when something that concmon tells is told differently.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let monitor = match &args.monitor {
        Some(path) => path.clone(),
        None => pythons::build(false)?,
    };
    ensure!(monitor.is_file(), "there is no {}", monitor.display());
    ensure!(workspace::is_root(), "needs root");
    let dir = match root::fetch(&VERSIONS) {
        Ok(dir) => dir,
        Err(error) => {
            println!(
                "SKIPPED: Debian sid's interpreters with their tests are not to be had: {error:#}"
            );
            return Ok(ExitCode::SUCCESS);
        }
    };
    let root = Root::open(dir, &monitor)?;
    let mut tally = Tally::new(args.verbose);
    for version in VERSIONS {
        tests::run(&root, version, &args.filter, &mut tally)?;
        programs::run(&root, version, &args.filter, &mut tally)?;
    }
    let [passed, failed, other] = [tally.passed, tally.failed, tally.not_applicable];
    println!("\n{passed} pass, {failed} fail, {other} not applicable");
    ensure!(passed + failed > 0, "nothing was compared");
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// How a test or a comparison ended.
enum Outcome {
    Pass,
    /// What differs.
    Fail(String),
    /// Why it says nothing about concmon.
    NotApplicable(String),
}

/// Prints outcomes as they come, and counts them.
struct Tally {
    verbose: bool,
    passed: usize,
    failed: usize,
    not_applicable: usize,
}

impl Tally {
    fn new(verbose: bool) -> Self {
        println!(
            "{:8} {:74} {:6} because",
            "Python", "test or comparison", "result"
        );
        Self {
            verbose,
            passed: 0,
            failed: 0,
            not_applicable: 0,
        }
    }

    fn add(&mut self, version: Version, name: &str, outcome: Outcome) {
        let (count, word, why) = match outcome {
            Outcome::Pass => (&mut self.passed, "pass", String::new()),
            Outcome::Fail(why) if self.verbose => (&mut self.failed, "FAIL", why),
            Outcome::Fail(why) => (&mut self.failed, "FAIL", format!("{why:.300}")),
            Outcome::NotApplicable(why) => (&mut self.not_applicable, "n/a", why),
        };
        *count += 1;
        let python = format!("3.{version}");
        println!("{python:8} {name:74} {word:6} {why}");
    }
}
