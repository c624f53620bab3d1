//! Event loops that a single step kept.

use serde_json::Value;

use crate::schema::{CulpritKind, Delayed, Frame, Hang, Loop, StallTask};

use super::{Context, Held, Rule, Severity, for_want_of_cpu, ms, place, thread_name, whole_place};

/// A single step kept an event loop longer than its threshold.
pub(super) struct LoopBlocked;

/// Of the last ten seconds, with stalls in so many of them it is sustained.
const SUSTAINED: usize = 5;

/// A step that has lasted so long is critical, ns.
const CRITICAL_NS: u64 = 5_000_000_000;

impl Rule for LoopBlocked {
    fn name(&self) -> &'static str {
        "loop-blocked"
    }

    fn patience_ns(&self) -> u64 {
        0
    }

    fn explanation(&self) -> &'static str {
        "A single step of a task, or a single callback, kept the event loop longer than the stall \
         threshold (--stall-threshold, else the loop's own slow_callback_duration, else 100 ms). \
         Meanwhile nothing else of that loop ran: no request was answered, no timer fired.\n\n\
         It is known from outside: the kernel tells when the loop's thread was busy, and samples tell \
         that it was the same step all the time, and where. It is critical when there were stalls in \
         five of the last ten seconds. A step that mostly waited for a CPU, and was no stall without that, is \
         none of the program's: the stall is told, and cpu-starved where it goes on.\n\n\
         A step that has not ended is told while it lasts (`lasting` in the evidence): a look each second \
         sees that its thread is in the same step still, and where. It is critical after five seconds.\n\n\
         What to do: await instead of blocking (asyncio.sleep for time.sleep, an asynchronous client \
         for a synchronous one), hand blocking calls to asyncio.to_thread, and long computation to a \
         process pool."
    }

    fn check(&self, context: &Context<'_>) -> Option<Held> {
        let loops = context.process.loops.iter();
        let hanging = loops.filter_map(|one| Some((one, one.hang.as_ref()?)));
        let hanging = hanging.filter(|(_, hang)| !for_want_of_cpu::is_hang(hang));
        let hanging = hanging.max_by_key(|(_, hang)| hang.lasting_ns);
        let stalled = context
            .process
            .loops
            .iter()
            .filter_map(|one| Some((one, for_want_of_cpu::others(one)?)));
        let worst = stalled.max_by_key(|(_, stalls)| stalls.worst.duration_ns);
        // The longest is named, be it over or not.
        let (one, stalls) = match (worst, hanging) {
            (Some(worst), hang)
                if hang.is_none_or(|hang| hang.1.lasting_ns < worst.1.worst.duration_ns) =>
            {
                worst
            }
            (_, Some((one, hang))) => return Some(lasts(context, one, hang)),
            (_, None) => return None,
        };
        let worst = stalls.worst;
        let sustained = context.history.stalled_seconds() >= SUSTAINED;
        let kind = worst.culprit.kind;
        let frame = worst.culprit.frame.as_ref();
        let who = who(worst.task.as_ref(), worst.coroutine.as_deref());
        let holder = holder(context, worst.culprit.holder_tid);
        let mut evidence = super::Evidence::new();
        evidence.insert("tid", Value::from(one.tid));
        evidence.insert("stalls", Value::from(stalls.count));
        evidence.insert("stalls_ns", Value::from(stalls.ns));
        evidence.insert("longest_ns", Value::from(worst.duration_ns));
        evidence.insert("kind", Value::from(kind.name()));
        evidence.insert("where", Value::from(frame.map(whole_place)));
        evidence.insert("coroutine", Value::from(worst.coroutine.clone()));
        evidence.insert("context", serde_json::json!(worst.context));
        evidence.insert("holder", Value::from(holder.clone()));
        let delayed = delayed(&mut evidence, worst.delayed.as_ref());
        if let Some((_, hang)) = hanging {
            evidence.insert("lasting", Value::from(true));
            evidence.insert("lasting_ns", Value::from(hang.lasting_ns));
        }
        Some(Held {
            severity: if sustained {
                Severity::Critical
            } else {
                Severity::Warning
            },
            summary: format!(
                "the event loop stood still for {}{who}: {kind}{}{}{delayed}{}",
                ms(worst.duration_ns),
                held_by(holder.as_deref()),
                frame.map_or_else(String::new, |frame| format!(", {}", place(frame))),
                if sustained { "; sustained" } else { "" },
            ),
            evidence,
            advice: advice(kind, holder.as_deref(), frame),
            // The summary's is the one with the longest of the whole watch's stalls.
            weight: worst.duration_ns as f64,
        })
    }
}

/// A step that has not ended.
fn lasts(context: &Context<'_>, one: &Loop, hang: &Hang) -> Held {
    let holder = holder(context, hang.holder_tid);
    let mut evidence = super::Evidence::new();
    evidence.insert("tid", Value::from(one.tid));
    evidence.insert("lasting", Value::from(true));
    evidence.insert("lasting_ns", Value::from(hang.lasting_ns));
    evidence.insert("before_watch", Value::from(hang.before_watch));
    evidence.insert("since_unix_ns", Value::from(hang.since_unix_ns));
    evidence.insert("kind", Value::from(hang.cause.name()));
    evidence.insert("where", Value::from(hang.frame.as_ref().map(whole_place)));
    evidence.insert(
        "task",
        Value::from(hang.task.as_ref().map(|task| task.name.clone())),
    );
    evidence.insert("coroutine", Value::from(hang.coroutine.clone()));
    evidence.insert("context", serde_json::json!(hang.context));
    evidence.insert("holder", Value::from(holder.clone()));
    let delayed = delayed(&mut evidence, hang.delayed.as_ref());
    let (at_least, since) = match hang.before_watch {
        true => ("at least ", ", since before the watch"),
        false => ("", ""),
    };
    Held {
        severity: match hang.lasting_ns >= CRITICAL_NS {
            true => Severity::Critical,
            false => Severity::Warning,
        },
        summary: format!(
            "the event loop stands still, for {at_least}{} by now{since}{}: {}{}{}{delayed}",
            ms(hang.lasting_ns),
            who(hang.task.as_ref(), hang.coroutine.as_deref()),
            hang.cause,
            held_by(holder.as_deref()),
            hang.frame
                .as_ref()
                .map_or_else(String::new, |frame| format!(", {}", place(frame))),
        ),
        evidence,
        advice: advice(hang.cause, holder.as_deref(), hang.frame.as_ref()),
        weight: hang.lasting_ns as f64,
    }
}

/// `; delayed 14 requests, 3100 ms in sum`.
fn delayed(evidence: &mut super::Evidence, delayed: Option<&Delayed>) -> String {
    let Some(delayed) = delayed else {
        return String::new();
    };
    evidence.insert("delayed_requests", Value::from(delayed.requests));
    evidence.insert("delayed_ns", Value::from(delayed.delay_ns));
    let requests = match delayed.requests {
        1 => "1 request".to_owned(),
        count => format!("{count} requests"),
    };
    format!("; delayed {requests}, {} in sum", ms(delayed.delay_ns))
}

fn who(task: Option<&StallTask>, coroutine: Option<&str>) -> String {
    match (task, coroutine) {
        (Some(task), Some(coroutine)) => format!(" in task {} ({coroutine})", task.name),
        (_, Some(coroutine)) => format!(" in {coroutine}"),
        _ => String::new(),
    }
}

/// Python's name of the thread that has the GIL.
fn holder(context: &Context<'_>, tid: Option<u32>) -> Option<String> {
    tid.map(|tid| thread_name(context.process, tid))
}

fn held_by(holder: Option<&str>) -> String {
    holder.map_or_else(String::new, |name| format!(", held by {name}"))
}

fn advice(kind: CulpritKind, holder: Option<&str>, frame: Option<&Frame>) -> String {
    if let (CulpritKind::Gil, Some(holder)) = (kind, holder) {
        let at = frame.map_or_else(String::new, |frame| format!(" at {}", place(frame)));
        return format!(
            "move what {holder} does{at} to a process, or let native code release the GIL"
        );
    }
    general_advice(kind).to_owned()
}

fn general_advice(kind: CulpritKind) -> &'static str {
    match kind {
        CulpritKind::Sleep => "await asyncio.sleep() instead of time.sleep()",
        CulpritKind::Io | CulpritKind::Poll => {
            "use an asynchronous client, or hand the call to asyncio.to_thread()"
        }
        CulpritKind::Lock => "use asyncio's own locks in coroutines, or take the lock in a thread",
        CulpritKind::Gil => {
            "another thread held the GIL: move computation to a process, or let native code release the GIL"
        }
        CulpritKind::Gc => {
            "make fewer long-lived containers, freeze them (gc.freeze), or collect at quiet times"
        }
        CulpritKind::Runnable => {
            "the loop's thread waited for a CPU: give it more CPU, or run fewer threads beside it"
        }
        CulpritKind::Disk => "hand file access to a thread, or give the process more memory",
        _ => "split the computation with await asyncio.sleep(0), or hand it to a process pool",
    }
}
