//! Much time in the garbage collector.

use serde_json::Value;

use super::{Context, Held, Rule, Severity, percent, round, share};

/// The garbage collector takes a good part of the CPU time.
pub(super) struct GcHeavy;

/// Of the process's CPU time.
const COLLECTING: f64 = 0.1;

impl Rule for GcHeavy {
    fn name(&self) -> &'static str {
        "gc-heavy"
    }

    fn patience_ns(&self) -> u64 {
        3_000_000_000
    }

    fn explanation(&self) -> &'static str {
        "The cyclic garbage collector took at least 10 % of the process's CPU time for three seconds, \
         by samples. It runs when many containers are made, and a full collection goes through all \
         that live, with the GIL held.\n\n\
         What to do: gc.freeze() after start-up, higher thresholds (gc.set_threshold), fewer objects \
         that refer to each other, or collecting by hand at quiet times."
    }

    fn check(&self, context: &Context<'_>) -> Option<Held> {
        let gc = context.process.gc.as_ref()?;
        let collecting_ns = gc.collecting_ns?;
        let part = share(collecting_ns, context.process.cpu_ns);
        if part < COLLECTING || collecting_ns < context.duration_ns / 50 {
            return None;
        }
        let mut evidence = super::Evidence::new();
        evidence.insert("share", round(part));
        evidence.insert("collecting_ns", Value::from(collecting_ns));
        evidence.insert("collections", Value::from(gc.collections.clone()));
        Some(Held {
            severity: Severity::Warning,
            summary: format!("garbage collection takes {} of the CPU time", percent(part)),
            evidence,
            advice: "gc.freeze() after start-up, higher thresholds, fewer long-lived containers"
                .to_owned(),
            weight: part,
        })
    }
}
