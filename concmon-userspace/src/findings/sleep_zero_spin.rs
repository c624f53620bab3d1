//! Event loops that go round without ever waiting.

use serde_json::Value;

use super::history::{History, sleeps_zero};
use super::{Context, Held, Rule, Severity, loops, round};
use crate::schema::{Loop, Task};

/// A loop that never waits, because tasks ask again and again with `asyncio.sleep(0)`.
pub(super) struct SleepZeroSpin;

/// Busy from here on.
const BUSY: f64 = 0.95;
/// Steps that are shorter than this on average are polling, not work, ns.
const SHORT_NS: u64 = 200_000;

/// A task that does so for this long polls; one that serves a request has ended by then, ns.
const LONG_NS: u64 = 1_000_000_000;

/// The tasks of a loop that ask again and again with `asyncio.sleep(0)`.
fn pollers<'a>(one: &'a Loop, history: &'a History) -> impl Iterator<Item = &'a Task> {
    let long = |task: &&Task| history.yielding_ns(one.tid, task) >= LONG_NS;
    one.tasks.iter().filter(long)
}

/// Whether a loop goes round without ever waiting, and tasks are in `asyncio.sleep(0)` again and again.
pub(super) fn spins(one: &Loop, history: &History) -> bool {
    let short = one
        .timing
        .as_ref()
        .and_then(|timing| timing.step.as_ref())
        .is_some_and(|step| step.count > 0 && step.sum_ns / step.count < SHORT_NS);
    one.utilization >= BUSY && short && pollers(one, history).any(sleeps_zero)
}

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
         let go of the loop like this while they serve a request.\n\n\
         What to do: wait for what is polled for (asyncio.Event, Queue, Condition), or sleep for a \
         time that is not 0."
    }

    fn check(&self, context: &Context<'_>) -> Option<Held> {
        let one = loops(context.process).find(|one| spins(one, context.history))?;
        let mut tasks: Vec<&Task> = pollers(one, context.history).collect();
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
        evidence.insert("utilization", round(one.utilization));
        Some(Held {
            severity: Severity::Warning,
            summary: format!(
                "the event loop spins: {} calls asyncio.sleep(0) again and again",
                names.first().map_or("a task", String::as_str)
            ),
            evidence,
            advice: "wait for an asyncio.Event or a Queue instead of polling".to_owned(),
            weight: one.utilization,
        })
    }
}
