//! What changed from one watch to another: rates per second of wall, ordered by effect, with the noise.
//!
//! Each window gives one value of each quantity. The noise of a difference of means is how large it may
//! be by chance: Welch's interval at 99 %, from the spread over windows. A difference within it is no
//! change that can be told. Windows are taken as independent; where they are not, as with slow drifts,
//! the noise is larger than it is said to be.

mod noise;
mod rates;
mod text;

use std::cmp::Reverse;
use std::io::{self, Write};

use serde::Serialize;

pub use rates::Rates;
pub use text::write_text;

use crate::model::snapshot::SCHEMA;
use noise::Mean;
use rates::Key;

/// Rows that are kept, those with the most effect.
const MAX_CHANGES: usize = 1_000;

/// In what a quantity is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Unit {
    /// Time per second of wall.
    #[serde(rename = "ms/s")]
    MsPerS,
    /// Events per second of wall.
    #[serde(rename = "1/s")]
    PerS,
    /// A duration as such.
    #[serde(rename = "ms")]
    Ms,
    #[serde(rename = "bytes")]
    Bytes,
    /// How many there are at a time.
    #[serde(rename = "count")]
    Count,
}

/// What can be said of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Changed,
    WithinNoise,
    /// There are too few windows to tell.
    Unknown,
}

/// One quantity, before and after.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// `process`, `thread`, `threads by name`, `gil`, `loop`, `tasks by name`.
    pub tier: &'static str,
    /// Of a process: its script or module. Of threads and tasks: the name, with digits as `#`.
    pub name: String,
    /// A column of the ledger, or what it is called in reports.
    pub what: &'static str,
    pub unit: Unit,
    /// Means; `None`: there was no such thing.
    pub before: Option<f64>,
    pub after: Option<f64>,
    pub change: f64,
    /// `None`: it cannot be told from so few windows.
    pub noise: Option<f64>,
    pub verdict: Verdict,
}

/// A finding that only one of the two has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct FindingChange {
    pub name: String,
    pub rule: &'static str,
    /// It appeared, else it is gone.
    pub new: bool,
    pub summary: String,
}

/// One of the two watches.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    pub file: String,
    pub start_unix_ns: u64,
    pub duration_ns: u64,
    pub windows: u64,
    pub events_lost: u64,
    /// What is missing of the capture.
    pub gaps: Vec<String>,
}

/// What changed.
#[derive(Clone, Debug, Serialize)]
pub struct Diff {
    pub schema: &'static str,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub before: Side,
    pub after: Side,
    /// Changed ones first; among equals, times first, and by effect.
    pub changes: Vec<Change>,
    /// Rows that were left out, those with the least effect.
    pub left_out: usize,
    pub findings: Vec<FindingChange>,
}

impl Diff {
    pub fn of(before: &Rates, after: &Rates) -> Self {
        let keys: std::collections::BTreeSet<&Key> =
            before.values.keys().chain(after.values.keys()).collect();
        let mut changes: Vec<Change> = keys
            .into_iter()
            .filter_map(|key| change(key, before.mean(key), after.mean(key)))
            .collect();
        changes.sort_by(|one, other| {
            let rank = |change: &Change| (change.verdict != Verdict::Changed, change.unit);
            rank(one)
                .cmp(&rank(other))
                .then(effect(other).total_cmp(&effect(one)))
        });
        let left_out = changes.len().saturating_sub(MAX_CHANGES);
        changes.truncate(MAX_CHANGES);
        let only = |here: &Rates, there: &Rates, new| {
            let missing = here
                .findings
                .iter()
                .filter(|(key, _)| !there.findings.contains_key(*key));
            let missing = missing.map(|((name, rule), summary)| FindingChange {
                name: name.clone(),
                rule,
                new,
                summary: summary.clone(),
            });
            missing.collect::<Vec<_>>()
        };
        let mut findings = only(after, before, true);
        findings.extend(only(before, after, false));
        findings.sort_by_key(|finding| (Reverse(finding.new), finding.rule, finding.name.clone()));
        Diff {
            schema: SCHEMA,
            kind: "diff",
            before: before.side.clone(),
            after: after.side.clone(),
            changes,
            left_out,
            findings,
        }
    }
}

/// How much a change matters among those of its unit: times as they are, others relative to what was.
fn effect(change: &Change) -> f64 {
    match change.unit {
        Unit::MsPerS => change.change.abs(),
        _ => {
            let (before, after) = (change.before.unwrap_or(0.0), change.after.unwrap_or(0.0));
            change.change.abs() / before.max(after).max(f64::MIN_POSITIVE)
        }
    }
}

/// `None`: nothing differs.
fn change(key: &Key, before: Option<Mean>, after: Option<Mean>) -> Option<Change> {
    let value = |mean: Option<Mean>| mean.map_or(0.0, |mean| mean.mean());
    let change = value(after) - value(before);
    // Of what is not there, no gauge was read: there is no difference.
    if change == 0.0 || (!key.unit.is_rate() && (before.is_none() || after.is_none())) {
        return None;
    }
    let noise = before
        .zip(after)
        .and_then(|(before, after)| noise::of_difference(before, after));
    Some(Change {
        tier: key.tier,
        name: key.name.clone(),
        what: key.what,
        unit: key.unit,
        before: before.map(|mean| mean.mean()),
        after: after.map(|mean| mean.mean()),
        change,
        noise,
        verdict: match noise {
            None => Verdict::Unknown,
            Some(noise) if change.abs() <= noise => Verdict::WithinNoise,
            Some(_) => Verdict::Changed,
        },
    })
}

impl Unit {
    /// Where nothing is said, it is nothing.
    const fn is_rate(self) -> bool {
        matches!(self, Unit::MsPerS | Unit::PerS)
    }
}

/// Writes one JSON object.
///
/// # Errors
/// What the writer says.
pub fn write_json(diff: &Diff, out: &mut dyn Write) -> io::Result<()> {
    crate::views::json::write(diff, out)
}
