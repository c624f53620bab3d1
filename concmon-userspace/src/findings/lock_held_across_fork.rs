//! Locks whose owner is not in the process.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Context, Held, Rule, Severity, place, thread_name, whole_place};
use crate::schema::{Address, Thread, WaitKind};

/// Threads wait for a lock that a thread has which is not in this process.
pub(super) struct LockHeldAcrossFork;

/// A wait that is younger may be for what is just given back, ns.
const AGE_NS: u64 = 1_000_000_000;

impl Rule for LockHeldAcrossFork {
    fn name(&self) -> &'static str {
        "lock-held-across-fork"
    }

    fn patience_ns(&self) -> u64 {
        2_000_000_000
    }

    fn explanation(&self) -> &'static str {
        "Threads have waited for two seconds for a lock that is held by a thread which is not in this process, so \
         nobody will release it. A fork copies locks as they are, but only the thread that forks: what another \
         thread had at that moment stays taken in the child. (A thread that ends without releasing its RLock leaves \
         the same behind.) An RLock has the identity of its owner: it is told where no thread has that. Identities \
         are used again: where a new thread has that of the old one, it is taken for the owner, and nothing is told. \
         A plain Lock does not say who has it: there it is told, as a warning, only where all threads of a forked \
         process wait at `with` statements of plain locks, and none of them is inside of this one. (That needs that \
         frames show that they wait at a `with` statement, which they do up to Python 3.11.)\n\n\
         What to do: fork before threads begin, use the start methods spawn or forkserver of multiprocessing, or \
         make such locks anew in the child (os.register_at_fork)."
    }

    fn check(&self, context: &Context<'_>) -> Option<Held> {
        let process = context.process;
        let mut locks: BTreeMap<Option<Address>, Vec<&Thread>> = BTreeMap::new();
        for thread in &process.threads {
            let lasts = super::waits_ns(context, thread) >= AGE_NS;
            if let Some(wait) = thread
                .waiting_for
                .as_ref()
                .filter(|wait| wait.owner_gone && lasts)
            {
                locks.entry(wait.object).or_default().push(thread);
            }
        }
        let (object, threads) = locks.into_iter().max_by_key(|(_, threads)| threads.len())?;
        let kind = threads[0].waiting_for.as_ref()?.kind;
        let object = object.map_or_else(|| kind.to_string(), |object| format!("{kind} {object}"));
        let names: Vec<String> = threads
            .iter()
            .take(3)
            .map(|thread| thread_name(process, thread.tid))
            .collect();
        let stack = &threads[0].stack;
        let frame = crate::event::own_frame(stack, |frame| &frame.file).or(stack.first());
        let mut evidence = super::Evidence::new();
        evidence.insert("lock", Value::from(object.clone()));
        evidence.insert("threads", Value::from(threads.len()));
        evidence.insert("waiting", Value::from(names.clone()));
        evidence.insert("where", Value::from(frame.map(whole_place)));
        // Who has taken a plain lock otherwise than by a statement cannot be seen.
        let (severity, has) = match kind {
            WaitKind::Lock => (
                Severity::Warning,
                "which no thread of this process has, as far as their stacks show",
            ),
            _ => (
                Severity::Critical,
                "held by a thread that is not in this process",
            ),
        };
        Some(Held {
            severity,
            summary: format!(
                "{} waits for {object}{}, {has}{}",
                names[0],
                frame.map_or_else(String::new, |frame| format!(" at {}", place(frame))),
                match threads.len() {
                    1 => String::new(),
                    count => format!("; {count} threads do"),
                }
            ),
            evidence,
            advice: "fork before threads begin, use spawn or forkserver, or make the lock anew in the child \
                     (os.register_at_fork)"
                .to_owned(),
            weight: threads.len() as f64,
        })
    }
}
