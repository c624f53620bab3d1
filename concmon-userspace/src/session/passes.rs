//! How long the turns of the select loop take.

use crate::{
    event::{HistFact, PassFact},
    procfs::{clocks, delay::RunDelay},
};

/// The turns of the loop of the thread that made this.
#[derive(Debug)]
pub(crate) struct Passes {
    /// `None`: the kernel does not tell how long the thread waits for a CPU.
    delay: Option<RunDelay>,
    /// When the turn that goes on began, and what the thread had waited by then, ns.
    begun: Option<(u64, u64)>,
    wall: HistFact,
    /// The longest since it was told last, ns.
    longest_ns: u64,
}

impl Passes {
    pub(crate) fn new() -> Self {
        Self {
            delay: RunDelay::of_this_thread().ok(),
            begun: None,
            wall: HistFact::default(),
            longest_ns: 0,
        }
    }

    fn waited_ns(&self) -> u64 {
        let delay = self.delay.as_ref();
        delay.and_then(RunDelay::ns).unwrap_or(0)
    }

    /// The loop has something to do.
    pub(crate) fn begin(&mut self) {
        self.begun = Some((clocks::monotonic_ns(), self.waited_ns()));
    }

    /// It has done it.
    pub(crate) fn end(&mut self) {
        let Some((begin_ns, waited_ns)) = self.begun.take() else {
            return;
        };
        let wall_ns = clocks::monotonic_ns().saturating_sub(begin_ns);
        self.wall.record(wall_ns);
        // How much of a short turn was its own does not matter.
        if wall_ns > self.longest_ns {
            let own_ns = wall_ns.saturating_sub(self.waited_ns().saturating_sub(waited_ns));
            self.longest_ns = self.longest_ns.max(own_ns);
        }
    }

    /// What there is to tell; the turn that goes on is not in it. `None`: there was none.
    pub(crate) fn fact(&mut self) -> Option<Box<PassFact>> {
        (self.wall.count > 0).then(|| {
            Box::new(PassFact {
                wall: self.wall.clone(),
                longest_ns: std::mem::take(&mut self.longest_ns),
            })
        })
    }
}
