//! What several views say about findings.

use super::escape::escape;
use super::names::stem;
use super::{Form, Paint, digest, format};
use crate::schema::{Finding, Process, Severity};

/// Processes that are named beside a finding.
const MAX_NAMED: usize = 4;

/// One that several processes have, or one alone.
#[derive(Debug)]
pub(super) struct Common<'a> {
    /// Of whom it held longest.
    pub(super) finding: &'a Finding,
    pub(super) processes: Vec<&'a Process>,
}

/// The findings of these processes, the critical ones first; those of one rule that say the same but for
/// numbers are one.
pub(super) fn common<'a>(processes: &[&'a Process]) -> Vec<Common<'a>> {
    let mut all: Vec<(String, Common<'a>)> = Vec::new();
    for process in processes {
        for finding in &process.findings {
            let said = said(finding);
            let same = |(known, common): &(String, Common<'_>)| {
                let first = common.finding;
                first.rule == finding.rule && first.severity == finding.severity && *known == said
            };
            match all.iter_mut().find(|one| same(one)) {
                Some((_, common)) => {
                    if finding.active_ns > common.finding.active_ns {
                        common.finding = finding;
                    }
                    common.processes.push(process);
                }
                None => all.push((
                    said,
                    Common {
                        finding,
                        processes: vec![process],
                    },
                )),
            }
        }
    }
    let mut all: Vec<Common<'a>> = all.into_iter().map(|(_, common)| common).collect();
    all.sort_by_key(|common| common.finding.severity != Severity::Critical);
    all
}

/// What a finding says first, without numbers: what follows is whom it met.
fn said(finding: &Finding) -> String {
    let first = finding.summary.split(';').next();
    stem(first.unwrap_or_default())
}

/// One line per finding: `warning gil-contention (12.0s): ...`.
pub(super) fn push(
    text: &mut String,
    findings: &[Common<'_>],
    indent: usize,
    of: usize,
    form: Form,
) {
    for common in findings {
        form.wrap(text, indent, 2, &line(common, of, form.paint));
    }
}

/// A finding, and what to do, on a line of its own.
pub(super) fn push_with_advice(
    text: &mut String,
    findings: &[Common<'_>],
    indent: usize,
    of: usize,
    form: Form,
) {
    for common in findings {
        form.wrap(text, indent, 2, &line(common, of, form.paint));
        let advice = format!("-> {}", escape(&common.finding.advice));
        form.wrap(text, indent + 2, 3, &advice);
    }
}

/// `of`: so many processes are shown; of one alone it need not be said whose it is.
fn line(common: &Common<'_>, of: usize, paint: Paint) -> String {
    let finding = common.finding;
    let rule = format!("{} {}", finding.severity, finding.rule);
    let named = common.processes.iter().take(MAX_NAMED);
    let mut pids: Vec<String> = named.map(|process| process.pid.to_string()).collect();
    if common.processes.len() > MAX_NAMED {
        pids.push(format!("{} more", common.processes.len() - MAX_NAMED));
    }
    let whose = match (of, common.processes.len()) {
        (..=1, _) => String::new(),
        (_, 1) => format!(" in {}", pids[0]),
        (_, count) => format!(
            " in {} ({})",
            digest::processes(count as u64),
            pids.join(", ")
        ),
    };
    format!(
        "{}{whose} ({}): {}",
        paint.alarm(&rule),
        format::duration(finding.active_ns),
        escape(&finding.summary)
    )
}
