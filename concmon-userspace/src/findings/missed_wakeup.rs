//! Loops that sleep while work is ready for them.

use serde_json::{Value, json};

use super::{Context, Held, Rule, Severity, ms};
use crate::schema::Ready;

/// Callbacks were ready, and the loop slept on.
pub(super) struct MissedWakeup;

/// Callbacks in the evidence.
const MAX_READY: usize = 5;

impl Rule for MissedWakeup {
    fn name(&self) -> &'static str {
        "missed-wakeup"
    }

    fn patience_ns(&self) -> u64 {
        0
    }

    fn explanation(&self) -> &'static str {
        "Work is ready in the queue of an event loop, and the loop sleeps: for at least 50 ms its thread \
         was blocked in its selector while a callback or the step of a task was there. It runs when \
         something else wakes the loop, a timer or a request, which may be never.\n\n\
         So it goes when another thread calls what is not thread-safe: future.set_result(), \
         event.set(), queue.put_nowait(), task.cancel(), loop.call_soon(); or when a handler of \
         signal.signal() does. The look at the queue and the kernel's account of the thread say so \
         together. As long as a thread is in call_soon_threadsafe(), nothing is concluded.\n\n\
         Evidence: since_unix_ns and asleep_ns say from when on it was seen to be ready, and how long \
         the loop slept on; ready names the tasks and callbacks; count is how often looks saw that.\n\n\
         What to do: loop.call_soon_threadsafe(future.set_result, value), \
         asyncio.run_coroutine_threadsafe(), loop.add_signal_handler()."
    }

    fn check(&self, context: &Context<'_>) -> Option<Held> {
        let loops = context.process.loops.iter();
        let missed = loops.filter_map(|one| Some((one, one.missed_wakeup.as_ref()?)));
        let (one, missed) = missed.max_by_key(|(_, missed)| missed.asleep_ns)?;
        let who = missed.ready.first().map_or("a callback".to_owned(), named);
        let rows = missed.ready.iter().take(MAX_READY).map(|ready| {
            let task = ready.task.as_ref().map(|task| &task.name);
            json!({"function": ready.function, "task": task})
        });
        let mut evidence = super::Evidence::new();
        evidence.insert("tid", Value::from(one.tid));
        evidence.insert("since_unix_ns", Value::from(missed.since_unix_ns));
        evidence.insert("asleep_ns", Value::from(missed.asleep_ns));
        evidence.insert("count", Value::from(missed.count));
        evidence.insert("ready", Value::from_iter(rows));
        Some(Held {
            severity: Severity::Warning,
            summary: format!(
                "{who} is ready, and nobody wakes the event loop: it slept on for {} at least",
                ms(missed.asleep_ns)
            ),
            evidence,
            advice: "from other threads and signal handlers, use loop.call_soon_threadsafe()"
                .to_owned(),
            weight: missed.asleep_ns as f64,
        })
    }
}

/// `task consumer (consumer)`, `app.on_done`.
fn named(ready: &Ready) -> String {
    let function = ready.function.as_deref();
    match &ready.task {
        Some(task) => format!("task {} ({})", task.name, function.unwrap_or("?")),
        None => function.unwrap_or("a callback").to_owned(),
    }
}
