//! The tool's account of itself, by window.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use super::histogram::Tally;
use super::window::{Cumulative, Growth, Scope, limit};
use crate::event::{BudgetFact, Loss, MonitorFact};
use crate::kernel::features::Feature;
use crate::schema::{self, Limit};

/// What only grows.
#[derive(Clone, Debug, Default)]
struct Counters {
    cpu_ns: u64,
    kernel_run_ns: u64,
    unobserved_ns: u64,
    events: u64,
    events_lost: u64,
    /// The losses that were seen as gaps between records.
    gaps: u64,
    reads_failed: u64,
    faults: BTreeMap<String, u64>,
}

impl Growth for Counters {
    fn since(&self, base: &Self) -> Self {
        let faults = self.faults.iter().map(|(name, count)| {
            let before = base.faults.get(name).copied().unwrap_or(0);
            (name.clone(), count.saturating_sub(before))
        });
        Counters {
            cpu_ns: self.cpu_ns.since(&base.cpu_ns),
            kernel_run_ns: self.kernel_run_ns.since(&base.kernel_run_ns),
            unobserved_ns: self.unobserved_ns.since(&base.unobserved_ns),
            events: self.events.since(&base.events),
            events_lost: self.events_lost.since(&base.events_lost),
            gaps: self.gaps.since(&base.gaps),
            reads_failed: self.reads_failed.since(&base.reads_failed),
            faults: faults.filter(|&(_, count)| count > 0).collect(),
        }
    }
}

/// Kinds of detail that were left out and are remembered.
const MAX_SHED: usize = 64;
/// What is said of a run time that is none of the kernel's.
const COUNTED: &str = "counted, not measured: switches of the host, times what the hooks add to one, as far as that could be tried out at the start; programs at sockets are not in it. CAP_SYS_ADMIN would measure all";

/// The latest of what the tool said of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Monitor {
    counters: Cumulative<Counters>,
    rss_bytes: u64,
    budget: BudgetFact,
    /// Requests have been left out.
    ever_shed_requests: bool,
    /// What is left out now, and what has ever been.
    shed: Vec<String>,
    ever_shed: BTreeSet<String>,
    wall_clock_ahead_ns: i64,
    /// Turns of the select loop, and the longest one: of the window, and ever.
    passes: Cumulative<Tally>,
    longest_pass_ns: (u64, u64),
    seen: bool,
    /// The latest fact had a kernel run time.
    kernel_measured: bool,
    kernel_counted: bool,
}

impl Monitor {
    pub(crate) fn fact(&mut self, fact: &MonitorFact) {
        let now = &mut self.counters.now;
        now.cpu_ns = now.cpu_ns.max(fact.cpu_ns);
        now.kernel_run_ns = now.kernel_run_ns.max(fact.kernel_run_ns.unwrap_or(0));
        now.unobserved_ns = now.unobserved_ns.max(fact.unobserved_ns);
        now.events = now.events.max(fact.events);
        now.events_lost = now.events_lost.max(fact.events_lost);
        now.reads_failed = now.reads_failed.max(fact.reads_failed);
        for (name, &count) in &fact.faults {
            let now = now.faults.entry(name.clone()).or_default();
            *now = count.max(*now);
        }
        self.rss_bytes = fact.rss_bytes;
        self.budget = fact.budget;
        self.ever_shed_requests |= fact.budget.sheds_requests;
        self.wall_clock_ahead_ns = fact.wall_clock_ahead_ns;
        self.shed.clone_from(&fact.shed);
        for what in &fact.shed {
            if self.ever_shed.len() < MAX_SHED {
                self.ever_shed.insert(what.clone());
            }
        }
        if let Some(passes) = &fact.passes {
            self.passes.now.update(&passes.wall);
            let (window, ever) = self.longest_pass_ns;
            let longest_ns = passes.longest_ns;
            self.longest_pass_ns = (window.max(longest_ns), ever.max(longest_ns));
        }
        self.kernel_measured = fact.kernel_run_ns.is_some();
        self.kernel_counted = fact.kernel_run_counted;
        self.seen = true;
    }

    /// Slices are left out.
    pub(crate) const fn sheds_slices(&self) -> bool {
        self.budget.sheds_slices
    }

    /// Requests are left out, or were.
    pub(crate) const fn sheds_requests(&self, scope: Scope) -> bool {
        match scope {
            Scope::Window => self.budget.sheds_requests,
            Scope::Whole => self.ever_shed_requests,
        }
    }

    pub(crate) fn loss(&mut self, loss: &Loss) {
        let gaps = &mut self.counters.now.gaps;
        *gaps = gaps.saturating_add(loss.records);
    }

    /// Records that never arrived: the same losses may show as gaps and in the tool's own count.
    pub(crate) fn lost(&self, scope: Scope) -> u64 {
        let counters = self.counters.over(scope);
        counters.gaps.max(counters.events_lost)
    }

    /// What is wrong with times of the day: they are told as if the wall clock had run evenly since
    /// the watch began.
    pub(crate) fn wrong_times(&self) -> Option<Limit> {
        let seconds = self.wall_clock_ahead_ns.unsigned_abs() / 1_000_000_000;
        let where_it_is = if self.wall_clock_ahead_ns > 0 {
            "ahead of"
        } else {
            "behind"
        };
        (seconds > 0).then(|| {
            let reason = format!(
                "the wall clock is {seconds} s {where_it_is} the times of the day told here: since the \
                 watch began, it was set, or the host slept"
            );
            limit("window.start_unix_ns", reason)
        })
    }

    /// Begins a window.
    pub(crate) fn roll(&mut self) {
        self.counters.roll();
        self.passes.roll();
        self.longest_pass_ns.0 = 0;
    }

    fn passes(&self, scope: Scope) -> schema::Passes {
        let wall = self.passes.over(scope).report();
        schema::Passes {
            count: wall.count,
            wall_p99_ns: wall.p99_ns,
            longest_ns: match scope {
                Scope::Window => self.longest_pass_ns.0,
                Scope::Whole => self.longest_pass_ns.1,
            },
        }
    }

    pub(crate) fn report(&self, scope: Scope, version: Cow<'static, str>) -> schema::Monitor {
        let counters = self.counters.over(scope);
        let mut limits = Vec::new();
        if !self.seen {
            let fields = [
                "cpu_ns",
                "rss_bytes",
                "events",
                "events_lost",
                "reads_failed",
                "budget",
            ];
            limits.extend(fields.map(|field| limit(field, "not measured yet")));
        }
        if self.seen && self.budget.cpu_share_used.is_none() {
            limits.push(limit("budget.cpu_percent_used", "it is too early to tell"));
        }
        if !self.kernel_measured {
            limits.push(limit("kernel_run_ns", Feature::RunTime.without()));
        } else if self.kernel_counted {
            limits.push(limit("kernel_run_ns", COUNTED));
        }
        schema::Monitor {
            version,
            cpu_ns: counters.cpu_ns,
            rss_bytes: self.rss_bytes,
            kernel_run_ns: self.kernel_measured.then_some(counters.kernel_run_ns),
            unobserved_ns: counters.unobserved_ns,
            events: counters.events,
            events_lost: counters.events_lost.max(counters.gaps),
            reads_failed: counters.reads_failed,
            shed: match scope {
                Scope::Window => self.shed.clone(),
                Scope::Whole => self.ever_shed.iter().cloned().collect(),
            },
            budget: self.seen.then(|| schema::Budget {
                cpu_percent: percent(self.budget.cpu_share),
                cpu_percent_used: self.budget.cpu_share_used.map(percent),
                memory_bytes: self.budget.memory_bytes,
            }),
            passes: (!self.passes.now.is_empty()).then(|| self.passes(scope)),
            estimated: vec!["kernel_run_ns"],
            faults: counters.faults,
            limits,
        }
    }
}

/// With three decimals.
fn percent(share: f64) -> f64 {
    (share * 100_000.0).round() / 1_000.0
}
