//! From inputs to what a watch has come to: arrivals, model, findings. A live watch and a replay go the
//! same way.

use crate::{
    capture::Input,
    event::{Event, Exec, Exit, Fork, Tick, Tid},
    findings::Judge,
    kernel::Arch,
    model::{
        Model, WatchInfo,
        intervals::{Intervals, NoSink},
        timing::Notice,
    },
    schema::{Group, Snapshot},
    source::arrivals::Arrivals,
};

/// What is said on the way.
#[derive(Clone, Debug)]
pub enum Output {
    Lifecycle(Lifecycle),
    /// A stall or a hang has become known.
    Notice(Box<Notice>),
    /// A window has ended; it is judged.
    Window(Box<Snapshot>),
}

/// What has become of a process or a thread, of which user space keeps something.
#[derive(Clone, Debug)]
pub enum Lifecycle {
    /// A process was made.
    Born(Fork),
    /// A process runs another program.
    Replaced(Exec),
    /// A thread has ended, or with its last one a process.
    Ended(Exit),
}

impl Lifecycle {
    fn of(event: &Event) -> Option<Self> {
        match event {
            Event::Fork(fork) if fork.tid.0 == fork.pid.0 => Some(Self::Born(fork.clone())),
            Event::Exec(exec) => Some(Self::Replaced(exec.clone())),
            Event::Exit(exit) => Some(Self::Ended(*exit)),
            _ => None,
        }
    }
}

fn notice(notice: Notice) -> Output {
    Output::Notice(Box::new(notice))
}

/// The way of a live watch. Equal inputs give equal outputs.
#[derive(Debug)]
pub struct Pipeline {
    arrivals: Arrivals,
    conclusions: Conclusions,
    info: WatchInfo,
    /// Where somebody looks at stacks while they come.
    intervals: Option<Box<Intervals>>,
    /// Nobody asks for more than sums.
    sums_only: bool,
}

impl Pipeline {
    pub fn new(info: WatchInfo) -> Self {
        Self {
            arrivals: Arrivals::new(info.start_ns, Arch::current(), false),
            conclusions: Conclusions::new(info.clone()),
            info,
            intervals: None,
            sums_only: false,
        }
    }

    pub const fn info(&self) -> &WatchInfo {
        &self.info
    }

    /// From now on, time by stack is kept, too.
    pub fn keep_intervals(&mut self) {
        self.intervals = Some(Box::new(Intervals::new(&self.info)));
    }

    /// Time by stack, where it is kept.
    pub fn intervals(&self) -> Option<&Intervals> {
        self.intervals.as_deref()
    }

    /// Takes the next input in. A tick gives a window, the last of its outputs; releases, looks at steps and ticks
    /// give notices; batches give what has become of processes.
    pub fn feed(&mut self, input: Input) -> Vec<Output> {
        let mut outputs = Vec::new();
        if let Input::Now(Event::Tick(tick)) = input {
            if let Some(intervals) = &mut self.intervals {
                intervals.apply(&Event::Tick(tick), &mut NoSink);
            }
            let window = self.conclusions.tick(tick);
            if self.sums_only {
                let threads = self.conclusions.model.needs_slices_of();
                self.arrivals.need_only(threads);
            }
            outputs.extend(self.conclusions.notices().map(notice));
            outputs.push(Output::Window(Box::new(window)));
            return outputs;
        }
        let settles = settles(&input);
        let conclusions = &mut self.conclusions;
        let intervals = &mut self.intervals;
        self.arrivals.take(input, |event| {
            if let Some(intervals) = intervals {
                intervals.apply(event, &mut NoSink);
            }
            outputs.extend(Lifecycle::of(event).map(Output::Lifecycle));
            conclusions.apply(event);
        });
        if settles {
            outputs.extend(conclusions.notices().map(notice));
        }
        outputs
    }

    /// The whole watch up to the last tick, right after it was fed.
    pub fn summary(&mut self) -> Snapshot {
        self.conclusions.summary()
    }

    /// The sums of services, see [`Model::services`].
    pub fn services(&self, window: &Snapshot) -> Vec<Group> {
        self.conclusions.model.services(window)
    }

    /// See [`Model::give_back`].
    pub fn give_back(&mut self, window: Snapshot) {
        self.conclusions.model.give_back(window);
    }

    /// How many services are in none of their own for want of room.
    pub fn services_refused(&self) -> usize {
        self.conclusions.model.services_refused()
    }

    /// Forgets services of which no process lives.
    pub fn forget_services(&mut self, names: &[String]) {
        for name in names {
            self.conclusions.model.forget_service(name);
            self.conclusions.judge.forget_service(name);
        }
    }

    /// See [`Model::keep_sums_only`]. From the end of this window on, slices that sums do not need are not looked at.
    pub fn keep_sums_only(&mut self, max_groups: usize) {
        self.sums_only = true;
        self.conclusions.model.keep_sums_only(max_groups);
    }

    /// Whether single slices of a thread are needed, as of the last window.
    pub fn needs_slices(&self, tid: Tid) -> bool {
        self.arrivals.needs(tid)
    }

    /// Whether a rule, or with `any` some rule, has held.
    pub fn has_held(&self, rule: &str) -> bool {
        self.conclusions.judge.has_held(rule)
    }

    /// Records that have come and were not left out.
    pub const fn events(&self) -> u64 {
        self.arrivals.events()
    }

    /// Records that never arrived.
    pub const fn lost(&self) -> u64 {
        self.arrivals.lost()
    }

    /// What went wrong on the way to the model, by declared name.
    pub const fn faults(&self) -> [(&'static str, u64); 3] {
        self.arrivals.faults()
    }
}

/// Whether something may have become known by an input, no tick, that is told at once.
pub(super) const fn settles(input: &Input) -> bool {
    matches!(input, Input::Release { .. } | Input::Now(Event::Step(_)))
}

/// The second half of the way: what ordered events mean.
#[derive(Clone, Debug)]
pub(super) struct Conclusions {
    model: Model,
    judge: Judge,
    ticked_ns: u64,
}

impl Conclusions {
    pub(super) fn new(info: WatchInfo) -> Self {
        Self {
            model: Model::new(info),
            judge: Judge::default(),
            ticked_ns: 0,
        }
    }

    pub(super) fn apply(&mut self, event: &Event) {
        self.model.apply(event);
    }

    /// Ends a window, and gives it.
    pub(super) fn tick(&mut self, tick: Tick) -> Snapshot {
        self.model.apply(&Event::Tick(tick));
        self.ticked_ns = tick.at_ns;
        let mut window = self.model.next_snapshot();
        self.judge.judge(&mut window);
        window
    }

    /// Stalls and hangs that have become known since this was asked last.
    pub(super) fn notices(&mut self) -> impl Iterator<Item = Notice> {
        self.model.take_notices().into_iter()
    }

    /// The window that the last tick ended, not judged.
    pub(super) fn window(&self) -> Snapshot {
        self.model.snapshot()
    }

    /// The last tick's instant, ns; 0: there was none.
    pub(super) const fn ticked_ns(&self) -> u64 {
        self.ticked_ns
    }

    /// The whole watch up to the last tick, right after it was applied.
    pub(super) fn summary(&mut self) -> Snapshot {
        let mut summary = self.model.summary();
        self.judge.judge(&mut summary);
        summary
    }

    /// About what the rows of a report take, bytes.
    pub(super) fn row_bytes(&self) -> u64 {
        self.model.row_bytes()
    }

    /// What a window has to go through.
    pub(super) fn rows(&self) -> usize {
        self.model.rows()
    }
}
