//! Threads that wait for a CPU.

use serde_json::Value;

use super::{Context, Held, Rule, Severity, for_want_of_cpu, ms, percent, round, share};
use crate::schema::Thread;

/// Threads could run, and get no CPU.
pub(super) struct CpuStarved;

/// Waiting for a CPU, of that and running.
const WAITING: f64 = 0.25;
/// The least of one wait, on average: threads that wake each other all the time wait some tens of
/// microseconds each time, on an idle host, too.
const WAIT_NS: u64 = 100_000;
/// A process that computes runs for so much of the time, or would: then a thread of it loses so much.
const COMPUTES: f64 = 0.1;
const LOST: f64 = 0.8;
/// It goes on for so long, ns.
const PATIENCE_NS: u64 = 3_000_000_000;
/// Of the last ten seconds, with stalls in so many of them they come again and again.
const AGAIN: usize = 3;

/// For how long a loop stands still for want of a CPU, all the time or again and again, ns.
fn stalled_ns(context: &Context<'_>) -> Option<u64> {
    let loops = context.process.loops.iter();
    let longest_ns = loops.filter_map(for_want_of_cpu::longest_ns).max();
    // A short one of a long window says nothing about its other seconds.
    let lasts = |ns: &u64| context.duration_ns < PATIENCE_NS || *ns >= PATIENCE_NS;
    let now = longest_ns.filter(lasts);
    let (seconds, before_ns) = context.history.starved();
    let again = (seconds >= AGAIN).then_some(before_ns);
    now.max(again)
        .filter(|ns| !for_want_of_cpu::is_throttled(context.process, *ns))
}

impl Rule for CpuStarved {
    fn name(&self) -> &'static str {
        "cpu-starved"
    }

    fn patience_ns(&self) -> u64 {
        PATIENCE_NS
    }

    fn explanation(&self) -> &'static str {
        "Threads of the process waited for a CPU at least a quarter of the time that they could have \
         run, for three seconds, in a process that ran for at least a tenth of the time, or of which a thread waited for four fifths of it; or event loops stood still for want of one, all that time or in three of the last ten \
         seconds: other programs or other threads of this one took it (where the quota of its cgroup did, \
         cpu-throttled says so; of loops that stand still, this is said where the quota cannot be read, too). \
         CPU use looks moderate meanwhile. Waits of less than 0.1 ms on average do not count: threads that wake each other all the time have them on an idle host, too.\n\n\
         What to do: look at the load of the host, run fewer workers than CPUs, move noisy neighbours \
         away."
    }

    /// It may be the quota that they wait for. Loops that stand still for it are told all the same: no other rule does.
    fn cannot_tell(&self, context: &Context<'_>) -> bool {
        super::cpu_throttled::CpuThrottled.cannot_tell(context) && stalled_ns(context).is_none()
    }

    fn check(&self, context: &Context<'_>) -> Option<Held> {
        let threads = &context.process.threads;
        let sum = |of: fn(&Thread) -> u64| threads.iter().map(of).fold(0, u64::saturating_add);
        let runnable_ns = sum(|thread| thread.ledger.runnable_ns);
        let on_cpu_ns = sum(|thread| thread.ledger.on_cpu_ns);
        let stolen_ns = sum(|thread| thread.ledger.stolen_ns);
        let waits = sum(|thread| {
            let switches = &thread.switches;
            switches.voluntary.saturating_add(switches.involuntary)
        });
        let mean_wait_ns = runnable_ns / waits.max(1);
        // What follows a wait for the GIL comes with its hand-overs.
        let waiting = share(runnable_ns, runnable_ns.saturating_add(on_cpu_ns));
        let is_short = runnable_ns < context.duration_ns / 5 || mean_wait_ns < WAIT_NS;
        let worst = threads
            .iter()
            .max_by_key(|thread| thread.ledger.runnable_ns)?;
        // Who wakes now and then for next to nothing loses next to nothing, however many do.
        let has_cost = share(on_cpu_ns, context.duration_ns) >= COMPUTES
            || share(worst.ledger.runnable_ns, context.duration_ns) >= LOST;
        let stalled_ns = stalled_ns(context);
        if (waiting < WAITING || is_short || !has_cost) && stalled_ns.is_none() {
            return None;
        }
        // Its quota is what it waits for, not its neighbours.
        if super::cpu_throttled::kept_ns(context)
            .is_some_and(|ns| worst.ledger.runnable_ns <= ns.saturating_mul(2))
        {
            return None;
        }
        let name = super::thread_name(context.process, worst.tid);
        let mut evidence = super::Evidence::new();
        evidence.insert("waiting_share", round(waiting));
        evidence.insert("runnable_ns", Value::from(runnable_ns));
        evidence.insert("mean_wait_ns", Value::from(mean_wait_ns));
        evidence.insert("stolen_ns", Value::from(stolen_ns));
        evidence.insert("thread", Value::from(name.clone()));
        evidence.insert("stalled_ns", Value::from(stalled_ns));
        let stalled = stalled_ns.map_or_else(String::new, |ns| {
            format!("; an event loop stood still for {} by that", ms(ns))
        });
        Some(Held {
            severity: if waiting >= 0.5 {
                Severity::Critical
            } else {
                Severity::Warning
            },
            summary: format!(
                "threads wait for a CPU {} of the time that they could run; {name} most{stalled}",
                percent(waiting)
            ),
            evidence,
            advice: "look for noisy neighbours, or run fewer workers".to_owned(),
            weight: waiting,
        })
    }
}
