//! What is kept of looks and of `/proc`: bounded for all processes together.

use std::sync::Arc;

use crate::event::{ProcessFact, PyFrame, PyTask, PyThread, PythonFact, ThreadStat, ThrottledFact};

/// What looks and readings of `/proc` take at most, bytes: some 150,000 tasks.
const MAX_BYTES: usize = 80 << 20;
/// A map of context values, however short it is.
const MAP_BYTES: usize = 560;
const NO_ROOM: &str = "no room: the processes of this watch have too many of them";

/// What a look takes.
pub(super) fn look_bytes(look: &PythonFact) -> usize {
    let frames = |frames: &[PyFrame]| size_of_val(frames);
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let thread = |thread: &PyThread| {
        size_of::<PyThread>() + frames(&thread.stack) + text(&thread.name) + text(&thread.entry)
    };
    let task = |task: &PyTask| {
        let values = task.context.iter();
        let values: usize = values.map(|(name, value)| name.len() + value.len()).sum();
        let map = task.context.len().div_ceil(6) * MAP_BYTES;
        size_of::<PyTask>()
            + frames(&task.awaiting)
            + size_of_val(&*task.awaited_by)
            + task.name.len()
            + task.coroutine.len()
            + map
            + values
    };
    let threads: usize = look.threads.iter().map(thread).sum();
    let tasks: usize = look.tasks.iter().map(task).sum();
    let running = look.executors.iter().flat_map(|one| &one.running);
    let running: usize = running
        .map(|one| size_of_val(one) + text(&one.function))
        .sum();
    threads + tasks + running + size_of_val(&*look.executors) + size_of_val(&*look.loops)
}

/// What a reading of `/proc` takes.
pub(super) fn fact_bytes(fact: &ProcessFact) -> usize {
    let stats = fact.thread_stats.iter();
    let stats: usize = stats
        .map(|one| size_of::<ThreadStat>() + one.comm.len())
        .sum();
    let words = fact.cmdline.iter();
    let quotas = fact.quotas.iter();
    let quotas: usize = quotas
        .map(|one| size_of::<ThrottledFact>() + one.cgroup.len())
        .sum();
    stats
        + quotas
        + words
            .map(|word| size_of::<String>() + word.len())
            .sum::<usize>()
}

/// A look as it can be kept beside so many other bytes.
pub(super) fn fitted(look: &Arc<PythonFact>, others: usize) -> Arc<PythonFact> {
    if others + look_bytes(look) <= MAX_BYTES {
        return Arc::clone(look);
    }
    let mut limits = look.limits.clone();
    for field in ["tasks", "threads", "executors"] {
        limits.insert(field.to_owned(), NO_ROOM.to_owned());
    }
    Arc::new(PythonFact {
        info: look.info.clone(),
        process: look.process.clone(),
        threads: Vec::new(),
        timed: Vec::new(),
        loops: Vec::new(),
        tasks: Vec::new(),
        gils: look.gils.clone(),
        entered: Vec::new(),
        gc: look.gc.clone(),
        executors: Vec::new(),
        heap: None,
        routes: look.routes.clone(),
        limits,
        ..**look
    })
}

/// Whether a reading of `/proc` can be kept whole beside so many other bytes.
pub(super) fn fits(fact: &ProcessFact, others: usize) -> bool {
    others + fact_bytes(fact) <= MAX_BYTES
}
