//! Which processes have probes, and since when.

use std::collections::BTreeMap;

use concmon_ebpf::fault;

use super::pythons::Pythons;
use crate::{
    decode,
    event::{ExactFact, Pid},
    python::NotExact,
    source::live::Live,
};

/// Between two looks for asyncio in a process that has not imported it: while it is young, and later.
pub(super) const PAUSES_NS: [u64; 2] = [20_000_000, 1_000_000_000];
/// How long it is young, ns.
pub(super) const YOUNG_NS: u64 = 10_000_000_000;

#[derive(Clone, Debug)]
enum State {
    /// It has not imported what is to be probed.
    Waiting {
        since_ns: u64,
        next_ns: u64,
    },
    Probed {
        since_ns: u64,
    },
    Refused(String),
}

/// The probes of a watch; does nothing where none were asked for.
#[derive(Debug, Default)]
pub(super) struct ExactWatch {
    asked: bool,
    states: BTreeMap<Pid, State>,
    /// Processes that have ended, whose last counts are still to be read.
    ended: BTreeMap<Pid, State>,
}

impl ExactWatch {
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
            let since_ns = match self.states.get(&pid) {
                None => now_ns,
                Some(State::Waiting { since_ns, next_ns }) if now_ns >= *next_ns => *since_ns,
                Some(_) => continue,
            };
            let probed = pythons
                .exact_tasks(pid)
                .and_then(|tasks| exact.attach(ebpf, pid, &tasks).map_err(NotExact::Refused));
            let state = match probed {
                Ok(()) => State::Probed { since_ns: now_ns },
                Err(NotExact::NotYet) => {
                    let is_young = now_ns.saturating_sub(since_ns) < YOUNG_NS;
                    State::Waiting {
                        since_ns,
                        next_ns: now_ns + PAUSES_NS[usize::from(!is_young)],
                    }
                }
                Err(NotExact::Refused(reason)) => {
                    log::warn!("process {pid}: its tasks are not counted exactly: {reason}");
                    State::Refused(reason)
                }
            };
            self.states.insert(pid, state);
        }
    }

    /// Another program runs in `pid`: its functions are elsewhere.
    pub(super) fn replaced(&mut self, pid: Pid, live: &mut Live) {
        self.states.remove(&pid);
        if let Some((exact, _)) = live.exact() {
            exact.detach(pid);
        }
    }

    /// A process has ended.
    pub(super) fn ended(&mut self, pid: Pid) {
        if let Some(state) = self.states.remove(&pid) {
            self.ended.insert(pid, state);
        }
    }

    /// What was counted so far in each process.
    pub(super) fn read(&mut self, read_ns: u64, live: &mut Live) -> Vec<ExactFact> {
        if !self.asked {
            return Vec::new();
        }
        let faults = live.faults();
        let codes = [fault::EXACT_ROOM, fault::EXACT_READ];
        let missed: u64 = codes.map(|code| faults[code as usize]).iter().sum();
        let Some((exact, _)) = live.exact() else {
            return Vec::new();
        };
        let mut counts = decode::exact::counts(&exact.rows());
        let ended = std::mem::take(&mut self.ended);
        for pid in ended.keys() {
            exact.forget(*pid);
        }
        let all = self.states.iter().chain(&ended);
        all.map(|(pid, state)| ExactFact {
            read_ns,
            pid: *pid,
            since: match state {
                State::Probed { since_ns } => Ok(*since_ns),
                State::Waiting { .. } => Err(NotExact::NotYet.to_string()),
                State::Refused(reason) => Err(reason.clone()),
            },
            tasks: counts.remove(pid).unwrap_or_default(),
            missed,
        })
        .collect()
    }
}
