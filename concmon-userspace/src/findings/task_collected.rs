//! Tasks that vanish before they have ended.

use serde_json::Value;

use super::{Context, Held, Rule, Severity};
use crate::schema::ByName;

/// Tasks were garbage collected while they were pending.
pub(super) struct TaskCollected;

impl Rule for TaskCollected {
    fn name(&self) -> &'static str {
        "task-collected"
    }

    fn patience_ns(&self) -> u64 {
        0
    }

    fn explanation(&self) -> &'static str {
        "Tasks have begun, have neither returned nor failed nor been cancelled, and are there no more: \
         they were garbage collected in the middle of their work, which is lost without an error. \
         asyncio keeps weak references to tasks only, so a task that nobody keeps, and that waits for \
         something nobody keeps either, goes with the next collection. asyncio says so in its log at \
         most (Task was destroyed but it is pending).\n\n\
         It takes --exact tasks, which counts what begins and ends; what is not among the pending tasks \
         of two looks either is gone. Evidence: name is that of the tasks, gone how many vanished in the \
         window, started how many began in it.\n\n\
         What to do: keep the task, in a set from which its done callback removes it, or use \
         asyncio.TaskGroup."
    }

    fn check(&self, context: &Context<'_>) -> Option<Held> {
        let timings = context.process.loops.iter();
        let timings = timings.filter_map(|one| Some((one.tid, one.timing.as_ref()?)));
        let rows =
            timings.flat_map(|(tid, timing)| timing.by_name.iter().map(move |row| (tid, row)));
        let gone = |row: &ByName| row.gone.unwrap_or(0);
        let vanished: Vec<(u32, &ByName)> = rows.filter(|(_, row)| gone(row) > 0).collect();
        let (tid, worst) = vanished.iter().max_by_key(|(_, row)| gone(row))?;
        let all: u64 = vanished.iter().map(|(_, row)| gone(row)).sum();
        let mut evidence = super::Evidence::new();
        evidence.insert("tid", Value::from(*tid));
        evidence.insert("name", Value::from(worst.name.clone()));
        evidence.insert("gone", Value::from(gone(worst)));
        evidence.insert("gone_all_names", Value::from(all));
        evidence.insert("started", Value::from(worst.started));
        let tasks = match gone(worst) {
            1 => "1 task".to_owned(),
            count => format!("{count} tasks"),
        };
        Some(Held {
            severity: Severity::Warning,
            summary: format!(
                "{tasks} of {} vanished before they had ended: nobody kept them",
                worst.name
            ),
            evidence,
            advice: "keep tasks until they are done, or use asyncio.TaskGroup".to_owned(),
            weight: all as f64,
        })
    }
}
