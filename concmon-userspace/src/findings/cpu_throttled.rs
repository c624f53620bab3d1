//! Processes whose CPU quota is used up.

use serde_json::Value;

use super::{Context, Held, Rule, Severity, percent, round, share};

/// The CPU quota of the cgroup keeps threads from running.
pub(super) struct CpuThrottled;

/// A thread was kept from running for so much of the time.
const THROTTLED: f64 = 0.1;

/// How long the quota kept a thread of the process from running, ns; `None`: hardly. The kernel adds up what it took on
/// each CPU, which may be many times as much; and others of the cgroup may be those that it was taken from.
pub(super) fn kept_ns(context: &Context<'_>) -> Option<u64> {
    let throttled = context.process.throttled.as_ref()?;
    let threads = context.process.threads.iter();
    let waited_ns = threads.map(|thread| thread.ledger.runnable_ns).max()?;
    let ns = throttled.throttled_ns?.min(waited_ns);
    let holds = throttled.throttled_count? > 0 && share(ns, context.duration_ns) >= THROTTLED;
    holds.then_some(ns)
}

impl Rule for CpuThrottled {
    fn name(&self) -> &'static str {
        "cpu-throttled"
    }

    fn patience_ns(&self) -> u64 {
        3_000_000_000
    }

    fn explanation(&self) -> &'static str {
        "The CPU quota of the cgroup (cpu.max; a limit of CPUs of a container or a pod) was used up, \
         and a thread of the process waited for at least a tenth of the time for that, for three seconds. \
         The kernel lets none of them run until the next period begins, mostly 0.1 s, however idle the host is. \
         So latency grows in steps, while CPU use is at or below the limit.\n\n\
         What to do: raise the limit, or run fewer threads and workers at the same time: what several do at once \
         uses the quota up early in each period."
    }

    fn cannot_tell(&self, context: &Context<'_>) -> bool {
        let throttled = context.process.throttled.as_ref();
        throttled.is_some_and(|throttled| throttled.throttled_ns.is_none())
    }

    fn check(&self, context: &Context<'_>) -> Option<Held> {
        let kept_ns = kept_ns(context)?;
        let throttled = context.process.throttled.as_ref()?;
        let quota = &throttled.cpu_quota;
        let part = share(kept_ns, context.duration_ns).min(1.0);
        let mut evidence = super::Evidence::new();
        evidence.insert("throttled_ns", Value::from(throttled.throttled_ns));
        evidence.insert("throttled_count", Value::from(throttled.throttled_count));
        evidence.insert("waited_ns", Value::from(kept_ns));
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
                "the quota of {} CPUs of cgroup {} kept a thread from running {} of the time",
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
