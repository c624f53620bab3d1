//! Switches that are told for a part of the time only: what happens at the edges, each of which ends a window.

use std::time::Duration;

use tokio::time::Instant;

use super::Watch;
use crate::{
    cli::{DutyCycle, Share},
    procfs::clocks,
    session::duty::Duty,
    source::live::LiveError,
};

impl Watch {
    /// From now on, switches are told for this part of the time, and what kernel programs take is a part of the budget;
    /// windows end every `interval`, and where it turns.
    pub(crate) fn set_duty(&mut self, cycle: DutyCycle, interval: Duration) {
        let now_ns = clocks::monotonic_ns();
        let interval_ns = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        match &mut self.duty {
            Some(duty) => duty.set_cycle(cycle, now_ns),
            None => self.duty = Some(Duty::new(cycle, interval_ns, now_ns)),
        }
    }

    /// When the window that goes on is to end for that reason, if that is before `otherwise`.
    pub(crate) fn window_turns(&self, otherwise: Instant) -> Instant {
        let turns_ns = self.duty.as_ref().and_then(Duty::turns_ns);
        let turns = turns_ns.and_then(|at_ns| {
            let left_ns = at_ns.saturating_sub(clocks::monotonic_ns());
            Instant::now().checked_add(Duration::from_nanos(left_ns))
        });
        turns.map_or(otherwise, |turns| turns.min(otherwise))
    }

    /// Shares the budget between user space and kernel programs: each may have half of it, and what the other leaves.
    /// Gives what is left for user space.
    pub(super) fn share_budget(&mut self, now_ns: u64) -> Share {
        let whole = self.budget.cpu().0;
        let Some(duty) = &mut self.duty else {
            return Share(whole);
        };
        if let Some(took) = self.live.takes_lately() {
            let used = self.budget.used().map_or(0.0, |used| used.0);
            let allowed = (whole - used).max(whole / 2.0);
            let before = duty.shed_to();
            duty.adapt(took, allowed, now_ns);
            let after = duty.shed_to();
            if before != after {
                log::debug!("kernel programs take {took:?} of a CPU: watched are now {after:?}");
            }
        }
        Share((whole - duty.takes()).max(whole / 2.0))
    }

    /// What is left out of the time, in words.
    pub(super) fn shed_time(&self) -> Option<String> {
        let share = self.duty.as_ref()?.shed_to()?;
        let percent = share.0 * 100.0;
        Some(format!("switches: told {percent:.0}% of the time"))
    }

    /// A window ends: switches are told from now on, or are not, where it is time for that. Gives the instant up to
    /// which accounts are read.
    pub(super) fn turn_duty(&mut self) -> u64 {
        let now_ns = clocks::monotonic_ns();
        let turned = match self.duty.as_mut().and_then(|duty| duty.turn(now_ns)) {
            Some(true) => self.live.attach_switches().map(|()| clocks::monotonic_ns()),
            Some(false) => self.stop_looking(),
            None if self.live.is_detached() => {
                self.live.catch_up().map(|()| clocks::monotonic_ns())
            }
            None => return now_ns,
        };
        turned.unwrap_or_else(|error| {
            log::warn!("switches are told as before: {error}");
            self.reads_failed += 1;
            if let Some(duty) = &mut self.duty {
                duty.failed(now_ns, !self.live.is_detached());
            }
            clocks::monotonic_ns()
        })
    }

    /// No more switches are told; those that were belong to the window that ends.
    fn stop_looking(&mut self) -> Result<u64, LiveError> {
        let at_ns = self.live.detach_switches()?;
        self.targets.stop_looking();
        self.take_all(at_ns);
        Ok(at_ns)
    }
}
