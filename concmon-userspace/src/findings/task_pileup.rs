//! Tasks that are made faster than they end.

use serde_json::Value;

use super::{Context, Held, Rule, Severity};

/// Tasks are made faster than they end.
pub(super) struct TaskPileup;

/// How long it must have grown, ns, and by how much: noise of a busy server is less.
const SPAN_NS: u64 = 5_000_000_000;
const LEAST: u64 = 50;
const RATIO: f64 = 1.5;
/// Each third of the time brings one of so many parts of it at least.
const PARTS: u64 = 8;
/// In so many of the windows it must not have fallen.
const RISING: f64 = 0.8;

impl Rule for TaskPileup {
    fn name(&self) -> &'static str {
        "task-pileup"
    }

    fn patience_ns(&self) -> u64 {
        0
    }

    fn explanation(&self) -> &'static str {
        "The number of pending tasks has risen steadily for at least five seconds, by at least 50 and \
         by half: tasks are made faster than they end. Memory grows with them, and each becomes \
         later.\n\n\
         What to do: bound how many are under way (a semaphore, a pool of workers on a bounded queue), \
         put timeouts on what they wait for, look where they wait (concmon-bpf tasks --group-by await)."
    }

    fn check(&self, context: &Context<'_>) -> Option<Held> {
        if context.history.span_ns() < SPAN_NS {
            return None;
        }
        let counts: Vec<u64> = context
            .history
            .windows()
            .map(|past| past.pending)
            .collect::<Option<_>>()?;
        let (first, last) = (*counts.first()?, *counts.last()?);
        let steps = counts.len().saturating_sub(1).max(1);
        let rising = counts.windows(2).filter(|pair| pair[1] >= pair[0]).count();
        // More load lifts them to another level at once: steadily, each third of the time has its part.
        let at = |third: usize| counts[(counts.len() - 1) * third / 3];
        let steady = (0..3).all(|third| {
            let part = at(third + 1).saturating_sub(at(third));
            part.saturating_mul(PARTS) >= last.saturating_sub(first)
        });
        let grows = steady
            && last >= first.saturating_add(LEAST)
            && last as f64 >= first as f64 * RATIO
            && rising as f64 >= steps as f64 * RISING
            && counts.len() > 2;
        if !grows {
            return None;
        }
        let per_second = (last - first) as f64 / (context.history.span_ns() as f64 / 1e9);
        let mut evidence = super::Evidence::new();
        evidence.insert("pending", Value::from(last));
        evidence.insert("pending_before", Value::from(first));
        evidence.insert("per_second", super::round(per_second));
        Some(Held {
            severity: Severity::Warning,
            summary: format!(
                "tasks pile up: {last} are pending, {} more than {:.0} s ago",
                last - first,
                context.history.span_ns() as f64 / 1e9
            ),
            evidence,
            advice: "bound how many tasks are under way, and put timeouts on what they wait for"
                .to_owned(),
            weight: last as f64,
        })
    }
}
