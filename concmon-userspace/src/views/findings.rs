//! What several views say about findings.

use std::fmt::Write as _;

use super::escape::escape;
use super::{Paint, format};
use crate::schema::{Finding, Process};

/// One line per finding: `warning gil-contention (12s): ...`.
pub(super) fn push(text: &mut String, process: &Process, indent: &str, paint: Paint) {
    for finding in &process.findings {
        let _ = writeln!(text, "{indent}{}", line(finding, paint));
    }
}

/// A finding, and what to do, on a line of its own.
pub(super) fn push_with_advice(text: &mut String, process: &Process, indent: &str, paint: Paint) {
    for finding in &process.findings {
        let _ = writeln!(text, "{indent}{}", line(finding, paint));
        let _ = writeln!(text, "{indent}  -> {}", escape(&finding.advice));
    }
}

fn line(finding: &Finding, paint: Paint) -> String {
    let rule = format!("{} {}", finding.severity, finding.rule);
    format!(
        "{} ({}): {}",
        paint.alarm(&rule),
        format::duration(finding.active_ns),
        escape(&finding.summary)
    )
}
