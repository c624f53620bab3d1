//! What makes a loop go round for nothing: what rules say of loops that never wait, and of tasks that poll.

use std::borrow::Cow;

use super::history::{Always, History, sleeps_zero};
use super::last_part;
use crate::schema::{Loop, Task};

/// Busy from here on.
const BUSY: f64 = 0.95;
/// Steps that are shorter than this on average are polling, not work, ns.
const SHORT_NS: u64 = 200_000;
/// Turns that are shorter than this on average do next to nothing, ns.
const SHORT_TURN_NS: u64 = 100_000;
/// What goes on for this long polls; a task that serves a request has ended by then, ns.
const LONG_NS: u64 = 1_000_000_000;
/// What asks so often polls, times per second: a timer of 10 ms asks 100 times.
const OFTEN: f64 = 250.0;
/// Selectors do not wait for less, ns.
const RESOLUTION_NS: u64 = 1_000_000;

/// Why a loop, or a task of it, is busy with nothing.
pub(super) enum Cause<'a> {
    /// Tasks call `asyncio.sleep(0)` again and again.
    SleepZero(Vec<&'a Task>),
    /// The loop never waits, for this callback is ready in each turn.
    Ready(Cow<'a, Always>),
    /// Tasks wait for a time that is next to none, again and again.
    Tasks(Vec<&'a Task>),
}

impl Cause<'_> {
    /// Without it the loop would wait.
    pub(super) fn is_why_it_never_waits(&self, one: &Loop) -> bool {
        match self {
            Cause::SleepZero(_) | Cause::Ready(_) => true,
            Cause::Tasks(tasks) => {
                goes_round(one) && tasks.iter().any(|task| task.timeout_ns == Some(0))
            }
        }
    }
}

/// Why a loop is busy with nothing; `None`: it is not, as far as is known.
pub(super) fn cause<'a>(one: &'a Loop, ns: u64, history: &'a History) -> Option<Cause<'a>> {
    if goes_round(one) {
        let yielding = |task: &&Task| history.yielding_ns(one.tid, task) >= LONG_NS;
        let tasks: Vec<&Task> = one.tasks.iter().filter(yielding).collect();
        if tasks.iter().any(|task| sleeps_zero(task)) {
            return Some(Cause::SleepZero(tasks));
        }
        let ready = history.always_ready(one.tid).filter(|always| {
            let is_known = always.seen >= 2 && always.known_ns >= LONG_NS;
            is_known && is_short(one) && leaves_little_else(one, always)
        });
        if let Some(always) = ready.max_by_key(|always| always.known_ns) {
            return Some(Cause::Ready(Cow::Borrowed(always)));
        }
        if let Some(polled) = polled(one).filter(|polled| leaves_little_else(one, polled)) {
            return Some(Cause::Ready(Cow::Owned(polled)));
        }
    }
    let polling = |task: &&Task| {
        let often = per_second(one, task, ns).is_some_and(|rate| rate >= OFTEN);
        // Looks may be rare, and windows show the same one again.
        let is_old = task.age_ns().is_some_and(|age_ns| age_ns >= LONG_NS);
        often && is_old && history.polling_ns(one.tid, task) >= LONG_NS
    };
    let tasks: Vec<&Task> = one.tasks.iter().filter(polling).collect();
    (!tasks.is_empty()).then_some(Cause::Tasks(tasks))
}

/// The descriptor of a loop that does not tell what is ready: all that it calls, next to nothing else,
/// is the callback of one.
fn polled(one: &Loop) -> Option<Always> {
    let timing = one.timing.as_ref()?;
    let most = timing.callbacks.first()?;
    let tasks = timing.by_name.iter().map(|row| row.samples);
    let all: u64 = tasks
        .chain(timing.callbacks.iter().map(|row| row.samples))
        .sum();
    (most.samples > 0 && most.samples * 10 >= all * 9).then_some(())?;
    let mut watched = one.watched.iter().filter(|watched| {
        let function = watched.function.as_deref();
        function.is_some_and(|function| last_part(function) == last_part(&most.name))
    });
    let found = watched.next()?;
    watched.next().is_none().then(|| Always::of(one.tid, found))
}

/// It does not wait, in steps that are short.
fn goes_round(one: &Loop) -> bool {
    let step = one.timing.as_ref().and_then(|timing| timing.step.as_ref());
    let short = step.is_some_and(|step| step.count > 0 && step.sum_ns / step.count < SHORT_NS);
    one.utilization >= BUSY && short
}

/// There is next to nothing to do in a turn.
fn is_short(one: &Loop) -> bool {
    let turns = one.timing.as_ref().and_then(|timing| timing.iterations);
    turns.is_some_and(|turns| turns > 0 && one.busy_ns / turns < SHORT_TURN_NS)
}

/// Most of the time is the callback's, and the loop's own.
fn leaves_little_else(one: &Loop, always: &Always) -> bool {
    one.timing.as_ref().is_some_and(|timing| {
        let own = timing.callbacks.iter();
        let own = own.filter(|row| last_part(&row.name) == always.short_name());
        let own_ns: u64 = own.map(|row| row.cost.total_ns()).sum();
        own_ns.saturating_add(timing.unknown_ns) >= one.busy_ns / 2
    })
}

/// How often a task that polls asks at most: once in a turn, and once in the time that it waits.
pub(super) fn per_second(one: &Loop, task: &Task, ns: u64) -> Option<f64> {
    let turns = turns_per_second(one, ns)?;
    Some(match task.timeout_ns {
        None | Some(0) => turns,
        Some(timeout_ns) => turns.min(1e9 / timeout_ns.max(RESOLUTION_NS) as f64),
    })
}

/// How often a loop goes round.
pub(super) fn turns_per_second(one: &Loop, ns: u64) -> Option<f64> {
    let turns = one.timing.as_ref()?.iterations?;
    (ns > 0).then(|| turns as f64 / (ns as f64 / 1e9))
}

/// As many digits as an estimate has.
pub(super) fn about(rate: f64) -> String {
    let step = 10f64.powf((rate.max(1.0).log10().floor() - 1.0).max(0.0));
    format!("{:.0}", (rate / step).round() * step)
}
