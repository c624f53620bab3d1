//! A thread that runs loops, one after the other.

use std::collections::VecDeque;

use super::busy_tracker::BusyTracker;
use super::open_step::OpenStep;
use super::sums::Sums;

/// Loops of one thread that are kept after they stopped.
const MAX_LOOPS: usize = 64;

/// A thread that runs loops.
#[derive(Clone, Debug)]
pub(super) struct LoopThread {
    pub(super) tracker: BusyTracker,
    loop_id: Option<u64>,
    /// The latest to stop comes last.
    stopped: VecDeque<(u64, Sums)>,
    /// When the thread was last heard of.
    pub(super) heard_ns: u64,
    pub(super) ended: bool,
    /// The step that looks have met, while nothing says that it is over.
    pub(super) open_step: Option<OpenStep>,
}

impl LoopThread {
    pub(super) fn new(threshold_ns: u64) -> Self {
        LoopThread {
            tracker: BusyTracker::new(threshold_ns),
            loop_id: None,
            stopped: VecDeque::new(),
            heard_ns: 0,
            ended: false,
            open_step: None,
        }
    }

    /// The thread runs another loop, or the first that is known of it.
    pub(super) fn switch_to(&mut self, loop_id: u64) {
        let before = self.loop_id.replace(loop_id);
        if before == Some(loop_id) {
            return;
        }
        let place = self.stopped.iter().position(|(id, _)| *id == loop_id);
        let known = place.and_then(|place| self.stopped.remove(place));
        let known = known.map(|(_, sums)| sums);
        match (before, known) {
            // What samples told before the first look is this loop's.
            (None, None) => {}
            (None, Some(known)) => self.tracker.sums = known,
            (Some(before), known) => {
                let sums = std::mem::replace(&mut self.tracker.sums, known.unwrap_or_default());
                self.stop(before, sums);
            }
        }
    }

    /// Begins a window.
    pub(super) fn roll(&mut self) {
        self.tracker.sums.roll();
        for (_, sums) in &mut self.stopped {
            sums.roll();
        }
    }

    /// The sums of all loops of the thread.
    pub(super) fn all_sums(&self) -> impl Iterator<Item = &Sums> {
        let stopped = self.stopped.iter().map(|(_, sums)| sums);
        stopped.chain([&self.tracker.sums])
    }

    /// Whether it is this loop that it runs.
    pub(super) fn runs(&self, loop_id: u64) -> bool {
        self.loop_id == Some(loop_id)
    }

    /// Another program or thread begins here.
    pub(super) fn reset(&mut self, threshold_ns: u64) {
        self.open_step = None;
        let tracker = std::mem::replace(&mut self.tracker, BusyTracker::new(threshold_ns));
        if let Some(loop_id) = self.loop_id.take() {
            self.stop(loop_id, tracker.sums);
        }
    }

    fn stop(&mut self, loop_id: u64, sums: Sums) {
        self.stopped.push_back((loop_id, sums));
        if self.stopped.len() > MAX_LOOPS {
            self.stopped.pop_front();
        }
    }

    pub(super) fn sums(&self, loop_id: u64) -> Option<&Sums> {
        if self.loop_id == Some(loop_id) {
            return Some(&self.tracker.sums);
        }
        let stopped = self.stopped.iter();
        let mut of_id = stopped.filter(|(id, _)| *id == loop_id);
        of_id.next().map(|(_, sums)| sums)
    }

    pub(super) fn sums_mut(&mut self, loop_id: u64) -> Option<&mut Sums> {
        if self.loop_id == Some(loop_id) {
            return Some(&mut self.tracker.sums);
        }
        let stopped = self.stopped.iter_mut();
        let mut of_id = stopped.filter(|(id, _)| *id == loop_id);
        of_id.next().map(|(_, sums)| sums)
    }
}
