//! Samples on their way to the model, and looks at steps that take long while they do.

use std::collections::BTreeMap;

use concmon_ebpf::state;

use super::{Targets, Wants, add_loop, holder_mut, target::Target};
use crate::{
    decode::samples::{self, RawSample},
    event::{Event, Pid, SampleKind, StepSeen, ThreadState},
    procfs::clocks,
    python::{ScanOptions, StepAt},
    source::live::{LedgerHead, Live},
};

/// After so long, no more looks at steps begin in a turn, ns.
const LOOKS_NS: u64 = 5_000_000;

impl Targets {
    /// Decodes what arrived. `sink` gets samples with their CPU, and facts about long steps.
    pub(crate) fn take_samples(
        &mut self,
        batches: Vec<Vec<u8>>,
        live: &mut Live,
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
                self.take_of_process(pid, &raw, live, |event| sink(batch.header.cpu, event));
            }
        }
    }

    fn take_of_process(
        &mut self,
        pid: Pid,
        raw: &[RawSample],
        live: &mut Live,
        mut sink: impl FnMut(Event),
    ) {
        let Some(target) = holder_mut(&mut self.living, pid) else {
            return;
        };
        // They may be to be checked sooner.
        self.checks_due_ns = 0;
        let Some(interpreter) = target.interpreter() else {
            return;
        };
        for (raw, sample) in raw.iter().zip(interpreter.resolve(raw)) {
            // A thread whose stack shows a loop's step is a loop's, before a look says so.
            if sample.stack.in_loop {
                add_loop(target, sample.tid, live, &mut self.refused);
            }
            if let Some(whose) = target
                .steps
                .take(raw, &sample, self.wants.stall_threshold_ns)
            {
                look_at_step(target, &whose, self.wants, &self.options, live, &mut sink);
            }
            sink(Event::Sample(Box::new(sample)));
        }
    }

    /// Accounts stand still from now on: what they show of steps goes on no more.
    pub(crate) fn stop_looking(&mut self) {
        self.checks_due_ns = 0;
        for target in self.living.values_mut() {
            target.steps.stop_looking();
        }
    }

    /// Looks at the steps that take long by now, and keeps an eye on those that last. `all`: on each, for a window ends.
    pub(crate) fn check_steps(&mut self, all: bool, live: &Live, mut sink: impl FnMut(Event)) {
        // Accounts stand still.
        if live.is_detached() {
            return;
        }
        let user_ns = self.wants.stall_threshold_ns;
        let now_ns = clocks::monotonic_ns();
        if !all && now_ns < self.checks_due_ns {
            return;
        }
        let mut due_ns = u64::MAX;
        for target in self.living.values_mut() {
            if !all && !target.steps.is_check_due(now_ns, user_ns) {
                due_ns = due_ns.min(target.steps.check_due_ns(user_ns));
                continue;
            }
            let pid = target.id.pid;
            let mut due = target.steps.old(user_ns);
            // Those for which there is no time are owed the next time.
            if clocks::monotonic_ns().saturating_sub(now_ns) < LOOKS_NS {
                let head = |tid| live.head(pid, tid);
                let lasting = target.steps.lasting(now_ns, user_ns, all, head);
                due.retain(|old| lasting.iter().all(|at| at.tid != old.tid));
                due.extend(lasting);
            }
            for whose in due {
                look_at_step(target, &whose, self.wants, &self.options, live, &mut sink);
            }
            due_ns = due_ns.min(target.steps.check_due_ns(user_ns));
        }
        self.checks_due_ns = due_ns;
    }
}

/// What a long step is about, when it goes on, and what its thread does.
fn look_at_step(
    target: &mut Target,
    whose: &StepAt,
    wants: Wants,
    options: &ScanOptions,
    live: &Live,
    sink: &mut impl FnMut(Event),
) {
    let pid = target.id.pid;
    // Its account would seem to say that it does the same as before.
    if live.is_detached() {
        return;
    }
    let before = live.head(pid, whose.tid);
    let read_ns = clocks::monotonic_ns();
    let interpreter = target.interpreter();
    let Some((mut fact, mut sample)) = interpreter.and_then(|of| of.step(read_ns, whose, options))
    else {
        return;
    };
    let head = live.head(pid, whose.tid);
    let same = before.zip(head).filter(|(before, after)| {
        before.off_ns == after.off_ns && before.blocked() == after.blocked()
    });
    if let Some((_, head)) = same
        && let Some(cause) = head.blocked()
    {
        (sample.kind, sample.at_ns) = (SampleKind::Block(cause), head.off_ns);
    }
    let steps = &mut target.steps;
    let (step_since_ns, busy_from_ns) =
        steps.looked(&sample, head.as_ref(), read_ns, wants.stall_threshold_ns);
    if let Some(head) = head {
        fact.seen = Some(StepSeen {
            state: state_of(&head, sample.kind),
            since_ns: head.since_ns,
            step_since_ns,
            busy_from_ns,
            idle: same.is_some_and(|(_, head)| head.is_idle()),
            wait: head.wait(read_ns),
            sample,
        });
    }
    sink(Event::Step(Box::new(fact)));
}

/// What a thread does by its account; blocked only where its stack is of that block.
fn state_of(head: &LedgerHead, kind: SampleKind) -> ThreadState {
    match (kind, head.state) {
        (SampleKind::Block(cause), _) => ThreadState::Blocked(cause),
        (_, state::PREEMPTED) => ThreadState::Preempted,
        (_, state::BLOCKED | state::WOKEN) => ThreadState::Woken,
        _ => ThreadState::Running,
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
