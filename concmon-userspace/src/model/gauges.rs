//! What `/proc` says that a process uses at one time.

use crate::event::ProcessFact;

/// The last known gauges of a process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Gauges {
    pub(crate) rss_bytes: Option<u64>,
    pub(crate) vms_bytes: Option<u64>,
    pub(crate) threads: Option<u64>,
    pub(crate) children: Option<u64>,
    pub(crate) descendants: Option<u64>,
    pub(crate) zombies: Option<u64>,
    pub(crate) fds: Option<u64>,
    pub(crate) fds_limit: Option<u64>,
}

impl Gauges {
    pub(super) fn of(fact: &ProcessFact) -> Self {
        Gauges {
            rss_bytes: fact.rss_bytes,
            vms_bytes: fact.vms_bytes,
            threads: fact.threads,
            children: Some(fact.children),
            descendants: Some(fact.descendants),
            zombies: Some(fact.zombies),
            fds: fact.fds,
            fds_limit: fact.fds_limit,
        }
    }

    /// These, and where there is none, the `earlier` one.
    pub(super) fn or(&self, earlier: &Self) -> Self {
        Gauges {
            rss_bytes: self.rss_bytes.or(earlier.rss_bytes),
            vms_bytes: self.vms_bytes.or(earlier.vms_bytes),
            threads: self.threads.or(earlier.threads),
            children: self.children.or(earlier.children),
            descendants: self.descendants.or(earlier.descendants),
            zombies: self.zombies.or(earlier.zombies),
            fds: self.fds.or(earlier.fds),
            fds_limit: self.fds_limit.or(earlier.fds_limit),
        }
    }
}
