//! What each thread did when: a watch cut into intervals, for views that have a time axis.
//!
//! Fed by the same events as the model. Intervals of a thread come in order, do not overlap, and leave
//! nothing out: where nothing is known, they are [`Activity::Unseen`]. They are handed out as they
//! close, and none is kept; what is kept of them is bounded: [`bins`] and [`flames`].

pub mod bins;
pub mod blame;
pub mod flames;
pub mod loss;
pub mod settle;
pub mod steps;
#[cfg(test)]
mod tests;
pub mod threads;

use crate::event::{
    Cause, Event, LedgerFact, PyFrame, PythonFact, Sample, Slice, TaskState, ThreadState, Tid,
};
use crate::model::WatchInfo;
use crate::model::window::Clock;
use bins::Bins;
use blame::Blame;
use flames::Flames;
use loss::Losses;
use steps::{Steps, TaskStretch};
use threads::{Threads, Tracked};

/// Instants of ledgers and of slices differ by so much at most, ns.
const SAME_NS: u64 = 100_000;

/// What a thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Activity {
    OnCpu,
    /// Waiting for a CPU.
    Runnable,
    Blocked(Cause),
    /// Nothing has told: records were lost, or the watch had not begun to see it.
    Unseen,
}

/// How many activities there are.
pub const ACTIVITIES: usize = Cause::ALL.len() + 3;

impl Activity {
    /// All of them, in the order of their [numbers](Activity::number).
    pub fn all() -> impl Iterator<Item = Activity> {
        [Activity::OnCpu, Activity::Runnable]
            .into_iter()
            .chain(Cause::ALL.map(Activity::Blocked))
            .chain([Activity::Unseen])
    }

    /// From 0, without a gap.
    pub const fn number(self) -> usize {
        match self {
            Activity::OnCpu => 0,
            Activity::Runnable => 1,
            Activity::Blocked(cause) => 2 + cause as usize,
            Activity::Unseen => ACTIVITIES - 1,
        }
    }

    /// As the columns of reports are called; `unseen` for what is in none.
    pub const fn name(self) -> &'static str {
        match self {
            Activity::OnCpu => "on_cpu",
            Activity::Runnable => "runnable",
            Activity::Blocked(cause) => cause.name(),
            Activity::Unseen => "unseen",
        }
    }
}

/// Who ended a blocked stretch, and when (`CLOCK_MONOTONIC`, ns).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wakeup {
    /// Index in [`Threads`].
    pub waker: usize,
    pub at_ns: u64,
}

/// A thread did one thing from one instant to another (`CLOCK_MONOTONIC`, ns).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// Index in [`Threads`].
    pub thread: usize,
    pub from_ns: u64,
    pub to_ns: u64,
    pub activity: Activity,
    /// Of time on a CPU, what the kernel accounts for; the rest was stolen, and counts as runnable.
    pub on_cpu_ns: u64,
    /// `None` off the CPU.
    pub cpu: Option<u32>,
    /// Whose action ended the blocked stretch before this; `None`: nobody's that is known.
    pub wakeup: Option<Wakeup>,
    /// First argument of the call that it is blocked in, so the futex of a wait for a lock; 0: it is not known.
    pub futex: u64,
}

impl Interval {
    pub const fn ns(&self) -> u64 {
        self.to_ns.saturating_sub(self.from_ns)
    }
}

/// Who takes intervals as they close.
pub trait Sink {
    /// The next interval of a thread. `place`: where a wait is, as far as a stack was taken of it.
    fn interval(&mut self, interval: &Interval, place: Option<&PyFrame>, threads: &Threads);

    /// What a loop's thread was seen with, by samples of the same step.
    fn step(&mut self, _step: &steps::Step, _threads: &Threads) {}

    /// What a task was seen to do at looks in a row.
    fn task(&mut self, _stretch: &TaskStretch, _threads: &Threads) {}
}

/// Takes intervals and forgets them.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSink;

impl Sink for NoSink {
    fn interval(&mut self, _: &Interval, _: Option<&PyFrame>, _: &Threads) {}
}

/// Cuts a watch into intervals.
#[derive(Debug)]
pub struct Intervals {
    threads: Threads,
    bins: Bins,
    flames: Flames,
    losses: Losses,
    /// Slices are left out, so that it is not known who had the GIL.
    sheds_slices: bool,
    steps: Steps,
    /// For who asks for it.
    blame: Option<Blame>,
    clock: Clock,
    start_ns: u64,
    end_ns: u64,
}

impl Intervals {
    /// A watch of which nothing has come yet.
    pub fn new(info: &WatchInfo) -> Self {
        Intervals {
            threads: Threads::new(info.start_ns, info.start_boottime_ns),
            bins: Bins::new(info.start_ns),
            flames: Flames::default(),
            losses: Losses::default(),
            sheds_slices: false,
            steps: Steps::default(),
            blame: None,
            clock: Clock {
                start_ns: info.start_ns,
                start_unix_ns: info.start_unix_ns,
                start_boottime_ns: info.start_boottime_ns,
            },
            start_ns: info.start_ns,
            end_ns: info.start_ns,
        }
    }

    /// It also tells who made others wait.
    #[must_use]
    pub fn with_blame(self) -> Self {
        let blame = Some(Blame::default());
        Self { blame, ..self }
    }

    /// Takes the next event; what closes by it goes to `sink`.
    pub fn apply(&mut self, event: &Event, sink: &mut dyn Sink) {
        match event {
            Event::Slice(slice) => self.slice(slice, sink),
            Event::Sample(sample) => self.sample(sample, sink),
            Event::Ledger(fact) => self.ledger(fact, sink),
            Event::Fork(fork) => {
                let ended = self.threads.fork(fork);
                self.close(ended, fork.at_ns, sink);
            }
            Event::Process(fact) => self.threads.process(fact),
            Event::Python(fact) => {
                self.threads.python(fact);
                self.look(fact);
                self.steps.look(fact, &self.threads, sink);
            }
            Event::Loss(loss) => self.losses.add(loss),
            Event::Monitor(fact) => self.sheds_slices = fact.budget.sheds_slices,
            Event::Tick(tick) => {
                self.end_ns = self.end_ns.max(tick.at_ns);
                if let Some(blame) = &mut self.blame {
                    blame.settle(tick.at_ns, false, &self.threads);
                }
            }
            Event::Exec(exec) => {
                if let Some(blame) = &mut self.blame {
                    blame.exec(exec.pid, exec.at_ns);
                }
            }
            Event::Still(_)
            | Event::Step(_)
            | Event::Exact(_)
            | Event::Pools(_)
            | Event::Http(_)
            | Event::Exit(_)
            | Event::Excluded(_)
            | Event::End => {}
        }
    }

    /// Takes an event from before the part of a watch that is asked for: who is there, and since when.
    /// The last tick among these is where that part begins.
    pub fn before(&mut self, event: &Event) {
        match event {
            Event::Fork(fork) => drop(self.threads.fork(fork)),
            Event::Ledger(fact) if !fact.folded => {
                let (thread, _) = self.threads.ledger(fact);
                if let Some(tracked) = thread.and_then(|thread| self.threads.get_mut(thread)) {
                    tracked.read(fact);
                }
            }
            Event::Process(fact) => self.threads.process(fact),
            Event::Python(fact) => {
                self.threads.python(fact);
                self.look(fact);
            }
            Event::Tick(tick) => {
                self.threads.begin(tick.at_ns);
                self.bins = Bins::new(tick.at_ns);
                (self.start_ns, self.end_ns) = (tick.at_ns, tick.at_ns);
            }
            _ => {}
        }
    }

    /// Closes what is open, at the last tick. To be called once, when no event is left.
    pub fn finish(&mut self, sink: &mut dyn Sink) {
        for thread in 0..self.threads.len() {
            self.close(Some(thread), self.end_ns, sink);
        }
        self.steps.finish(self.end_ns, &self.threads, sink);
        self.flames.finish();
        if let Some(blame) = &mut self.blame {
            blame.settle(self.end_ns, true, &self.threads);
        }
    }

    /// Who made others wait; `None`: that was not asked for.
    pub const fn blame(&self) -> Option<&Blame> {
        self.blame.as_ref()
    }

    /// Where the watch began (`CLOCK_MONOTONIC`, ns).
    pub const fn start_ns(&self) -> u64 {
        self.start_ns
    }

    /// The last tick (`CLOCK_MONOTONIC`, ns).
    pub const fn end_ns(&self) -> u64 {
        self.end_ns
    }

    pub const fn threads(&self) -> &Threads {
        &self.threads
    }

    pub const fn bins(&self) -> &Bins {
        &self.bins
    }

    pub const fn flames(&self) -> &Flames {
        &self.flames
    }

    pub const fn losses(&self) -> &Losses {
        &self.losses
    }

    fn sample(&mut self, sample: &Sample, sink: &mut dyn Sink) {
        let Some(thread) = self.threads.of_sample(sample.pid, sample.tid) else {
            return;
        };
        let stack = self.flames.sample(thread, sample);
        if let Some(blame) = &mut self.blame {
            blame.stack(sample.tid, sample.at_ns, stack);
        }
        self.steps.sample(thread, sample, &self.threads, sink);
    }

    fn slice(&mut self, slice: &Slice, sink: &mut dyn Sink) {
        let Some(thread) = self.threads.newest(slice.tid) else {
            return;
        };
        if slice.out_ns < slice.in_ns {
            return;
        }
        if let (Some(blame), Some(known)) = (&mut self.blame, self.threads.get(thread))
            && !self.sheds_slices
        {
            blame.slice(known.pid, slice);
        }
        let blank = Interval {
            thread,
            from_ns: 0,
            to_ns: 0,
            activity: Activity::Unseen,
            on_cpu_ns: 0,
            cpu: None,
            wakeup: None,
            futex: 0,
        };
        if let Some(wait) = &slice.wait {
            let mut runnable_ns = wait.off_ns;
            let mut wakeup = None;
            if let Some(cause) = wait.cause {
                runnable_ns = wait.wake_ns.unwrap_or(slice.in_ns).min(slice.in_ns);
                let waker = wait.waker.and_then(|tid: Tid| self.threads.newest(tid));
                wakeup = waker
                    .zip(wait.wake_ns)
                    .map(|(waker, at_ns)| Wakeup { waker, at_ns });
                let blocked = Interval {
                    from_ns: wait.off_ns,
                    to_ns: runnable_ns,
                    activity: Activity::Blocked(cause),
                    futex: wait.arg0,
                    ..blank
                };
                self.emit(blocked, sink);
            }
            let runnable = Interval {
                from_ns: runnable_ns,
                to_ns: slice.in_ns,
                activity: Activity::Runnable,
                wakeup,
                ..blank
            };
            self.emit(runnable, sink);
        }
        // The kernel's account may exceed the stretch between our instants, at the expense of the wait after it.
        let most_ns = (slice.out_ns - slice.in_ns).saturating_add(SAME_NS);
        let on_cpu_ns = slice.on_cpu_ns.min(most_ns);
        let out_ns = slice.out_ns.max(slice.in_ns.saturating_add(on_cpu_ns));
        let run = Interval {
            from_ns: slice.in_ns,
            to_ns: out_ns,
            activity: Activity::OnCpu,
            on_cpu_ns: on_cpu_ns.min(out_ns - slice.in_ns),
            cpu: Some(slice.cpu),
            ..blank
        };
        self.emit(run, sink);
    }

    fn ledger(&mut self, fact: &LedgerFact, sink: &mut dyn Sink) {
        if fact.folded {
            return;
        }
        let (thread, ended) = self.threads.ledger(fact);
        self.close(ended, fact.start_ns, sink);
        if let Some(tracked) = thread.and_then(|thread| self.threads.get_mut(thread)) {
            tracked.read(fact);
        }
        if let Some(blame) = &mut self.blame {
            blame.ledger(fact);
        }
    }

    /// Takes the stacks of threads that waited from before a look until after it: their accounts are read
    /// when the look is over, and come first.
    fn look(&mut self, look: &PythonFact) {
        if let Some(blame) = &mut self.blame {
            blame.look(look, &self.threads, &mut self.flames);
        }
        for thread in look.threads.iter().filter(|seen| !seen.stack.is_empty()) {
            let Some(at) = self.threads.newest(thread.tid) else {
                continue;
            };
            let open = self.threads.get_mut(at).and_then(|tracked| tracked.open);
            let Some((since_ns, ThreadState::Blocked(cause), read_ns)) = open else {
                continue;
            };
            if !(since_ns..=read_ns).contains(&look.read_ns) {
                continue;
            }
            let runs = |id| {
                let mut tasks = look.tasks.iter().filter(|task| task.loop_id == id);
                tasks.any(|task| task.state == TaskState::Running)
            };
            let mut loops = look.loops.iter().filter(|one| one.tid == thread.tid);
            let idle = cause == Cause::Poll && loops.any(|one| !runs(one.id));
            self.flames.met(at, since_ns, &thread.stack, idle);
        }
    }

    /// Emits what is left of a thread, up to where it is known to have lived: `end_ns` at the latest.
    fn close(&mut self, thread: Option<usize>, end_ns: u64, sink: &mut dyn Sink) {
        let Some(thread) = thread else { return };
        let Some(tracked) = self.threads.get_mut(thread) else {
            return;
        };
        let open = tracked.open.take();
        let died_ns = tracked.ended_ns;
        let (from_ns, state, read_ns) = match (died_ns, open) {
            (Some(died_ns), _) => (died_ns, None, died_ns),
            (None, Some((since_ns, state, read_ns))) => (since_ns, Some(state), read_ns),
            (None, None) => return,
        };
        let end_ns = read_ns.min(end_ns);
        let activity = match state {
            Some(ThreadState::Running) => Activity::OnCpu,
            Some(ThreadState::Woken | ThreadState::Preempted) => Activity::Runnable,
            Some(ThreadState::Blocked(cause)) => Activity::Blocked(cause),
            Some(ThreadState::Dead) | None => Activity::Unseen,
        };
        let last = Interval {
            thread,
            from_ns: from_ns.min(end_ns),
            to_ns: end_ns,
            activity,
            on_cpu_ns: match activity {
                Activity::OnCpu => end_ns.saturating_sub(from_ns),
                _ => 0,
            },
            cpu: None,
            wakeup: None,
            futex: 0,
        };
        self.emit(last, sink);
    }

    /// Hands out an interval, cut where it overlaps the one before, and what is unseen between them.
    fn emit(&mut self, mut interval: Interval, sink: &mut dyn Sink) {
        let since_ns = interval.from_ns;
        let Some(tracked) = self.threads.get_mut(interval.thread) else {
            return;
        };
        let Some(gap) = cut(tracked, &mut interval) else {
            return;
        };
        for interval in gap.into_iter().chain(Some(interval)) {
            if interval.ns() == 0 {
                continue;
            }
            self.bins.add(&interval);
            let stack = self.flames.interval(&interval, since_ns);
            if let Some(blame) = &mut self.blame {
                blame.interval(&interval);
            }
            let place = stack.and_then(|node| self.flames.innermost(node));
            sink.interval(&interval, place, &self.threads);
        }
    }
}

/// Fits an interval to the one before it. Returns what is unseen between the two, `None` when nothing
/// of the interval is left.
fn cut(tracked: &mut Tracked, interval: &mut Interval) -> Option<Option<Interval>> {
    let pos_ns = tracked.pos_ns.unwrap_or(interval.from_ns);
    let mut gap = None;
    if interval.from_ns > pos_ns.saturating_add(SAME_NS) {
        gap = Some(Interval {
            from_ns: pos_ns,
            to_ns: interval.from_ns,
            activity: Activity::Unseen,
            on_cpu_ns: 0,
            cpu: None,
            wakeup: None,
            futex: 0,
            ..*interval
        });
    } else {
        let whole = interval.ns();
        interval.from_ns = pos_ns;
        if interval.activity == Activity::OnCpu {
            let ns = u128::from(interval.on_cpu_ns) * u128::from(interval.ns());
            let part = ns.checked_div(u128::from(whole)).unwrap_or(0) as u64;
            interval.on_cpu_ns = part.min(interval.ns());
        }
    }
    if interval.to_ns < interval.from_ns {
        return None;
    }
    tracked.pos_ns = Some(interval.to_ns);
    Some(gap)
}
