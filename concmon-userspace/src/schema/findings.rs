//! A finding: a rule that holds.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::SCHEMA;
use super::words::words;

/// A rule that holds.
#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq)]
pub struct Finding {
    /// Its name; `concmon-bpf explain --list` lists them.
    pub rule: &'static str,
    pub severity: Severity,
    /// One sentence, with the names and numbers that matter.
    pub summary: String,
    /// The same as data; `concmon-bpf explain RULE` tells the keys.
    pub evidence: BTreeMap<&'static str, serde_json::Value>,
    /// What to do about it.
    pub advice: String,
    /// When it began to hold.
    pub since_unix_ns: u64,
    /// For how long it has held, ns; in a summary, in all.
    pub active_ns: u64,
}

words! {
    /// How bad a finding is.
    pub enum Severity {
        Info = "info",
        Warning = "warning",
        Critical = "critical",
    }
}

/// A rule, as `explain --json` prints it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RuleLine {
    /// `concmon/1`.
    pub schema: &'static str,
    #[serde(rename = "type")]
    pub kind: RuleKind,
    /// Its name.
    pub rule: &'static str,
    /// What it means, when it holds, and what to do.
    pub explanation: &'static str,
}

impl RuleLine {
    /// The line of this rule.
    pub fn new(rule: &'static str, explanation: &'static str) -> Self {
        Self {
            schema: SCHEMA,
            kind: RuleKind::Rule,
            rule,
            explanation,
        }
    }
}

words! {
    /// The kind of the line.
    pub enum RuleKind {
        Rule = "rule",
    }
}
