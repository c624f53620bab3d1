//! Switches are told for a part of the time: everybody's take the hooks' time, whoever is watched.
//!
//! While they are not, births, programs and ends still are. Accounts stand still until a walk of all tasks brings them
//! up to date, where no hook writes them.

use super::{Live, LiveError, hooks};
use crate::procfs::clocks;

/// How far accounts are known. A walk that was made leaves none behind, but that of a thread that had begun to end when
/// switches ceased to be told, and whose last one nobody saw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    ceased_ns: u64,
    /// There is no walk since, or the latest could not be made.
    is_behind: bool,
}

impl Known {
    /// Up to when it is known what a thread did whose account was written last at `since_ns`; `None`: it does that
    /// still.
    pub(crate) const fn until_ns(self, since_ns: u64) -> Option<u64> {
        if since_ns < self.ceased_ns {
            Some(self.ceased_ns)
        } else if self.is_behind {
            Some(since_ns)
        } else {
            None
        }
    }
}

/// Whether switches are told.
#[derive(Debug, Default)]
pub(super) struct Switches {
    pub(super) links: hooks::Links,
    /// Since when they are not, ns.
    detached_ns: Option<u64>,
    /// For how long they were not before that, ns.
    before_ns: u64,
    /// When they ceased to be last, ns; 0: never.
    ceased_ns: u64,
    /// The latest walk in that time was made, and has brought the accounts of living threads up to date.
    is_caught_up: bool,
}

impl Switches {
    /// The rate of samples now, where `rate` is wanted: there are none while switches are not told.
    pub(super) const fn rate_of(&self, rate: u32) -> u32 {
        match self.detached_ns {
            Some(_) => 0,
            None => rate,
        }
    }

    const fn known(&self) -> Known {
        Known {
            ceased_ns: self.ceased_ns,
            is_behind: self.detached_ns.is_some() && !self.is_caught_up,
        }
    }
}

impl Live {
    /// Switches are not told now, on purpose: accounts are as they were when they were brought up to date last.
    pub fn is_detached(&self) -> bool {
        self.switches.detached_ns.is_some()
    }

    /// For how long switches were not told, on purpose, up to `now_ns`.
    pub fn unobserved_ns(&self, now_ns: u64) -> u64 {
        let lasts = self.switches.detached_ns;
        let lasts_ns = lasts.map_or(0, |since_ns| now_ns.saturating_sub(since_ns));
        self.switches.before_ns.saturating_add(lasts_ns)
    }

    /// How far accounts are known.
    pub(crate) const fn known(&self) -> Known {
        self.switches.known()
    }

    /// From now on, switches are not told, and there are no samples. Gives the instant up to which all of them are.
    ///
    /// # Errors
    /// A hook cannot be taken away.
    pub fn detach_switches(&mut self) -> Result<u64, LiveError> {
        let now_ns = clocks::monotonic_ns();
        if self.is_detached() {
            return Ok(now_ns);
        }
        // Threads that end from here on have their accounts closed there and then.
        self.accounts.set_detached(now_ns);
        self.switches.detached_ns = Some(now_ns);
        self.switches.ceased_ns = now_ns;
        self.switches.is_caught_up = false;
        self.run_time.turn(true, now_ns, self.measured_run());
        let links = std::mem::take(&mut self.switches.links);
        hooks::detach_each(&mut self.ebpf, links)?;
        self.suit_sampling()?;
        Ok(now_ns)
    }

    /// Brings all accounts up to date, while switches are not told.
    ///
    /// # Errors
    /// The tasks cannot be walked.
    pub fn catch_up(&mut self) -> Result<(), LiveError> {
        if self.is_detached() {
            self.switches.is_caught_up = false;
            hooks::walk_tasks(&mut self.ebpf, hooks::SEED)?;
            self.switches.is_caught_up = true;
        }
        Ok(())
    }

    /// From now on, switches are told again, and there are samples. What threads do then is found by a walk right
    /// before; what they do between that and the first switch that is told is made good from their own clocks.
    ///
    /// # Errors
    /// The tasks cannot be walked, or a hook cannot be attached: then it may be tried again.
    pub fn attach_switches(&mut self) -> Result<(), LiveError> {
        if !self.is_detached() {
            return Ok(());
        }
        self.catch_up()?;
        self.switches.links = hooks::attach_switches(&mut self.ebpf)?;
        let now_ns = clocks::monotonic_ns();
        self.switches.before_ns = self.unobserved_ns(now_ns);
        self.switches.detached_ns = None;
        self.accounts.set_detached(0);
        self.run_time.turn(false, now_ns, self.measured_run());
        self.suit_sampling()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_pause_there_are_no_samples_whatever_rate_is_wanted() {
        let mut switches = Switches::default();
        assert_eq!(switches.rate_of(100), 100);
        switches.detached_ns = Some(5);
        assert_eq!(switches.rate_of(100), 0);
    }

    #[test]
    fn what_no_walk_has_met_is_known_up_to_the_pause() {
        let mut switches = Switches::default();
        let until_ns = |switches: &Switches| [40, 60].map(|ns| switches.known().until_ns(ns));
        assert_eq!(until_ns(&switches), [None, None]);
        (switches.detached_ns, switches.ceased_ns) = (Some(50), 50);
        assert_eq!(until_ns(&switches), [Some(50), Some(60)]);
        switches.is_caught_up = true;
        assert_eq!(until_ns(&switches), [Some(50), None]);
        // It is still left behind when the pause is over.
        switches.detached_ns = None;
        assert_eq!(until_ns(&switches), [Some(50), None]);
    }
}
