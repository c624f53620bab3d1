//! Samples on their way to the model, and looks at steps that take long while they do.

use std::{collections::BTreeMap, time::Duration};

use concmon_ebpf::{SampleHead, sample_flags};

use super::pythons::Pythons;
use crate::{
    decode::{
        loss::LossMeter,
        samples::{self, RawSample},
    },
    event::{Event, Pid, PythonFact, Sample, Tid},
    procfs::clocks,
    source::live::Live,
};

/// Between two stacks that a loop's thread gives when it blocks outside its selector.
const LOOP_INTERVAL: Duration = Duration::from_millis(10);
/// The threshold for stalls of loops that do not tell theirs (`slow_callback_duration` of asyncio).
const THRESHOLD_NS: u64 = 100_000_000;
/// Steps are looked at when they have lasted this part of the threshold, in percent.
const LONG_PERCENT: u64 = 40;
/// The shortest and the longest of such times, ns.
const LONG_NS: (u64, u64) = (2_000_000, 1_000_000_000);
/// Loop threads that are remembered.
const MAX_LOOPS: usize = 4_096;

/// A loop's thread, as far as samples go.
#[derive(Debug)]
struct LoopThread {
    pid: Pid,
    /// The last stack it gave, until its step has been looked at.
    seen: Option<SampleHead>,
    /// When that was, ns.
    latest_ns: u64,
    /// The step that samples showed last, and since when.
    step: (u64, u64),
    /// The step that was looked at last.
    told: Option<u64>,
}

impl LoopThread {
    const fn new(pid: Pid) -> Self {
        Self {
            pid,
            seen: None,
            latest_ns: 0,
            step: (0, 0),
            told: None,
        }
    }

    /// Takes a stack; `false`: it says nothing about the present, for a later one has come. Batches of
    /// different CPUs come in any order.
    fn gave(&mut self, head: &SampleHead) -> bool {
        if head.at_ns < self.latest_ns {
            return false;
        }
        self.latest_ns = head.at_ns;
        if self.step.0 != head.context_version {
            self.step = (head.context_version, head.at_ns);
        }
        self.seen = Some(*head);
        true
    }
}

/// What a watch does with samples.
#[derive(Debug)]
pub(super) struct Sampling {
    losses: LossMeter,
    threshold_ns: Option<u64>,
    loops: BTreeMap<Tid, LoopThread>,
    /// The lowest threshold of each process's loops.
    thresholds: BTreeMap<Pid, u64>,
    damaged: u64,
}

impl Sampling {
    /// A watch that begins at `start_ns`; `threshold_ns` is the user's, for stalls.
    pub(super) fn new(start_ns: u64, threshold_ns: Option<u64>) -> Self {
        Self {
            losses: LossMeter::new(start_ns),
            threshold_ns,
            loops: BTreeMap::new(),
            thresholds: BTreeMap::new(),
            damaged: 0,
        }
    }

    /// How old a step of `pid` is when it is told at once, ns.
    pub(super) fn long_ns(&self, pid: Pid) -> u64 {
        let own = || self.thresholds.get(&pid).copied();
        let threshold = self.threshold_ns.or_else(own).unwrap_or(THRESHOLD_NS);
        (threshold / 100 * LONG_PERCENT).clamp(LONG_NS.0, LONG_NS.1)
    }

    /// Samples that never arrived, and batches that were none.
    pub(super) fn faults(&self) -> [(&'static str, u64); 2] {
        [
            ("samples-lost", self.losses.lost()),
            ("damaged-samples", self.damaged),
        ]
    }

    /// Decodes what arrived. `sink` gets samples with their CPU, and facts about long steps.
    pub(super) fn take(
        &mut self,
        batches: Vec<Vec<u8>>,
        live: &mut Live,
        pythons: &mut Pythons,
        mut sink: impl FnMut(u32, Event),
    ) {
        for bytes in batches {
            let batch = match samples::samples(&bytes) {
                Ok(batch) => batch,
                Err(error) => {
                    log::debug!("a damaged batch of samples: {error}");
                    self.damaged += 1;
                    continue;
                }
            };
            self.damaged += batch.invalid;
            let last = batch.samples.last().map_or(0, |sample| sample.head.at_ns);
            // What is missing is counted; there is nothing that it would make wrong.
            let _ = self.losses.batch(&batch.header, last);
            for (pid, raw) in by_process(batch.samples) {
                for (raw, sample) in raw.iter().zip(pythons.resolve(pid, &raw)) {
                    self.note_loop(live, &sample);
                    if let Some(fact) = self.long_step(raw, pythons) {
                        sink(batch.header.cpu, fact);
                    }
                    sink(batch.header.cpu, Event::Sample(Box::new(sample)));
                }
            }
        }
    }

    /// A look at the step that a sample shows, when it is a long one that goes on.
    fn long_step(&mut self, raw: &RawSample, pythons: &mut Pythons) -> Option<Event> {
        let head = &raw.head;
        if !raw.has(sample_flags::STATE) {
            return None;
        }
        let thread = self.loops.get_mut(&Tid(head.tid))?;
        if !thread.gave(head) {
            return None;
        }
        if raw.has(sample_flags::LONG) {
            return self.look(head, pythons);
        }
        self.old_step(Tid(head.tid), pythons)
    }

    /// Looks at the steps that take long by now.
    pub(super) fn check_steps(&mut self, pythons: &mut Pythons, mut sink: impl FnMut(Event)) {
        let seen = self.loops.iter().filter(|(_, of)| of.seen.is_some());
        let seen: Vec<Tid> = seen.map(|(tid, _)| *tid).collect();
        for tid in seen {
            if let Some(fact) = self.old_step(tid, pythons) {
                sink(fact);
            }
        }
    }

    fn old_step(&mut self, tid: Tid, pythons: &mut Pythons) -> Option<Event> {
        let thread = self.loops.get(&tid)?;
        let head = thread.seen?;
        let since_ns = thread.step.1;
        let long_ns = self.long_ns(Pid(head.tgid));
        if clocks::monotonic_ns().saturating_sub(since_ns) < long_ns {
            return None;
        }
        // It may block in another place by now, of which there is no stack so soon after this one, or
        // be over: the look tells.
        self.look(&head, pythons)
    }

    fn look(&mut self, head: &SampleHead, pythons: &mut Pythons) -> Option<Event> {
        let thread = self.loops.get_mut(&Tid(head.tid))?;
        thread.seen = None;
        if thread.told == Some(head.context_version) {
            return None;
        }
        thread.told = Some(head.context_version);
        let fact = pythons.step_of(head)?;
        Some(Event::Step(Box::new(fact)))
    }

    /// A thread whose stack shows a loop's step is a loop's, before a look says so.
    fn note_loop(&mut self, live: &mut Live, sample: &Sample) {
        if sample.stack.in_loop {
            self.add_loop(live, sample.pid, sample.tid);
        }
    }

    fn add_loop(&mut self, live: &mut Live, pid: Pid, tid: Tid) {
        if self.loops.get(&tid).is_some_and(|known| known.pid == pid)
            || self.loops.len() >= MAX_LOOPS
        {
            return;
        }
        live.set_stack_interval(pid, tid, LOOP_INTERVAL);
        self.loops.insert(tid, LoopThread::new(pid));
    }

    /// Takes over which threads are loops'.
    pub(super) fn looked(&mut self, live: &mut Live, fact: &PythonFact) {
        for found in &fact.loops {
            self.add_loop(live, fact.pid, found.tid);
        }
        let thresholds = fact.loops.iter().filter_map(|of| of.stall_threshold_ns);
        if let Some(lowest) = thresholds.min() {
            self.thresholds.insert(fact.pid, lowest);
        }
    }

    /// The process has ended, or runs another program.
    pub(super) fn forget(&mut self, pid: Pid) {
        self.loops.retain(|_, thread| thread.pid != pid);
        self.thresholds.remove(&pid);
    }
}

/// Samples of each process, in their order.
fn by_process(samples: Vec<RawSample>) -> BTreeMap<Pid, Vec<RawSample>> {
    let mut of: BTreeMap<Pid, Vec<RawSample>> = BTreeMap::new();
    for sample in samples {
        of.entry(Pid(sample.head.tgid)).or_default().push(sample);
    }
    of
}

#[cfg(test)]
mod tests {
    use super::*;
    use concmon_ebpf::NO_OFFSET;

    fn head(at_ns: u64, context_version: u64) -> SampleHead {
        SampleHead {
            flags: sample_flags::STATE,
            cause: 0,
            frames: 0,
            tid: 7,
            tgid: 7,
            turn_index: NO_OFFSET,
            turn_count: NO_OFFSET,
            reserved: 0,
            at_ns,
            context: 0,
            context_version,
            turn_start: 0,
            ip: 0,
            thread_state: 0,
        }
    }

    /// A thread blocks on one CPU right after it has run on another, whose batch comes later.
    #[test]
    fn what_comes_late_does_not_hide_the_step_that_goes_on() {
        let mut thread = LoopThread::new(Pid(7));
        assert!(thread.gave(&head(10, 1)) && thread.gave(&head(40, 2)));
        assert!(!thread.gave(&head(30, 1)));
        assert_eq!(thread.step, (2, 40));
        assert_eq!(thread.seen, Some(head(40, 2)));
        // The step's age counts from its first stack.
        assert!(thread.gave(&head(50, 2)));
        assert_eq!((thread.step, thread.seen), ((2, 40), Some(head(50, 2))));
    }
}
