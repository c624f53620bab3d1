//! Samples of the agent itself.

use std::collections::BTreeMap;

use super::{Name, Sample, Value, collect::Collected, seconds};
use crate::{event::ProcessFact, schema::Snapshot};

/// The kinds of detail that a budget leaves out, as `monitor.shed` begins with them.
const SHED: [&str; 6] = [
    "samples", "looks", "tasks", "slices", "switches", "requests",
];

/// Sums of what windows tell of the agent itself.
#[derive(Debug, Default)]
pub(in crate::agent) struct Own {
    cpu_ns: u64,
    kernel_ns: u64,
    unobserved_ns: u64,
    lost: BTreeMap<String, u64>,
    /// Windows that were handed to the exporter, and those that were not.
    pub(in crate::agent) sent: u64,
    pub(in crate::agent) dropped: u64,
    /// Whoever reads the log knows that some processes may not be read.
    pub(in crate::agent) has_told_denied: bool,
}

/// What else is known of it now.
#[derive(Debug)]
pub(in crate::agent) struct State<'a> {
    pub(in crate::agent) denied: usize,
    pub(in crate::agent) max_groups: usize,
    pub(in crate::agent) groups_refused: usize,
    /// The watching process itself, should it be readable.
    pub(in crate::agent) process: Option<&'a ProcessFact>,
}

impl Own {
    /// Something of a source was lost.
    pub(in crate::agent) fn lost(&mut self, source: &str, count: u64) {
        *self.lost.entry(source.to_owned()).or_default() += count;
    }

    /// Adds a window, and says how things stand.
    pub(in crate::agent) fn collect(
        &mut self,
        window: &Snapshot,
        collected: &Collected,
        state: &State<'_>,
    ) -> Vec<Sample> {
        let monitor = &window.monitor;
        self.cpu_ns += monitor.cpu_ns;
        self.kernel_ns += monitor.kernel_run_ns.unwrap_or(0);
        self.unobserved_ns += monitor.unobserved_ns;
        let lost = [
            ("records", monitor.events_lost),
            ("reads", monitor.reads_failed),
        ];
        let faults = monitor
            .faults
            .iter()
            .map(|(name, count)| (name.as_str(), *count));
        for (source, count) in lost.into_iter().chain(faults) {
            self.lost(source, count);
        }
        let mut samples = Vec::new();
        let mut put = |of: Name, labels: &[&str], value: f64| {
            samples.push(Sample {
                of,
                labels: labels.iter().map(|label| (*label).to_owned()).collect(),
                value: Value::Number(value),
                exemplar: None,
            });
        };
        put(
            Name::BuildInfo,
            &[&monitor.version, std::env::consts::ARCH],
            1.0,
        );
        for (source, count) in &self.lost {
            put(Name::EventsLost, &[source], *count as f64);
        }
        put(Name::AgentCpu, &["user_space"], seconds(self.cpu_ns));
        if monitor.kernel_run_ns.is_some() || self.kernel_ns > 0 {
            put(
                Name::AgentCpu,
                &["kernel_programs"],
                seconds(self.kernel_ns),
            );
        }
        put(Name::AgentUnobserved, &[], seconds(self.unobserved_ns));
        let living = window
            .processes
            .iter()
            .filter(|process| process.exited.is_none());
        let pythons = living.filter_map(|process| process.python.as_ref());
        let (attached, unsupported): (Vec<_>, Vec<_>) =
            pythons.partition(|python| python.supported);
        put(Name::AgentTargets, &["attached"], attached.len() as f64);
        put(
            Name::AgentTargets,
            &["unsupported"],
            unsupported.len() as f64,
        );
        let short = window.processes.iter().filter(|process| {
            let was_read = process.python.is_some();
            process.exited.is_some() && !was_read
        });
        put(Name::AgentTargets, &["short"], short.count() as f64);
        put(Name::AgentTargets, &["denied"], state.denied as f64);
        for detail in SHED {
            let is_shed = monitor.shed.iter().any(|words| words.starts_with(detail));
            put(Name::AgentShed, &[detail], f64::from(u8::from(is_shed)));
        }
        put(Name::AgentGroups, &[], collected.services as f64);
        put(Name::AgentGroupsLimit, &[], state.max_groups as f64);
        put(Name::AgentGroupsRefused, &[], state.groups_refused as f64);
        put(Name::AgentSeriesRefused, &[], collected.refused as f64);
        put(Name::AgentWindows, &["sent"], self.sent as f64);
        put(Name::AgentWindows, &["dropped"], self.dropped as f64);
        put(Name::OwnCpu, &[], seconds(self.cpu_ns));
        if let Some(fact) = state.process {
            put(Name::OwnStart, &[], seconds(fact.start_unix_ns));
            for (of, value) in [
                (Name::OwnRss, fact.rss_bytes),
                (Name::OwnVms, fact.vms_bytes),
                (Name::OwnFds, fact.fds),
                (Name::OwnMaxFds, fact.fds_limit),
            ] {
                if let Some(value) = value {
                    put(of, &[], value as f64);
                }
            }
        }
        samples
    }
}
