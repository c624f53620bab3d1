//! The samples of one service.

use super::{Distribution, Name, Sample, Value, seconds};
use crate::schema::{Group, Histogram};

/// The samples of one service, those first that are the last to be left out.
pub(super) struct Of<'a> {
    pub(super) group: &'a Group,
    pub(super) samples: Vec<Sample>,
}

impl Of<'_> {
    pub(super) fn put(&mut self, of: Name, labels: &[&str], value: Value) {
        let labels = std::iter::once(self.group.name.as_str()).chain(labels.iter().copied());
        self.samples.push(Sample {
            of,
            labels: labels.map(str::to_owned).collect(),
            value,
            exemplar: None,
        });
    }

    pub(super) fn number(&mut self, of: Name, labels: &[&str], value: f64) {
        self.put(of, labels, Value::Number(value));
    }

    pub(super) fn time(&mut self, of: Name, labels: &[&str], ns: u64) {
        self.number(of, labels, seconds(ns));
    }

    pub(super) fn histogram(&mut self, of: Name, labels: &[&str], histogram: &Histogram) {
        let distribution = Distribution {
            sum_ns: histogram.sum_ns,
            buckets: histogram.buckets.clone(),
        };
        self.put(of, labels, Value::Histogram(distribution));
    }
}
