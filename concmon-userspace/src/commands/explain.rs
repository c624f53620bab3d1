//! `concmon-bpf explain` and `schema`: what findings and lines mean.

use std::io::{self, Write as _};

use crate::session::outcome::{Failure, code};
use crate::{
    cli::Options,
    findings,
    schema::{self, RuleLine},
    views::json,
};

/// Explains a rule, or lists all of them.
pub(super) fn run(options: &Options, rule: Option<&str>) -> Result<u8, Failure> {
    let wanted: Vec<RuleLine> = findings::rules()
        .filter(|(name, _)| rule.is_none_or(|rule| rule == *name))
        .map(|(rule, explanation)| RuleLine::new(rule, explanation))
        .collect();
    if let Some(rule) = rule.filter(|_| wanted.is_empty()) {
        return Err(unknown(rule));
    }
    let mut out = io::stdout().lock();
    let printed = if options.json {
        wanted.iter().try_for_each(|one| json::write(one, &mut out))
    } else if rule.is_some() {
        wanted
            .iter()
            .try_for_each(|one| writeln!(out, "{}\n\n{}", one.rule, one.explanation))
    } else {
        wanted.iter().try_for_each(|one| {
            let sentence = one.explanation.split(". ").next().unwrap_or_default();
            writeln!(out, "{:<31} {}", one.rule, sentence.trim_end_matches('.'))
        })
    };
    crate::session::printed(printed)?;
    Ok(code::OK)
}

/// Prints the JSON Schema of all lines.
pub(super) fn schema() -> Result<u8, Failure> {
    let document = schema::document();
    crate::session::printed(writeln!(io::stdout(), "{document:#}"))?;
    Ok(code::OK)
}

/// Refuses names that are no rules.
pub(super) fn check(rules: &[String]) -> Result<(), Failure> {
    let known = |rule: &&String| *rule == "any" || findings::rules().any(|(name, _)| name == *rule);
    match rules.iter().find(|rule| !known(rule)) {
        Some(rule) => Err(unknown(rule)),
        None => Ok(()),
    }
}

fn unknown(rule: &str) -> Failure {
    let names: Vec<&str> = findings::rules().map(|(name, _)| name).collect();
    let message = format!(
        "there is no rule `{}`; there are {}",
        crate::views::escape::escape(rule),
        names.join(", ")
    );
    Failure::new(code::USAGE, message)
}
