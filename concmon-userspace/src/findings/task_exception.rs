//! Failed tasks whose exception nobody asks for.

use std::collections::BTreeMap;

use serde_json::Value;

use super::history::is_unasked;
use super::{Context, Held, Rule, Severity};

/// Tasks failed, and nobody asked for the exception.
pub(super) struct TaskException;

/// Whoever awaits a task this soon is not to be blamed, ns.
const PATIENCE_NS: u64 = 2_000_000_000;

impl Rule for TaskException {
    fn name(&self) -> &'static str {
        "task-exception-never-retrieved"
    }

    fn patience_ns(&self) -> u64 {
        0
    }

    fn explanation(&self) -> &'static str {
        "Tasks have ended with an exception, somebody still keeps them, and for two seconds nobody has \
         asked for the exception. asyncio reports such a failure only when the task is garbage \
         collected, which for a task in a list or an attribute may be never: the failure is silent.\n\n\
         What to do: await the task, add a done callback that looks at task.exception(), or use a \
         TaskGroup. (From Python 3.14 on, a task leaves asyncio's lists when it fails: only those that \
         were pending in the look before are seen.)"
    }

    fn check(&self, context: &Context<'_>) -> Option<Held> {
        let mut of: BTreeMap<(String, String), u64> = BTreeMap::new();
        let loops = context.process.loops.iter();
        let tasks = loops.flat_map(|one| one.tasks.iter().map(|task| (one.tid, task)));
        let failed = tasks.filter(|(tid, task)| {
            is_unasked(task) && context.history.failed_ns(*tid, task) >= PATIENCE_NS
        });
        for (_, task) in failed {
            let exception = task.exception.clone().unwrap_or_else(|| "?".to_owned());
            *of.entry((task.coroutine.clone(), exception)).or_default() += 1;
        }
        let count: u64 = of.values().sum();
        let ((coroutine, exception), _) = of.iter().max_by_key(|(_, count)| **count)?;
        let mut evidence = super::Evidence::new();
        evidence.insert("tasks", Value::from(count));
        evidence.insert("coroutine", Value::from(coroutine.clone()));
        evidence.insert("exception", Value::from(exception.clone()));
        let tasks = if count == 1 {
            "1 task has"
        } else {
            &format!("{count} tasks have")
        };
        Some(Held {
            severity: Severity::Warning,
            summary: format!("{tasks} failed and nobody looked: {exception} in {coroutine}"),
            evidence,
            advice: "await the task, or look at task.exception() in a done callback".to_owned(),
            weight: count as f64,
        })
    }
}
