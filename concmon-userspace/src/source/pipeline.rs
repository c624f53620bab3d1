//! From inputs to reports: losses, order, model, findings. A live watch and a replay feed the same.

use crate::{
    capture::Input,
    decode::{RawBatch, loss::LossMeter},
    event::{Event, Loss, PyFrame, Tick},
    findings::Judge,
    model::{Model, WatchInfo, timing::NewStall},
    schema::Snapshot,
    source::order::Orderer,
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
        _ => 0,
    };
    1 + bytes / HELD_BYTES
}

/// What conclusions a watch has come to. Equal inputs give equal reports.
#[derive(Clone, Debug)]
pub struct Pipeline {
    model: Model,
    order: Orderer<Event>,
    losses: LossMeter,
    judge: Judge,
    events: u64,
    damaged: u64,
    /// The watch is over its budget: slices are not looked at.
    sheds_slices: bool,
    ticked_ns: u64,
}

impl Pipeline {
    /// One that sees a watch from its beginning.
    pub fn new(info: WatchInfo) -> Self {
        Self {
            losses: LossMeter::new(info.start_ns),
            model: Model::new(info),
            order: Orderer::weighing(MOST_HELD, weight),
            judge: Judge::default(),
            events: 0,
            damaged: 0,
            sheds_slices: false,
            ticked_ns: 0,
        }
    }

    /// One that begins in the midst of a watch, with the facts of a tick.
    pub fn joining(info: WatchInfo) -> Self {
        Self {
            losses: LossMeter::joining(info.start_ns),
            ..Self::new(info)
        }
    }

    /// Takes the next input in. `each` sees every event right before the model does. Gives a window,
    /// judged, where the input has ended one.
    pub fn feed(&mut self, input: Input, each: &mut dyn FnMut(&Event)) -> Option<Snapshot> {
        match input {
            Input::Batch(batch) => self.batch(&batch, each),
            Input::Ordered { cpu, event } => self.ordered(cpu, event, each),
            Input::Release { until_ns } => {
                let model = &mut self.model;
                self.order.release(until_ns, |event| {
                    each(event);
                    model.apply(event);
                });
            }
            Input::Now(Event::Tick(tick)) => return Some(self.tick(tick, each)),
            Input::Now(event) => {
                if let Event::Monitor(fact) = &event {
                    self.sheds_slices = fact.budget.sheds_slices;
                }
                each(&event);
                self.model.apply(&event);
            }
        }
        None
    }

    /// Ends a window, and gives it.
    pub fn tick(&mut self, tick: Tick, each: &mut dyn FnMut(&Event)) -> Snapshot {
        let event = Event::Tick(tick);
        each(&event);
        self.model.apply(&event);
        self.ticked_ns = tick.at_ns;
        let mut window = self.model.snapshot();
        self.judge.judge(&mut window);
        window
    }

    /// The window that the last tick ended, not judged.
    pub fn window(&self) -> Snapshot {
        self.model.snapshot()
    }

    /// The last tick's instant, ns; 0: there was none.
    pub const fn ticked_ns(&self) -> u64 {
        self.ticked_ns
    }

    fn batch(&mut self, batch: &RawBatch, each: &mut dyn FnMut(&Event)) {
        let header = &batch.header;
        if let Some(loss) = self.losses.batch(header, header.opened_ns) {
            each(&loss);
            self.model.apply(&loss);
        }
        let mut shed = 0;
        let (last_ns, unknown, invalid) = batch.each(|event| {
            // Births and ends do not wait for their turn: what is read next is about them.
            if matches!(event, Event::Slice(_)) {
                if self.sheds_slices {
                    shed += 1;
                    return;
                }
                self.ordered(header.cpu, event, each);
            } else {
                each(&event);
                self.model.apply(&event);
            }
        });
        self.losses.saw(header.cpu, last_ns);
        self.damaged += unknown + invalid;
        // What is left out counts as lost, and only there.
        self.events += u64::from(header.count).saturating_sub(shed);
        if shed > 0 {
            let loss = Event::Loss(Loss {
                cpu: header.cpu,
                records: shed,
                from_ns: header.opened_ns,
                to_ns: last_ns,
            });
            each(&loss);
            self.model.apply(&loss);
        }
    }

    fn ordered(&mut self, cpu: u32, event: Event, each: &mut dyn FnMut(&Event)) {
        let at_ns = event.at_ns().unwrap_or(0);
        let model = &mut self.model;
        self.order.push(at_ns, cpu, event, |early| {
            each(early);
            model.apply(early);
        });
    }

    /// The whole watch up to the last tick, right after it was fed.
    pub fn summary(&mut self) -> Snapshot {
        let mut summary = self.model.summary();
        self.judge.judge(&mut summary);
        summary
    }

    /// Stalls that have become known since this was asked last.
    pub fn take_stalls(&mut self) -> Vec<NewStall> {
        self.model.take_stalls()
    }

    /// Whether a rule, or with `any` some rule, has held.
    pub fn has_held(&self, rule: &str) -> bool {
        self.judge.has_held(rule)
    }

    /// About what the rows of a report take, bytes.
    pub fn row_bytes(&self) -> u64 {
        self.model.row_bytes()
    }

    /// What a window has to go through.
    pub fn rows(&self) -> usize {
        self.model.rows()
    }

    /// Records that have come and were not left out.
    pub const fn events(&self) -> u64 {
        self.events
    }

    /// Records that never arrived.
    pub const fn lost(&self) -> u64 {
        self.losses.lost()
    }

    /// What went wrong on the way to the model, by declared name.
    pub const fn faults(&self) -> [(&'static str, u64); 3] {
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
    fn counted(sheds_slices: bool) -> (u64, u64, u64) {
        let mut reader = Reader::embedded(Cursor::new(CAPTURE)).expect("a capture");
        let mut pipeline = Pipeline::new(reader.header().info.clone());
        let budget = BudgetFact {
            sheds_slices,
            ..BudgetFact::default()
        };
        let fact = MonitorFact {
            budget,
            ..MonitorFact::default()
        };
        pipeline.feed(Input::Now(Event::Monitor(Box::new(fact))), &mut |_| {});
        let (mut lost, mut held) = (0, 0);
        while let Some(item) = reader.item().expect("bytes") {
            let Item::Chunk(chunk) = item else { continue };
            for input in chunk.inputs().expect("inputs") {
                let Input::Batch(batch) = input.expect("an input") else {
                    continue;
                };
                held += u64::from(batch.header.count);
                pipeline.feed(Input::Batch(batch), &mut |event| {
                    if let Event::Loss(loss) = event {
                        lost += loss.records;
                    }
                });
            }
        }
        (pipeline.events(), lost, held)
    }

    #[test]
    fn what_is_left_out_is_lost_and_not_received() {
        let (received, lost, held) = counted(false);
        assert!(received == held && lost == 0 && held > 1_000, "{held}");
        let (received, lost, held) = counted(true);
        assert!(lost > held / 2, "{lost} of {held}");
        assert_eq!(received + lost, held);
    }
}
