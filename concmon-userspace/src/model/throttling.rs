//! What the CPU quota of a process's cgroup took while it was watched.

use super::window::Scope;
use crate::event::ThrottledFact;
use crate::schema;

/// The readings of one process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Throttling {
    now: Option<ThrottledFact>,
    /// When the watch began, and when the window did: time, ns, and how often.
    first: (u64, u64),
    before: (u64, u64),
}

impl Throttling {
    pub(crate) fn read(&mut self, fact: Option<&ThrottledFact>) {
        let sums = |fact: &ThrottledFact| (fact.throttled_ns, fact.count);
        let is_same = |known: &ThrottledFact, fact: &ThrottledFact| {
            known.cgroup == fact.cgroup && known.throttled_ns <= fact.throttled_ns
        };
        match (&mut self.now, fact) {
            (Some(known), Some(fact)) if is_same(known, fact) => known.clone_from(fact),
            // Another cgroup, or the first.
            (_, Some(fact)) => {
                (self.first, self.before) = (sums(fact), sums(fact));
                self.now = Some(fact.clone());
            }
            (_, None) => *self = Self::default(),
        }
    }

    /// Begins a window.
    pub(crate) fn roll(&mut self) {
        if let Some(now) = &self.now {
            self.before = (now.throttled_ns, now.count);
        }
    }

    /// `None`: it has no quota.
    pub(crate) fn row(&self, scope: Scope) -> Option<schema::Throttled> {
        let now = self.now.as_ref()?;
        let (from_ns, from) = match scope {
            Scope::Window => self.before,
            Scope::Whole => self.first,
        };
        Some(schema::Throttled {
            throttled_ns: now.throttled_ns.saturating_sub(from_ns),
            throttled_count: now.count.saturating_sub(from),
            cpu_quota: schema::CpuQuota {
                cgroup: now.cgroup.clone(),
                cpus: now.quota_ns as f64 / now.period_ns.max(1) as f64,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(cgroup: &str, throttled_ns: u64) -> ThrottledFact {
        ThrottledFact {
            cgroup: cgroup.to_owned(),
            quota_ns: 1,
            period_ns: 4,
            throttled_ns,
            count: throttled_ns / 10,
        }
    }

    #[test]
    fn what_was_before_and_elsewhere_does_not_count() {
        let mut throttling = Throttling::default();
        let of = |throttling: &Throttling, scope| {
            let row = throttling.row(scope);
            row.map(|row| (row.throttled_ns, row.throttled_count))
        };
        assert_eq!(of(&throttling, Scope::Whole), None);
        throttling.read(Some(&fact("/a", 100)));
        assert_eq!(of(&throttling, Scope::Whole), Some((0, 0)));
        throttling.read(Some(&fact("/a", 150)));
        throttling.roll();
        throttling.read(Some(&fact("/a", 170)));
        assert_eq!(of(&throttling, Scope::Window), Some((20, 2)));
        assert_eq!(of(&throttling, Scope::Whole), Some((70, 7)));
        throttling.read(Some(&fact("/b", 1_000)));
        assert_eq!(of(&throttling, Scope::Whole), Some((0, 0)));
        let cpus = throttling.row(Scope::Whole).map(|row| row.cpu_quota.cpus);
        assert_eq!(cpus, Some(0.25));
        throttling.read(None);
        assert_eq!(of(&throttling, Scope::Window), None);
    }
}
