//! Work of thread pools that fails without anybody asking.

use serde_json::Value;

use super::{Context, Held, Rule, Severity};

/// Failures in thread pools that nobody asks for.
pub(super) struct FuturesFailing;

impl Rule for FuturesFailing {
    fn name(&self) -> &'static str {
        "futures-failing-silently"
    }

    /// From the first one on, and for a while after the last: it lingers.
    fn patience_ns(&self) -> u64 {
        1
    }

    fn explanation(&self) -> &'static str {
        "Work that was submitted to a ThreadPoolExecutor has failed, and nobody has asked for its \
         exception: it is gone together with its future, or has waited for ten seconds. \
         concurrent.futures says nothing about such failures, ever. Seen only with --exact futures. \
         Asking is to call result(), or to await the work in asyncio; whoever calls exception(), or \
         looks at the exception in a callback of its own, is not seen and wrongly accused.\n\n\
         What to do: keep the future and call result(), add a done callback that logs \
         future.exception(), or catch and log what fails in the function that is submitted."
    }

    fn check(&self, context: &Context<'_>) -> Option<Held> {
        let pools = context.process.exact.as_ref()?.pools.as_ref()?;
        let rows = pools.rows.as_ref()?.iter();
        let failing = rows.filter(|row| row.silent > 0);
        let silent = failing
            .clone()
            .fold(0u64, |sum, row| sum.saturating_add(row.silent));
        let worst = failing.max_by_key(|row| row.silent)?;
        let name = worst.name_prefix.as_deref().unwrap_or("a thread pool");
        let mut evidence = super::Evidence::new();
        evidence.insert("executor", Value::from(name));
        evidence.insert("silent", Value::from(silent));
        evidence.insert("unretrieved", Value::from(worst.unretrieved));
        evidence.insert("failed", Value::from(worst.failed));
        evidence.insert("submitted", Value::from(worst.submitted));
        let failures = if silent == 1 {
            "1 failure".to_owned()
        } else {
            format!("{silent} failures")
        };
        Some(Held {
            severity: Severity::Warning,
            summary: format!("{failures} in thread pools that nobody asked for, most in {name}"),
            evidence,
            advice: "call result() of each future, or log future.exception() in a done callback"
                .to_owned(),
            weight: silent as f64,
        })
    }
}
