//! In which processes failures in thread pools are counted, and since when.

use std::collections::BTreeMap;

use concmon_ebpf::fault;

use super::exact::{PAUSES_NS, YOUNG_NS};
use super::pythons::Pythons;
use crate::{
    event::{Pid, PoolCounts, PoolsFact},
    python::NotExact,
    source::live::Live,
};

#[derive(Clone, Debug)]
enum State {
    /// It has not imported what is to be probed.
    Waiting,
    /// `whole`: asyncio, too.
    Probed {
        since_ns: u64,
        whole: bool,
    },
    Refused(String),
}

#[derive(Clone, Debug)]
struct Probing {
    first_ns: u64,
    next_ns: u64,
    state: State,
}

/// The probes of a watch; does nothing where none were asked for.
#[derive(Debug, Default)]
pub(super) struct PoolsWatch {
    asked: bool,
    known: BTreeMap<Pid, Probing>,
    /// Processes that have ended, whose last counts are still to be read.
    ended: BTreeMap<Pid, State>,
}

impl PoolsWatch {
    pub(super) fn new(asked: bool) -> Self {
        Self {
            asked,
            ..Self::default()
        }
    }

    /// Probes the interpreters that have become known.
    pub(super) fn step(&mut self, now_ns: u64, live: &mut Live, pythons: &Pythons) {
        if !self.asked {
            return;
        }
        let Some((exact, ebpf)) = live.exact() else {
            return;
        };
        for pid in pythons.found() {
            let probing = self.known.entry(pid).or_insert(Probing {
                first_ns: now_ns,
                next_ns: now_ns,
                state: State::Waiting,
            });
            let (since_ns, again) = match probing.state {
                State::Waiting => (now_ns, false),
                State::Probed {
                    since_ns,
                    whole: false,
                } => (since_ns, true),
                _ => continue,
            };
            if now_ns < probing.next_ns {
                continue;
            }
            let is_young = now_ns.saturating_sub(probing.first_ns) < YOUNG_NS;
            probing.next_ns = now_ns + PAUSES_NS[usize::from(!is_young)];
            let probed = pythons.exact_futures(pid).and_then(|futures| {
                if again && !futures.asyncio {
                    return Ok(false);
                }
                exact
                    .attach_futures(ebpf, pid, &futures, again)
                    .map(|()| futures.asyncio)
                    .map_err(NotExact::Refused)
            });
            probing.state = match probed {
                Ok(whole) => State::Probed { since_ns, whole },
                Err(NotExact::NotYet) if again => continue,
                Err(NotExact::NotYet) => State::Waiting,
                Err(NotExact::Refused(reason)) => {
                    log::warn!("process {pid}: its futures are not counted exactly: {reason}");
                    State::Refused(reason)
                }
            };
        }
    }

    /// Another program runs in `pid`.
    pub(super) fn replaced(&mut self, pid: Pid) {
        self.known.remove(&pid);
    }

    /// A process has ended.
    pub(super) fn ended(&mut self, pid: Pid) {
        if let Some(probing) = self.known.remove(&pid) {
            self.ended.insert(pid, probing.state);
        }
    }

    /// What was counted so far in each process.
    pub(super) fn read(&mut self, read_ns: u64, live: &mut Live) -> Vec<PoolsFact> {
        if !self.asked {
            return Vec::new();
        }
        let faults = live.faults();
        let codes = [fault::EXACT_ROOM, fault::EXACT_READ];
        let missed: u64 = codes.map(|code| faults[code as usize]).iter().sum();
        let Some((exact, _)) = live.exact() else {
            return Vec::new();
        };
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
        let ended = std::mem::take(&mut self.ended);
        for pid in ended.keys() {
            exact.forget_pools(*pid);
        }
        let known = self.known.iter();
        let all = known.map(|(pid, probing)| (pid, &probing.state));
        all.chain(&ended)
            .map(|(pid, state)| {
                let mut pools = counts.remove(pid).unwrap_or_default();
                pools.sort_by_key(|pool| pool.queue);
                PoolsFact {
                    read_ns,
                    pid: *pid,
                    since: match state {
                        State::Probed { since_ns, .. } => Ok(*since_ns),
                        State::Waiting => Err(NotExact::NotYet.to_string()),
                        State::Refused(reason) => Err(reason.clone()),
                    },
                    pools,
                    missed,
                }
            })
            .collect()
    }
}
