//! What a blocked thread's innermost functions say about its wait: data.
//!
//! A thread blocks on a plain lock, whatever it waits for: a `Queue.get` is a `Condition.wait`, which
//! is a lock that nobody else knows. So the kind of the lock comes first ([`LOCKS`]), then the
//! function that took it ([`HOLDERS`]), then, outwards from a `Condition.wait`, the functions that
//! call one another ([`CALLERS`]); the outermost of them says it.
//!
//! Purposes: whoever takes a lock wants what somebody else has: *contended*. Who waits for what others give, an item
//! of a queue or a permit of a semaphore, waits for an *item*; where the loop of a pool's worker does ([`LOOPS`]), for
//! *work*. Waiting for the end of a thread is a *join*.
//! All else is *other*: who waits for an event, a result, or for room in a queue, waits for progress.

use crate::event::{WaitKind, WaitPurpose};

/// A type of objects that a thread blocks on.
pub(crate) struct LockRule {
    /// `tp_name`.
    pub(crate) name: &'static str,
    pub(crate) kind: WaitKind,
    pub(crate) purpose: WaitPurpose,
    /// It says which thread has it.
    pub(crate) has_owner: bool,
}

pub(crate) static LOCKS: &[LockRule] = &[
    LockRule {
        name: "_thread.lock",
        kind: WaitKind::Lock,
        purpose: WaitPurpose::Contended,
        has_owner: false,
    },
    LockRule {
        name: "_thread.RLock",
        kind: WaitKind::RLock,
        purpose: WaitPurpose::Contended,
        has_owner: true,
    },
    LockRule {
        name: "_queue.SimpleQueue",
        kind: WaitKind::SimpleQueue,
        purpose: WaitPurpose::Item,
        has_owner: false,
    },
    LockRule {
        name: "_multiprocessing.SemLock",
        kind: WaitKind::Semaphore,
        purpose: WaitPurpose::Contended,
        has_owner: false,
    },
];

/// A function of a library.
pub(crate) struct FunctionRule {
    /// How the path of its file ends.
    file: &'static str,
    /// Its name without that of its class: all that there is up to 3.10.
    function: &'static str,
    /// The class of `self`, or a base of it; `None`: it has no `self`.
    pub(crate) class: Option<&'static str>,
    pub(crate) kind: WaitKind,
    pub(crate) purpose: WaitPurpose,
}

impl FunctionRule {
    /// Whether it is about functions of this name in this file.
    pub(crate) fn names(&self, function: &str, file: &str) -> bool {
        is_named(function, file, self.function, self.file)
    }
}

const fn rule(
    file: &'static str,
    function: &'static str,
    class: Option<&'static str>,
    kind: WaitKind,
    purpose: WaitPurpose,
) -> FunctionRule {
    FunctionRule {
        file,
        function,
        class,
        kind,
        purpose,
    }
}

/// The local variable of [`WAIT`] with the lock that a notification opens: a wait for another one
/// takes the condition's own lock.
pub(crate) const WAITER: &str = "waiter";

/// `Condition.wait`.
pub(crate) static WAIT: FunctionRule = rule(
    "threading.py",
    "wait",
    Some("Condition"),
    WaitKind::Condition,
    WaitPurpose::Other,
);

/// Functions that block on a lock for who calls them: what for, only those can say.
pub(crate) static ENTRIES: &[FunctionRule] = {
    use WaitKind::{Condition, Lock, Semaphore};
    use WaitPurpose::{Contended, Other};
    &[
        rule(
            "multiprocessing/synchronize.py",
            "__enter__",
            Some("SemLock"),
            Semaphore,
            Contended,
        ),
        rule(
            "billiard/synchronize.py",
            "__enter__",
            Some("SemLock"),
            Semaphore,
            Contended,
        ),
        rule(
            "gevent/_threading.py",
            "acquire_with_timeout",
            None,
            Lock,
            Other,
        ),
        rule("gevent/_threading.py", "wait", None, Condition, Other),
    ]
};

/// Functions that block on a lock themselves.
pub(crate) static HOLDERS: &[FunctionRule] = {
    use WaitKind::{Join, Lock, Queue};
    use WaitPurpose::{Item, Other};
    const JOIN: WaitPurpose = WaitPurpose::Join;
    &[
        rule(
            "threading.py",
            "_wait_for_tstate_lock",
            Some("Thread"),
            Join,
            JOIN,
        ),
        rule("threading.py", "join", Some("Thread"), Join, JOIN),
        rule("threading.py", "_shutdown", None, Join, JOIN),
        // One process reads, all others wait for their turn.
        rule(
            "multiprocessing/queues.py",
            "get",
            Some("Queue"),
            Queue,
            Item,
        ),
        rule(
            "multiprocessing/queues.py",
            "get",
            Some("SimpleQueue"),
            Queue,
            Item,
        ),
        rule(
            "multiprocessing/queues.py",
            "put",
            Some("Queue"),
            Queue,
            Other,
        ),
        rule("billiard/queues.py", "get", None, Queue, Item),
        rule("billiard/queues.py", "get_payload", None, Queue, Item),
        rule("gevent/_threading.py", "get", None, Queue, Item),
        rule(
            "trio/_core/_thread_cache.py",
            "_work",
            Some("WorkerThread"),
            Lock,
            Item,
        ),
    ]
};

/// The loops of workers of pools and servers: how the file's path ends, and the function's plain name.
static LOOPS: &[(&str, &str)] = &[
    ("concurrent/futures/thread.py", "_worker"),
    ("concurrent/futures/process.py", "_process_worker"),
    ("multiprocessing/pool.py", "worker"),
    ("multiprocessing/pool.py", "_handle_tasks"),
    ("multiprocessing/pool.py", "_handle_results"),
    ("multiprocessing/queues.py", "_feed"),
    ("billiard/pool.py", "_recv"),
    ("billiard/pool.py", "body"),
    ("loky/process_executor.py", "_process_worker"),
    ("distributed/threadpoolexecutor.py", "_worker"),
    ("anyio/_backends/_asyncio.py", "run"),
    ("trio/_core/_thread_cache.py", "_work"),
    ("gevent/threadpool.py", "run"),
    ("gevent/threadpool.py", "_worker"),
    ("waitress/task.py", "handler_thread"),
    (
        "cheroot/workers/threadpool.py",
        "_process_connections_until_interrupted",
    ),
    ("cheroot/workers/threadpool.py", "run"),
    ("twisted/_threads/_threadworker.py", "work"),
    ("eventlet/tpool.py", "tworker"),
    ("dramatiq/worker.py", "run"),
];

/// Whether a function is the loop of a pool's worker.
pub(crate) fn is_loop(function: &str, file: &str) -> bool {
    LOOPS
        .iter()
        .any(|(of, name)| is_named(function, file, name, of))
}

/// Whether a function has this plain name, and is in a file whose path ends so.
fn is_named(function: &str, file: &str, name: &str, end: &str) -> bool {
    let plain = function.rsplit('.').next().unwrap_or(function);
    let folder = file.strip_suffix(end);
    plain == name && folder.is_some_and(|folder| folder.ends_with('/'))
}

/// Functions that wait by means of a condition, or of one another.
pub(crate) static CALLERS: &[FunctionRule] = {
    use WaitKind::{Barrier, Condition, Event, Future, Queue, Semaphore, SimpleQueue};
    use WaitPurpose::{Item, Other};
    &[
        rule(
            "threading.py",
            "wait_for",
            Some("Condition"),
            Condition,
            Other,
        ),
        rule("threading.py", "wait", Some("Event"), Event, Other),
        rule(
            "threading.py",
            "acquire",
            Some("Semaphore"),
            Semaphore,
            Item,
        ),
        rule("threading.py", "wait", Some("Barrier"), Barrier, Other),
        // A function inside uses their `self`, so it is no plain variable; `Barrier.wait` has it.
        rule("threading.py", "_wait", None, Barrier, Other),
        rule("threading.py", "_enter", None, Barrier, Other),
        rule("queue.py", "get", Some("Queue"), Queue, Item),
        rule("queue.py", "put", Some("Queue"), Queue, Other),
        rule("queue.py", "join", Some("Queue"), Queue, Other),
        rule("queue.py", "get", Some("_PySimpleQueue"), SimpleQueue, Item),
        rule(
            "concurrent/futures/_base.py",
            "result",
            Some("Future"),
            Future,
            Other,
        ),
        rule(
            "concurrent/futures/_base.py",
            "exception",
            Some("Future"),
            Future,
            Other,
        ),
        rule("concurrent/futures/_base.py", "wait", None, Future, Other),
        rule(
            "concurrent/futures/_base.py",
            "as_completed",
            None,
            Future,
            Other,
        ),
        rule("multiprocessing/queues.py", "_feed", None, Queue, Item),
        rule(
            "multiprocessing/pool.py",
            "wait",
            Some("ApplyResult"),
            Future,
            Other,
        ),
        rule(
            "multiprocessing/pool.py",
            "get",
            Some("ApplyResult"),
            Future,
            Other,
        ),
        rule(
            "waitress/task.py",
            "handler_thread",
            Some("ThreadedTaskDispatcher"),
            Condition,
            Item,
        ),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_of_workers_are_known() {
        assert!(is_loop(
            "_worker",
            "/usr/lib/python3.9/concurrent/futures/thread.py"
        ));
        assert!(is_loop(
            "WorkerThread.run",
            "/srv/cheroot/workers/threadpool.py"
        ));
        assert!(!is_loop("_worker", "/srv/app/thread.py"));
        assert!(!is_loop(
            "_WorkItem.run",
            "/usr/lib/python3.9/concurrent/futures/thread.py"
        ));
    }

    #[test]
    fn functions_are_known_by_name_and_file() {
        let names = |function, file| WAIT.names(function, file);
        assert!(names("wait", "/usr/lib/python3.8/threading.py"));
        assert!(names("Condition.wait", "/opt/lib/python3.13/threading.py"));
        assert!(!names("wait", "/app/my_threading.py"));
        assert!(!names("wait_for", "/usr/lib/python3.8/threading.py"));
        assert!(!names("wait", "threading.py"));
    }
}
