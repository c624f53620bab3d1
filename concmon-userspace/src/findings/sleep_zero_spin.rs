//! Event loops that go round without ever waiting.

use serde_json::Value;

use super::spinning::{Cause, about, cause, turns_per_second};
use super::{Context, Held, Rule, Severity, loops, round};

/// A loop that never waits, because tasks ask again and again with `asyncio.sleep(0)`.
pub(super) struct SleepZeroSpin;

impl Rule for SleepZeroSpin {
    fn name(&self) -> &'static str {
        "sleep-zero-spin"
    }

    fn patience_ns(&self) -> u64 {
        2_000_000_000
    }

    fn explanation(&self) -> &'static str {
        "An event loop goes round without ever waiting in its selector, in steps of less than 0.2 ms, \
         because tasks call asyncio.sleep(0) again and again, usually to poll for something. It takes \
         a whole CPU to do nothing. Tasks that are younger than a second do not count: frameworks \
         let go of the loop like this while they serve a request. Each of the named tasks asks about as \
         often as the loop goes round.\n\n\
         What to do: wait for what is polled for (asyncio.Event, Queue, Condition), or sleep for a \
         time that is not 0."
    }

    fn check(&self, context: &Context<'_>) -> Option<Held> {
        let history = context.history;
        let (one, mut tasks) =
            loops(context.process).find_map(|one| match cause(one, history)? {
                Cause::SleepZero(tasks) => Some((one, tasks)),
                Cause::Ready(_) | Cause::Tasks(_) => None,
            })?;
        tasks.sort_by_key(|task| std::cmp::Reverse(task.cost.map_or(0, |cost| cost.samples)));
        let names: Vec<String> = tasks
            .iter()
            .take(3)
            .map(|task| task.coroutine.clone())
            .collect();
        let iterations = one.timing.as_ref().and_then(|timing| timing.iterations);
        let mut evidence = super::Evidence::new();
        evidence.insert("tid", Value::from(one.tid));
        evidence.insert("tasks", Value::from(tasks.len()));
        evidence.insert("coroutines", Value::from(names.clone()));
        evidence.insert("iterations", Value::from(iterations));
        let rate = turns_per_second(one, history);
        let per_second = rate.map(|rate| rate.round() as u64);
        evidence.insert("per_second", Value::from(per_second));
        evidence.insert("utilization", round(one.utilization));
        Some(Held {
            severity: Severity::Warning,
            summary: format!(
                "the event loop spins: {} calls asyncio.sleep(0) {}",
                names.first().map_or("a task", String::as_str),
                match rate {
                    Some(rate) => format!("{} times per second", about(rate)),
                    None => "again and again".to_owned(),
                }
            ),
            evidence,
            advice: "wait for an asyncio.Event or a Queue instead of polling".to_owned(),
            weight: one.utilization,
        })
    }
}
