//! What a blocked thread's innermost functions say about its wait: data.
//!
//! A thread blocks on a plain lock, whatever it waits for: a `Queue.get` is a `Condition.wait`, which
//! is a lock that nobody else knows. So the kind of the lock comes first ([`LOCKS`]), then the
//! function that took it ([`HOLDERS`]), then, outwards from a `Condition.wait`, the functions that
//! call one another ([`CALLERS`]); the outermost of them says it.
//!
//! Purposes: whoever takes a lock, or a semaphore, wants what somebody else has: *contended*. A
//! consumer or a worker without work waits for *work*. Waiting for the end of a thread is a *join*.
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
        purpose: WaitPurpose::Work,
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
        let plain = function.rsplit('.').next().unwrap_or(function);
        plain == self.function
            && file
                .strip_suffix(self.file)
                .is_some_and(|folder| folder.ends_with('/'))
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
    use WaitPurpose::Work;
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
            Work,
        ),
        rule(
            "multiprocessing/queues.py",
            "get",
            Some("SimpleQueue"),
            Queue,
            Work,
        ),
        rule("billiard/queues.py", "get", None, Queue, Work),
        rule("gevent/_threading.py", "get", None, Queue, Work),
        rule(
            "trio/_core/_thread_cache.py",
            "_work",
            Some("WorkerThread"),
            Lock,
            Work,
        ),
    ]
};

/// Functions that wait by means of a condition, or of one another.
pub(crate) static CALLERS: &[FunctionRule] = {
    use WaitKind::{Barrier, Condition, Event, Future, Queue, Semaphore, SimpleQueue};
    use WaitPurpose::{Contended, Other, Work};
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
            Contended,
        ),
        rule("threading.py", "wait", Some("Barrier"), Barrier, Other),
        // A function inside uses their `self`, so it is no plain variable; `Barrier.wait` has it.
        rule("threading.py", "_wait", None, Barrier, Other),
        rule("threading.py", "_enter", None, Barrier, Other),
        rule("queue.py", "get", Some("Queue"), Queue, Work),
        rule("queue.py", "put", Some("Queue"), Queue, Other),
        rule("queue.py", "join", Some("Queue"), Queue, Other),
        rule("queue.py", "get", Some("_PySimpleQueue"), SimpleQueue, Work),
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
        rule("multiprocessing/queues.py", "_feed", None, Queue, Work),
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
            Work,
        ),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

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
