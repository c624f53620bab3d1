//! Threads that are made and end all the time.

use serde_json::Value;

use super::{Context, Held, Rule, Severity, round};

/// Threads are made and end all the time.
pub(super) struct ThreadChurn;

/// Threads made per second: a pool makes none.
const PER_SECOND: f64 = 20.0;

impl Rule for ThreadChurn {
    fn name(&self) -> &'static str {
        "thread-churn"
    }

    fn patience_ns(&self) -> u64 {
        3_000_000_000
    }

    fn explanation(&self) -> &'static str {
        "The process makes at least 20 threads a second, for three seconds. Each takes some 100 us, a \
         stack, and fresh connections or caches of whatever is kept per thread.\n\n\
         What to do: a ThreadPoolExecutor that lives as long as the program, or asyncio."
    }

    fn check(&self, context: &Context<'_>) -> Option<Held> {
        let process = context.process;
        let rows = process
            .threads
            .iter()
            .filter(|thread| thread.started_unix_ns >= context.begin_unix_ns)
            .filter(|thread| thread.tid != process.pid)
            .count() as u64;
        let born = rows.saturating_add(process.ended.threads);
        let seconds = context.duration_ns as f64 / 1e9;
        let per_second = born as f64 / seconds.max(1e-3);
        // A pool that is filled is none.
        let ended = process
            .threads
            .iter()
            .filter(|thread| !thread.alive)
            .count() as u64;
        if per_second < PER_SECOND || ended.saturating_add(process.ended.threads) < born / 2 {
            return None;
        }
        let mut evidence = super::Evidence::new();
        evidence.insert("threads", Value::from(born));
        evidence.insert("per_second", round(per_second));
        Some(Held {
            severity: Severity::Warning,
            summary: format!("{per_second:.0} threads a second are made, and end again"),
            evidence,
            advice: "use a thread pool that lives as long as the program".to_owned(),
            weight: per_second,
        })
    }
}
