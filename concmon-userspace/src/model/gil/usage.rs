//! How much of the time the GIL is held, estimated from samples, and how often it changed hands.
//!
//! Samples are taken about a hundred times a second, less often where many processes are watched. A
//! window with too few of them is booked together with the next.

use std::collections::BTreeMap;

use super::super::window::{Cumulative, Scope, limit};
use super::timeline::Hold;
use crate::event::{PyGil, Tid};
use crate::schema::Limit;

/// Samples below which there is no estimate.
const MIN_SAMPLES: u64 = 8;

/// Samples of the main interpreter's GIL that are not booked.
#[derive(Clone, Copy, Debug, Default)]
struct Unbooked {
    since_ns: u64,
    until_ns: u64,
    samples: u64,
    locked: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Usage {
    /// What the last look said, by address.
    last: BTreeMap<u64, PyGil>,
    /// The next look is the first of a program that was started under watch.
    fresh: bool,
    unbooked: Option<Unbooked>,
    held_ns: Cumulative<u64>,
    free_ns: Cumulative<u64>,
    switches: Cumulative<u64>,
    /// Looks that tell a difference.
    compared: Cumulative<u64>,
    several: bool,
}

/// The fields of `gil` that come from here.
pub(super) struct Report {
    pub(super) held_ns: Option<u64>,
    pub(super) free_ns: Option<u64>,
    pub(super) utilization: Option<f64>,
    pub(super) switches: Option<u64>,
}

impl Usage {
    /// Takes what a look says. Returns who is known to have had the main GIL, up to now.
    pub(super) fn look(&mut self, gils: &[PyGil]) -> Option<Hold> {
        let mut hold = None;
        let mut compared = false;
        self.several |= gils.len() > 1;
        for (index, gil) in gils.iter().enumerate() {
            let before = self.last.get(&gil.address).copied();
            if let Some(before) = &before {
                let switches = gil.switches.saturating_sub(before.switches);
                self.switches.now = self.switches.now.saturating_add(switches);
                compared = true;
            } else if self.fresh {
                self.switches.now = self.switches.now.saturating_add(gil.switches);
                compared = true;
            }
            if index > 0 {
                continue;
            }
            if let Some(before) = before {
                self.sampled(&before, gil);
                hold = held_since(&before, gil);
            }
            let unbooked = self.unbooked.get_or_insert(Unbooked {
                since_ns: gil.read_ns,
                ..Unbooked::default()
            });
            unbooked.until_ns = unbooked.until_ns.max(gil.read_ns);
        }
        self.compared.now += u64::from(compared);
        self.fresh = false;
        self.last = gils.iter().map(|gil| (gil.address, *gil)).collect();
        hold
    }

    /// Who has the only GIL, if a look since `since_ns` says so.
    pub(super) fn holder(&self, since_ns: u64) -> Option<Tid> {
        let mut gils = self.last.values();
        let gil = gils
            .next()
            .filter(|gil| gil.locked && gil.read_ns >= since_ns)?;
        gil.last_holder.filter(|_| gils.next().is_none())
    }

    fn sampled(&mut self, before: &PyGil, gil: &PyGil) {
        // The counts begin again when sampling does.
        let since = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
        let samples = since(gil.samples, before.samples);
        let locked = since(gil.locked_samples, before.locked_samples).min(samples);
        if let Some(unbooked) = &mut self.unbooked {
            unbooked.samples = unbooked.samples.saturating_add(samples);
            unbooked.locked = unbooked.locked.saturating_add(locked);
        }
    }

    /// For how long it was held, as booked in the window, ns.
    pub(super) fn held_ns(&self) -> u64 {
        self.held_ns.over(Scope::Window)
    }

    /// Another program runs.
    pub(super) fn restart(&mut self) {
        self.settle();
        self.last.clear();
        self.unbooked = None;
        self.fresh = true;
    }

    /// Turns samples into time, where there are enough.
    pub(super) fn settle(&mut self) {
        let Some(unbooked) = self.unbooked.filter(|u| u.samples >= MIN_SAMPLES) else {
            return;
        };
        let whole = unbooked.until_ns.saturating_sub(unbooked.since_ns);
        let part = u128::from(whole) * u128::from(unbooked.locked);
        let held = u64::try_from(part / u128::from(unbooked.samples)).unwrap_or(whole);
        self.held_ns.now = self.held_ns.now.saturating_add(held);
        self.free_ns.now = self.free_ns.now.saturating_add(whole - held.min(whole));
        self.unbooked = Some(Unbooked {
            since_ns: unbooked.until_ns,
            until_ns: unbooked.until_ns,
            ..Unbooked::default()
        });
    }

    pub(super) fn roll(&mut self) {
        self.held_ns.roll();
        self.free_ns.roll();
        self.switches.roll();
        self.compared.roll();
    }

    /// Something was counted.
    pub(super) fn told(&self, scope: Scope) -> bool {
        self.compared.over(scope) > 0
            || self.held_ns.over(scope) > 0
            || self.free_ns.over(scope) > 0
    }

    pub(super) fn report(&self, scope: Scope, limits: &mut Vec<Limit>) -> Report {
        let (held, free) = (self.held_ns.over(scope), self.free_ns.over(scope));
        let whole = held.saturating_add(free);
        if whole == 0 {
            let samples = self.unbooked.map_or(0, |unbooked| unbooked.samples);
            let reason = format!("only {samples} samples were taken, which is too few");
            limits.extend(["held_ns", "free_ns", "utilization"].map(|f| limit(f, reason.clone())));
        } else if self.several {
            let reason = "of the main interpreter's GIL; the process has several";
            limits.extend(["held_ns", "free_ns", "utilization"].map(|f| limit(f, reason)));
        }
        let compared = self.compared.over(scope) > 0;
        if !compared {
            limits.push(limit("switches", "it takes two looks to tell"));
        }
        Report {
            held_ns: (whole > 0).then_some(held),
            free_ns: (whole > 0).then_some(free),
            utilization: (whole > 0).then(|| held as f64 / whole as f64),
            switches: compared.then(|| self.switches.over(scope)),
        }
    }
}

/// What two looks say about who has the GIL. It counts how often it goes to another thread: as long
/// as it does not count, the last holder is the only one who has had it.
fn held_since(before: &PyGil, gil: &PyGil) -> Option<Hold> {
    let same = before.switches == gil.switches && before.last_holder == gil.last_holder;
    let from_ns = match same {
        true => before.read_ns.min(gil.read_ns),
        false if gil.locked => gil.read_ns,
        false => return None,
    };
    Some(Hold {
        tid: gil.last_holder?,
        from_ns,
        to_ns: gil.read_ns,
        earlier: true,
    })
}
