//! What the CPU quotas of a process's cgroups took while it was watched.

use super::window::Scope;
use crate::event::ThrottledFact;
use crate::schema;

/// The readings of one process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Throttling {
    /// The innermost first.
    quotas: Vec<Quota>,
    /// In this window.
    is_read: bool,
    /// The reading before was not in the window before: one at rest is not read.
    is_late: bool,
}

#[derive(Clone, Debug)]
struct Quota {
    now: ThrottledFact,
    /// When the watch began, and when the window did: time, ns, and how often.
    first: (u64, u64),
    before: (u64, u64),
}

impl Quota {
    fn from(&self, scope: Scope) -> (u64, u64) {
        match scope {
            Scope::Window => self.before,
            Scope::Whole => self.first,
        }
    }

    fn throttled_ns(&self, scope: Scope) -> u64 {
        self.now.throttled_ns.saturating_sub(self.from(scope).0)
    }
}

impl Throttling {
    pub(crate) fn read(&mut self, facts: &[ThrottledFact]) {
        let mut known = std::mem::take(&mut self.quotas);
        self.is_late &= !known.is_empty();
        self.is_read = true;
        let is_same = |known: &Quota, fact: &ThrottledFact| {
            known.now.cgroup == fact.cgroup && known.now.throttled_ns <= fact.throttled_ns
        };
        let quotas = facts.iter().map(|fact| {
            let now = fact.clone();
            match known.iter().position(|known| is_same(known, fact)) {
                Some(at) => Quota {
                    now,
                    ..known.swap_remove(at)
                },
                // Another cgroup, or the first.
                None => Quota {
                    first: (now.throttled_ns, now.count),
                    before: (now.throttled_ns, now.count),
                    now,
                },
            }
        });
        self.quotas = quotas.collect();
    }

    /// Begins a window.
    pub(crate) fn roll(&mut self) {
        self.is_late = !self.is_read;
        self.is_read = false;
        for quota in &mut self.quotas {
            quota.before = (quota.now.throttled_ns, quota.now.count);
        }
    }

    /// The one that took most; `None`: it has no quota.
    pub(crate) fn row(&self, scope: Scope) -> Option<schema::Throttled> {
        // Of several the first, which is the innermost.
        let quotas = self.quotas.iter().rev();
        let most = quotas.max_by_key(|quota| quota.throttled_ns(scope))?;
        let is_known = match scope {
            Scope::Window => self.is_read && !self.is_late,
            Scope::Whole => true,
        };
        let count = most.now.count.saturating_sub(most.from(scope).1);
        let readings = self.quotas.iter().filter(|_| self.is_read);
        Some(schema::Throttled {
            throttled_ns: is_known.then(|| most.throttled_ns(scope)),
            throttled_count: is_known.then_some(count),
            cpu_quota: schema::CpuQuota {
                cgroup: most.now.cgroup.clone(),
                cpus: most.now.quota_ns as f64 / most.now.period_ns.max(1) as f64,
            },
            readings: readings
                .map(|quota| schema::QuotaReading {
                    cgroup: quota.now.cgroup.clone(),
                    throttled_ns: quota.now.throttled_ns,
                    window_ns: is_known.then(|| quota.throttled_ns(scope)),
                })
                .collect(),
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
        let known = |ns, count| Some((Some(ns), Some(count)));
        assert_eq!(of(&throttling, Scope::Whole), None);
        throttling.read(&[fact("/a", 100)]);
        assert_eq!(of(&throttling, Scope::Whole), known(0, 0));
        throttling.read(&[fact("/a", 150)]);
        throttling.roll();
        throttling.read(&[fact("/a", 170)]);
        assert_eq!(of(&throttling, Scope::Window), known(20, 2));
        assert_eq!(of(&throttling, Scope::Whole), known(70, 7));
        throttling.read(&[fact("/b", 1_000)]);
        assert_eq!(of(&throttling, Scope::Whole), known(0, 0));
        let cpus = throttling.row(Scope::Whole).map(|row| row.cpu_quota.cpus);
        assert_eq!(cpus, Some(0.25));
        throttling.read(&[]);
        assert_eq!(of(&throttling, Scope::Window), None);
    }

    /// What it slept through is not the last window's.
    #[test]
    fn of_one_at_rest_the_window_is_not_known() {
        let mut throttling = Throttling::default();
        // It was known for long before it could be read.
        throttling.roll();
        throttling.roll();
        let window = |throttling: &Throttling| {
            let row = throttling.row(Scope::Window).expect("a quota");
            let mut readings = row.readings.iter().map(|one| one.throttled_ns);
            (row.throttled_ns, readings.next())
        };
        throttling.read(&[fact("/a", 100)]);
        assert_eq!(window(&throttling), (Some(0), Some(100)));
        throttling.roll();
        assert_eq!(window(&throttling), (None, None));
        throttling.roll();
        throttling.read(&[fact("/a", 9_000)]);
        assert_eq!(window(&throttling), (None, Some(9_000)));
        throttling.roll();
        throttling.read(&[fact("/a", 9_001)]);
        assert_eq!(window(&throttling), (Some(1), Some(9_001)));
        let whole = throttling
            .row(Scope::Whole)
            .and_then(|row| row.throttled_ns);
        assert_eq!(whole, Some(8_901));
    }

    #[test]
    fn of_nested_quotas_the_one_that_took_most_is_told() {
        let mut throttling = Throttling::default();
        throttling.read(&[fact("/a/b", 100), fact("/a", 700)]);
        let cgroup = |throttling: &Throttling| {
            let row = throttling.row(Scope::Window).expect("a quota");
            (row.cpu_quota.cgroup, row.throttled_ns, row.readings.len())
        };
        assert_eq!(cgroup(&throttling), ("/a/b".to_owned(), Some(0), 2));
        throttling.roll();
        throttling.read(&[fact("/a/b", 110), fact("/a", 790)]);
        assert_eq!(cgroup(&throttling), ("/a".to_owned(), Some(90), 2));
        throttling.roll();
        throttling.read(&[fact("/a/b", 150), fact("/a", 791)]);
        assert_eq!(cgroup(&throttling), ("/a/b".to_owned(), Some(40), 2));
    }
}
