//! The probes of one kind in one process: whether they are there, and since when.

use crate::{event::Pid, python::NotExact};

/// Between two looks for what is to be probed in a process that has not imported it: while it is young, and
/// later.
const PAUSES_NS: [u64; 2] = [20_000_000, 1_000_000_000];
/// How long it is young, ns.
const YOUNG_NS: u64 = 10_000_000_000;

/// How long a refusal may be due to the beginning or the end of a process, and between two tries in that time,
/// ns.
const DOUBT_NS: u64 = 300_000_000;
const DOUBT_PAUSE_NS: u64 = 100_000_000;

#[derive(Clone, Debug, Default)]
enum State {
    /// It has not imported what is to be probed.
    #[default]
    Waiting,
    /// `whole`: there is nothing more to come.
    Probed {
        since_ns: u64,
        whole: bool,
    },
    Refused(String),
}

/// Probes that were asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Uprobes {
    first_ns: Option<u64>,
    next_ns: u64,
    /// Since when they are refused, ns.
    refused_ns: Option<u64>,
    state: State,
}

impl Uprobes {
    /// Probes what has been imported by now. `probe` is told whether there are probes already, and says
    /// whether there is nothing more to come; `what` is counted by them.
    pub(super) fn step(
        &mut self,
        now_ns: u64,
        pid: Pid,
        what: &str,
        probe: impl FnOnce(bool) -> Result<bool, NotExact>,
    ) {
        let (since_ns, again) = match self.state {
            State::Waiting => (now_ns, false),
            State::Probed {
                since_ns,
                whole: false,
            } => (since_ns, true),
            State::Probed { .. } | State::Refused(_) => return,
        };
        if now_ns < self.next_ns {
            return;
        }
        let first_ns = *self.first_ns.get_or_insert(now_ns);
        let is_young = now_ns.saturating_sub(first_ns) < YOUNG_NS;
        self.next_ns = now_ns + PAUSES_NS[usize::from(!is_young)];
        let probed = probe(again);
        if !matches!(probed, Err(NotExact::Refused(_))) {
            self.refused_ns = None;
        }
        match probed {
            Ok(whole) => self.state = State::Probed { since_ns, whole },
            Err(NotExact::NotYet) => {}
            Err(NotExact::Refused(reason)) => {
                let refused_ns = *self.refused_ns.get_or_insert(now_ns);
                if now_ns.saturating_sub(refused_ns) < DOUBT_NS {
                    self.next_ns = now_ns + DOUBT_PAUSE_NS;
                } else {
                    log::warn!("process {pid}: its {what} are not counted exactly: {reason}");
                    self.state = State::Refused(reason);
                }
            }
        }
    }

    /// Probes were put where its parent has them; `whole`: there is nothing more to come.
    pub(super) fn inherit(&mut self, now_ns: u64, whole: bool) {
        self.first_ns = Some(now_ns);
        self.state = State::Probed {
            since_ns: now_ns,
            whole,
        };
    }

    /// Since when all of it is counted, ns; else why it is not.
    pub(super) fn since(&self) -> Result<u64, String> {
        match &self.state {
            State::Probed { since_ns, .. } => Ok(*since_ns),
            State::Waiting => Err(NotExact::NotYet.to_string()),
            State::Refused(reason) => Err(reason.clone()),
        }
    }

    /// Nothing was tried yet, nor is there anything to tell.
    pub(super) const fn is_untried(&self) -> bool {
        self.first_ns.is_none()
    }
}
