//! Stalls and hangs that are the host's: steps that mostly waited for a CPU, and would be none without that.

use crate::model::timing::DEFAULT_THRESHOLD_NS;
use crate::schema::{CulpritKind, Hang, Loop, Process, Stall};

/// The stalls of a window that are not the host's.
pub(super) struct Stalls<'a> {
    pub(super) worst: &'a Stall,
    pub(super) count: u64,
    pub(super) ns: u64,
}

/// Those of one loop; `None`: there are none.
pub(super) fn others(one: &Loop) -> Option<Stalls<'_>> {
    let timing = one.timing.as_ref()?;
    let (mut count, mut ns) = (timing.stalls_count, timing.stalls_ns);
    for stall in timing.stalls.iter().filter(|stall| is_stall(one, stall)) {
        count = count.saturating_sub(1);
        ns = ns.saturating_sub(stall.duration_ns);
    }
    let worst = timing.stalls.iter().find(|stall| !is_stall(one, stall))?;
    Some(Stalls { worst, count, ns })
}

/// The longest of a loop's that is, or has been up to now, ns.
pub(super) fn longest_ns(one: &Loop) -> Option<u64> {
    let hang = one.hang.iter().filter(|hang| is_hang(hang));
    let lengths = stalls(one).map(|(_, ns)| ns);
    lengths.chain(hang.map(|hang| hang.lasting_ns)).max()
}

/// A loop's in a window: when each began, ns after 1970, and how long they were, ns.
pub(super) fn stalls(one: &Loop) -> impl Iterator<Item = (u64, u64)> + '_ {
    let stalls = one.timing.iter().flat_map(|timing| &timing.stalls);
    let stalls = stalls.filter(|stall| is_stall(one, stall));
    stalls.map(|stall| (stall.at_unix_ns, stall.duration_ns))
}

/// Whether the quota of the cgroup took so much of it, ns: it is not the neighbours' then.
pub(super) fn is_throttled(process: &Process, stalled_ns: u64) -> bool {
    let throttled = process.throttled.as_ref();
    let ns = throttled.and_then(|throttled| throttled.throttled_ns);
    ns.is_some_and(|ns| ns >= stalled_ns / 2)
}

/// Whether a stall of this loop is.
pub(super) fn is_stall(one: &Loop, stall: &Stall) -> bool {
    let own_ns = stall.duration_ns.saturating_sub(stall.cost.runnable_ns);
    stall.culprit.kind == CulpritKind::Runnable
        && own_ns < one.stall_threshold_ns.unwrap_or(DEFAULT_THRESHOLD_NS)
}

/// Whether a hang is: its cause leaves out waits for a CPU without which it is one as well.
pub(super) fn is_hang(hang: &Hang) -> bool {
    hang.cause == CulpritKind::Runnable
}
