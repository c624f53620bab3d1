//! A diff for people.

use std::io::{self, Write};

use super::{Change, Diff, Side, Unit, Verdict};
use crate::views::escape::{cut_middle, escape};
use crate::views::format;
use crate::views::table::{Align, Table};
use crate::views::{Form, Paint};

/// Rows of each part.
const MAX_CHANGED: usize = 40;
const MAX_NOISE: usize = 8;
/// Cells of a name.
const MAX_NAME: usize = 40;

/// Writes what changed, then what did not.
///
/// # Errors
/// What the writer says.
pub fn write_text(diff: &Diff, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let mut text = String::new();
    for (side, name) in [(&diff.before, "before"), (&diff.after, "after ")] {
        text += &side_line(side, name);
    }
    for finding in &diff.findings {
        let (sign, summary) = (
            if finding.new { "new" } else { "gone" },
            escape(&finding.summary),
        );
        let line = format!("{sign} finding  {}: {summary}\n", finding.rule);
        text += &if finding.new {
            paint.alarm(line.trim_end()) + "\n"
        } else {
            line
        };
    }
    let with = |verdict| {
        diff.changes
            .iter()
            .filter(move |change| change.verdict == verdict)
    };
    text += "noise   at 99 %, taking windows as independent: a slow drift exceeds it\n";
    let changed: Vec<&Change> = with(Verdict::Changed).collect();
    let noise: Vec<&Change> = with(Verdict::WithinNoise).collect();
    let unknown: Vec<&Change> = with(Verdict::Unknown).collect();
    if changed.is_empty() && unknown.is_empty() {
        text += "\nnothing changed by more than the noise\n";
    }
    text += &part(&changed, "changed, by effect", MAX_CHANGED, paint);
    let few = "differs; too few windows to tell the noise (3 each are needed)";
    text += &part(&unknown, few, MAX_CHANGED, paint);
    text += &part(&noise, "within the noise", MAX_NOISE, paint);
    if diff.left_out > 0 {
        text += &format!("\n{} smaller differences are left out\n", diff.left_out);
    }
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn side_line(side: &Side, name: &str) -> String {
    let mut line = format!(
        "{name}  {}  {} in {} windows from {}",
        escape(&side.file),
        format::duration(side.duration_ns),
        side.windows,
        format::utc(side.start_unix_ns),
    );
    if side.events_lost > 0 {
        line += &format!("  {} records lost", side.events_lost);
    }
    line.push('\n');
    for gap in &side.gaps {
        line += &format!("        {}\n", escape(gap));
    }
    line
}

fn part(changes: &[&Change], title: &str, most: usize, paint: Paint) -> String {
    if changes.is_empty() {
        return String::new();
    }
    let mut table = Table::default();
    for head in ["TIER", "NAME", "WHAT"] {
        table.column(head, Align::Left);
    }
    for head in ["BEFORE", "AFTER", "CHANGE", "NOISE"] {
        table.column(head, Align::Right);
    }
    table.column("", Align::Left);
    for change in changes.iter().take(most) {
        let number = |value: Option<f64>| {
            value.map_or_else(|| "-".to_owned(), |value| digits(value, change.unit))
        };
        let sign = if change.change > 0.0 { "+" } else { "-" };
        table.row(vec![
            change.tier.to_owned(),
            cut_middle(&escape(&change.name), MAX_NAME).into_owned(),
            change.what.to_owned(),
            number(change.before),
            number(change.after),
            format!("{sign}{}", digits(change.change.abs(), change.unit)),
            change.noise.map_or_else(
                || "?".to_owned(),
                |noise| format!("±{}", digits(noise, change.unit)),
            ),
            unit(change.unit).to_owned(),
        ]);
    }
    let mut text = format!("\n{title}\n") + &table.render(" ", Form::unlimited(paint));
    if changes.len() > most {
        text += &format!(" and {} more\n", changes.len() - most);
    }
    text
}

const fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::MsPerS => "ms per s",
        Unit::PerS => "per s",
        Unit::Ms => "ms",
        Unit::Bytes | Unit::Count => "",
    }
}

fn digits(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Bytes => format::bytes(value as u64),
        _ if value >= 10_000.0 => format::count(value as u64),
        _ if value >= 99.95 => format!("{value:.0}"),
        _ if value >= 9.995 => format!("{value:.1}"),
        _ if value >= 0.001 || value == 0.0 => format!("{value:.2}"),
        _ => "<0.01".to_owned(),
    }
}
