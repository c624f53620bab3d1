//! One loop's thread: busy stretches, the steps in them, and what is known of both.

mod ending;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::lag::Lag;
use super::run::{Owner, Run};
use super::segments::{Activity, Segment, Segments, of_slice};
use super::share::Share;
use super::step_counter::StepCounter;
use super::stretch::{Last, Stretch};
use super::sums::Sums;
use super::turns::Turns;
use crate::event::{
    Cause, LedgerFact, LoopKind, Sample, SampleKind, Slice, StepFact, ThreadState, Tid,
};
use crate::schema::Cost;

/// Samples that wait for the slice that they lie in.
const MAX_WAITING: usize = 4_096;
/// Owners told apart between two ticks.
const MAX_OWNERS: usize = 4_096;
/// Stretches shorter than this count as next to nothing, ns.
const LIGHT_NS: u64 = 1_000_000;
/// Looks at steps that are kept.
const MAX_FACTS: usize = 32;
/// Samples come in order, and this much late: the horizon of ordering and then some, ns.
const LATE_NS: u64 = 500_000_000;
/// Instants of ledgers and of slices differ by so much at most, ns.
const SAME_NS: u64 = 100_000;
/// A step that was longer than the threshold.
#[derive(Clone, Debug)]
pub(super) struct StallCandidate {
    pub(super) begin_ns: u64,
    pub(super) end_ns: u64,
    pub(super) cost: Cost,
    /// `None`: no sample has shown it.
    pub(super) run: Option<Run>,
    pub(super) gil_wakers: Vec<(Tid, u64)>,
    pub(super) fact: Option<StepFact>,
}

/// A thread with its stretches.
#[derive(Clone, Debug)]
pub(super) struct BusyTracker {
    pos_ns: u64,
    ledger: Option<(u64, ThreadState)>,
    waiting: VecDeque<Sample>,
    stretch: Option<Stretch>,
    lag: Lag,
    turns: Turns,
    /// Busy time up to `pos_ns`.
    busy_ns: u64,
    /// Of that, in selectors that are not the loop's own; not yet asked for.
    polled_ns: u64,
    /// Up to where a wait that goes on is in there already.
    polled_until_ns: u64,
    uses_queue: bool,
    /// The last thing that was seen is the end of the loop's selector.
    after_idle: bool,
    /// How long that was; 0 once it is booked.
    idle_ns: u64,
    /// What waking up for next to nothing takes: the mean of stretches that are short.
    light_ns: u64,
    steps: StepCounter,
    pub(super) facts: VecDeque<StepFact>,
    pub(super) shares: BTreeMap<Owner, Share>,
    pub(super) is_loop: bool,
    pub(super) kind: LoopKind,
    pub(super) threshold_ns: u64,
    /// Of the loop that it runs now.
    pub(super) sums: Sums,
}

impl BusyTracker {
    pub(super) fn new(threshold_ns: u64) -> Self {
        BusyTracker {
            pos_ns: 0,
            ledger: None,
            waiting: VecDeque::new(),
            stretch: None,
            lag: Lag::default(),
            turns: Turns::default(),
            busy_ns: 0,
            polled_ns: 0,
            polled_until_ns: 0,
            uses_queue: false,
            after_idle: false,
            idle_ns: 0,
            light_ns: 0,
            steps: StepCounter::default(),
            facts: VecDeque::new(),
            shares: BTreeMap::new(),
            is_loop: false,
            kind: LoopKind::Asyncio,
            threshold_ns,
            sums: Sums::default(),
        }
    }

    pub(super) fn sample(&mut self, sample: &Sample) {
        self.is_loop |= sample.stack.in_loop;
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.pop_front();
        }
        // In order of time, whatever the order of arrival at the same instant.
        let behind = self
            .waiting
            .iter()
            .rev()
            .take_while(|waiting| waiting.at_ns > sample.at_ns)
            .count();
        let place = self.waiting.len() - behind;
        // A look may have met the same block.
        let before = self.waiting.range(..place).rev();
        let mut at_once = before.take_while(|other| other.at_ns == sample.at_ns);
        if sample.kind != SampleKind::OnCpu && at_once.any(|other| other.kind == sample.kind) {
            return;
        }
        let mut sample = sample.clone();
        // The loop's variable is the target's: it may say anything.
        sample.iteration = sample
            .iteration
            .filter(|turn| turn.start_ns <= sample.at_ns);
        self.waiting.insert(place, sample);
    }

    pub(super) fn fact(&mut self, fact: &StepFact) {
        if self.facts.len() >= MAX_FACTS {
            self.facts.pop_front();
        }
        self.facts.push_back(fact.clone());
    }

    /// The step that samples show.
    pub(super) fn run(&self) -> Option<&Run> {
        self.stretch.as_ref()?.run.as_ref()
    }

    /// What the thread's account said last: its state, and since when.
    pub(super) const fn account(&self) -> Option<(u64, ThreadState)> {
        self.ledger
    }

    /// Up to where lag is booked of the stretch that goes on.
    pub(super) fn booked_ns(&self) -> Option<u64> {
        let stretch = self.stretch.as_ref().filter(|stretch| !stretch.torn);
        stretch.map(|stretch| stretch.busy.booked_ns)
    }

    /// Since when the loop has been busy, as far as slices have come; `None`: it was never seen to be idle.
    pub(super) fn busy_since_ns(&self) -> Option<u64> {
        match &self.stretch {
            Some(stretch) => (!stretch.torn).then_some(stretch.from_ns),
            None => self.idle_ns(),
        }
    }

    /// When the loop was idle last, where nothing has come after that.
    pub(super) fn idle_ns(&self) -> Option<u64> {
        self.after_idle.then_some(self.pos_ns)
    }

    /// What is known of where the time went between two instants of the stretch that goes on.
    pub(super) fn cost(&self, from_ns: u64, to_ns: u64) -> Cost {
        let stretch = self.stretch.as_ref();
        stretch.map_or(Cost::default(), |stretch| {
            stretch.segments.cost(from_ns, to_ns)
        })
    }

    /// Who ended waits for the GIL meanwhile.
    pub(super) fn gil_wakers(&self, from_ns: u64, to_ns: u64) -> Vec<(Tid, u64)> {
        let stretch = self.stretch.as_ref();
        stretch.map_or_else(Vec::new, |stretch| {
            stretch.segments.gil_wakers(from_ns, to_ns)
        })
    }

    pub(super) fn slice(&mut self, slice: &Slice, candidates: &mut Vec<StallCandidate>) {
        for segment in of_slice(slice, self.pos_ns) {
            self.segment(segment, candidates);
        }
    }

    pub(super) fn ledger(&mut self, fact: &LedgerFact, candidates: &mut Vec<StallCandidate>) {
        self.ledger = Some((fact.since_ns, fact.state));
        self.close_if_idle(fact.read_ns, candidates);
    }

    /// The selector that a loop waits in shows in its next slice only; the ledger knows already. A stack
    /// says when it is another selector, and has come by then.
    fn close_if_idle(&mut self, now_ns: u64, candidates: &mut Vec<StallCandidate>) {
        if let Some((since_ns, ThreadState::Blocked(Cause::Poll))) = self.ledger
            && self.pos_ns.abs_diff(since_ns) < SAME_NS
            && now_ns.saturating_sub(since_ns) >= LATE_NS
            && self.is_own_at(since_ns) != Some(false)
        {
            self.close(self.pos_ns, candidates);
        }
    }

    /// At a tick: goes on as far as all samples are there, and books what has become certain.
    pub(super) fn settle(&mut self, at_ns: u64, candidates: &mut Vec<StallCandidate>) {
        self.close_if_idle(at_ns, candidates);
        if let Some((since_ns, ThreadState::Blocked(Cause::Poll))) = self.ledger
            && self.pos_ns.abs_diff(since_ns) < SAME_NS
            && self.is_loop
            && self.is_own_at(since_ns) == Some(false)
        {
            // The loop may be gone before the wait is over.
            self.add_polled(since_ns, at_ns);
        }
        let until_ns = at_ns.saturating_sub(LATE_NS);
        if let Some((since_ns, ThreadState::Running)) = self.ledger
            && self.pos_ns.saturating_add(SAME_NS) >= since_ns
            && until_ns > self.pos_ns
            && self.pos_ns > 0
        {
            let segment = Segment {
                from_ns: self.pos_ns,
                to_ns: until_ns,
                what: Activity::OnCpu {
                    on_cpu_ns: until_ns - self.pos_ns,
                },
            };
            self.segment(segment, candidates);
        }
        let waiting = self.turns.take_waiting();
        self.book(waiting);
        self.book_open();
        let threshold_ns = self.threshold_ns;
        if let Some(stretch) = &self.stretch
            && let Some(until_ns) = stretch.certain_ns()
            && until_ns.saturating_sub(stretch.judged_ns) > threshold_ns
        {
            self.judge(until_ns);
        }
    }

    fn segment(&mut self, segment: Segment, candidates: &mut Vec<StallCandidate>) {
        let missing_ns = segment.from_ns.saturating_sub(self.pos_ns);
        if self.is_idle(&segment) {
            // What is missing could be taken for a stall.
            if missing_ns > self.threshold_ns / 2 {
                self.tear();
            }
            self.close(segment.from_ns, candidates);
            self.idle_ns = segment.ns();
            self.pos_ns = segment.to_ns;
            self.after_idle = true;
            return;
        }
        // A gap: slices were lost, so what is behind it belongs to nothing before it.
        if missing_ns > SAME_NS {
            self.tear();
        }
        let torn = !std::mem::take(&mut self.after_idle);
        let idle_ns = std::mem::take(&mut self.idle_ns);
        let stretch = self.stretch.get_or_insert_with(|| {
            // What it takes to get a CPU, timers wait as well.
            let latency_ns = match segment.what {
                Activity::Runnable => segment.ns(),
                _ => 0,
            };
            if !torn {
                self.turns.begun();
            }
            let mut stretch = Stretch::new(segment.from_ns, torn);
            stretch.busy.idle = (idle_ns, latency_ns);
            stretch
        });
        stretch.push(segment);
        if let Activity::Blocked {
            cause: Cause::Poll, ..
        } = segment.what
        {
            self.add_polled(segment.from_ns, segment.to_ns);
        }
        self.busy_ns = self.busy_ns.saturating_add(segment.ns());
        self.pos_ns = segment.to_ns;
        while self
            .waiting
            .front()
            .is_some_and(|sample| sample.at_ns < segment.to_ns)
        {
            if let Some(sample) = self.waiting.pop_front() {
                self.sample_within(&sample, segment, candidates);
            }
        }
        if let Some(stretch) = &mut self.stretch {
            match &stretch.run {
                Some(run) => stretch.segments.forget(run.begin_ns),
                None if !self.is_loop => stretch.segments.forget(segment.from_ns),
                None => {}
            }
        }
    }

    /// The loop has waited in another selector than its own.
    fn add_polled(&mut self, from_ns: u64, to_ns: u64) {
        let ns = to_ns.saturating_sub(from_ns.max(self.polled_until_ns));
        self.polled_ns = self.polled_ns.saturating_add(ns);
        self.polled_until_ns = self.polled_until_ns.max(to_ns);
    }

    /// Whether a segment is the loop's own selector. Others poll, too: for a name server, a socket with
    /// a timeout. A stack tells, where the loop's selector is not the usual one.
    fn is_idle(&mut self, segment: &Segment) -> bool {
        let Activity::Blocked {
            cause: Cause::Poll,
            queue,
            ..
        } = segment.what
        else {
            return false;
        };
        if queue {
            self.uses_queue = true;
            return true;
        }
        self.is_own_at(segment.from_ns).unwrap_or(!self.uses_queue)
    }

    /// Whether the stack of a block that began then is the loop's own; `None`: there is none.
    fn is_own_at(&self, at_ns: u64) -> Option<bool> {
        let shown = self
            .waiting
            .iter()
            .find(|sample| sample.at_ns.abs_diff(at_ns) < SAME_NS);
        shown.map(|sample| sample.stack.step_frames == 0)
    }

    fn sample_within(
        &mut self,
        sample: &Sample,
        segment: Segment,
        candidates: &mut Vec<StallCandidate>,
    ) {
        let owner = Owner::of(sample);
        self.share(&owner, sample, segment);
        // One that comes too late tells nothing about the order of things.
        if !self.is_loop || sample.at_ns < segment.from_ns {
            return;
        }
        let busy_ns = self
            .busy_ns
            .saturating_sub(self.pos_ns.saturating_sub(sample.at_ns));
        let mean_ns = self.steps.mean_ns();
        let Some(stretch) = &mut self.stretch else {
            return;
        };
        if !sample.stack.in_loop && !sample.stack.truncated {
            // The loop has ended, or has not begun; what it did last is over.
            let until_ns = stretch.last.map_or(stretch.from_ns, |last| last.at_ns);
            self.close(until_ns, candidates);
            let segment = Segment {
                from_ns: sample.at_ns.max(segment.from_ns),
                ..segment
            };
            let mut stretch = Stretch::new(segment.from_ns, true);
            stretch.segments.push(segment);
            self.stretch = Some(stretch);
            self.turns.tear();
            return;
        }
        if std::mem::take(&mut stretch.torn) {
            let turn_ns = sample.iteration.map(|turn| turn.start_ns);
            let begin_ns = turn_ns.unwrap_or(sample.at_ns).max(stretch.from_ns);
            (stretch.from_ns, stretch.judged_ns) = (begin_ns, begin_ns);
            stretch.busy.begin_at(begin_ns);
        }
        // A block is the same step from its beginning to its end.
        let same_until = match (sample.kind, segment.what) {
            (SampleKind::Block(_), Activity::Blocked { .. }) if segment.from_ns == sample.at_ns => {
                segment.to_ns
            }
            _ => sample.at_ns,
        };
        if let Some(name) = owner.function()
            && sample.kind == SampleKind::OnCpu
        {
            *stretch.contributors.entry(Arc::clone(name)).or_insert(0) += 1;
        }
        let version = sample.context_version;
        let is_same = stretch
            .run
            .as_mut()
            .and_then(|run| run.id.as_mut())
            .is_some_and(|id| id.shows(sample));
        if !is_same {
            let begin_ns = stretch.begin_of(sample, mean_ns);
            let end_ns = begin_ns.min(stretch.boundary(sample, mean_ns));
            self.end_run(end_ns, candidates);
            if let Some(stretch) = &mut self.stretch {
                let mut run = Run::new(sample, begin_ns);
                // The first step of a turn has run since that began.
                if sample.iteration.is_some_and(|turn| turn.index == Some(0)) {
                    run.sure_ns = begin_ns;
                }
                stretch.run = Some(run);
            }
        }
        let most_ns = self.threshold_ns;
        (self.steps).sample(sample, is_same, busy_ns, most_ns, &mut self.sums);
        let turns_per_step = self.steps.turns_per_step();
        let Some(stretch) = &mut self.stretch else {
            return;
        };
        let told = (self.turns).sample(
            &mut stretch.busy,
            sample,
            is_same,
            same_until,
            turns_per_step,
        );
        if let Some(run) = &mut stretch.run {
            run.add(sample, same_until.saturating_sub(sample.at_ns));
            run.last_ns = run.last_ns.max(same_until);
        }
        stretch.last = Some(Last {
            at_ns: same_until,
            version,
            is_block: same_until > sample.at_ns,
        });
        let is_full = stretch.busy.is_full();
        self.book(told);
        if is_full {
            self.book_open();
        }
    }

    fn share(&mut self, owner: &Owner, sample: &Sample, segment: Segment) {
        if self.shares.len() >= MAX_OWNERS && !self.shares.contains_key(owner) {
            return;
        }
        let share = self.shares.entry(owner.clone()).or_default();
        share.samples += 1;
        match sample.kind {
            SampleKind::OnCpu => share.on_cpu += 1,
            SampleKind::Block(_) if segment.from_ns == sample.at_ns => {
                let mut one = Segments::default();
                one.push(segment);
                if matches!(segment.what, Activity::Blocked { .. }) {
                    share.blocked.add(&one.cost(segment.from_ns, segment.to_ns));
                }
            }
            SampleKind::Block(_) => {}
        }
    }

    /// Slices are missing: what is under way is given up.
    fn tear(&mut self) {
        self.steps.tear();
        self.turns.tear();
        self.stretch = None;
        self.after_idle = false;
        let pos_ns = self.pos_ns;
        self.waiting.retain(|sample| sample.at_ns > pos_ns);
    }

    /// Time in selectors that are not the loop's own, up to `most_ns` of it.
    pub(super) fn take_polled(&mut self, most_ns: u64) -> u64 {
        let taken = self.polled_ns.min(most_ns);
        self.polled_ns -= taken;
        taken
    }

    /// What samples said since the last tick.
    pub(super) fn take_shares(&mut self) -> BTreeMap<Owner, Share> {
        std::mem::take(&mut self.shares)
    }
}
