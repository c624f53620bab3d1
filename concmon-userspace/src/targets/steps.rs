//! The threads of one process that run loops: when they give stacks, and which of their steps take so long
//! that they are looked at while they do.

use std::{collections::BTreeMap, time::Duration};

use concmon_ebpf::{SampleHead, sample_flags};

use super::eye::{Eye, Shown};
use crate::{
    decode::samples::RawSample,
    event::{Sample, Tid},
    model::{step_id::StepId, timing::DEFAULT_THRESHOLD_NS},
    procfs::clocks,
    python::StepAt,
    source::live::LedgerHead,
};

/// Between two stacks that a loop's thread gives when it blocks outside its selector.
pub(super) const LOOP_INTERVAL: Duration = Duration::from_millis(10);
/// Steps are looked at when they have lasted this part of the threshold, in percent.
const LONG_PERCENT: u64 = 40;
/// The shortest and the longest of such times, ns.
const LONG_NS: (u64, u64) = (2_000_000, 1_000_000_000);
/// Between two checks of the threads of a process: this part of the threshold, within bounds, ns.
const CHECKS: u64 = 10;
const CHECK_NS: (u64, u64) = (1_000_000, 20_000_000);
/// The same where all of them were idle: what begins then has half of the threshold left when it is met.
const RESTFUL_CHECKS: u64 = 2;
const RESTFUL_CHECK_NS: (u64, u64) = (1_000_000, 50_000_000);
/// Looks at steps that last in one process and turn.
const MAX_LOOKS: usize = 16;
/// Loop threads of one process that are remembered.
const MAX_LOOPS: usize = 4_096;

/// A loop's thread, as far as samples go.
#[derive(Debug, Default)]
struct LoopThread {
    /// The last stack it gave, until its step has been looked at.
    seen: Option<SampleHead>,
    /// When that was, ns.
    latest_ns: u64,
    /// The step that samples and looks showed last, and since when.
    step: (Option<StepId>, u64),
    eye: Eye,
    /// Its thread state, and `threading.get_ident()` in it; 0: not known.
    thread_state: u64,
    ident: u64,
    /// The step that was looked at last.
    told: Option<StepId>,
    /// Its account is a living thread's, by the readings that go on.
    lives: bool,
}

impl LoopThread {
    /// Takes a stack; `false`: it says nothing about the present, for a later one has come. Batches of
    /// different CPUs come in any order.
    fn gave(&mut self, head: &SampleHead, sample: &Sample) -> bool {
        if head.at_ns < self.latest_ns {
            return false;
        }
        self.latest_ns = head.at_ns;
        self.thread_state = head.thread_state;
        self.shows(sample);
        self.seen = Some(*head);
        true
    }

    /// It is in the step that a sample shows.
    fn shows(&mut self, sample: &Sample) {
        let step = self.step.0.as_mut();
        if !step.is_some_and(|step| step.shows(sample)) {
            self.step = (StepId::of(sample), sample.at_ns);
        }
    }

    /// The step that it showed last is to be looked at, once for each step.
    fn tell(&mut self) -> Option<StepAt> {
        let head = self.seen.take()?;
        let step = self.step.0.as_ref();
        let is_known =
            step.is_some_and(|step| self.told.as_ref().is_some_and(|told| told.is(step)));
        self.told = step.cloned();
        (!is_known).then_some(StepAt {
            tid: Tid(head.tid),
            thread_state: head.thread_state,
            ident: self.ident,
            version: Some(head.context_version),
        })
    }
}

/// Whether a loop's thread is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    New,
    Known,
    /// There are too many.
    Refused,
}

/// The loops' threads of one process.
#[derive(Debug, Default)]
pub(super) struct Steps {
    threads: BTreeMap<Tid, LoopThread>,
    /// The lowest threshold of its loops.
    threshold_ns: Option<u64>,
    /// When its threads were checked last, ns.
    checked_ns: u64,
    /// All of them were idle then, and have shown nothing since.
    is_restful: bool,
}

impl Steps {
    /// How old a step is when it is told at once, ns; `user_ns` is the user's threshold for stalls.
    pub(super) fn long_ns(&self, user_ns: Option<u64>) -> u64 {
        (self.stall_ns(user_ns) / 100 * LONG_PERCENT).clamp(LONG_NS.0, LONG_NS.1)
    }

    /// When its threads are to be checked next, ns; never, where there are none.
    pub(super) fn check_due_ns(&self, user_ns: Option<u64>) -> u64 {
        if self.threads.is_empty() {
            return u64::MAX;
        }
        let (part, bounds) = match self.is_restful {
            true => (RESTFUL_CHECKS, RESTFUL_CHECK_NS),
            false => (CHECKS, CHECK_NS),
        };
        let pause_ns = (self.stall_ns(user_ns) / part).clamp(bounds.0, bounds.1);
        self.checked_ns.saturating_add(pause_ns)
    }

    /// Whether it is time to check its threads; if so, the next time comes later.
    pub(super) fn is_check_due(&mut self, now_ns: u64, user_ns: Option<u64>) -> bool {
        let is_due = now_ns >= self.check_due_ns(user_ns);
        if is_due {
            self.checked_ns = now_ns;
        }
        is_due
    }

    /// The lowest threshold of its loops, ns.
    fn stall_ns(&self, user_ns: Option<u64>) -> u64 {
        user_ns
            .or(self.threshold_ns)
            .unwrap_or(DEFAULT_THRESHOLD_NS)
    }

    /// What comes next was not seen to go on from here.
    pub(super) fn stop_looking(&mut self) {
        for thread in self.threads.values_mut() {
            thread.seen = None;
            thread.eye = Eye::default();
        }
        self.is_restful = false;
    }

    /// A thread runs a loop.
    pub(super) fn add(&mut self, tid: Tid) -> Added {
        if self.threads.contains_key(&tid) {
            return Added::Known;
        }
        if self.threads.len() >= MAX_LOOPS {
            return Added::Refused;
        }
        self.threads.insert(tid, LoopThread::default());
        self.is_restful = false;
        Added::New
    }

    pub(super) fn thread_ended(&mut self, tid: Tid) {
        self.threads.remove(&tid);
    }

    /// A thread lives when the readings begin.
    pub(super) fn thread_lives(&mut self, tid: Tid) {
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.lives = true;
        }
    }

    /// All living threads are known: the others have ended, and their last samples have come after that.
    pub(super) fn forget_ended(&mut self) {
        self.threads
            .retain(|_, thread| std::mem::take(&mut thread.lives));
    }

    /// How many there are.
    pub(super) fn threads(&self) -> usize {
        self.threads.len()
    }

    /// A thread has shown a step that was not looked at, which may go on.
    pub(super) fn has_open(&self) -> bool {
        self.threads.values().any(|thread| thread.seen.is_some())
    }

    /// A look has told the thresholds of the loops.
    pub(super) fn set_threshold(&mut self, lowest_ns: u64) {
        self.threshold_ns = Some(lowest_ns);
    }

    /// Takes a sample, as it came and as it is resolved. Gives a long step that goes on, which is to be looked at.
    pub(super) fn take(
        &mut self,
        raw: &RawSample,
        sample: &Sample,
        user_ns: Option<u64>,
    ) -> Option<StepAt> {
        let long_ns = self.long_ns(user_ns);
        let head = &raw.head;
        if !raw.has(sample_flags::STATE) {
            return None;
        }
        let thread = self.threads.get_mut(&Tid(head.tid))?;
        if !thread.gave(head, sample) {
            return None;
        }
        self.is_restful = false;
        if raw.has(sample_flags::LONG) || is_old(thread, long_ns) {
            return thread.tell();
        }
        None
    }

    /// What Python calls a thread.
    pub(super) fn name(&mut self, tid: Tid, ident: u64) {
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.ident = ident;
        }
    }

    /// By the accounts of the threads as they are at `now_ns`: whom to look at, for a step may have passed its
    /// threshold, or the one that did may be over. `all`: whatever lasts, however lately it was looked at.
    pub(super) fn lasting(
        &mut self,
        now_ns: u64,
        user_ns: Option<u64>,
        all: bool,
        head: impl Fn(Tid) -> Option<LedgerHead>,
    ) -> Vec<StepAt> {
        let threshold_ns = self.stall_ns(user_ns);
        let mut owed = Vec::new();
        let mut is_restful = true;
        for (tid, thread) in &mut self.threads {
            if owed.len() >= MAX_LOOKS {
                is_restful = false;
                break;
            }
            let Some(head) = head(*tid) else { continue };
            let shown = Shown {
                from_ns: thread.step.1,
                to_ns: thread.latest_ns,
            };
            if head.is_idle() {
                // What comes next is another step, though nothing may have shown that.
                thread.step.1 = now_ns;
            }
            is_restful &= head.is_idle() && thread.seen.is_none();
            if thread.eye.owes(&head, now_ns, shown, threshold_ns, all) {
                owed.push(StepAt {
                    tid: *tid,
                    thread_state: thread.thread_state,
                    ident: thread.ident,
                    version: None,
                });
            }
        }
        self.is_restful = is_restful && owed.is_empty();
        owed
    }

    /// A look has met a thread, whose account was this. Gives since when its step is shown, ns, and since when the
    /// thread was busy from the beginning of its account on.
    pub(super) fn looked(
        &mut self,
        sample: &Sample,
        head: Option<&LedgerHead>,
        now_ns: u64,
        user_ns: Option<u64>,
    ) -> (u64, Option<u64>) {
        let threshold_ns = self.stall_ns(user_ns);
        let Some(thread) = self.threads.get_mut(&sample.tid) else {
            return (sample.at_ns, None);
        };
        thread.shows(sample);
        thread.step.1 = thread.step.1.min(sample.at_ns);
        thread.told = thread.step.0.clone();
        let since_ns = thread.step.1;
        thread
            .eye
            .lasts(now_ns.saturating_sub(since_ns) >= threshold_ns);
        let busy_from_ns = head.and_then(|head| thread.eye.looked(head, sample, now_ns));
        (since_ns, busy_from_ns)
    }

    /// The steps that take long by now. Such a thread may block in another place, of which
    /// there is no stack so soon after this one, or be through: the look tells.
    pub(super) fn old(&mut self, user_ns: Option<u64>) -> Vec<StepAt> {
        let long_ns = self.long_ns(user_ns);
        let threads = self.threads.values_mut();
        threads
            .filter(|thread| thread.seen.is_some() && is_old(thread, long_ns))
            .filter_map(LoopThread::tell)
            .collect()
    }
}

fn is_old(thread: &LoopThread, long_ns: u64) -> bool {
    clocks::monotonic_ns().saturating_sub(thread.step.1) >= long_ns
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::{Iteration, Pid, PyFrame, SampleKind, SampledStack};
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
            turns: 0,
            at_ns,
            context: 0,
            context_version,
            turn_start: 0,
            ip: 0,
            thread_state: 0,
        }
    }

    fn sample(at_ns: u64, context_version: u64) -> Sample {
        let frame = |function: &str| PyFrame {
            function: function.into(),
            file: "app.py".into(),
            line: 1,
        };
        Sample {
            at_ns,
            pid: Pid(7),
            tid: Tid(7),
            kind: SampleKind::OnCpu,
            context_version: Some(context_version),
            iteration: None,
            turns: None,
            collecting: false,
            code: None,
            coroutine: None,
            creator: None,
            stack: Arc::new(SampledStack {
                frames: vec![frame("handler")],
                step_frames: 1,
                in_loop: true,
                truncated: false,
            }),
        }
    }

    fn gives(thread: &mut LoopThread, at_ns: u64, version: u64) -> bool {
        thread.gave(&head(at_ns, version), &sample(at_ns, version))
    }

    /// A thread blocks on one CPU right after it has run on another, whose batch comes later.
    #[test]
    fn what_comes_late_does_not_hide_the_step_that_goes_on() {
        let mut thread = LoopThread::default();
        assert!(gives(&mut thread, 10, 1) && gives(&mut thread, 40, 2));
        assert!(!gives(&mut thread, 30, 1));
        assert_eq!(thread.step.1, 40);
        assert_eq!(thread.seen, Some(head(40, 2)));
        // The step's age counts from its first stack.
        assert!(gives(&mut thread, 50, 2));
        assert_eq!((thread.step.1, thread.seen), (40, Some(head(50, 2))));
    }

    /// A step that enters contexts is as old as its first stack, and is told once.
    #[test]
    fn the_place_in_a_turn_shows_that_a_step_goes_on() {
        let mut steps = Steps::default();
        steps.add(Tid(7));
        let thread = steps.threads.get_mut(&Tid(7)).unwrap();
        let mut placed = |at_ns, version, index| {
            let mut sample = sample(at_ns, version);
            sample.iteration = Some(Iteration {
                start_ns: 5,
                index: Some(index),
                count: None,
            });
            assert!(thread.gave(&head(at_ns, version), &sample));
            (thread.step.1, thread.tell().is_some())
        };
        assert_eq!(placed(10, 1, 3), (10, true));
        assert_eq!(placed(20, 3, 3), (10, false));
        assert_eq!(placed(30, 4, 4), (30, true));
    }

    #[test]
    fn a_step_is_told_once() {
        let mut steps = Steps::default();
        assert_eq!(steps.add(Tid(7)), Added::New);
        assert_eq!(steps.add(Tid(7)), Added::Known);
        let thread = steps.threads.get_mut(&Tid(7)).unwrap();
        assert!(gives(thread, 10, 1));
        let old = steps.old(None);
        assert_eq!(old.len(), 1);
        assert_eq!((old[0].tid, old[0].version), (Tid(7), Some(1)));
        let thread = steps.threads.get_mut(&Tid(7)).unwrap();
        assert!(gives(thread, 20, 1));
        assert!(steps.old(None).is_empty());
    }

    /// The last samples of a thread come after its end.
    #[test]
    fn threads_that_do_not_live_are_forgotten() {
        let mut steps = Steps::default();
        for tid in [7, 8] {
            steps.add(Tid(tid));
        }
        steps.thread_lives(Tid(7));
        steps.forget_ended();
        assert_eq!((steps.threads(), steps.add(Tid(7))), (1, Added::Known));
        steps.forget_ended();
        assert_eq!(steps.threads(), 0);
    }

    #[test]
    fn threads_that_end_make_room() {
        let mut steps = Steps::default();
        for tid in 0..MAX_LOOPS as u32 {
            assert_eq!(steps.add(Tid(tid)), Added::New);
        }
        assert_eq!(steps.add(Tid(u32::MAX)), Added::Refused);
        steps.thread_ended(Tid(0));
        assert_eq!(steps.add(Tid(u32::MAX)), Added::New);
    }
}
