//! Workers of a pool of processes that were killed while their work is waited for.

use serde_json::Value;

use super::{Context, Held, Rule, Severity, last_part};
use crate::schema::Process;

/// A worker of a `multiprocessing.Pool` was killed, and somebody waits for results of its pool.
pub(super) struct WorkerKilled;

/// What `multiprocessing` calls the workers of its pools, and `billiard`: `ForkPoolWorker-3`.
const WORKER: &str = "PoolWorker-";
/// Functions of `multiprocessing/pool.py` that wait for results.
const WAITS: [&str; 3] = ["get", "wait", "next"];
/// By these a pool, or who types Ctrl-C, ends its workers on purpose.
const ASKED: [u8; 2] = [libc::SIGTERM as u8, libc::SIGINT as u8];

/// Whether a thread of a process waits for results of a pool. One that has ended itself is owed nothing any more.
pub(super) fn is_owed(process: &Process) -> bool {
    if process.exited.is_some() {
        return false;
    }
    let waiting = process
        .threads
        .iter()
        .filter(|thread| thread.waiting_for.is_some());
    let mut frames = waiting.flat_map(|thread| &*thread.stack);
    frames.any(|frame| {
        frame.file.ends_with("/multiprocessing/pool.py")
            && WAITS.contains(&last_part(&frame.function))
    })
}

impl Rule for WorkerKilled {
    fn name(&self) -> &'static str {
        "worker-killed"
    }

    fn patience_ns(&self) -> u64 {
        0
    }

    fn needs_switches(&self) -> bool {
        false
    }

    fn explanation(&self) -> &'static str {
        "A worker of a multiprocessing.Pool was killed by a signal (the kernel's out-of-memory killer sends 9, a \
         crash in native code is 11) while a thread of its parent waits for results of the pool. The pool starts \
         another worker, but does not notice that the work is lost: map(), get() and the iterators wait for ever.\n\n\
         What to do: find out who killed it (dmesg, memory limits of the container, faulthandler); use \
         concurrent.futures.ProcessPoolExecutor, which raises BrokenProcessPool, or wait with a timeout."
    }

    fn check(&self, context: &Context<'_>) -> Option<Held> {
        let process = context.process;
        let signal = process.exited.as_ref()?.signal?;
        let title = process.title.as_deref()?;
        let is_worker = title.contains(WORKER) && !ASKED.contains(&signal);
        (is_worker && context.owed.contains(&process.ppid)).then_some(())?;
        let mut evidence = super::Evidence::new();
        evidence.insert("worker", Value::from(title));
        evidence.insert("pid", Value::from(process.pid));
        evidence.insert("signal", Value::from(signal));
        evidence.insert("parent_pid", Value::from(process.ppid));
        Some(Held {
            severity: Severity::Critical,
            summary: format!(
                "{title} ({}), a worker of a multiprocessing.Pool, was killed by signal {signal} while process {} \
                 waits for results of the pool: what it had to do is lost, and who waits for that waits for ever",
                process.pid, process.ppid
            ),
            evidence,
            advice: "find out who killed it; use ProcessPoolExecutor, which says so, or wait with a timeout".to_owned(),
            weight: 1.0,
        })
    }
}
