//! Samples on their way to the model, and looks at steps that take long while they do.

use std::collections::BTreeMap;

use concmon_ebpf::SampleHead;

use super::{Targets, add_loop, holder_mut, target::Target};
use crate::{
    decode::samples::{self, RawSample},
    event::{Event, Pid},
    procfs::clocks,
    python::ScanOptions,
    source::live::Live,
};

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
        let Some(interpreter) = target.interpreter() else {
            return;
        };
        for (raw, sample) in raw.iter().zip(interpreter.resolve(raw)) {
            // A thread whose stack shows a loop's step is a loop's, before a look says so.
            if sample.stack.in_loop {
                add_loop(target, sample.tid, live, &mut self.refused);
            }
            if let Some(head) = target.steps.take(raw, self.wants.stall_threshold_ns) {
                look_at_step(target, &head, &self.options, &mut sink);
            }
            sink(Event::Sample(Box::new(sample)));
        }
    }

    /// Looks at the steps that take long by now.
    pub(crate) fn check_steps(&mut self, mut sink: impl FnMut(Event)) {
        for target in self.living.values_mut() {
            for head in target.steps.old(self.wants.stall_threshold_ns) {
                look_at_step(target, &head, &self.options, &mut sink);
            }
        }
    }
}

/// What a long step is about, when it goes on.
fn look_at_step(
    target: &mut Target,
    head: &SampleHead,
    options: &ScanOptions,
    sink: &mut impl FnMut(Event),
) {
    let interpreter = target.interpreter();
    let fact = interpreter.and_then(|of| of.step(clocks::monotonic_ns(), head, options));
    if let Some(fact) = fact {
        sink(Event::Step(Box::new(fact)));
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
