//! What `/` leaves of a snapshot: processes, threads and tasks by their names.

use regex::{Regex, RegexBuilder};

use crate::schema::{Process, Snapshot, Task, Thread};
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

    fn has_process(&self, process: &Process) -> bool {
        self.is_in(&digest::process_label(process))
            || self.is_in(&process.name)
            || self.is_in(&process.pid.to_string())
            || process
                .entry
                .as_deref()
                .is_some_and(|entry| self.is_in(entry))
    }

    fn has_thread(&self, thread: &Thread) -> bool {
        self.is_in(&digest::thread_label(thread)) || self.is_in(&thread.tid.to_string())
    }

    fn has_task(&self, task: &Task) -> bool {
        self.is_in(&task.name)
            || self.is_in(&task.coroutine)
            || task.context.values().any(|value| self.is_in(value))
    }

    /// What is left: of a process that has the name everything, else its threads and tasks that have it.
    pub(super) fn leave(&self, snapshot: &Snapshot) -> Snapshot {
        let processes = snapshot.processes.iter().filter_map(|process| {
            if self.has_process(process) {
                return Some(process.clone());
            }
            let threads: Vec<Thread> = process
                .threads
                .iter()
                .filter(|thread| self.has_thread(thread))
                .cloned()
                .collect();
            let loops: Vec<_> = process
                .loops
                .iter()
                .filter_map(|l| {
                    let tasks: Vec<Task> = l
                        .tasks
                        .iter()
                        .filter(|task| self.has_task(task))
                        .cloned()
                        .collect();
                    let stays = !tasks.is_empty() || threads.iter().any(|t| t.tid == l.tid);
                    stays.then(|| {
                        let mut left = l.clone();
                        left.tasks = tasks;
                        left
                    })
                })
                .collect();
            (!threads.is_empty() || !loops.is_empty()).then(|| {
                let mut left = process.clone();
                (left.threads, left.loops) = (threads, loops);
                left
            })
        });
        Snapshot {
            processes: processes.collect(),
            ..snapshot.clone()
        }
    }
}
