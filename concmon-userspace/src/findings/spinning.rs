//! What makes a loop go round for nothing: what rules say of loops that never wait, and of tasks that poll.

use std::borrow::Cow;

use super::history::{History, Polling, is_numbered, is_on_its_way, sleeps_zero};
use super::last_part;
use super::queues::Always;
use crate::schema::{Callback, Loop, Task};

/// Busy from here on.
const BUSY: f64 = 0.95;
/// Steps that are shorter than this on average are polling, not work, ns.
const SHORT_NS: u64 = 200_000;
/// Turns that are shorter than this on average do next to nothing, ns.
const SHORT_TURN_NS: u64 = 100_000;
/// What goes on for this long polls; a task that serves a request has ended by then, ns.
const LONG_NS: u64 = 1_000_000_000;
/// A task whose name may be another's, too, polls when it has been met so much more often.
const ALIKE: u32 = 2;
/// A task that was in `asyncio.sleep(0)` so long ago still goes through it, unless it waits for something, ns.
const LATELY_NS: u64 = 5_000_000_000;
/// What a loop calls to empty its own pipe, which wakes it for other threads.
const OWN_PIPE: &str = "_read_from_self";
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
    Tasks(Vec<Poller<'a>>),
}

/// A task that polls.
#[derive(Clone, Copy)]
pub(super) struct Poller<'a> {
    pub(super) task: &'a Task,
    /// For how long it waits each time, ns, and by which call.
    pub(super) timeout_ns: u64,
    pub(super) call: Option<&'static str>,
}

impl Cause<'_> {
    /// Without it the loop would wait.
    pub(super) fn is_why_it_never_waits(&self, one: &Loop) -> bool {
        match self {
            Cause::SleepZero(_) | Cause::Ready(_) => true,
            Cause::Tasks(tasks) => {
                goes_round(one) && tasks.iter().any(|poller| poller.timeout_ns == 0)
            }
        }
    }
}

/// Why a loop is busy with nothing; `None`: it is not, as far as is known.
pub(super) fn cause<'a>(one: &'a Loop, history: &'a History) -> Option<Cause<'a>> {
    if goes_round(one) {
        let yielding = |task: &&Task| {
            let known = history.yielding(one.tid, task);
            known.is_some_and(|known| known.known_ns() >= LONG_NS)
        };
        let tasks: Vec<&Task> = one.tasks.iter().filter(yielding).collect();
        if tasks.iter().any(|task| still_yields(one, task, history)) {
            return Some(Cause::SleepZero(tasks));
        }
        let ready = history.always_ready(one.tid).iter().filter(|always| {
            let is_known = always.sighted.count >= 2 && always.sighted.known_ns() >= LONG_NS;
            is_known
                && is_short(one, history)
                && is_its_own(one, always)
                && leaves_little_else(one, always)
        });
        if let Some(always) = ready.max_by_key(|always| always.sighted.known_ns()) {
            return Some(Cause::Ready(Cow::Borrowed(always)));
        }
        if let Some(polled) = polled(one, history).filter(|polled| leaves_little_else(one, polled))
        {
            return Some(Cause::Ready(Cow::Owned(polled)));
        }
    }
    let polling = |task| {
        let Polling {
            sighted,
            waits,
            timeout_ns,
            call,
        } = history.polling(one.tid, task)?;
        let poller = Poller {
            task,
            timeout_ns,
            call,
        };
        let often = per_second(one, poller, history).is_some_and(|rate| rate >= OFTEN);
        // Of those that may share a name, others may have been met there.
        let times = if is_numbered(task) { 1 } else { ALIKE };
        let is_known = waits > times && sighted.known_ns() >= LONG_NS * u64::from(times);
        (often && is_known).then_some(poller)
    };
    let tasks: Vec<Poller<'_>> = one.tasks.iter().filter_map(polling).collect();
    (!tasks.is_empty()).then_some(Cause::Tasks(tasks))
}

/// A task stands in `asyncio.sleep(0)`, or runs between two of these.
fn still_yields(one: &Loop, task: &Task, history: &History) -> bool {
    let last_unix_ns = history
        .yielding(one.tid, task)
        .map(|known| known.last_unix_ns);
    let ago_ns = |last_unix_ns| Some(task.looked_unix_ns()?.saturating_sub(last_unix_ns));
    let lately = last_unix_ns
        .and_then(ago_ns)
        .is_some_and(|ns| ns <= LATELY_NS);
    sleeps_zero(task) || lately && is_on_its_way(task)
}

/// Whether a callback comes back by itself, and not because others have called: other threads make a loop read
/// its own pipe.
fn is_its_own(one: &Loop, always: &Always) -> bool {
    let of_threads = |name: &str| last_part(name) == OWN_PIPE;
    match always.descriptor {
        Some(_) if of_threads(always.short_name()) => is_next_to_all(one, OWN_PIPE),
        Some(_) => true,
        None => !one.timing.as_ref().is_some_and(|timing| {
            let mut called = timing.callbacks.iter();
            called.any(|row| of_threads(&row.name))
        }),
    }
}

/// Whether next to nothing else is called than a callback, by samples.
fn is_next_to_all(one: &Loop, name: &str) -> bool {
    one.timing.as_ref().is_some_and(|timing| {
        let of_it = |row: &&Callback| last_part(&row.name) == name;
        let samples = timing.callbacks.iter().filter(of_it).map(|row| row.samples);
        let own = samples.fold(0, u64::saturating_add);
        let tasks = timing.by_name.iter().map(|row| row.samples);
        let all = tasks
            .chain(timing.callbacks.iter().map(|row| row.samples))
            .fold(0, u64::saturating_add);
        own > 0 && own >= all - all / 10
    })
}

/// The descriptor of a loop that does not tell what is ready: all that it calls, next to nothing else,
/// is the callback of one.
fn polled(one: &Loop, history: &History) -> Option<Always> {
    let timing = one.timing.as_ref()?;
    let name = last_part(&timing.callbacks.first()?.name);
    // Where turns are known, there is next to nothing to do in one.
    let is_work = history.turns(one.tid).is_some() && !is_short(one, history);
    (!is_work && is_next_to_all(one, name)).then_some(())?;
    let mut watched = one.watched.iter().filter(|watched| {
        let function = watched.function.as_deref();
        function.is_some_and(|function| last_part(function) == name)
    });
    let found = watched.next()?;
    let read_unix_ns = one.queue_read_unix_ns.unwrap_or(0);
    watched
        .next()
        .is_none()
        .then(|| Always::of(found, read_unix_ns))
}

/// It does not wait, in steps that are short.
fn goes_round(one: &Loop) -> bool {
    let step = one.timing.as_ref().and_then(|timing| timing.step.as_ref());
    let short = step.is_some_and(|step| step.count > 0 && step.sum_ns / step.count < SHORT_NS);
    one.utilization >= BUSY && short
}

/// There is next to nothing to do in a turn.
fn is_short(one: &Loop, history: &History) -> bool {
    let turns = history.turns(one.tid);
    turns.is_some_and(|turns| turns.busy_ns / turns.count < SHORT_TURN_NS)
}

/// Most of the time is the callback's, and the loop's own.
fn leaves_little_else(one: &Loop, always: &Always) -> bool {
    one.timing.as_ref().is_some_and(|timing| {
        let own = timing.callbacks.iter();
        let own = own.filter(|row| last_part(&row.name) == always.short_name());
        let own_ns = own.map(|row| row.cost.total_ns());
        let own_ns = own_ns.fold(0, u64::saturating_add);
        own_ns.saturating_add(timing.unknown_ns) >= one.busy_ns / 2
    })
}

/// How often a task that polls asks at most: once in the turns that its call takes, and once in the time that it waits.
pub(super) fn per_second(one: &Loop, poller: Poller<'_>, history: &History) -> Option<f64> {
    let turns = turns_per_second(one, history)?;
    Some(match poller.timeout_ns {
        0 => turns / turns_per_call(poller),
        timeout_ns => turns.min(1e9 / timeout_ns.max(RESOLUTION_NS) as f64),
    })
}

/// How many turns of asyncio's loop it takes to wait for no time: one for the timer of `wait()`, or for the task that
/// `wait_for()` makes and cancels, one for what tells the waiter, and one for the task itself.
fn turns_per_call(poller: Poller<'_>) -> f64 {
    match poller.call {
        Some("wait") => 2.0,
        Some("wait_for") => 3.0,
        _ => 1.0,
    }
}

/// How often a loop goes round.
pub(super) fn turns_per_second(one: &Loop, history: &History) -> Option<f64> {
    let turns = history.turns(one.tid)?;
    (turns.wall_ns > 0).then(|| turns.count as f64 / (turns.wall_ns as f64 / 1e9))
}

/// As many digits as an estimate has.
pub(super) fn about(rate: f64) -> String {
    let step = 10f64.powf((rate.max(1.0).log10().floor() - 1.0).max(0.0));
    format!("{:.0}", (rate / step).round() * step)
}
