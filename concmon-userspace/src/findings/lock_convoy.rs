//! Threads that stand in line for locks.

use serde_json::Value;

use super::{Context, Held, Rule, Severity, place, share, thread_name, whole_place};
use crate::schema::{Cause, Thread, WaitKind};

/// Several threads stand in line for locks.
pub(super) struct LockConvoy;

/// A thread stands in line when it waits for so much of its time.
const WAITING: f64 = 0.3;
/// Who has been in one wait for so long does not stand in line, which moves, ns.
const STANDSTILL_NS: u64 = 5_000_000_000;
/// Where none of them has got on for so long, the line does not move, ns.
const MOVES_NS: u64 = 2_000_000_000;
/// So many of them are a convoy.
const THREADS: usize = 3;

/// Whether a thread waits for what others of those that wait give back, or for what somebody is known to
/// have. Who is handed work by a lock or a semaphore waits alone, and is woken by who does not wait for it.
fn is_in_line(thread: &Thread, waiting: &[&Thread]) -> bool {
    let others = || waiting.iter().filter(|other| other.tid != thread.tid);
    let lock = |thread: &Thread| {
        let wait = thread.waiting_for.as_ref()?;
        matches!(wait.kind, WaitKind::Lock | WaitKind::RLock).then_some(wait.object?)
    };
    let wakers = thread
        .wakers
        .iter()
        .filter(|waker| waker.cause == Cause::Lock);
    let mut wakers = wakers.filter_map(|waker| waker.tid);
    let wait = thread.waiting_for.as_ref();
    wait.is_some_and(|wait| wait.owner_tid.is_some())
        || lock(thread).is_some_and(|one| others().any(|other| lock(other) == Some(one)))
        || wakers.any(|tid| others().any(|other| other.tid == tid))
}

impl Rule for LockConvoy {
    fn name(&self) -> &'static str {
        "lock-convoy"
    }

    fn patience_ns(&self) -> u64 {
        3_000_000_000
    }

    fn explanation(&self) -> &'static str {
        "At least three threads spent 30 % of their time or more waiting for locks that other threads \
         had (not for work: idle workers of a pool do not count, nor who is handed work by a lock or a \
         semaphore that it never gives back). They run one after the other.\n\n\
         What to do: hold the lock for less (compute outside of it), split it, or keep data per thread. \
         concmon-bpf dump tells who holds an RLock, and where each thread waits."
    }

    fn check(&self, context: &Context<'_>) -> Option<Held> {
        let waits = |thread: &&Thread| {
            let lives = thread.ledger.wall_ns >= context.duration_ns / 4;
            lives && share(thread.lock_ns.contended, thread.ledger.wall_ns) >= WAITING
        };
        // Nobody goes on there: that is told as what it is.
        let stands_still = |thread: &&Thread| {
            super::is_deadlocked(context.process, thread.tid)
                || super::waits_ns(context, thread) >= STANDSTILL_NS
        };
        let threads = context.process.threads.iter();
        let waiting: Vec<_> = threads
            .filter(waits)
            .filter(|thread| !stands_still(thread))
            .collect();
        let threads: Vec<&Thread> = waiting
            .iter()
            .copied()
            .filter(|thread| is_in_line(thread, &waiting))
            .collect();
        let moves = |thread: &&Thread| super::waits_ns(context, thread) < MOVES_NS;
        if threads.len() < THREADS || !threads.iter().any(moves) {
            return None;
        }
        let waits_ns = threads.iter().map(|thread| thread.lock_ns.contended);
        let wait_ns = waits_ns.fold(0, u64::saturating_add);
        let owner = threads
            .iter()
            .filter_map(|thread| thread.waiting_for.as_ref()?.owner_tid)
            .next()
            .map(|tid| thread_name(context.process, tid));
        let frame = threads.iter().find_map(|thread| {
            thread.waiting_for.as_ref()?;
            thread.stack.first()
        });
        let mut evidence = super::Evidence::new();
        evidence.insert("threads", Value::from(threads.len()));
        evidence.insert("wait_ns", Value::from(wait_ns));
        evidence.insert("owner", Value::from(owner.clone()));
        evidence.insert("where", Value::from(frame.map(whole_place)));
        Some(Held {
            severity: Severity::Warning,
            summary: format!(
                "{} threads stand in line for locks{}{}",
                threads.len(),
                frame.map_or_else(String::new, |frame| format!(", at {}", place(frame))),
                owner.map_or_else(String::new, |owner| format!("; {owner} has one")),
            ),
            evidence,
            advice: "hold the lock for less, split it, or keep data per thread".to_owned(),
            weight: wait_ns as f64,
        })
    }
}
