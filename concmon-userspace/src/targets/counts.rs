//! What probes have counted so far, process by process.

use std::collections::BTreeMap;

use concmon_ebpf::fault;

use super::{Wants, target::Target};
use crate::{
    decode,
    event::{Event, ExactFact, Pid, PoolCounts, PoolsFact},
    procfs::clocks,
    source::live::Live,
};

/// What was counted by probes so far in all of these processes.
pub(super) fn of<'a, T: Iterator<Item = &'a Target>>(
    wants: Wants,
    live: &mut Live,
    all: impl Fn() -> T,
) -> Vec<Event> {
    let mut facts = Vec::new();
    if !wants.exact_tasks && !wants.exact_futures {
        return facts;
    }
    let faults = live.faults();
    let codes = [fault::EXACT_ROOM, fault::EXACT_READ];
    let missed: u64 = codes.map(|code| faults[code as usize]).iter().sum();
    let Some((exact, _)) = live.exact() else {
        return facts;
    };
    if wants.exact_futures {
        let mut counts: BTreeMap<Pid, Vec<PoolCounts>> = BTreeMap::new();
        for (key, row) in exact.pools() {
            counts.entry(Pid(key.tgid)).or_default().push(PoolCounts {
                queue: key.queue,
                submitted: row.submitted,
                failed: row.failed,
                kept: row.kept,
                retrieved: row.retrieved,
                dropped: row.dropped,
            });
        }
        let read_ns = clocks::monotonic_ns();
        for target in all().filter(|target| !target.futures.is_untried()) {
            let mut pools = counts.remove(&target.id.pid).unwrap_or_default();
            pools.sort_by_key(|pool| pool.queue);
            facts.push(Event::Pools(Box::new(PoolsFact {
                read_ns,
                pid: target.id.pid,
                start_boottime_ns: target.id.start_boottime_ns,
                since: target.futures.since(),
                pools,
                missed,
            })));
        }
    }
    if wants.exact_tasks {
        let mut counts = decode::exact::counts(&exact.rows());
        let read_ns = clocks::monotonic_ns();
        for target in all().filter(|target| !target.tasks.is_untried()) {
            facts.push(Event::Exact(Box::new(ExactFact {
                read_ns,
                pid: target.id.pid,
                start_boottime_ns: target.id.start_boottime_ns,
                since: target.tasks.since(),
                tasks: counts.remove(&target.id.pid).unwrap_or_default(),
                missed,
            })));
        }
    }
    facts
}
