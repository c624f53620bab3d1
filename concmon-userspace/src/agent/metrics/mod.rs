//! Metrics: which families there are, what a window comes to in them, and the formats that they are served in.

pub(super) mod collect;
pub(super) mod exemplars;
pub(super) mod families;
mod http;
pub(super) mod native;
mod of;
pub(super) mod own;
pub(super) mod proto;
pub(super) mod text;

use serde::{Deserialize, Serialize};

pub(super) use exemplars::{Exemplar, Exemplars};
pub(super) use families::{FAMILIES, Family, Kind, Name};

/// One series, as it stands now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Sample {
    pub(super) of: Name,
    /// In the order of the family's labels; an empty one is as good as none.
    pub(super) labels: Vec<String>,
    pub(super) value: Value,
    /// One of those that it counts, where a trace is known.
    pub(super) exemplar: Option<Exemplar>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Value {
    Number(f64),
    Histogram(Distribution),
}

/// Durations by buckets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Distribution {
    pub(super) sum_ns: u64,
    /// Upper bound, ns, which itself is in the next one, and count; in ascending order, not cumulative.
    pub(super) buckets: Vec<(u64, u64)>,
}

impl Distribution {
    /// Of its buckets, so that both always agree.
    pub(super) fn count(&self) -> u64 {
        let counts = self.buckets.iter().map(|(_, count)| *count);
        counts.fold(0, u64::saturating_add)
    }

    /// How many are in buckets that end at `bound_ns` or before.
    pub(super) fn up_to(&self, bound_ns: u64) -> u64 {
        let within = self.buckets.iter().filter(|(le, _)| *le <= bound_ns);
        within.fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    pub(super) fn sum_s(&self) -> f64 {
        seconds(self.sum_ns)
    }
}

pub(super) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

impl Sample {
    /// The service that it is of; `None`: the agent itself.
    pub(super) fn service(&self) -> Option<&str> {
        let is_named = self.of.family().labels.first() == Some(&"service_name");
        self.labels.first().filter(|_| is_named).map(String::as_str)
    }

    /// Whether it is one of its family, whoever has sent it.
    pub(super) fn is_sound(&self) -> bool {
        let family = self.of.family();
        let is_number = matches!(self.value, Value::Number(number) if number.is_finite());
        self.labels.len() == family.labels.len()
            && match family.kind {
                Kind::Histogram(_) => matches!(self.value, Value::Histogram(_)),
                Kind::Counter | Kind::UpDown | Kind::Gauge | Kind::Info => is_number,
            }
    }
}

/// Samples by their families, in the table's order.
pub(super) fn by_family(
    samples: &[Sample],
) -> impl Iterator<Item = (&'static Family, Vec<&Sample>)> {
    let mut sorted: Vec<Vec<&Sample>> = vec![Vec::new(); FAMILIES.len()];
    for sample in samples {
        sorted[sample.of as usize].push(sample);
    }
    FAMILIES.iter().zip(sorted)
}

#[cfg(test)]
mod tests;
