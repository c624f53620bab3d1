//! What is not known, and why: each reason once, with how many objects it holds for.

use std::{borrow::Cow, collections::HashMap};

use super::digest::{MAX_NAME, MAX_SENTENCE, gil_is_used};
use super::escape::{brief, is_brief};
use super::names::stem;
use crate::schema::{Limit, Process, Snapshot};

/// One reason for one field, and how many objects it holds for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) field: String,
    pub(super) reason: String,
    pub(super) count: usize,
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            field,
            reason,
            count,
        } = self;
        match count {
            1 => write!(f, "{field}: {reason}"),
            n => write!(f, "{field} ({n} times): {reason}"),
        }
    }
}

/// What is not known of several objects, equal reasons together, in the order in which they come.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    pub(super) list: Vec<Gap>,
    /// Where those with a reason are.
    places: HashMap<String, Vec<usize>>,
}

impl Gaps {
    /// Adds what is not known of an object.
    pub(super) fn gather(&mut self, prefix: &str, limits: &[Limit]) {
        for limit in limits {
            let short = |text, cells| match is_brief(text, cells) {
                true => Cow::Borrowed(text),
                false => Cow::Owned(brief(text, cells)),
            };
            let reason = short(&*limit.reason, MAX_SENTENCE);
            let field = short(&*limit.field, MAX_NAME);
            let places = self.places.get(&*reason).map_or(&[][..], Vec::as_slice);
            // Hundreds of threads say the same in a window.
            let known = places
                .iter()
                .find(|at| self.list[**at].field.strip_prefix(prefix) == Some(&*field));
            if let Some(at) = known {
                self.list[*at].count += 1;
                continue;
            }
            let (reason, field) = (reason.into_owned(), format!("{prefix}{field}"));
            let places = self.places.entry(reason.clone()).or_default();
            places.push(self.list.len());
            self.list.push(Gap {
                field,
                reason,
                count: 1,
            });
        }
    }
}

/// Gaps of one cause: `gil.held_ns, gil.free_ns: only 2 samples were taken`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cause {
    fields: Vec<String>,
    reason: String,
}

/// Fields of one cause that are named.
const MAX_FIELDS: usize = 3;

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let named = &self.fields[..self.fields.len().min(MAX_FIELDS)];
        f.write_str(&named.join(", "))?;
        if self.fields.len() > named.len() {
            write!(f, " and {} more", self.fields.len() - named.len())?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// What is not known, once for each cause: reasons that differ in their numbers only are one.
pub(super) fn causes(gaps: &[Gap]) -> Vec<Cause> {
    let mut causes: Vec<Cause> = Vec::new();
    let mut places = HashMap::new();
    for gap in gaps {
        let at = *places.entry(stem(&gap.reason)).or_insert(causes.len());
        match causes.get_mut(at) {
            Some(known) if known.fields.contains(&gap.field) => {}
            Some(known) => known.fields.push(gap.field.clone()),
            None => causes.push(Cause {
                fields: vec![gap.field.clone()],
                reason: gap.reason.clone(),
            }),
        }
    }
    causes
}

/// What is not known about a process, its threads and its loops and matters, equal reasons together.
pub(super) fn process_gaps(process: &Process) -> Vec<Gap> {
    let mut gaps = Gaps::default();
    gaps.gather("", &process.limits);
    for thread in &process.threads {
        gaps.gather("threads.", &thread.limits);
    }
    if let Some(gil) = process.gil.as_ref().filter(|gil| gil_is_used(gil)) {
        gaps.gather("gil.", &gil.limits);
    }
    for l in &process.loops {
        // Of a loop that does nothing there are no times.
        let idle = l.busy_ns < l.wall_ns / 100;
        let limits = l.limits.iter();
        let limits = limits.filter(|limit| !idle || !TIMES.contains(&&*limit.field));
        gaps.gather("loops.", &limits.cloned().collect::<Vec<_>>());
    }
    let mut gaps = gaps.list;
    gaps.retain(|gap| !NOT_SHOWN.contains(&&*gap.field));
    gaps
}

/// What samples tell of a loop's time.
const TIMES: [&str; 3] = ["iterations", "lag", "step"];

/// What no view of a watch shows for people: nobody misses it there.
const NOT_SHOWN: [&str; 12] = [
    "entry",
    // Who asks for it is warned.
    "http",
    "vms_bytes",
    "title",
    "role",
    "gc",
    "gc.collecting_ns",
    "executors.running.function",
    "threads.comm",
    "threads.stack",
    "threads.waiting_for",
    "loops.tasks_created",
];

/// What is not known about the watch and about the tool itself.
pub(super) fn watch_gaps(snapshot: &Snapshot) -> Vec<Gap> {
    let mut gaps = Gaps::default();
    gaps.gather("", &snapshot.limits);
    gaps.gather("monitor.", &snapshot.monitor.limits);
    let mut gaps = gaps.list;
    gaps.retain(|gap| gap.field != "monitor.budget.cpu_percent_used");
    gaps
}
