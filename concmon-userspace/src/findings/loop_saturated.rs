//! Event loops without time to spare.

use serde_json::Value;

use super::{Context, Held, Rule, Severity, loops, percent, round};

/// An event loop has no idle time left, by many steps rather than by one.
pub(super) struct LoopSaturated;

/// Busy from here on; queues grow without bound as this goes to 1.
const BUSY: f64 = 0.95;

impl Rule for LoopSaturated {
    fn name(&self) -> &'static str {
        "loop-saturated"
    }

    fn patience_ns(&self) -> u64 {
        3_000_000_000
    }

    fn explanation(&self) -> &'static str {
        "An event loop was busy for at least 95 % of three seconds, and not because of single long \
         steps: there is simply more work than one thread can do. Everything in it becomes late, and \
         queues grow.\n\n\
         What to do: run more processes, move computation out of the loop (asyncio.to_thread for \
         native code that releases the GIL, else a process pool), make the named coroutines cheaper."
    }

    fn check(&self, context: &Context<'_>) -> Option<Held> {
        // A loop that runs for a moment only is busy while it does.
        let busy = loops(context.process)
            .filter(|one| one.utilization >= BUSY && one.busy_ns >= context.duration_ns / 2);
        let one = busy
            .filter(|one| !super::sleep_zero_spin::spins(one, context.history))
            .filter(|one| {
                let stalls_ns = one.timing.as_ref().map_or(0, |timing| timing.stalls_ns);
                let hanging_ns = one.hang.as_ref().map_or(0, |hang| hang.lasting_ns);
                stalls_ns.saturating_add(hanging_ns) < one.busy_ns / 2
            })
            .max_by_key(|one| one.busy_ns)?;
        let timing = one.timing.as_ref();
        let top: Vec<String> = timing
            .map(|timing| {
                let named = timing.by_name.iter().filter(|row| row.samples > 0);
                named.take(3).map(|row| row.name.clone()).collect()
            })
            .unwrap_or_default();
        let by = match top.is_empty() {
            true => String::new(),
            false => format!(", most of it by {}", top.join(", ")),
        };
        let mut evidence = super::Evidence::new();
        evidence.insert("tid", Value::from(one.tid));
        evidence.insert("utilization", round(one.utilization));
        let lag = timing.and_then(|timing| timing.lag.as_ref());
        evidence.insert("lag_p99_ns", Value::from(lag.and_then(|lag| lag.p99_ns)));
        evidence.insert("top", Value::from(top));
        Some(Held {
            severity: Severity::Warning,
            summary: format!(
                "the event loop is busy {} of the time{by}",
                percent(one.utilization)
            ),
            evidence,
            advice: "run more processes, or move computation out of the loop".to_owned(),
            weight: one.utilization,
        })
    }
}
