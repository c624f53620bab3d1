//! Processes that run out of file descriptors.

use serde_json::Value;

use super::{Context, Held, Rule, Severity, percent, share};

/// Nearly all file descriptors that the process may have are open.
pub(super) struct FdExhaustion;

const MANY: f64 = 0.8;
const CRITICAL: f64 = 0.95;

impl Rule for FdExhaustion {
    fn name(&self) -> &'static str {
        "fd-exhaustion"
    }

    fn patience_ns(&self) -> u64 {
        0
    }

    fn needs_switches(&self) -> bool {
        false
    }

    fn explanation(&self) -> &'static str {
        "At least 80 % of the file descriptors that the process may have are open. At 100 %, accepting \
         connections and opening files fail with 'Too many open files'.\n\n\
         What to do: look for what is never closed (ls -l /proc/PID/fd), close responses and sessions, \
         raise the limit (ulimit -n, LimitNOFILE)."
    }

    fn check(&self, context: &Context<'_>) -> Option<Held> {
        let process = context.process;
        let (count, limit) = (process.fds_count?, process.fds_limit?);
        let part = share(count, limit);
        if part < MANY {
            return None;
        }
        let mut evidence = super::Evidence::new();
        evidence.insert("fds", Value::from(count));
        evidence.insert("limit", Value::from(limit));
        Some(Held {
            severity: if part >= CRITICAL {
                Severity::Critical
            } else {
                Severity::Warning
            },
            summary: format!(
                "{count} of {limit} file descriptors are open ({})",
                percent(part)
            ),
            evidence,
            advice: "close what is no longer used, or raise the limit".to_owned(),
            weight: part,
        })
    }
}
