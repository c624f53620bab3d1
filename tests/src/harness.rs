//! Turns a test with requirements into a trial: run, or ignored with the reason in sight.

use anyhow::Result;
use libtest_mimic::{Completion, Failed, Trial};

use crate::needs::Need;

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
        return Trial::ignorable_test(name, move || match run(&body) {
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

/// A test whose property other programs on a busy machine can spoil now and then, while a defect
/// spoils it every time: it passes when it holds once in a few attempts.
pub fn once_in<F>(attempts: usize, body: F) -> impl Fn() -> Result<()> + Send + 'static
where
    F: Fn() -> Result<()> + Send + 'static,
{
    move || {
        for attempt in 1..attempts {
            match body() {
                Ok(()) => return Ok(()),
                Err(error) if error.is::<Skip>() => return Err(error),
                Err(error) => eprintln!("attempt {attempt}: {error:#}"),
            }
        }
        body()
    }
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
const ATTEMPTS: usize = 5;

fn run(body: &impl Fn() -> Result<()>) -> Result<()> {
    for attempt in 1..ATTEMPTS {
        match body() {
            Err(error) if error.chain().any(|cause| cause.is::<Inconclusive>()) => {
                eprintln!("    attempt {attempt} of {ATTEMPTS}: {error:#}");
            }
            outcome => return outcome,
        }
    }
    body()
}

fn failed(error: anyhow::Error) -> Failed {
    Failed::from(format!("{error:#}"))
}

/// Prints whether a goal beyond what must hold was reached; a goal never fails a test.
pub fn goal(what: &str, reached: bool, detail: &str) {
    let word = if reached { "reached" } else { "NOT reached" };
    eprintln!("    goal {word}: {what} ({detail})");
}
