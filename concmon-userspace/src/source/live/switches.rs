//! Switches are told for a part of the time: everybody's take the hooks' time, whoever is watched.
//!
//! While they are not, births, programs and ends still are. Accounts stand still until a walk of all tasks brings them
//! up to date, where no hook writes them.

use super::{Live, LiveError, hooks};
use crate::procfs::clocks;

/// Whether switches are told.
#[derive(Debug, Default)]
pub(super) struct Switches {
    pub(super) links: hooks::Links,
    /// Since when they are not, ns.
    detached_ns: Option<u64>,
    /// For how long they were not before that, ns.
    before_ns: u64,
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
        let links = std::mem::take(&mut self.switches.links);
        hooks::detach_switches(&mut self.ebpf, links)?;
        self.sample(0)?;
        Ok(now_ns)
    }

    /// Brings all accounts up to date, while switches are not told.
    ///
    /// # Errors
    /// The tasks cannot be walked.
    pub fn catch_up(&mut self) -> Result<(), LiveError> {
        if self.is_detached() {
            hooks::walk_tasks(&mut self.ebpf, hooks::SEED)?;
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
        self.sample(self.rate)
    }
}
