//! What the filter leaves to be shown: of a process that has the name everything, else its threads and tasks that
//! have it. What is said of them is judged from all there is.

use super::state::ScreenState;
use crate::schema::{Loop, Process, Task, Thread};

impl ScreenState {
    /// All of a process is left.
    fn leaves_all(&self, process: &Process) -> bool {
        let filter = self.filter.as_ref();
        filter.is_none_or(|filter| filter.has_process(process))
    }

    /// Something of a process is left.
    pub(super) fn leaves_process(&self, process: &Process) -> bool {
        self.leaves_all(process)
            || self.threads(process).next().is_some()
            || process
                .loops
                .iter()
                .any(|l| self.tasks(process, l).is_some())
    }

    /// The threads of a process that are left.
    pub(super) fn threads<'a>(
        &'a self,
        process: &'a Process,
    ) -> impl Iterator<Item = &'a Thread> + 'a {
        let filter = self.filter.as_ref().filter(|_| !self.leaves_all(process));
        let threads = process.threads.iter();
        threads.filter(move |thread| filter.is_none_or(|filter| filter.has_thread(thread)))
    }

    /// The tasks of a loop that are left; `None`: the loop is not, either.
    pub(super) fn tasks<'a>(&self, process: &Process, l: &'a Loop) -> Option<Vec<&'a Task>> {
        let Some(filter) = self.filter.as_ref().filter(|_| !self.leaves_all(process)) else {
            return Some(l.tasks.iter().collect());
        };
        let tasks = l.tasks.iter().filter(|task| filter.has_task(task));
        let tasks: Vec<&Task> = tasks.collect();
        let mut threads = process.threads.iter().filter(|thread| thread.tid == l.tid);
        let stays = !tasks.is_empty() || threads.any(|thread| filter.has_thread(thread));
        stays.then_some(tasks)
    }
}
