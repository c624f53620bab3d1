//! The findings of a service: of each rule the worst, and in how many of its processes it holds.

use std::collections::{BTreeMap, BTreeSet};

use super::key;
use crate::schema::{Finding, GroupFinding, Kind, Process, Severity, Snapshot};

/// Processes of one group in which a rule has held that are counted.
const MAX_PROCESSES: usize = 1_024;

/// What has held in the processes of a group.
#[derive(Clone, Debug)]
struct Told {
    processes: BTreeSet<(u32, u64)>,
    worst: GroupFinding,
}

/// What has held, by group and rule: processes end, and their findings with them.
#[derive(Clone, Debug, Default)]
pub(super) struct Groups(BTreeMap<String, BTreeMap<&'static str, Told>>);

impl Groups {
    /// What has held in a group is not asked for any more.
    pub(super) fn forget(&mut self, group: &str) {
        self.0.remove(group);
    }

    /// Fills in the findings of the groups of a snapshot, whose processes have theirs.
    pub(super) fn judge(&mut self, snapshot: &mut Snapshot) {
        let mut window = Groups::default();
        for process in &snapshot.processes {
            let Some(group) = &process.group else {
                continue;
            };
            for finding in &process.findings {
                window.add(group, process, finding);
                // In the summary, those too whose group was not known when it held.
                self.add(group, process, finding);
            }
        }
        let told = match snapshot.kind {
            Kind::Snapshot => &window,
            Kind::Summary => self,
        };
        for group in &mut snapshot.groups {
            let rules = told.0.get(&group.name);
            let rules = rules.into_iter().flat_map(BTreeMap::values);
            group.findings = rules.map(Told::report).collect();
            group
                .findings
                .sort_by_key(|of| (of.severity != Severity::Critical, of.rule));
        }
    }

    fn add(&mut self, group: &str, process: &Process, finding: &Finding) {
        if !self.0.contains_key(group) {
            self.0.insert(group.to_owned(), BTreeMap::new());
        }
        let Some(rules) = self.0.get_mut(group) else {
            return;
        };
        let new = || GroupFinding {
            rule: finding.rule,
            severity: finding.severity,
            processes_count: 0,
            pid: process.pid,
            summary: finding.summary.clone(),
        };
        let told = rules.entry(finding.rule).or_insert_with(|| Told {
            processes: BTreeSet::new(),
            worst: new(),
        });
        if told.processes.len() < MAX_PROCESSES {
            told.processes.insert(key(process));
        }
        if finding.severity > told.worst.severity {
            told.worst = new();
        }
    }
}

impl Told {
    fn report(&self) -> GroupFinding {
        GroupFinding {
            processes_count: self.processes.len() as u64,
            ..self.worst.clone()
        }
    }
}
