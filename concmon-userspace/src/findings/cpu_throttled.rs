//! Processes whose CPU quota is used up.

use serde_json::Value;

use super::{Context, Held, Rule, Severity, percent, round, share};

/// The CPU quota of the cgroup keeps threads from running.
pub(super) struct CpuThrottled;

/// The cgroup was throttled for so much of the time, on all CPUs together.
const THROTTLED: f64 = 0.1;
/// Threads of the process waited for so much of the time, all together: others of its cgroup may have used it up.
const WAITED: f64 = 0.1;

/// How long the quota kept the cgroup of the process from running, ns; `None`: hardly.
pub(super) fn throttled_ns(context: &Context<'_>) -> Option<u64> {
    let throttled = context.process.throttled.as_ref()?;
    let threads = context.process.threads.iter();
    let runnable_ns = threads
        .map(|thread| thread.ledger.runnable_ns)
        .fold(0, u64::saturating_add);
    let holds = throttled.throttled_count > 0
        && share(throttled.throttled_ns, context.duration_ns) >= THROTTLED
        && share(runnable_ns, context.duration_ns) >= WAITED;
    holds.then_some(throttled.throttled_ns)
}

impl Rule for CpuThrottled {
    fn name(&self) -> &'static str {
        "cpu-throttled"
    }

    fn patience_ns(&self) -> u64 {
        3_000_000_000
    }

    fn explanation(&self) -> &'static str {
        "The CPU quota of the cgroup (cpu.max; a limit of CPUs of a container or a pod) was used up for at least a \
         tenth of the time, on all CPUs together, for three seconds, and threads of the process waited meanwhile. \
         The kernel lets none of them run until the next period begins, mostly 0.1 s, however idle the host is. \
         So latency grows in steps, while CPU use is at or below the limit.\n\n\
         What to do: raise the limit, or run fewer threads and workers at the same time: what several do at once \
         uses the quota up early in each period."
    }

    fn check(&self, context: &Context<'_>) -> Option<Held> {
        let throttled_ns = throttled_ns(context)?;
        let throttled = context.process.throttled.as_ref()?;
        let quota = &throttled.cpu_quota;
        let part = share(throttled_ns, context.duration_ns);
        let mut evidence = super::Evidence::new();
        evidence.insert("throttled_ns", Value::from(throttled_ns));
        evidence.insert("throttled_count", Value::from(throttled.throttled_count));
        evidence.insert("throttled_share", round(part));
        evidence.insert("cgroup", Value::from(quota.cgroup.clone()));
        evidence.insert("cpus", round(quota.cpus));
        Some(Held {
            severity: if part >= 0.5 {
                Severity::Critical
            } else {
                Severity::Warning
            },
            summary: format!(
                "the quota of {} CPUs of cgroup {} was used up for {} of the time",
                (quota.cpus * 100.0).round() / 100.0,
                quota.cgroup,
                percent(part)
            ),
            evidence,
            advice: "raise the limit of the cgroup, or run fewer threads and workers at once"
                .to_owned(),
            weight: part,
        })
    }
}
