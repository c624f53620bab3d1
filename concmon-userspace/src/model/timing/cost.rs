//! Sums of time by where it went.

use crate::event::Cause;
use crate::model::window::Growth;
use crate::schema::{Blocked, Cost};

/// The column of a cause.
pub(crate) fn column(blocked: &mut Blocked, cause: Cause) -> &mut u64 {
    match cause {
        Cause::Gil => &mut blocked.gil,
        Cause::Lock => &mut blocked.lock,
        Cause::Poll => &mut blocked.poll,
        Cause::Sleep => &mut blocked.sleep,
        Cause::Io => &mut blocked.io,
        Cause::Child => &mut blocked.child,
        Cause::Disk => &mut blocked.disk,
        Cause::Stopped => &mut blocked.stopped,
        Cause::Other => &mut blocked.other,
    }
}

impl Cost {
    /// What was blocked for a cause, ns.
    pub fn blocked(&self, cause: Cause) -> u64 {
        let mut blocked = self.blocked_ns;
        *column(&mut blocked, cause)
    }

    /// All of it, ns.
    pub fn total_ns(&self) -> u64 {
        let blocked = Cause::ALL.into_iter().map(|cause| self.blocked(cause));
        blocked.fold(
            self.on_cpu_ns.saturating_add(self.runnable_ns),
            u64::saturating_add,
        )
    }

    pub(crate) fn add(&mut self, other: &Cost) {
        self.on_cpu_ns = self.on_cpu_ns.saturating_add(other.on_cpu_ns);
        self.runnable_ns = self.runnable_ns.saturating_add(other.runnable_ns);
        for cause in Cause::ALL {
            let sum = column(&mut self.blocked_ns, cause);
            *sum = sum.saturating_add(other.blocked(cause));
        }
    }

    /// Adds so much more of the same, in its proportions; `false`: there is nothing in it.
    pub(crate) fn grow(&mut self, more_ns: u64) -> bool {
        let known_ns = self.total_ns();
        if known_ns == 0 {
            return false;
        }
        let grown = |ns: u64| {
            let more = u128::from(ns) * u128::from(more_ns) / u128::from(known_ns);
            ns.saturating_add(more as u64)
        };
        self.on_cpu_ns = grown(self.on_cpu_ns);
        self.runnable_ns = grown(self.runnable_ns);
        for cause in Cause::ALL {
            let sum = column(&mut self.blocked_ns, cause);
            *sum = grown(*sum);
        }
        true
    }

    /// Takes away, not below 0.
    pub(crate) fn take(&mut self, other: &Cost) {
        *self = self.since(other);
    }
}

impl Growth for Cost {
    fn since(&self, base: &Self) -> Self {
        let mut grown = Cost {
            on_cpu_ns: self.on_cpu_ns.saturating_sub(base.on_cpu_ns),
            runnable_ns: self.runnable_ns.saturating_sub(base.runnable_ns),
            ..Cost::default()
        };
        for cause in Cause::ALL {
            *column(&mut grown.blocked_ns, cause) =
                self.blocked(cause).saturating_sub(base.blocked(cause));
        }
        grown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_in_its_proportions() {
        let mut cost = Cost::default();
        assert!(!cost.grow(100) && cost.total_ns() == 0);
        cost.on_cpu_ns = 10;
        *column(&mut cost.blocked_ns, Cause::Sleep) = 30;
        assert!(cost.grow(80));
        assert_eq!((cost.on_cpu_ns, cost.blocked(Cause::Sleep)), (30, 90));
        cost.on_cpu_ns = u64::MAX;
        assert!(cost.grow(u64::MAX));
    }
}
