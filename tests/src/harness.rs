//! Turns a test with requirements into a trial: run, or ignored with the reason in sight.

use std::fs::OpenOptions;
use std::io::Write as _;

use anyhow::Result;
use libtest_mimic::{Completion, Failed, Trial};

use crate::needs::Need;

/// Names the file that tests are listed in that were begun again, a line each.
pub const REPEATED: &str = "CONCMON_TESTS_REPEATED";

/// A trial called `name` that runs `body` where every one of `needs` is there.
///
/// A missing requirement is shown as the trial's kind and the trial is ignored; forced to run
/// (`--include-ignored`), it fails with the same reason.
pub fn case<F>(name: impl Into<String>, needs: &[Need], body: F) -> Trial
where
    F: Fn() -> Result<()> + Send + 'static,
{
    let missing: Vec<String> = needs.iter().filter_map(Need::missing).collect();
    if missing.is_empty() {
        let name = name.into();
        let shown = name.clone();
        return Trial::ignorable_test(name, move || match run(&shown, &body) {
            Ok(()) => Ok(Completion::Completed),
            Err(error) => match error.downcast_ref::<Skip>() {
                Some(Skip(reason)) => Ok(Completion::ignored_with(reason)),
                None => Err(failed(error)),
            },
        });
    }
    let reason = missing.join("; ");
    let message = format!("cannot run: {reason}");
    Trial::test(name, move || Err(Failed::from(message)))
        .with_kind(format!("skipped: {reason}"))
        .with_ignored_flag(true)
}

/// What a test needs is not there, which shows only when it runs: it is ignored, with this reason.
#[derive(Debug, thiserror::Error)]
#[error("cannot run: {0}")]
pub struct Skip(pub String);

/// The reference was not good enough to judge by, on a machine that was too busy: the test is to be
/// repeated, a few times. What was measured and found wrong is never this.
#[derive(Debug, thiserror::Error)]
#[error("inconclusive: {0}")]
pub struct Inconclusive(pub String);

/// How often a test is begun that turns out to be [`Inconclusive`].
const MOST_INCONCLUSIVE: usize = 5;
/// How often a test is begun that fails. Other programs on a busy machine can spoil what is measured
/// now and then, while a defect spoils it every time. Each repetition is listed at the end of
/// `cargo xtask test`, so that what fails now and then does not stay unseen.
const MOST_FAILED: usize = 4;

fn run(name: &str, body: &impl Fn() -> Result<()>) -> Result<()> {
    let (mut inconclusive, mut failed) = (0, 0);
    loop {
        let Err(error) = body() else {
            return Ok(());
        };
        if error.is::<Skip>() {
            return Err(error);
        }
        if error.chain().any(|cause| cause.is::<Inconclusive>()) {
            inconclusive += 1;
        } else {
            failed += 1;
        }
        if inconclusive >= MOST_INCONCLUSIVE || failed >= MOST_FAILED {
            return Err(error);
        }
        note_repeated(&format!("{name}: {error:#}"));
    }
}

/// On standard error, and in the file that `cargo xtask test` reads at its end. A list that cannot be
/// written fails no test.
fn note_repeated(what: &str) {
    eprintln!("    repeated {what}");
    if let Some(path) = std::env::var_os(REPEATED) {
        let file = OpenOptions::new().append(true).create(true).open(path);
        let _ = file.and_then(|mut file| writeln!(file, "{}", what.replace('\n', " ")));
    }
}

fn failed(error: anyhow::Error) -> Failed {
    Failed::from(format!("{error:#}"))
}

/// Prints whether a goal beyond what must hold was reached; a goal never fails a test.
pub fn goal(what: &str, reached: bool, detail: &str) {
    let word = if reached { "reached" } else { "NOT reached" };
    eprintln!("    goal {word}: {what} ({detail})");
}
