//! Turns a test with requirements into a trial: run, or ignored with the reason in sight.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::Result;
use libtest_mimic::{Completion, Failed, Trial};

use crate::needs::Need;

/// Names the file that tests are listed in that were begun again, a line each.
pub const REPEATED: &str = "CONCMON_TESTS_REPEATED";

/// Names the file that tests are listed in with the seconds that they took, a line each.
pub const TIMES: &str = "CONCMON_TESTS_TIMES";
/// The kind of a [`quiet`] trial, as its line shows it.
pub const QUIET: &str = "quiet";
/// Begins the kind of a trial that is not run; the reason follows.
const SKIPPED: &str = "skipped: ";

/// Who has the machine now.
static MACHINE: Machine = Machine {
    turns: Mutex::new(Turns {
        with_many: 0,
        with_one: 0,
        alone: false,
        waits_alone: 0,
    }),
    changed: Condvar::new(),
};

/// How many trials that measure run at once where one of them is not to be alone.
const MEASURING: usize = 2;

/// Who else may run at the same time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Company {
    Nobody,
    /// One more that measures.
    One,
    Many,
}

struct Machine {
    turns: Mutex<Turns>,
    changed: Condvar,
}

/// How many attempts of each company run, and how many wait for nobody.
struct Turns {
    with_many: usize,
    with_one: usize,
    alone: bool,
    waits_alone: usize,
}

impl Turns {
    fn may(&self, company: Company) -> bool {
        let waited_for = self.waits_alone > 0;
        match company {
            Company::Nobody => !self.alone && self.with_one == 0 && self.with_many == 0,
            Company::One => {
                !self.alone && !waited_for && self.with_many == 0 && self.with_one < MEASURING
            }
            Company::Many => !self.alone && !waited_for && self.with_one == 0,
        }
    }
}

/// A turn at the machine, given back when it is dropped.
struct Turn(Company);

impl Machine {
    /// A panic of another trial has poisoned the lock, and means nothing here.
    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn in this company. Who waits to be alone goes before those who do not.
    fn take(&self, company: Company) -> Turn {
        let mut turns = self.turns();
        if company == Company::Nobody {
            turns.waits_alone += 1;
        }
        while !turns.may(company) {
            turns = self
                .changed
                .wait(turns)
                .unwrap_or_else(PoisonError::into_inner);
        }
        match company {
            Company::Nobody => {
                turns.waits_alone -= 1;
                turns.alone = true;
            }
            Company::One => turns.with_one += 1,
            Company::Many => turns.with_many += 1,
        }
        Turn(company)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut turns = MACHINE.turns();
        match self.0 {
            Company::Nobody => turns.alone = false,
            Company::One => turns.with_one -= 1,
            Company::Many => turns.with_many -= 1,
        }
        MACHINE.changed.notify_all();
    }
}

/// A trial called `name` that runs `body` where every one of `needs` is there, and at most one more of its
/// kind beside it: it may measure. What fails in company is repeated alone.
///
/// A missing requirement is shown as the trial's kind and the trial is ignored; forced to run
/// (`--include-ignored`), it fails with the same reason.
pub fn case<F>(name: impl Into<String>, needs: &[Need], body: F) -> Trial
where
    F: Fn() -> Result<()> + Send + 'static,
{
    trial(name.into(), needs, body, Company::One)
}

/// The same for a trial that needs all of the CPUs: nothing runs beside it.
pub fn alone<F>(name: impl Into<String>, needs: &[Need], body: F) -> Trial
where
    F: Fn() -> Result<()> + Send + 'static,
{
    trial(name.into(), needs, body, Company::Nobody)
}

/// The same for a trial whose judgement does not change with what others take of the CPUs: it asserts
/// nothing about lengths of time or shares of CPUs, or discounts the host by the ledger. Several of them
/// run at once. What fails in company is repeated alone.
pub fn quiet<F>(name: impl Into<String>, needs: &[Need], body: F) -> Trial
where
    F: Fn() -> Result<()> + Send + 'static,
{
    trial(name.into(), needs, body, Company::Many)
}

fn trial<F>(name: String, needs: &[Need], body: F, company: Company) -> Trial
where
    F: Fn() -> Result<()> + Send + 'static,
{
    let missing: Vec<String> = needs.iter().filter_map(Need::missing).collect();
    if missing.is_empty() {
        let shown = name.clone();
        let trial = Trial::ignorable_test(name, move || match run(&shown, &body, company) {
            Ok(()) => Ok(Completion::Completed),
            Err(error) => match error.downcast_ref::<Skip>() {
                Some(Skip(reason)) => Ok(Completion::ignored_with(reason)),
                None => Err(failed(error)),
            },
        });
        return match company {
            Company::Nobody | Company::One => trial,
            Company::Many => trial.with_kind(QUIET),
        };
    }
    let reason = missing.join("; ");
    let message = format!("cannot run: {reason}");
    skipped(
        Trial::test(name, move || Err(Failed::from(message))),
        &reason,
    )
}

fn skipped(trial: Trial, reason: &str) -> Trial {
    trial
        .with_kind(format!("{SKIPPED}{reason}"))
        .with_ignored_flag(true)
}

/// Leaves trials that differ only in the version of Python to `cargo xtask test --pythons`, but for two of
/// those that could run here: of the oldest, the middle and the newest version, two in turn. Of two versions
/// it is one, in turn with the trial before.
pub fn without_matrix(trials: Vec<Trial>) -> Vec<Trial> {
    let mut families: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for trial in &trials {
        if let Some((family, minor)) = version(trial.name())
            && !trial.kind().starts_with(SKIPPED)
        {
            families.entry(family.to_owned()).or_default().push(minor);
        }
    }
    let (mut pairs, mut larger) = (0, 0);
    for minors in families.values_mut() {
        minors.sort_unstable();
        *minors = match minors[..] {
            [one, other] => {
                pairs += 1;
                vec![if pairs % 2 == 0 { one } else { other }]
            }
            [first, .., last] => {
                larger += 1;
                let mut some = vec![first, minors[minors.len() / 2], last];
                some.remove(larger % some.len());
                some
            }
            _ => continue,
        };
    }
    let leave = |trial: Trial| match version(trial.name()) {
        Some((family, minor))
            if !trial.kind().starts_with(SKIPPED) && !families[family].contains(&minor) =>
        {
            skipped(trial, "left to cargo xtask test --pythons")
        }
        _ => trial,
    };
    trials.into_iter().map(leave).collect()
}

/// What a trial's name has before its version of Python, where it ends with one, and the minor version.
fn version(name: &str) -> Option<(&str, u32)> {
    let (family, minor) = name.rsplit_once("3.")?;
    Some((family, minor.parse().ok()?))
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

fn run(name: &str, body: &impl Fn() -> Result<()>, mut company: Company) -> Result<()> {
    let (mut inconclusive, mut failed) = (0, 0);
    loop {
        let turn = MACHINE.take(company);
        let result = timed(name, body);
        drop(turn);
        let Err(error) = result else {
            return Ok(());
        };
        company = Company::Nobody;
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

fn timed(name: &str, body: &impl Fn() -> Result<()>) -> Result<()> {
    let begin = Instant::now();
    let result = body();
    note(
        TIMES,
        &format!("{:.2} {name}", begin.elapsed().as_secs_f64()),
    );
    result
}

fn note_repeated(what: &str) {
    eprintln!("    repeated {what}");
    note(REPEATED, &what.replace('\n', " "));
}

/// Adds a line to a file that `cargo xtask test` reads at its end, and that this variable names. A list
/// that cannot be written fails no test.
fn note(variable: &str, line: &str) {
    if let Some(path) = std::env::var_os(variable) {
        let file = OpenOptions::new().append(true).create(true).open(path);
        let _ = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
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
