//! What is known of one loop's time, cumulative.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::share::Share;
use crate::model::add::Add;
use crate::model::delta::{LoopDelta, StallOf, Worst};
use crate::model::fine::Fine;
use crate::model::window::{Cumulative, Growth, Scope};
use crate::schema::{BusySplit, Contributor, Cost, CulpritKind, Delayed, Saturation, Stall};

/// Stalls that are kept: in the whole watch the worst, in a window the worst of it.
const MAX_STALLS: usize = 256;
/// Contributors to saturation that are told apart.
const MAX_CONTRIBUTORS: usize = 256;
/// Names of tasks, and of callbacks, that are told apart, and what the others are counted as.
const MAX_NAMES: usize = 256;
const OTHER: &str = "other";
/// Contributors that are shown.
const TOP: usize = 10;
/// Callbacks that are shown.
const MAX_CALLBACKS: usize = 32;

/// Stretches without a single step above the threshold.
#[derive(Clone, Copy, Debug, Default)]
struct Saturated {
    count: u64,
    busy_ns: u64,
}

impl Growth for Saturated {
    fn since(&self, base: &Self) -> Self {
        Saturated {
            count: self.count - base.count,
            busy_ns: self.busy_ns - base.busy_ns,
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Contributors {
    longest_ns: u64,
    of: BTreeMap<Arc<str>, (u64, u64)>,
}

impl Contributors {
    fn add(&mut self, busy_ns: u64, samples: &BTreeMap<Arc<str>, u64>) {
        self.longest_ns = self.longest_ns.max(busy_ns);
        let all: u64 = samples.values().sum();
        for (name, count) in samples {
            if self.of.len() >= MAX_CONTRIBUTORS && !self.of.contains_key(name) {
                continue;
            }
            let part = u128::from(busy_ns) * u128::from(*count) / u128::from(all.max(1));
            let (sum_ns, sum) = self.of.entry(Arc::clone(name)).or_default();
            *sum_ns = sum_ns.saturating_add(part as u64);
            *sum += count;
        }
    }

    fn top(&self) -> Vec<Contributor> {
        let mut top: Vec<Contributor> = self
            .of
            .iter()
            .map(|(name, (busy_ns, samples))| Contributor {
                name: name.to_string(),
                busy_ns: *busy_ns,
                samples: *samples,
            })
            .collect();
        top.sort_by(|one, other| (other.busy_ns, &one.name).cmp(&(one.busy_ns, &other.name)));
        top.truncate(TOP);
        top
    }
}

/// What samples say, by whose they are.
#[derive(Clone, Debug, Default)]
pub(super) struct Shares {
    tasks: Share,
    callbacks: Share,
    own: Share,
    names: BTreeMap<Arc<str>, Share>,
    /// `callbacks`, each by its function.
    functions: BTreeMap<Arc<str>, Share>,
}

impl Shares {
    fn all(&self) -> Share {
        let mut all = self.tasks;
        all.add(&self.callbacks);
        all.add(&self.own);
        all
    }
}

impl Growth for Shares {
    fn since(&self, base: &Self) -> Self {
        Shares {
            tasks: self.tasks.since(&base.tasks),
            callbacks: self.callbacks.since(&base.callbacks),
            own: self.own.since(&base.own),
            names: grown(&self.names, &base.names),
            functions: grown(&self.functions, &base.functions),
        }
    }

    fn catch_up(&mut self, now: &Self) {
        // Whatever is added is added to one of the three, too.
        if self.all() != now.all() {
            self.clone_from(now);
        }
    }
}

/// What has been added by name.
fn grown(
    now: &BTreeMap<Arc<str>, Share>,
    base: &BTreeMap<Arc<str>, Share>,
) -> BTreeMap<Arc<str>, Share> {
    let grown = now.iter().filter_map(|(name, share)| {
        let before = base.get(name).copied().unwrap_or_default();
        let grown = share.since(&before);
        (grown.samples > 0).then(|| (Arc::clone(name), grown))
    });
    grown.collect()
}

fn add_named(names: &mut BTreeMap<Arc<str>, Share>, name: Arc<str>, share: &Share) {
    let name = if names.len() >= MAX_NAMES && !names.contains_key(&name) {
        OTHER.into()
    } else {
        name
    };
    names.entry(name).or_default().add(share);
}

/// Everything cumulative about one loop's time.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    pub(super) lag: Cumulative<Fine>,
    pub(super) step: Cumulative<Fine>,
    pub(super) iterations_milli: Cumulative<u64>,
    shares: Cumulative<Shares>,
    /// The busy time, exactly.
    busy: Cumulative<Cost>,
    stalls_count: Cumulative<u64>,
    stalls_ns: Cumulative<u64>,
    delayed: Cumulative<Delayed>,
    window_stalls: Vec<Stall>,
    stalls: Vec<Stall>,
    saturated: Cumulative<Saturated>,
    window_contributors: Contributors,
    contributors: Contributors,
}

impl Sums {
    pub(super) fn stalled(&mut self, stall: &Stall) {
        self.stalls_count.now += 1;
        self.stalls_ns.now = self.stalls_ns.now.saturating_add(stall.duration_ns);
        if let Some(delayed) = &stall.delayed {
            self.delayed.now.add(delayed);
        }
        keep_worst(&mut self.window_stalls, stall);
        keep_worst(&mut self.stalls, stall);
    }

    pub(super) fn saturated(&mut self, busy_ns: u64, samples: BTreeMap<Arc<str>, u64>) {
        self.saturated.now.count += 1;
        self.saturated.now.busy_ns = self.saturated.now.busy_ns.saturating_add(busy_ns);
        self.window_contributors.add(busy_ns, &samples);
        self.contributors.add(busy_ns, &samples);
    }

    /// Steps, lag or stalls have come in the window.
    pub(super) fn has_grown(&self) -> bool {
        let grows = |fine: &Cumulative<Fine>| fine.now.count() > fine.base().count();
        grows(&self.lag) || grows(&self.step) || self.stalls_count.over(Scope::Window) > 0
    }

    /// Adds what is new in the window; `pid` and `tid` are the loop's.
    pub(super) fn add_to(&self, of_kind: &mut LoopDelta, worst: &mut Worst, pid: u32, tid: u32) {
        of_kind.lag.add(&self.lag.over(Scope::Window));
        of_kind.step.add(&self.step.over(Scope::Window));
        let count = self.stalls_count.over(Scope::Window);
        if count == 0 {
            return;
        }
        of_kind.stalls_ns.add(&self.stalls_ns.over(Scope::Window));
        of_kind.delayed.add(&self.delayed.over(Scope::Window));
        for stall in &self.window_stalls {
            of_kind.stalls.of(stall.culprit.kind).add(&1);
        }
        let left_out = count.saturating_sub(self.window_stalls.len() as u64);
        if left_out > 0 {
            of_kind.stalls.of(CulpritKind::Other).add(&left_out);
        }
        let stalls = self.window_stalls.iter().map(|stall| StallOf {
            pid,
            tid,
            stall: stall.clone(),
        });
        worst.add(&Worst(stalls.collect()));
    }

    /// Takes over what samples said of a task's steps; `name` is the task's.
    pub(super) fn add_task(&mut self, name: Arc<str>, share: &Share) {
        let shares = &mut self.shares.now;
        shares.tasks.add(share);
        add_named(&mut shares.names, name, share);
    }

    /// What samples said of a callback that is no task's; `name` is its function's.
    pub(super) fn add_callback(&mut self, name: Arc<str>, share: &Share) {
        let shares = &mut self.shares.now;
        shares.callbacks.add(share);
        add_named(&mut shares.functions, name, share);
    }

    /// What is the loop's own.
    pub(super) fn add_own(&mut self, share: &Share) {
        self.shares.now.own.add(share);
    }

    /// The loop was busy for so much more.
    pub(super) fn grow(&mut self, busy: &Cost) {
        self.busy.now.add(busy);
    }

    /// The busy time by tasks, callbacks, and the rest; they sum to it.
    pub(super) fn split(&self, scope: Scope) -> BusySplit {
        let (all, busy) = (self.share(scope, Shares::all), self.busy.over(scope));
        let tasks = self.share(scope, |shares| shares.tasks).of(&all, &busy);
        let callbacks = self.share(scope, |shares| shares.callbacks);
        let callbacks = callbacks.of(&all, &busy);
        let mut unknown = busy;
        unknown.take(&tasks);
        unknown.take(&callbacks);
        BusySplit {
            tasks,
            callbacks,
            unknown,
        }
    }

    /// What a part of the samples stands for.
    pub(super) fn cost(&self, scope: Scope, share: &Share) -> Cost {
        share.of(&self.share(scope, Shares::all), &self.busy.over(scope))
    }

    /// A share without the names, which are many, and which every task's row would have to go through.
    fn share(&self, scope: Scope, of: impl Fn(&Shares) -> Share) -> Share {
        match scope {
            Scope::Window => of(&self.shares.now).since(&of(self.shares.base())),
            Scope::Whole => of(&self.shares.now),
        }
    }

    /// Names of tasks with their costs and samples.
    pub(super) fn names(&self, scope: Scope) -> Vec<(Arc<str>, Cost, u64)> {
        self.named(scope, |shares| &shares.names)
    }

    /// Functions of callbacks that are no task's with their costs and samples, the most expensive first.
    pub(super) fn callbacks(&self, scope: Scope) -> Vec<(Arc<str>, Cost, u64)> {
        let mut callbacks = self.named(scope, |shares| &shares.functions);
        callbacks.sort_by(|(one_name, one, one_samples), (name, other, samples)| {
            let key = (other.total_ns(), samples, one_name);
            key.cmp(&(one.total_ns(), one_samples, name))
        });
        callbacks.truncate(MAX_CALLBACKS);
        callbacks
    }

    fn named(
        &self,
        scope: Scope,
        of: impl Fn(&Shares) -> &BTreeMap<Arc<str>, Share>,
    ) -> Vec<(Arc<str>, Cost, u64)> {
        let (all, busy) = (self.share(scope, Shares::all), self.busy.over(scope));
        let of_all = of(&self.shares.now);
        let named = match scope {
            Scope::Window => grown(of_all, of(self.shares.base())),
            Scope::Whole => of_all.clone(),
        };
        let rows = named.into_iter();
        rows.map(|(name, share)| (name, share.of(&all, &busy), share.samples))
            .collect()
    }

    pub(super) fn stalls(&self, scope: Scope) -> (u64, u64, Vec<Stall>) {
        let kept = match scope {
            Scope::Window => &self.window_stalls,
            Scope::Whole => &self.stalls,
        };
        (
            self.stalls_count.over(scope),
            self.stalls_ns.over(scope),
            kept.clone(),
        )
    }

    /// The requests that stalls delayed.
    pub(super) fn delayed(&self, scope: Scope) -> Option<Delayed> {
        self.delayed.over(scope).of_any()
    }

    pub(super) fn saturation(&self, scope: Scope) -> Saturation {
        let grown = self.saturated.over(scope);
        let contributors = match scope {
            Scope::Window => &self.window_contributors,
            Scope::Whole => &self.contributors,
        };
        Saturation {
            count: grown.count,
            busy_ns: grown.busy_ns,
            longest_ns: contributors.longest_ns,
            top: contributors.top(),
        }
    }

    pub(super) fn roll(&mut self) {
        self.lag.roll();
        self.step.roll();
        self.iterations_milli.roll();
        self.shares.roll();
        self.busy.roll();
        self.stalls_count.roll();
        self.stalls_ns.roll();
        self.delayed.roll();
        self.saturated.roll();
        self.window_stalls.clear();
        self.window_contributors = Contributors::default();
    }
}

/// The longest first.
fn keep_worst(kept: &mut Vec<Stall>, stall: &Stall) {
    let place = kept.partition_point(|other| other.duration_ns >= stall.duration_ns);
    if place < MAX_STALLS {
        kept.insert(place, stall.clone());
        kept.truncate(MAX_STALLS);
    }
}
