//! The line of `doctor`: what works on this host, what does not, and what mends it.

use schemars::JsonSchema;
use serde::Serialize;

use super::{SCHEMA, words::words};

/// What a watch would have here, as `doctor --json` prints it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Doctor {
    /// `concmon/1`.
    pub schema: &'static str,
    #[serde(rename = "type")]
    pub kind: DoctorKind,
    /// Version of concmon-bpf.
    pub version: &'static str,
    /// The exit code that a watch would give for what stands here, and that `doctor` gives: 0 where it
    /// would work, with all detail or less.
    pub exit_code: u8,
    /// Why it is not 0, as the watch would say it; `null` where it is.
    pub reason: Option<String>,
    /// What was looked at: the host first, then each process that was named.
    pub checks: Vec<Check>,
}

impl Doctor {
    /// What the checks come to.
    pub fn new(checks: Vec<Check>, failure: Option<(u8, String)>) -> Self {
        let (exit_code, reason) = match failure {
            Some((code, reason)) => (code, Some(reason)),
            None => (0, None),
        };
        Self {
            schema: SCHEMA,
            kind: DoctorKind::Doctor,
            version: env!("CARGO_PKG_VERSION"),
            exit_code,
            reason,
            checks,
        }
    }
}

words! {
    /// The kind of the line.
    pub enum DoctorKind {
        Doctor = "doctor",
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Check {
    /// What it is about: `kernel`, `btf`, `samples`, `python`, ...
    pub name: &'static str,
    /// The process that it is about; `null`: the host, or this program.
    pub pid: Option<u32>,
    pub status: CheckStatus,
    /// What was found, in words; where it does not work, what is missing or done without it.
    pub found: String,
    /// What it is good for; `null` where the name says that.
    pub gives: Option<String>,
    /// What it needs; `null` where `found` says that.
    pub needs: Option<String>,
    /// What mends it, a command where there is one; `null` where nothing is to be mended.
    pub fix: Option<String>,
}

words! {
    /// How something stands.
    pub enum CheckStatus {
        /// It works.
        Ok = "ok",
        /// A watch works without it, and tells less.
        Degraded = "degraded",
        /// No watch works.
        Failed = "failed",
        /// It cannot be told without what else is missing.
        Unknown = "unknown",
    }
}

impl Check {
    /// One that works.
    pub fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            pid: None,
            status: CheckStatus::Ok,
            found: found.into(),
            gives: None,
            needs: None,
            fix: None,
        }
    }

    /// One that is not as it should be, and what mends it.
    pub fn not_ok(
        name: &'static str,
        status: CheckStatus,
        found: impl Into<String>,
        fix: Option<String>,
    ) -> Self {
        Self {
            status,
            fix,
            ..Self::ok(name, found)
        }
    }

    /// The same, with what it is good for.
    #[must_use]
    pub fn giving(self, gives: &str) -> Self {
        Self {
            gives: Some(gives.to_owned()),
            ..self
        }
    }

    /// The same, with what it needs.
    #[must_use]
    pub fn needing(self, needs: impl Into<String>) -> Self {
        Self {
            needs: Some(needs.into()),
            ..self
        }
    }
}
