//! Event loops without time to spare.

use serde_json::{Value, json};

use super::spinning::cause;
use super::{Context, Held, Rule, Severity, loops, percent, round, share};
use crate::schema::Timing;

/// An event loop has no idle time left, by many steps rather than by one.
pub(super) struct LoopSaturated;

/// Busy from here on; queues grow without bound as this goes to 1.
const BUSY: f64 = 0.95;

/// Who spends a loop's busy time.
struct Contributor<'a> {
    name: &'a str,
    /// `task` or `callback`.
    kind: &'static str,
    busy_ns: u64,
}

/// Tasks by name, and callbacks that are no task's, the most expensive first.
fn contributors(timing: &Timing) -> Vec<Contributor<'_>> {
    let tasks = timing.by_name.iter().filter(|row| row.samples > 0);
    let tasks = tasks.map(|row| ("task", &row.name, &row.cost));
    let callbacks = timing.callbacks.iter();
    let callbacks = callbacks.map(|row| ("callback", &row.name, &row.cost));
    let mut all: Vec<Contributor<'_>> = tasks
        .chain(callbacks)
        .map(|(kind, name, cost)| Contributor {
            name,
            kind,
            busy_ns: cost.total_ns(),
        })
        .collect();
    all.sort_by_key(|row| std::cmp::Reverse(row.busy_ns));
    all
}

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
         queues grow. The evidence names the tasks and callbacks that took the most of it, with their \
         estimated shares of the busy time; what is left is the loop's own work.\n\n\
         What to do: run more processes, move computation out of the loop (asyncio.to_thread for \
         native code that releases the GIL, else a process pool), make the named coroutines cheaper."
    }

    fn check(&self, context: &Context<'_>) -> Option<Held> {
        // A loop that runs for a moment only is busy while it does.
        let busy = loops(context.process)
            .filter(|one| one.utilization >= BUSY && one.busy_ns >= context.duration_ns / 2);
        let one = busy
            .filter(|one| {
                let spins = cause(one, context.history);
                !spins.is_some_and(|cause| cause.is_why_it_never_waits(one))
            })
            .filter(|one| {
                let stalls_ns = one.timing.as_ref().map_or(0, |timing| timing.stalls_ns);
                let hanging_ns = one.hang.as_ref().map_or(0, |hang| hang.lasting_ns);
                stalls_ns.saturating_add(hanging_ns) < one.busy_ns / 2
            })
            .max_by_key(|one| one.busy_ns)?;
        let timing = one.timing.as_ref();
        let mut top = timing.map(contributors).unwrap_or_default();
        top.truncate(3);
        let shares: Vec<String> = top
            .iter()
            .map(|row| format!("{} {}", row.name, percent(share(row.busy_ns, one.busy_ns))))
            .collect();
        let by = match shares.is_empty() {
            true => String::new(),
            false => format!(": {}", shares.join(", ")),
        };
        let mut evidence = super::Evidence::new();
        evidence.insert("tid", Value::from(one.tid));
        evidence.insert("utilization", round(one.utilization));
        let lag = timing.and_then(|timing| timing.lag.as_ref());
        evidence.insert("lag_p99_ns", Value::from(lag.and_then(|lag| lag.p99_ns)));
        let names: Vec<&str> = top.iter().map(|row| row.name).collect();
        evidence.insert("top", Value::from(names));
        let shares = top.iter().map(|row| {
            let share = round(share(row.busy_ns, one.busy_ns));
            json!({"name": row.name, "kind": row.kind, "share": share})
        });
        evidence.insert("shares", Value::from_iter(shares));
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
