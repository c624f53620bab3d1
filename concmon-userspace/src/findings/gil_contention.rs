//! Threads that wait for the GIL, who holds it, and in which code.

use serde_json::Value;

use super::history::GilPast;
use super::{
    Context, Held, Rule, Severity, percent, place, round, share, thread_name, whole_place,
};
use crate::schema::CodeSamples;

/// Threads wait for the GIL more than a little: it is nearly always held, or held for long at a time.
pub(super) struct GilContention;

/// Waiting, of waiting and running, from which on a program would gain from another design.
const WAITING: f64 = 0.2;
/// Held for so much of the time; below, short waits are hand-overs.
const HELD: f64 = 0.85;
/// What is summed up, ns: holds may be seconds apart.
const SPAN_NS: u64 = 5_000_000_000;
/// Waits that are so long on average are for somebody who does not let go, ns: bytecode does after 5 ms.
const LONG_NS: u64 = 50_000_000;
const BYTECODE: &str = "bytecode";
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
         was held at least 85 % of the time, or for so long at a time that a wait took 50 ms on average. \
         It looks like CPU load of one core, and more threads make it worse. Where who holds it waits for a CPU \
         as long, and no less than it runs, it is not told: that is the host's.\n\n\
         The hog is the thread that held it while others waited most. In bytecode it lets go every 5 ms; \
         in native code it does so when that code says so: one call of re, of a large integer, or of an \
         extension may keep it for seconds. Where the hog was met most is in the finding.\n\n\
         What to do: processes instead of threads for computation, native code that releases the GIL \
         (numpy, hashlib and zlib do on large inputs), or a free-threaded build."
    }

    fn check(&self, context: &Context<'_>) -> Option<Held> {
        let process = context.process;
        let gil = process.gil.as_ref()?;
        let past = context.history.gil(SPAN_NS);
        if is_for_want_of_cpu(&past) {
            return None;
        }
        let long = long_waits(&past);
        let held = || {
            let waiting = waiting(context, gil.wait_ns?)?;
            gil.utilization.filter(|held| *held >= HELD)?;
            Some(waiting)
        };
        let waiting = long.or_else(held)?;
        let most_first = |sums: &std::collections::BTreeMap<u32, u64>| {
            let mut sums: Vec<(u32, u64)> = sums.iter().map(|(tid, ns)| (*tid, *ns)).collect();
            sums.sort_by_key(|(tid, ns)| (std::cmp::Reverse(*ns), *tid));
            sums
        };
        // Whoever is not known may have held it longer.
        let holders = most_first(&past.holders);
        let hog = holders.first().filter(|(_, ns)| *ns >= past.unknown_ns);
        let hog = hog.map(|(tid, _)| *tid);
        // Threads that hold it in turn are each other's victims.
        let mut victims = most_first(&past.victims);
        victims.retain(|(tid, _)| hog != Some(*tid));
        let shown = victims.iter().take(VICTIMS);
        let names: Vec<String> = shown.map(|(tid, _)| thread_name(process, *tid)).collect();
        let others = victims.len() - names.len();
        let code = hog
            .and_then(|tid| process.threads.iter().find(|thread| thread.tid == tid))
            .and_then(|thread| thread.code)
            .and_then(runs)
            // Bytecode lets go: the C code of a builtin counts as the interpreter's, too.
            .filter(|code| long.is_none() || *code != BYTECODE);
        let frame = hog.and_then(|tid| past.places.get(&tid));
        let hog_name = hog.map(|tid| thread_name(process, tid));
        let mut evidence = super::Evidence::new();
        evidence.insert("waiting_share", round(waiting));
        evidence.insert(
            "gil_utilization",
            gil.utilization.map_or(Value::Null, round),
        );
        evidence.insert("wait_ns", Value::from(gil.wait_ns));
        evidence.insert("hog", Value::from(hog_name.clone()));
        evidence.insert("hog_tid", Value::from(hog));
        evidence.insert("hog_runs", Value::from(code));
        evidence.insert("where", Value::from(frame.map(whole_place)));
        evidence.insert("long_waits", Value::from(long.is_some()));
        evidence.insert("victims", Value::from(names.clone()));
        evidence.insert("victims_count", Value::from(victims.len()));
        let at = frame.map(place);
        let doing = match (code, &at) {
            (Some(code), Some(at)) => format!(", in {code}, at {at}"),
            (Some(code), None) => format!(", in {code}"),
            (None, Some(at)) => format!(", at {at}"),
            (None, None) => String::new(),
        };
        let summary = format!(
            "threads wait for the GIL {} of the time that they could run{}{}",
            percent(waiting),
            hog_name
                .as_ref()
                .map_or_else(String::new, |name| format!("; {name} holds it most{doing}")),
            match (names.is_empty(), others) {
                (true, _) => String::new(),
                (false, 0) => format!("; victims: {}", names.join(", ")),
                (false, others) => format!("; victims: {} and {others} more", names.join(", ")),
            },
        );
        let advice = match (&hog_name, at) {
            (Some(name), Some(at)) => format!(
                "move what {name} does at {at} to a process, use native code that releases the GIL, \
                 or a free-threaded build"
            ),
            _ => "use processes for computation, native code that releases the GIL, or a free-threaded build"
                .to_owned(),
        };
        Some(Held {
            severity: if waiting >= 0.5 {
                Severity::Critical
            } else {
                Severity::Warning
            },
            summary,
            evidence,
            advice,
            // Of windows that are as bad, one that names it says more.
            weight: if hog.is_some() {
                waiting
            } else {
                waiting / 2.0
            },
        })
    }

    /// How much it is held is read in looks, of which a window may have none.
    fn cannot_tell(&self, context: &Context<'_>) -> bool {
        let gil = context.process.gil.as_ref();
        let past = context.history.gil(SPAN_NS);
        let tells = is_for_want_of_cpu(&past) || long_waits(&past).is_some();
        gil.filter(|gil| gil.utilization.is_none() && !tells)
            .and_then(|gil| waiting(context, gil.wait_ns?))
            .is_some()
    }
}

/// The share of the time that threads could run in which they waited, where that is much and each wait is long.
fn long_waits(past: &GilPast) -> Option<f64> {
    let waiting = share(past.wait_ns, past.wait_ns.saturating_add(past.on_cpu_ns));
    // One may go on.
    let each_ns = past.wait_ns / past.waits.saturating_add(1);
    let is_much = waiting >= WAITING && past.wait_ns >= past.span_ns / 10;
    (is_much && each_ns >= LONG_NS).then_some(waiting)
}

/// Whether who had it waited for a CPU for as long as others waited for it, and no less than it ran: of these waits, more
/// is its running else. Then it is the host that kept it from them.
fn is_for_want_of_cpu(past: &GilPast) -> bool {
    let Some((hog, _)) = past.holders.iter().max_by_key(|(_, ns)| **ns) else {
        return false;
    };
    let others = past.victims.iter().filter(|(tid, _)| *tid != hog);
    let longest_ns = others.map(|(_, ns)| *ns).max();
    let (Some(longest_ns), Some(runnable_ns), Some(ran_ns)) =
        (longest_ns, past.runnable.get(hog), past.ran.get(hog))
    else {
        return false;
    };
    *runnable_ns >= longest_ns.max(*ran_ns)
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

fn runs(code: CodeSamples) -> Option<&'static str> {
    let all = code.interpreter.saturating_add(code.native);
    if all < 5 {
        return None;
    }
    Some(if code.native > all / 2 {
        "native code"
    } else {
        BYTECODE
    })
}
