//! The pattern of `/`, and what has it: processes, threads and tasks by their names.

use regex::{Regex, RegexBuilder};

use crate::schema::{Process, Task, Thread};
use crate::views::digest;

/// What a pattern may take when it is compiled, bytes.
const MAX_PATTERN_BYTES: usize = 1 << 20;

/// A pattern over names, without regard to case.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    text: String,
    /// `None`: it is no expression, and meant as it stands.
    pattern: Option<Regex>,
}

impl Filter {
    /// `None`: it is empty, and leaves everything.
    pub(super) fn new(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self {
            text: text.to_owned(),
            pattern: RegexBuilder::new(text)
                .case_insensitive(true)
                .size_limit(MAX_PATTERN_BYTES)
                .build()
                .ok(),
        })
    }

    /// As it was typed.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn is_in(&self, name: &str) -> bool {
        match &self.pattern {
            Some(pattern) => pattern.is_match(name),
            None => name.to_lowercase().contains(&self.text.to_lowercase()),
        }
    }

    pub(super) fn has_process(&self, process: &Process) -> bool {
        self.is_in(&digest::process_label(process))
            || self.is_in(&process.name)
            || self.is_in(&process.pid.to_string())
            || process
                .entry
                .as_deref()
                .is_some_and(|entry| self.is_in(entry))
    }

    pub(super) fn has_thread(&self, thread: &Thread) -> bool {
        self.is_in(&digest::thread_label(thread)) || self.is_in(&thread.tid.to_string())
    }

    pub(super) fn has_task(&self, task: &Task) -> bool {
        self.is_in(&task.name)
            || self.is_in(&task.coroutine)
            || task.context.values().any(|value| self.is_in(value))
    }
}
