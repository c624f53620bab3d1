//! Locks that several threads have waited for, and that nobody has released.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Context, Held, Rule, Severity, ms, place, thread_name, whole_place};
use crate::schema::{Address, Thread, WaitKind};

/// Several threads have waited long for one lock, and none of them has got it.
pub(super) struct LockNotReleased;

/// So many threads, each for so long, ns.
const THREADS: usize = 2;
const AGE_NS: u64 = 10_000_000_000;

impl Rule for LockNotReleased {
    fn name(&self) -> &'static str {
        "lock-not-released"
    }

    fn patience_ns(&self) -> u64 {
        0
    }

    fn explanation(&self) -> &'static str {
        "All threads that wait for a lock at a `with` statement, two at least, have done so for ten seconds: \
         nobody has released it meanwhile. A plain Lock does not say who has it, so it is not told whether \
         somebody works that long with it, waits for these threads in turn, or has left it taken. (Where the \
         owner is known and waits itself, that is `deadlock`.) Waits in `acquire()` are not told: a lock that is \
         waited for like that may be a signal.\n\n\
         What to do: look in concmon-bpf dump what the other threads do, and which of them are inside a \
         statement of this lock."
    }

    fn check(&self, context: &Context<'_>) -> Option<Held> {
        let process = context.process;
        let age_ns = |thread: &Thread| super::waits_ns(context, thread);
        let mut locks: BTreeMap<Address, Vec<&Thread>> = BTreeMap::new();
        for thread in &process.threads {
            let wait = thread.waiting_for.as_ref();
            let unowned = wait.filter(|wait| {
                let is_known = wait.owner_tid.is_some() || wait.owner_gone;
                wait.kind == WaitKind::Lock && wait.at_statement && !is_known
            });
            if let Some(object) = unowned.and_then(|wait| wait.object) {
                locks.entry(object).or_default().push(thread);
            }
        }
        let (object, threads) = locks
            .into_iter()
            .filter(|(_, threads)| {
                threads.len() >= THREADS && threads.iter().all(|thread| age_ns(thread) >= AGE_NS)
            })
            .max_by_key(|(_, threads)| threads.len())?;
        let longest_ns = threads
            .iter()
            .map(|thread| age_ns(thread))
            .max()
            .unwrap_or(0);
        let names: Vec<String> = threads
            .iter()
            .take(4)
            .map(|thread| thread_name(process, thread.tid))
            .collect();
        let stack = &threads[0].stack;
        let frame = crate::event::own_frame(stack, |frame| &frame.file).or(stack.first());
        let mut evidence = super::Evidence::new();
        evidence.insert("lock", Value::from(format!("Lock {object}")));
        evidence.insert("threads", Value::from(threads.len()));
        evidence.insert("waiting", Value::from(names.clone()));
        evidence.insert("longest_ns", Value::from(longest_ns));
        evidence.insert("where", Value::from(frame.map(whole_place)));
        Some(Held {
            severity: Severity::Warning,
            summary: format!(
                "{} threads have waited for Lock {object} for up to {}, and nobody has released it: {}{}",
                threads.len(),
                ms(longest_ns),
                names.join(", "),
                frame.map_or_else(String::new, |frame| format!(", at {}", place(frame))),
            ),
            evidence,
            advice: "a plain Lock does not say who has it: see in concmon-bpf dump what the other threads do"
                .to_owned(),
            weight: longest_ns as f64,
        })
    }
}
