//! What has arrived, as events in the order in which the model gets them: losses, decoding, order.

use crate::{
    capture::Input,
    decode::{RawBatch, loss::LossMeter},
    event::{Event, Loss, PyFrame, Tid},
    kernel::Arch,
    source::{
        needed::{LoopThreads, NeededSlices},
        order::Orderer,
    },
};

/// Records held for ordering at most (64 bytes each in the kernel, about 150 here).
const MOST_HELD: usize = 200_000;
/// A stack weighs as much as a slice for each so many bytes.
const HELD_BYTES: usize = 640;

/// How many slices an event is worth that is held.
fn weight(event: &Event) -> usize {
    // Texts are shared, but need not be.
    let frame = |frame: &PyFrame| size_of::<PyFrame>() + frame.function.len() + frame.file.len();
    let bytes = match event {
        Event::Sample(sample) => sample.stack.frames.iter().map(frame).sum(),
        Event::Fork(fork) => fork.comm.len(),
        Event::Exec(exec) => exec.comm.len(),
        Event::Http(_) => 2 * HELD_BYTES,
        _ => 0,
    };
    1 + bytes / HELD_BYTES
}

/// Samples of a CPU arrive much sooner than its slices, each in their order: where both had one lane, most slices
/// would come behind. Of the same instant, samples come first.
fn lane(cpu: u32, event: &Event) -> u32 {
    let is_sample = matches!(event, Event::Sample(_));
    cpu.wrapping_mul(2).wrapping_add(u32::from(!is_sample))
}

/// The first half of the way: what it gives is the same for all that conclude from it.
#[derive(Clone, Debug)]
pub(super) struct Arrivals {
    order: Orderer<Event>,
    losses: LossMeter,
    /// Of the host that records are of, where that is known.
    arch: Option<Arch>,
    events: u64,
    damaged: u64,
    /// The watch is over its budget: slices are not looked at ...
    sheds_slices: bool,
    /// ... but for those of threads that run event loops.
    keeps_loops: bool,
    loops: LoopThreads,
    /// Which slices are; `None`: all.
    needed: Option<NeededSlices>,
}

impl Arrivals {
    /// `joining`: they begin in the midst of a watch.
    pub(super) fn new(start_ns: u64, arch: Option<Arch>, joining: bool) -> Self {
        Self {
            losses: match joining {
                true => LossMeter::joining(start_ns),
                false => LossMeter::new(start_ns),
            },
            order: Orderer::weighing(MOST_HELD, weight),
            arch,
            events: 0,
            damaged: 0,
            sheds_slices: false,
            keeps_loops: false,
            loops: LoopThreads::default(),
            needed: None,
        }
    }

    /// From now on, only slices that sums need are looked at: all of those of these threads. To be told again with
    /// each window.
    pub(super) fn need_only(&mut self, whole: impl Iterator<Item = Tid>) {
        self.needed.get_or_insert_default().renew(whole);
    }

    /// Whether single slices of a thread are needed.
    pub(super) fn needs(&self, tid: Tid) -> bool {
        self.needed
            .as_ref()
            .is_none_or(|needed| needed.is_whole(tid))
    }

    /// Takes the next input in, and gives the events whose turn it is.
    pub(super) fn take(&mut self, input: Input, mut sink: impl FnMut(&Event)) {
        match input {
            Input::Batch(batch) => self.batch(&batch, &mut sink),
            Input::Ordered { cpu, event } => self.ordered(cpu, event, &mut sink),
            Input::Release { until_ns } => self.order.release(until_ns, sink),
            Input::Now(event) => {
                if let Event::Monitor(fact) = &event {
                    self.sheds_slices = fact.budget.sheds_slices;
                    self.keeps_loops = fact.budget.keeps_loops;
                }
                if let Event::Python(fact) = &event {
                    self.loops.look(fact);
                    if let Some(needed) = &mut self.needed {
                        needed.look(fact);
                    }
                }
                sink(&event);
            }
        }
    }

    fn batch(&mut self, batch: &RawBatch, sink: &mut impl FnMut(&Event)) {
        let header = &batch.header;
        if let Some(loss) = self.losses.batch(header, header.opened_ns) {
            sink(&loss);
        }
        let (mut shed, mut unneeded) = (0, 0);
        let (last_ns, unknown, invalid) = batch.each(self.arch, |event| {
            // Births and ends do not wait for their turn: what is read next is about them.
            match &event {
                Event::Slice(slice) => {
                    let needed = self.needed.as_mut();
                    if needed.is_some_and(|needed| !needed.has(slice)) {
                        unneeded += 1;
                    } else if self.sheds_slices && !(self.keeps_loops && self.loops.has(slice.tid))
                    {
                        shed += 1;
                    } else {
                        self.ordered(header.cpu, event, sink);
                    }
                }
                other => {
                    if let Event::Exit(exit) = other {
                        self.loops.ended(exit.tid);
                        if let Some(needed) = &mut self.needed {
                            needed.ended(exit.tid);
                        }
                    }
                    sink(other);
                }
            }
        });
        self.losses.saw(header.cpu, last_ns);
        self.damaged += unknown + invalid;
        // What is left out counts as lost, and only there; what nobody needs counts nowhere.
        self.events += u64::from(header.count).saturating_sub(shed + unneeded);
        if shed > 0 {
            sink(&Event::Loss(Loss {
                cpu: header.cpu,
                records: shed,
                from_ns: header.opened_ns,
                to_ns: last_ns,
            }));
        }
    }

    fn ordered(&mut self, cpu: u32, event: Event, early: &mut impl FnMut(&Event)) {
        let at_ns = event.at_ns().unwrap_or(0);
        self.order.push(at_ns, lane(cpu, &event), event, early);
    }

    /// Records that have come and were not left out.
    pub(super) const fn events(&self) -> u64 {
        self.events
    }

    /// Records that never arrived.
    pub(super) const fn lost(&self) -> u64 {
        self.losses.lost()
    }

    /// What went wrong on the way, by declared name.
    pub(super) const fn faults(&self) -> [(&'static str, u64); 3] {
        [
            ("damaged-records", self.damaged),
            ("ordered-early", self.order.early()),
            ("ordered-late", self.order.late()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::capture::{Item, Reader};
    use crate::event::{BudgetFact, MonitorFact};

    const CAPTURE: &[u8] = include_bytes!("../../../tests/captures/1.0.concmon");

    /// Records that have come, those that count as lost, and those that the batches hold.
    fn counted(sheds_slices: bool, keeps_loops: bool) -> (u64, u64, u64) {
        let mut reader = Reader::embedded(Cursor::new(CAPTURE)).expect("a capture");
        let mut arrivals = Arrivals::new(reader.header().info.start_ns, None, false);
        let budget = BudgetFact {
            sheds_slices,
            keeps_loops,
            ..BudgetFact::default()
        };
        let fact = MonitorFact {
            budget,
            ..MonitorFact::default()
        };
        arrivals.take(Input::Now(Event::Monitor(Box::new(fact))), |_| {});
        let (mut lost, mut held) = (0, 0);
        while let Some(item) = reader.item().expect("bytes") {
            let Item::Chunk(chunk) = item else { continue };
            for input in chunk.inputs().expect("inputs") {
                let input = input.expect("an input");
                match &input {
                    Input::Batch(batch) => held += u64::from(batch.header.count),
                    Input::Now(Event::Python(_)) => {}
                    _ => continue,
                }
                arrivals.take(input, |event| {
                    if let Event::Loss(loss) = event {
                        lost += loss.records;
                    }
                });
            }
        }
        (arrivals.events(), lost, held)
    }

    #[test]
    fn what_is_left_out_is_lost_and_not_received() {
        let (received, lost, held) = counted(false, false);
        assert!(received == held && lost == 0 && held > 1_000, "{held}");
        let (received, all_lost, held) = counted(true, false);
        assert!(all_lost > held / 2, "{all_lost} of {held}");
        assert_eq!(received + all_lost, held);
        let (received, lost, held) = counted(true, true);
        assert!(0 < lost && lost < all_lost, "{lost} of {held}");
        assert_eq!(received + lost, held);
    }
}
