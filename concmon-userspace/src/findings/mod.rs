//! Findings: rules that hold, each with its evidence and its advice.
//!
//! A rule looks at one window of one process, and at what it kept of the windows before. It holds when
//! its condition has been true for its patience, and is over when it has been false for [`LINGER_NS`].
//! Windows in which it cannot tell count as neither, up to [`BLIND_NS`]; those in which nobody was to look, always, but for
//! rules that need no switches.

mod busy_poll;
mod cpu_starved;
mod cpu_throttled;
mod deadlock;
mod executor_saturated;
mod executor_threads;
mod fd_exhaustion;
mod for_want_of_cpu;
mod futures_failing;
mod gc_heavy;
mod gil_contention;
mod groups;
mod history;
mod lock_convoy;
mod lock_held_across_fork;
mod lock_not_released;
mod loop_blocked;
mod loop_saturated;
mod missed_wakeup;
mod nested_limiter;
mod pool_exhausted;
mod queues;
mod sighted;
mod sleep_zero_spin;
mod spinning;
mod task_collected;
mod task_exception;
mod task_pileup;
#[cfg(test)]
mod tests;
mod thread_churn;
mod worker_killed;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::schema::{Finding, Frame, Kind, Loop, Process, Severity, Snapshot, Thread};
use history::History;

/// A rule whose condition is false for this long is over, ns.
const LINGER_NS: u64 = 2_000_000_000;
/// How long a rule keeps its state while it cannot tell, ns: looks may be 10 s apart.
const BLIND_NS: u64 = 12_000_000_000;
/// Processes that are followed.
const MAX_PROCESSES: usize = 4_096;

type Evidence = BTreeMap<&'static str, Value>;

/// A condition that is true in one window.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    severity: Severity,
    summary: String,
    evidence: Evidence,
    advice: String,
    /// How bad it is within its rule: the worst is kept for the summary.
    weight: f64,
}

/// What a rule sees.
pub(crate) struct Context<'a> {
    process: &'a Process,
    begin_unix_ns: u64,
    duration_ns: u64,
    history: &'a History,
    /// Processes in which somebody waits for results of a pool of processes.
    owed: &'a BTreeSet<u32>,
}

/// A rule.
pub(crate) trait Rule: Sync {
    fn name(&self) -> &'static str;
    /// How long its condition must be true before it holds, ns.
    fn patience_ns(&self) -> u64;
    /// What it means, when it holds, and what to do: for `explain`.
    fn explanation(&self) -> &'static str;
    fn check(&self, context: &Context<'_>) -> Option<Held>;
    /// It rests on what threads do between two looks, or on what was kept of the windows before: where no switches are
    /// told it cannot tell.
    fn needs_switches(&self) -> bool {
        true
    }
    /// The window lacks a reading without which its condition is neither true nor false.
    fn cannot_tell(&self, _: &Context<'_>) -> bool {
        false
    }
}

const RULES: [&dyn Rule; 22] = [
    &deadlock::Deadlocked,
    &lock_held_across_fork::LockHeldAcrossFork,
    &lock_not_released::LockNotReleased,
    &pool_exhausted::PoolExhausted,
    &worker_killed::WorkerKilled,
    &loop_blocked::LoopBlocked,
    &loop_saturated::LoopSaturated,
    &sleep_zero_spin::SleepZeroSpin,
    &busy_poll::BusyPoll,
    &missed_wakeup::MissedWakeup,
    &task_pileup::TaskPileup,
    &task_exception::TaskException,
    &task_collected::TaskCollected,
    &executor_saturated::ExecutorSaturated,
    &futures_failing::FuturesFailing,
    &gil_contention::GilContention,
    &cpu_starved::CpuStarved,
    &cpu_throttled::CpuThrottled,
    &lock_convoy::LockConvoy,
    &thread_churn::ThreadChurn,
    &gc_heavy::GcHeavy,
    &fd_exhaustion::FdExhaustion,
];

/// Names of all rules, with what each means.
pub fn rules() -> impl Iterator<Item = (&'static str, &'static str)> {
    RULES
        .into_iter()
        .map(|rule| (rule.name(), rule.explanation()))
}

/// A rule's state for one process.
#[derive(Clone, Debug, Default)]
struct State {
    /// For how long its condition has been true, and false, without a break.
    true_ns: u64,
    false_ns: u64,
    /// For how long it could not be told, without a break.
    blind_ns: u64,
    since_unix_ns: u64,
    holds: bool,
    active_ns: u64,
    last: Option<Held>,
    worst: Option<Held>,
    /// When it first held, for the summary.
    first_unix_ns: u64,
    /// It was told as critical in some window: nothing else that was critical explained it there.
    was_critical: bool,
}

#[derive(Clone, Debug, Default)]
struct Followed {
    history: History,
    /// Of the rules whose condition is true, or that have held.
    states: BTreeMap<&'static str, State>,
}

impl Followed {
    /// Its last window is over: only what the summary tells of it is kept. Whether there is something.
    fn has_told_at_its_end(&mut self) -> bool {
        self.history = History::default();
        self.states.retain(|_, state| state.worst.is_some());
        !self.states.is_empty()
    }
}

/// Judges window after window.
#[derive(Clone, Debug, Default)]
pub struct Judge {
    /// By process id and start.
    processes: BTreeMap<(u32, u64), Followed>,
    /// Rules that have held at all.
    held: BTreeSet<&'static str>,
    groups: groups::Groups,
}

impl Judge {
    /// Fills in the findings of a window, or of the summary, which comes last.
    pub fn judge(&mut self, snapshot: &mut Snapshot) {
        match snapshot.kind {
            Kind::Snapshot => self.window(snapshot),
            Kind::Summary => self.summary(snapshot),
        }
        self.groups.judge(snapshot);
    }

    /// Forgets a service.
    pub fn forget_service(&mut self, name: &str) {
        self.groups.forget(name);
    }

    /// Whether a rule, or with `any` some rule, has held in the watch.
    pub fn has_held(&self, rule: &str) -> bool {
        match rule {
            "any" => !self.held.is_empty(),
            rule => self.held.contains(rule),
        }
    }

    fn window(&mut self, snapshot: &mut Snapshot) {
        let window = snapshot.window;
        let end_unix_ns = window.start_unix_ns.saturating_add(window.duration_ns);
        let present: BTreeSet<(u32, u64)> = snapshot.processes.iter().map(key).collect();
        if self.processes.len() > present.len() {
            let has_room = self.processes.len() <= MAX_PROCESSES;
            self.processes.retain(|key, followed| {
                present.contains(key) || (has_room && followed.has_told_at_its_end())
            });
        }
        let owed = snapshot.processes.iter();
        let owed = owed.filter(|process| worker_killed::is_owed(process));
        let owed: BTreeSet<u32> = owed.map(|process| process.pid).collect();
        let is_blind = snapshot.is_blind();
        for process in &mut snapshot.processes {
            let followed = self.processes.entry(key(process)).or_default();
            if !is_blind {
                followed.history.add(process, window);
            }
            let mut findings = Vec::new();
            for rule in RULES {
                let name = rule.name();
                let context = Context {
                    process,
                    begin_unix_ns: window.start_unix_ns,
                    duration_ns: window.duration_ns,
                    history: &followed.history,
                    owed: &owed,
                };
                let ns = window.duration_ns;
                let state = followed.states.get_mut(name);
                if is_blind && rule.needs_switches() {
                    state.into_iter().for_each(|state| state.stay(ns));
                } else if !rule.cannot_tell(&context) {
                    let found = rule.check(&context);
                    // What has not been true needs no state.
                    let state = match (state, &found) {
                        (None, None) => continue,
                        (Some(state), _) => state,
                        (None, Some(_)) => followed.states.entry(name).or_default(),
                    };
                    state.blind_ns = 0;
                    state.update(found, rule.patience_ns(), window.start_unix_ns, ns);
                } else if let Some(state) = state
                    && !state.wait(ns)
                {
                    state.update(None, rule.patience_ns(), window.start_unix_ns, ns);
                }
                let Some(state) = followed.states.get(name) else {
                    continue;
                };
                if state.holds
                    && let Some(held) = &state.last
                {
                    self.held.insert(name);
                    let active_ns = end_unix_ns.saturating_sub(state.since_unix_ns);
                    findings.push(finding(name, held, state.since_unix_ns, active_ns));
                }
                if state.is_as_new() {
                    followed.states.remove(name);
                }
            }
            one_critical_per_cause(&mut findings);
            for told in &findings {
                if let Some(state) = followed.states.get_mut(told.rule) {
                    state.was_critical |= told.severity == Severity::Critical;
                }
            }
            sort(&mut findings);
            process.findings = findings;
        }
    }

    fn summary(&self, snapshot: &mut Snapshot) {
        for process in &mut snapshot.processes {
            let Some(followed) = self.processes.get(&key(process)) else {
                continue;
            };
            let states = followed.states.iter();
            process.findings = states
                .filter_map(|(rule, state)| {
                    let worst = state.worst.as_ref()?;
                    let mut found = finding(rule, worst, state.first_unix_ns, state.active_ns);
                    if found.severity == Severity::Critical && !state.was_critical {
                        found.severity = Severity::Warning;
                    }
                    Some(found)
                })
                .collect();
            sort(&mut process.findings);
        }
    }
}

impl State {
    /// It has never held, and its condition is not true: whatever comes next, it is as if there was none.
    const fn is_as_new(&self) -> bool {
        self.true_ns == 0 && !self.holds && self.worst.is_none()
    }

    /// Passes over a window that tells nothing; `false`: there were too many of them.
    fn wait(&mut self, ns: u64) -> bool {
        self.blind_ns = self.blind_ns.saturating_add(ns);
        let waits = self.blind_ns <= BLIND_NS;
        if waits {
            self.stay(ns);
        }
        waits
    }

    /// What held goes on to hold.
    fn stay(&mut self, ns: u64) {
        if self.holds {
            self.active_ns = self.active_ns.saturating_add(ns);
        }
    }

    fn update(&mut self, found: Option<Held>, patience_ns: u64, begin_unix_ns: u64, ns: u64) {
        match found {
            Some(held) => {
                if self.true_ns == 0 && !self.holds {
                    self.since_unix_ns = begin_unix_ns;
                }
                self.true_ns = self.true_ns.saturating_add(ns);
                self.false_ns = 0;
                self.last = Some(held);
                // Windows end a little before or after their time.
                self.holds |= self.true_ns.saturating_add(ns / 8) >= patience_ns;
            }
            None => {
                self.true_ns = 0;
                self.false_ns = self.false_ns.saturating_add(ns);
                if patience_ns == 0 || self.false_ns >= LINGER_NS {
                    self.holds = false;
                }
            }
        }
        if !self.holds {
            return;
        }
        if self.worst.is_none() {
            self.first_unix_ns = self.since_unix_ns;
            self.active_ns = self.true_ns;
        } else {
            self.active_ns = self.active_ns.saturating_add(ns);
        }
        let worse = |held: &Held| {
            let known = self.worst.as_ref();
            known.is_none_or(|worst| (worst.severity, worst.weight) < (held.severity, held.weight))
        };
        if self.last.as_ref().is_some_and(worse) {
            self.worst = self.last.clone();
        }
    }
}

fn key(process: &Process) -> (u32, u64) {
    (process.pid, process.start_unix_ns)
}

fn finding(rule: &'static str, held: &Held, since_unix_ns: u64, active_ns: u64) -> Finding {
    Finding {
        rule,
        severity: held.severity,
        summary: held.summary.clone(),
        evidence: held.evidence.clone(),
        advice: held.advice.clone(),
        since_unix_ns,
        active_ns,
    }
}

/// What follows from another critical finding of the same process is a warning beside it: who has the GIL and gets no
/// CPU keeps the others waiting, and a loop that waits for either stands still.
fn one_critical_per_cause(findings: &mut [Finding]) {
    let critical = |rule: &str| {
        let mut found = findings.iter();
        found.any(|finding| finding.rule == rule && finding.severity == Severity::Critical)
    };
    let (starved, contended) = (critical("cpu-starved"), critical("gil-contention"));
    for finding in findings {
        let kind = finding.evidence.get("kind").and_then(Value::as_str);
        let follows = match (finding.rule, kind) {
            ("gil-contention", _) => starved,
            ("loop-blocked", Some("runnable")) => starved,
            ("loop-blocked", Some("gil")) => starved || contended,
            _ => false,
        };
        if follows {
            finding.severity = Severity::Warning;
        }
    }
}

/// The critical ones first.
fn sort(findings: &mut [Finding]) {
    findings.sort_by_key(|finding| (finding.severity != Severity::Critical, finding.rule));
}

/// `part` of `whole`, 0 to 1.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    part as f64 / whole as f64
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// Rounded for reports.
fn round(value: f64) -> Value {
    Value::from((value * 1000.0).round() / 1000.0)
}

fn ms(ns: u64) -> String {
    let ms = ns as f64 / 1e6;
    if ms < 10.0 {
        format!("{ms:.1} ms")
    } else if ms < 10_000.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.1} s", ms / 1e3)
    }
}

/// `function (file:line)`, with the last part of the file's path.
fn place(frame: &Frame) -> String {
    let file = frame.file.rsplit('/').next().unwrap_or(&frame.file);
    format!("{} ({file}:{})", frame.function, frame.line)
}

/// As [`place`], with the whole path.
fn whole_place(frame: &Frame) -> String {
    format!("{} ({}:{})", frame.function, frame.file, frame.line)
}

/// Behind the last dot of a qualified name.
fn last_part(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// A thread's name, or its id.
fn thread_name(process: &Process, tid: u32) -> String {
    let thread = process.threads.iter().find(|thread| thread.tid == tid);
    thread
        .and_then(|thread| thread.name.clone())
        .map_or_else(|| format!("thread {tid}"), |name| format!("{name} ({tid})"))
}

/// For how long a thread has been in the wait that the latest look has met, ns; 0: it has gone on, or waits for nothing.
fn waits_ns(context: &Context<'_>, thread: &Thread) -> u64 {
    let since = thread
        .waiting_for
        .as_ref()
        .and_then(|wait| wait.since_unix_ns);
    let until_unix_ns = context.begin_unix_ns.saturating_add(context.duration_ns);
    since.map_or(0, |since| until_unix_ns.saturating_sub(since))
}

/// Whether a thread is in a deadlock.
fn is_deadlocked(process: &Process, tid: u32) -> bool {
    let members = process.deadlocks.iter().flat_map(|one| &one.members);
    members.into_iter().any(|member| member.tid == Some(tid))
}

/// Loops that ran in the window.
fn loops(process: &Process) -> impl Iterator<Item = &Loop> {
    process.loops.iter().filter(|one| one.wall_ns > 0)
}
