//! What the interpreter says of a process and of its threads.

use std::{borrow::Cow, sync::Arc};

use super::rows::{TORN, frames, said, stack_limits};
use super::window::limit;
use crate::event::{PyThread, PythonFact, PythonInfo};
use crate::schema::{Frame, Limit, Python, Role, WaitingFor};

impl Python {
    pub(crate) fn of(info: &PythonInfo) -> Self {
        Python {
            implementation: info.implementation.clone(),
            version: info.version.clone(),
            free_threaded: info.free_threaded,
            supported: info.supported,
            reason: info.reason.clone(),
        }
    }
}

/// The columns of a thread that only the interpreter knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PythonColumns {
    pub(crate) ident: u64,
    pub(crate) name: Option<Arc<str>>,
    pub(crate) daemon: Option<bool>,
    pub(crate) entry: Option<Arc<str>>,
    pub(crate) stack_size_bytes: Option<u64>,
    pub(crate) main: bool,
    pub(crate) pool: bool,
    /// A loop ran in it in some look: that stays its role between two loops.
    pub(crate) looped: bool,
    pub(crate) stack: Arc<[Frame]>,
    /// Why there is none.
    no_stack: Option<&'static str>,
    pub(crate) waiting_for: Option<WaitingFor>,
}

/// What the main thread runs: the module that the process was started with.
const MAIN: &str = "__main__";

impl PythonColumns {
    /// What a look says of the thread, after what earlier looks said.
    pub(crate) fn of(thread: &PyThread, fact: &PythonFact, before: Option<&Self>) -> Self {
        let before = before.filter(|before| before.ident == thread.ident);
        PythonColumns {
            ident: thread.ident,
            name: thread.name.as_deref().map(Into::into),
            daemon: thread.daemon,
            entry: thread
                .entry
                .as_deref()
                .or(thread.main.then_some(MAIN))
                .map(Into::into),
            stack_size_bytes: thread.stack_size_bytes,
            main: thread.main,
            pool: thread.pool,
            looped: before.is_some_and(|before| before.looped)
                || fact.loops.iter().any(|running| running.tid == thread.tid),
            stack: frames(&thread.stack).into(),
            no_stack: thread.stack_torn.then_some(TORN),
            waiting_for: thread.waiting_for.as_ref().map(WaitingFor::of),
        }
    }

    /// What it runs and waits for is not known any more.
    pub(crate) fn forget_stack(&mut self) {
        (self.stack, self.waiting_for) = (Arc::default(), None);
        self.no_stack = Some("the latest look did not find it");
    }

    /// Limits of what it runs and waits for.
    pub(crate) fn stack_limits(&self, look: Option<&PythonFact>) -> Vec<Limit> {
        stack_limits(look, self.no_stack, self.stack.is_empty())
    }

    pub(crate) fn role(&self) -> Role {
        if self.main {
            Role::Main
        } else if self.looped {
            Role::Loop
        } else if self.pool {
            Role::Pool
        } else {
            Role::Other
        }
    }
}

/// The columns of [`PythonColumns`] in a thread's row.
const FIELDS: [&str; 8] = [
    "name",
    "ident",
    "role",
    "daemon",
    "entry",
    "stack_size_bytes",
    "stack",
    "waiting_for",
];

/// Why the Python columns of a thread are null, column by column.
///
/// `look` is the latest one into its process; `looked`: the thread lived during a look.
pub(crate) fn thread_limits(
    columns: Option<&PythonColumns>,
    look: Option<&PythonFact>,
    looked: bool,
) -> Vec<Limit> {
    let Some(columns) = columns else {
        let reason = match look {
            None => "no Python interpreter was seen in its process",
            Some(look) if !look.info.supported => unsupported(look),
            Some(look) => match look.limits.get("threads") {
                Some(reason) => reason,
                None if looked => "not a Python thread",
                None => "the interpreter was not read while it lived",
            },
        };
        return FIELDS
            .iter()
            .map(|&field| limit(field, reason.to_owned()))
            .collect();
    };
    let missing = [
        (
            "name",
            columns.name.is_none(),
            "the threading module does not know it",
        ),
        (
            "daemon",
            columns.daemon.is_none(),
            "the threading module does not know it",
        ),
        (
            "entry",
            columns.entry.is_none(),
            "the threading module does not say what it runs",
        ),
        (
            "stack_size_bytes",
            columns.stack_size_bytes.is_none(),
            "could not be read",
        ),
    ];
    let missing = missing.into_iter().filter(|&(_, missing, _)| missing);
    missing
        .map(|(field, _, reason)| {
            let said = look.and_then(|look| said(look, "threads", field));
            limit(
                field,
                said.map_or(reason.into(), |said| Cow::from(said.clone())),
            )
        })
        .collect()
}

/// Why the interpreter of a look cannot be read.
pub(crate) fn unsupported(look: &PythonFact) -> &str {
    let reason = look.info.reason.as_deref();
    reason.unwrap_or("this interpreter is not supported")
}
