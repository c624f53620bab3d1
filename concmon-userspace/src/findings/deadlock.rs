//! Threads and tasks that wait for one another.

use serde_json::Value;

use super::{Context, Held, Rule, Severity, place, whole_place};
use crate::schema::{Address, Deadlock, DeadlockMember};

/// Threads or tasks wait for one another, and none of them can go on.
pub(super) struct Deadlocked;

/// A wait that is younger may be for what is just given back, ns.
const AGE_NS: u64 = 1_000_000_000;
/// Members whose waits are told in the summary.
const TOLD: usize = 4;

impl Rule for Deadlocked {
    fn name(&self) -> &'static str {
        "deadlock"
    }

    fn patience_ns(&self) -> u64 {
        2_000_000_000
    }

    fn explanation(&self) -> &'static str {
        "Threads or tasks wait for one another in a circle, and have done so for two seconds: an RLock says who \
         has it, a thread that is waited for is the one whose end is awaited, a task says which tasks wait for \
         it, work that waits for a pool's workers is known by its future. Of a plain Lock and of asyncio's Lock \
         it is concluded who has it, from the `with` or `async with` statement that it is in (`inferred`). None \
         of them goes on by itself: a wait that was given a time is in no circle, nor is a task that another \
         one's time would cancel (of a task group, or of the anyio scopes around it). Others may wait \
         behind them (`behind`).\n\n\
         What to do: take locks in one order everywhere; release them before waiting for a thread that needs \
         them; let no worker of a pool wait for work of the same pool. The members, what each has and where it \
         waits, are in the evidence, in deadlocks[], and in concmon-bpf dump."
    }

    fn check(&self, context: &Context<'_>) -> Option<Held> {
        let process = context.process;
        // Permits that are used up are told as that.
        let others = process.deadlocks.iter();
        let others = others.filter(|one| permits_of(one).is_none());
        let lasting = others.filter(|one| lasts(context, one));
        let all: Vec<&Deadlock> = lasting.collect();
        let first = all.first()?;
        let mut evidence = super::Evidence::new();
        evidence.insert("members", serde_json::json!(first.members));
        evidence.insert("behind", Value::from(first.behind));
        evidence.insert("deadlocks", Value::from(all.len()));
        evidence.insert(
            "where",
            Value::from(
                first
                    .members
                    .iter()
                    .find_map(|one| one.place.as_ref())
                    .map(whole_place),
            ),
        );
        let told: Vec<String> = first.members.iter().take(TOLD).map(told).collect();
        let more = match first.members.len().saturating_sub(TOLD) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        let behind = match first.behind {
            0 => String::new(),
            behind => format!("; {behind} more wait behind them"),
        };
        let others = match all.len() {
            1 => String::new(),
            count => format!("; {count} deadlocks in all"),
        };
        Some(Held {
            severity: Severity::Critical,
            summary: format!("deadlock: {}{more}{behind}{others}", told.join("; ")),
            evidence,
            advice: advice(first).to_owned(),
            weight: first.members.len() as f64,
        })
    }
}

/// Objects that several may have at once.
const PERMITS: &[&str] = &[
    "Semaphore ",
    "BoundedSemaphore ",
    "CapacityLimiter ",
    "Queue ",
    "LifoQueue ",
    "PriorityQueue ",
    "SimpleQueue ",
];

/// What a circle of threads or tasks has, all of it permits of one semaphore, or tokens of one limiter.
pub(super) fn permits_of(deadlock: &Deadlock) -> Option<&str> {
    let mut held = deadlock
        .members
        .iter()
        .filter_map(|one| one.holds.as_deref());
    let first = held.next()?;
    let name = ["asyncio.", "anyio.", "trio."]
        .iter()
        .find_map(|library| first.strip_prefix(library))
        .unwrap_or(first);
    let is_one = PERMITS.iter().any(|kind| name.starts_with(kind));
    (is_one && held.all(|other| other == first)).then_some(first)
}

/// Whether all members are known to have been in their waits for long: threads by their accounts, tasks by looks that
/// have met them there again, in the same deadlock.
pub(super) fn lasts(context: &Context<'_>, deadlock: &Deadlock) -> bool {
    let process = context.process;
    let known_ns = context.history.deadlock_ns(deadlock);
    let of_thread = |tid: u32| {
        let thread = process.threads.iter().find(|thread| thread.tid == tid)?;
        Some(super::waits_ns(context, thread))
    };
    let of_task = |id: Address| {
        let mut tasks = process.loops.iter().flat_map(|one| &one.tasks);
        Some(tasks.find(|task| task.id == id)?.wait_ns()?.min(known_ns))
    };
    deadlock.members.iter().all(|member| {
        let wait_ns = match (member.tid, member.task) {
            (Some(tid), _) => of_thread(tid),
            (None, Some(task)) => of_task(task),
            (None, None) => None,
        };
        wait_ns.is_some_and(|wait_ns| wait_ns >= AGE_NS)
    })
}

pub(super) fn name(member: &DeadlockMember) -> String {
    match (&member.name, member.tid) {
        (Some(name), Some(tid)) => format!("{name} ({tid})"),
        (None, Some(tid)) => format!("thread {tid}"),
        (Some(name), None) => format!("task {name}"),
        (None, None) => "a task".to_owned(),
    }
}

fn told(member: &DeadlockMember) -> String {
    let has = member
        .holds
        .as_ref()
        .map_or_else(String::new, |holds| format!("has {holds} and "));
    let at = member.place.as_ref();
    format!(
        "{} {has}waits for {}{}",
        name(member),
        member.waits_for,
        at.map_or_else(String::new, |frame| format!(" at {}", place(frame)))
    )
}

fn advice(deadlock: &Deadlock) -> &'static str {
    let waits = |what: &str| {
        deadlock
            .members
            .iter()
            .any(|one| one.waits_for.starts_with(what))
    };
    let has_lock = deadlock.members.iter().any(|one| one.holds.is_some());
    if waits("a result") {
        "let no worker of a pool wait for work of the same pool: give it another pool, or submit what follows"
    } else if deadlock.members.len() == 1 && has_lock {
        "it has the lock already: take it once only (also in signal handlers and callbacks), or use an RLock"
    } else if waits("the end of") && has_lock {
        "release the lock before waiting for the end of a thread that needs it"
    } else if has_lock {
        "take these locks in one order everywhere, or as one"
    } else {
        "let one of them not wait for the other"
    }
}
