//! Descriptors and timers that are always ready, and tasks that poll.

use serde_json::{Value, json};

use super::history::History;
use super::queues::Always;
use super::spinning::{Cause, Poller, about, cause, per_second, turns_per_second};
use super::{Context, Held, Rule, Severity, loops, percent, round};
use crate::schema::{Descriptor, Loop};

/// A loop goes round because something is always ready, or tasks ask many times in a second.
pub(super) struct BusyPoll;

/// Tasks in the evidence.
const MAX_TASKS: usize = 5;

impl Rule for BusyPoll {
    fn name(&self) -> &'static str {
        "busy-poll"
    }

    fn patience_ns(&self) -> u64 {
        2_000_000_000
    }

    fn explanation(&self) -> &'static str {
        "Something is polled. Either the event loop never waits in its selector, in short turns, because \
         the same callback is ready in each of them: of a descriptor that stays readable (its other end \
         is closed and nobody reads that, or the callback does not read) or writable (a writer callback \
         that is never removed), or of a timer or call_soon() that calls itself again. Or a task that \
         lives for longer than a second asks at least 250 times in a second, waiting for some \
         milliseconds at most each time: asyncio.sleep(0.001), wait(timeout=0), wait_for() with a short \
         timeout. (asyncio.sleep(0) is sleep-zero-spin.)\n\n\
         Evidence: kind is descriptor, callback or task; descriptor is its number in the process, with \
         what it is; function is the callback; tasks names those that poll, the time that they ask for, \
         and how often in a second, estimated from the turns of the loop.\n\n\
         What to do: read until it would block, and remove the reader at the end of the stream, the \
         writer once everything is written. Wait for what is polled for (asyncio.Event, Queue, \
         Condition)."
    }

    fn check(&self, context: &Context<'_>) -> Option<Held> {
        let history = context.history;
        let found = loops(context.process).filter_map(|one| {
            let cause = cause(one, history)?;
            match cause {
                Cause::SleepZero(_) => None,
                Cause::Ready(always) => Some(of_callback(one, &always, history)),
                Cause::Tasks(tasks) => Some(of_tasks(one, &tasks, history)),
            }
        });
        found.max_by(|one, other| one.weight.total_cmp(&other.weight))
    }
}

fn of_callback(one: &Loop, always: &Always, history: &History) -> Held {
    // Of uvloop before 0.18, turns are not known.
    let rate = turns_per_second(one, history);
    let function = always.function.as_deref().unwrap_or("a callback");
    let mut evidence = super::Evidence::new();
    evidence.insert("tid", Value::from(one.tid));
    evidence.insert("function", Value::from(always.function.clone()));
    let per_second = rate.map(|rate| rate.round() as u64);
    evidence.insert("per_second", Value::from(per_second));
    evidence.insert("utilization", round(one.utilization));
    let often = rate.map_or(String::new(), |rate| {
        format!(" {} times per second", about(rate))
    });
    let (kind, what, advice) = match &always.descriptor {
        Some(descriptor) => {
            evidence.insert("descriptor", Value::from(descriptor.number));
            evidence.insert("descriptor_kind", Value::from(descriptor.kind.clone()));
            evidence.insert("writes", Value::from(descriptor.writes));
            let (able, advice) = match descriptor.writes {
                false => (
                    "readable",
                    "read until it would block, and remove the reader at the end of the stream",
                ),
                true => ("writable", "remove the writer once everything is written"),
            };
            let what = format!("descriptor {} is always {able}", named(descriptor));
            ("descriptor", what, advice)
        }
        None => (
            "callback",
            "a timer is always due".to_owned(),
            "wait for what is polled for, or call again after a time that is not 0",
        ),
    };
    evidence.insert("kind", Value::from(kind));
    Held {
        severity: Severity::Warning,
        summary: format!(
            "the event loop goes round{often} for nothing: {what}, and {function} is called"
        ),
        evidence,
        advice: advice.to_owned(),
        weight: rate.unwrap_or(0.0),
    }
}

/// `7 (socket)`.
fn named(descriptor: &Descriptor) -> String {
    match &descriptor.kind {
        Some(kind) => format!("{} ({kind})", descriptor.number),
        None => descriptor.number.to_string(),
    }
}

fn of_tasks(one: &Loop, pollers: &[Poller<'_>], history: &History) -> Held {
    let rate = |poller: Poller<'_>| per_second(one, poller, history).unwrap_or(0.0);
    let mut tasks = pollers.to_vec();
    tasks.sort_by(|one, other| {
        rate(*other)
            .total_cmp(&rate(*one))
            .then(one.task.id.cmp(&other.task.id))
    });
    let rows = tasks.iter().take(MAX_TASKS).map(|poller| {
        json!({
            "name": poller.task.name,
            "coroutine": poller.task.coroutine,
            "call": call(*poller),
            "timeout_ns": poller.timeout_ns,
            "per_second": rate(*poller).round() as u64,
        })
    });
    let worst = tasks.first();
    let mut evidence = super::Evidence::new();
    evidence.insert("tid", Value::from(one.tid));
    evidence.insert("kind", Value::from("task"));
    evidence.insert("tasks", Value::from_iter(rows));
    evidence.insert("tasks_count", Value::from(tasks.len()));
    evidence.insert("utilization", round(one.utilization));
    let others = match tasks.len() {
        0 | 1 => String::new(),
        count => format!(", and {} more tasks poll", count - 1),
    };
    let who = worst.map_or_else(String::new, |poller| {
        format!(
            "task {} ({}) asks {} times per second with {}",
            poller.task.name,
            poller.task.coroutine,
            about(rate(*poller)),
            call(*poller)
        )
    });
    Held {
        // A task that asks a thousand times per second takes some percent of a CPU.
        severity: if one.utilization >= 0.5 {
            Severity::Warning
        } else {
            Severity::Info
        },
        summary: format!(
            "{who}{others}: the event loop is busy {}",
            percent(one.utilization)
        ),
        evidence,
        advice: "wait for an asyncio.Event, a Queue or a Condition instead of polling".to_owned(),
        weight: tasks.iter().map(|poller| rate(*poller)).sum(),
    }
}

/// `asyncio.sleep(0.001)`.
fn call(poller: Poller<'_>) -> String {
    let seconds = poller.timeout_ns as f64 / 1e9;
    match poller.call {
        Some("sleep") => format!("asyncio.sleep({seconds})"),
        Some(call) => format!("asyncio.{call}(timeout={seconds})"),
        None => format!("a timeout of {seconds} s"),
    }
}
