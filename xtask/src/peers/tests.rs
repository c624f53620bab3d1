//! CPython's tests of its own unwinder, with concmon in the unwinder's place.
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::root::Root;
use super::{Outcome, Tally, Version};

/// Parts of names of tests, and why they say nothing about concmon.
const NOT_APPLICABLE: &[(&str, &str)] = &[
    (
        "TestExceptionDetection",
        "whether a thread handles an exception, which concmon does not tell",
    ),
    (
        "test_thread_status_exception",
        "whether a thread handles an exception, which concmon does not tell",
    ),
    (
        "test_thread_status_all_mode",
        "whether a thread handles an exception, which concmon does not tell",
    ),
    (
        "TestFrameCaching.test_get_stats",
        "counts of the unwinder's cache",
    ),
    (
        "TestFrameCaching.test_cache_hit",
        "that objects of the unwinder's cache are the same ones",
    ),
    (
        "TestFrameCaching.test_partial",
        "that objects of the unwinder's cache are the same ones",
    ),
    (
        "TestFrameCaching.test_recursive",
        "that objects of the unwinder's cache are the same ones",
    ),
    (
        "TestFrameCaching.test_cache_vs_no_cache",
        "columns of a statement; concmon tells its line",
    ),
    (
        "test_location_tuple",
        "columns of a statement; concmon tells its line",
    ),
    ("test_opcodes", "the instruction; concmon tells the line"),
    (
        "test_multiple_subinterpreters",
        "ids of interpreters, which concmon does not tell; see `stacks` for the frames",
    ),
    (
        "TestFrameChainLimits.test_get_",
        "an error at the unwinder's own limit; concmon leaves out the middle",
    ),
    (
        "test_long_filename",
        "that the end is cut at 1,024 characters; concmon leaves out the middle",
    ),
    (
        "test_long_qualname",
        "that the end is cut at 1,024 characters; concmon leaves out the middle",
    ),
    (
        "test_oversized_linetable",
        "that a line is given up; concmon tells it",
    ),
];

/// Runs those whose name contains `filter`.
pub(super) fn run(root: &Root, version: Version, filter: &str, tally: &mut Tally) -> Result<()> {
    let mut command = root.python(version, true);
    command.arg(root.inside("run_tests.py")).arg(filter);
    command.args(NOT_APPLICABLE.iter().map(|(part, _)| part));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the tests")?;
    let stdout = child.stdout.take().context("the tests have no output")?;
    for line in BufReader::new(stdout).lines() {
        let said: Value = serde_json::from_str(&line?).context("reading how a test ended")?;
        let name = said["test"].as_str().context("a test without a name")?;
        tally.add(version, name, outcome(name, &said));
    }
    let status = child.wait()?;
    ensure!(
        status.success(),
        "the tests of 3.{version} ended with {status}"
    );
    Ok(())
}

fn outcome(name: &str, said: &Value) -> Outcome {
    if said["left_out"] == true {
        let reason = NOT_APPLICABLE.iter().find(|(part, _)| name.contains(part));
        return Outcome::NotApplicable(reason.map_or("", |(_, reason)| reason).to_owned());
    }
    if let Some(reason) = said["skipped"].as_str() {
        return Outcome::NotApplicable(format!("skipped by itself: {reason}"));
    }
    match said["failed"].as_str() {
        Some(why) => Outcome::Fail(why.to_owned()),
        None if said["looks"] == 0 => {
            Outcome::Fail("it passed without a look by concmon".to_owned())
        }
        None => Outcome::Pass,
    }
}
