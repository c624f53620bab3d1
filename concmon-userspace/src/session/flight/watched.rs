//! The conditions that a flight recorder writes for.

use std::time::Duration;

use crate::{
    cli::Trigger,
    schema::{Process, Snapshot},
};

/// A condition, and whether it was true the last time: it triggers when it becomes so.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) trigger: Trigger,
    pub(super) held: bool,
    /// For how long its condition has been true, ns.
    for_ns: u64,
}

impl Watched {
    pub(super) fn new(trigger: &Trigger) -> Self {
        Self {
            trigger: trigger.clone(),
            held: false,
            for_ns: 0,
        }
    }

    /// A window has ended, of whose processes these are watched: why to write, if its condition has become true.
    pub(super) fn window(&mut self, window: &Snapshot, processes: &[&Process]) -> Option<String> {
        // Nobody looked: it is as it was.
        if window.is_blind() && needs_switches(&self.trigger) {
            return None;
        }
        let duration_ns = window.window.duration_ns;
        let (holds, name) = condition(&self.trigger, processes);
        self.for_ns = match holds {
            true => self.for_ns.saturating_add(duration_ns),
            false => 0,
        };
        let patience = match &self.trigger {
            Trigger::Gil { patience, .. } => patience.as_nanos(),
            _ => 0,
        };
        // Windows end a little before or after their time.
        let slack = u128::from(duration_ns / 8);
        let holds = holds && u128::from(self.for_ns) + slack >= patience;
        let begins = holds && !self.held;
        self.held = holds;
        begins.then_some(name)
    }
}

pub(super) fn is_longer(ns: u64, than: Option<Duration>) -> bool {
    than.is_none_or(|than| u128::from(ns) > than.as_nanos())
}

/// Whether only who sees switches sees a condition. GILs are read from memory, and findings stay while nobody looks.
const fn needs_switches(trigger: &Trigger) -> bool {
    match trigger {
        Trigger::Lag(_) | Trigger::Stall(_) => true,
        Trigger::Gil { .. } | Trigger::Finding(_) => false,
    }
}

/// Whether a condition is true in a window, and the reason in the name of a file.
fn condition(trigger: &Trigger, processes: &[&Process]) -> (bool, String) {
    let loops = || processes.iter().flat_map(|process| &process.loops);
    let holds = match trigger {
        Trigger::Lag(than) => loops()
            .filter_map(|one| one.timing.as_ref()?.lag.as_ref()?.max_ns)
            .any(|lag_ns| u128::from(lag_ns) > than.as_nanos()),
        // Stalls are told at once, and hangs; these may become long enough later on.
        Trigger::Stall(than) => loops()
            .filter_map(|one| one.hang.as_ref())
            .any(|hang| is_longer(hang.lasting_ns, *than)),
        Trigger::Gil { share, .. } => processes
            .iter()
            .filter_map(|process| process.gil.as_ref()?.utilization)
            .any(|utilization| utilization > *share),
        Trigger::Finding(rule) => processes
            .iter()
            .flat_map(|process| &process.findings)
            .any(|finding| finding.rule == rule),
    };
    let name = match trigger {
        Trigger::Lag(_) => "lag",
        Trigger::Stall(_) => "stall",
        Trigger::Gil { .. } => "gil",
        Trigger::Finding(rule) => rule,
    };
    (holds, name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::{Fixture, SECOND};
    use crate::schema::{Finding, Severity};

    #[test]
    fn while_nobody_looks_a_condition_stays_as_it_is() {
        let mut watch = Fixture::new();
        watch.read(100, 100, SECOND, |_| {});
        watch.proc(100, SECOND, |_| {});
        let mut window = watch.tick(SECOND);
        let process = window.processes.remove(0);
        let mut stalled = Watched::new(&Trigger::Stall(None));
        stalled.held = true;
        let mut found = Watched::new(&Trigger::Finding("deadlock".to_owned()));
        found.held = true;
        window.monitor.unobserved_ns = SECOND;
        assert_eq!(stalled.window(&window, &[&process]), None);
        assert!(stalled.held, "it would trigger again");
        // A finding is told there, too, or is over.
        assert_eq!(found.window(&window, &[&process]), None);
        assert!(!found.held);
        window.monitor.unobserved_ns = 0;
        stalled.window(&window, &[&process]);
        assert!(!stalled.held);
        let mut sick = process.clone();
        sick.findings.push(Finding {
            rule: "deadlock",
            severity: Severity::Critical,
            summary: String::new(),
            evidence: Default::default(),
            advice: String::new(),
            since_unix_ns: 0,
            active_ns: 0,
        });
        let reason = found.window(&window, &[&sick]);
        assert_eq!(reason.as_deref(), Some("deadlock"));
        assert_eq!(found.window(&window, &[&sick]), None);
    }
}
