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

pub use rates::Rates;
pub use text::write_text;

use crate::schema::SCHEMA;
pub use crate::schema::diff::{Change, Diff, FindingChange, Kind, Side, Unit, Verdict};
use noise::Mean;
use rates::Key;

/// Rows that are kept, those with the most effect.
const MAX_CHANGES: usize = 1_000;

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
            kind: Kind::Diff,
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
