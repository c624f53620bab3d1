//! Exemplars: of a sum, one request that is in it, by the trace that it belongs to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Name, Sample, seconds};
use crate::agent::events::{Event, SpanIds, What};

/// Series that have one, at most: a service has two or three.
const MAX_SERIES: usize = 4_096;

/// One of those that a sum counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::agent) struct Exemplar {
    pub(in crate::agent) ids: SpanIds,
    /// How long it took.
    pub(in crate::agent) duration_ns: u64,
    /// When it was over.
    pub(in crate::agent) at_unix_ns: u64,
}

impl Exemplar {
    /// As labels: the ids in hexadecimal, as traces have them.
    pub(super) fn labels(&self) -> impl Iterator<Item = (&'static str, String)> {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let span = self.ids.span_id.map(|id| ("span_id", hex(&id)));
        std::iter::once(("trace_id", hex(&self.ids.trace_id))).chain(span)
    }

    pub(super) fn value_s(&self) -> f64 {
        seconds(self.duration_ns)
    }
}

/// The latest of each series.
#[derive(Debug, Default)]
pub(in crate::agent) struct Exemplars(BTreeMap<(Name, Vec<String>), Exemplar>);

impl Exemplars {
    /// Takes over the stalls of traces that are recorded: only those can be looked up.
    pub(in crate::agent) fn take(&mut self, events: &[Event]) {
        for event in events {
            let What::Stall(step) = &event.what else {
                continue;
            };
            let Some(ids) = step.trace.filter(|ids| ids.sampled) else {
                continue;
            };
            let exemplar = Exemplar {
                ids,
                duration_ns: event.duration_ns,
                at_unix_ns: event.at_unix_ns.saturating_add(event.duration_ns),
            };
            for (of, label) in [
                (Name::LoopStep, &step.kind),
                (Name::LoopStalls, &step.cause),
            ] {
                let key = (of, vec![event.service.clone(), label.clone()]);
                if self.0.len() < MAX_SERIES || self.0.contains_key(&key) {
                    self.0.insert(key, exemplar.clone());
                }
            }
        }
    }

    /// Services are gone.
    pub(in crate::agent) fn forget(&mut self, services: &[String]) {
        self.0
            .retain(|(_, labels), _| !labels.first().is_some_and(|of| services.contains(of)));
    }

    /// Gives them to their series.
    pub(in crate::agent) fn give(&self, samples: &mut [Sample]) {
        for sample in samples {
            if [Name::LoopStep, Name::LoopStalls].contains(&sample.of) {
                let key = (sample.of, sample.labels.clone());
                sample.exemplar = self.0.get(&key).cloned();
            }
        }
    }
}
