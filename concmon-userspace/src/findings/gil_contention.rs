//! Threads that wait for the GIL, who holds it, and in which code.

use serde_json::Value;

use super::{Context, Held, Rule, Severity, percent, round, share, thread_name};
use crate::schema::CodeSamples;

/// Threads wait for the GIL more than a little, and it is nearly always held.
pub(super) struct GilContention;

/// Waiting, of waiting and running, from which on a program would gain from another design.
const WAITING: f64 = 0.2;
/// Held for so much of the time; below, waits are hand-overs.
const HELD: f64 = 0.85;
/// Victims that are named, those that waited most.
const VICTIMS: usize = 3;

impl Rule for GilContention {
    fn name(&self) -> &'static str {
        "gil-contention"
    }

    fn patience_ns(&self) -> u64 {
        3_000_000_000
    }

    fn explanation(&self) -> &'static str {
        "Threads of the process spent at least a fifth of their time that they wanted to run waiting \
         for the global interpreter lock (time waiting for it, of that and time on a CPU), while it \
         was held at least 85 % of the time. It looks like CPU load of one core, and more threads make \
         it worse.\n\n\
         The hog is the thread that held it while others waited most. In bytecode it lets go every 5 ms; \
         in native code it does so when that code says so.\n\n\
         What to do: processes instead of threads for computation, native code that releases the GIL \
         (numpy, hashlib and zlib do on large inputs), or a free-threaded build."
    }

    fn check(&self, context: &Context<'_>) -> Option<Held> {
        let process = context.process;
        let gil = process.gil.as_ref()?;
        let (wait_ns, utilization) = (gil.wait_ns?, gil.utilization?);
        let waiting = waiting(context, wait_ns).filter(|_| utilization >= HELD)?;
        let mut holders: Vec<(u32, u64)> = Vec::new();
        let mut victims: Vec<(u32, u64)> = Vec::new();
        for pair in &gil.pairs {
            if let Some(tid) = pair.holder_tid {
                add(&mut holders, tid, pair.wait_ns);
            }
            add(&mut victims, pair.victim_tid, pair.wait_ns);
        }
        for sums in [&mut holders, &mut victims] {
            sums.sort_by_key(|(tid, ns)| (std::cmp::Reverse(*ns), *tid));
        }
        let hog = holders.first().copied();
        // Threads that hold it in turn are each other's victims.
        victims.retain(|(tid, _)| hog.is_none_or(|(hog, _)| hog != *tid));
        let shown = victims.iter().take(VICTIMS);
        let names: Vec<String> = shown.map(|(tid, _)| thread_name(process, *tid)).collect();
        let others = victims.len() - names.len();
        let code = hog
            .and_then(|(tid, _)| process.threads.iter().find(|thread| thread.tid == tid))
            .and_then(|thread| thread.code)
            .and_then(runs);
        let hog_name = hog.map(|(tid, _)| thread_name(process, tid));
        let mut evidence = super::Evidence::new();
        evidence.insert("waiting_share", round(waiting));
        evidence.insert("gil_utilization", round(utilization));
        evidence.insert("wait_ns", Value::from(wait_ns));
        evidence.insert("hog", Value::from(hog_name.clone()));
        evidence.insert("hog_tid", Value::from(hog.map(|(tid, _)| tid)));
        evidence.insert("hog_runs", Value::from(code));
        evidence.insert("victims", Value::from(names.clone()));
        evidence.insert("victims_count", Value::from(victims.len()));
        let summary = format!(
            "threads wait for the GIL {} of the time that they could run{}{}",
            percent(waiting),
            hog_name.map_or_else(String::new, |name| {
                format!(
                    "; {name} holds it most{}",
                    code.map_or_else(String::new, |code| format!(", in {code}"))
                )
            }),
            match (names.is_empty(), others) {
                (true, _) => String::new(),
                (false, 0) => format!("; victims: {}", names.join(", ")),
                (false, others) => format!("; victims: {} and {others} more", names.join(", ")),
            },
        );
        Some(Held {
            severity: if waiting >= 0.5 { Severity::Critical } else { Severity::Warning },
            summary,
            evidence,
            advice: "use processes for computation, native code that releases the GIL, or a free-threaded build"
                .to_owned(),
            weight: waiting,
        })
    }

    /// How much it is held is read in looks, of which a window may have none.
    fn cannot_tell(&self, context: &Context<'_>) -> bool {
        let gil = context.process.gil.as_ref();
        gil.filter(|gil| gil.utilization.is_none())
            .and_then(|gil| waiting(context, gil.wait_ns?))
            .is_some()
    }
}

/// The share of the time that threads could run in which they waited, where that is much.
fn waiting(context: &Context<'_>, wait_ns: u64) -> Option<f64> {
    let threads = context.process.threads.iter();
    let python = threads.filter(|thread| thread.ident.is_some());
    let on_cpu_ns = python.map(|thread| thread.ledger.on_cpu_ns);
    let on_cpu_ns = on_cpu_ns.fold(0, u64::saturating_add);
    let waiting = share(wait_ns, wait_ns.saturating_add(on_cpu_ns));
    (waiting >= WAITING && wait_ns >= context.duration_ns / 10).then_some(waiting)
}

fn add(sums: &mut Vec<(u32, u64)>, tid: u32, ns: u64) {
    match sums.iter_mut().find(|(known, _)| *known == tid) {
        Some((_, sum)) => *sum = sum.saturating_add(ns),
        None => sums.push((tid, ns)),
    }
}

fn runs(code: CodeSamples) -> Option<&'static str> {
    let all = code.interpreter.saturating_add(code.native);
    if all < 5 {
        return None;
    }
    Some(if code.native > all / 2 {
        "native code"
    } else {
        "bytecode"
    })
}
