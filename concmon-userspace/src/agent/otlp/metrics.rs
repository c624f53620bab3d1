//! Samples as metrics: counters are sums, with the time that they count from; histograms are exponential.

use std::{collections::BTreeMap, mem};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::KeyValue,
    metrics::v1::{
        AggregationTemporality, Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint,
        Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, exemplar,
        exponential_histogram_data_point::Buckets, metric::Data, number_data_point,
    },
};

use super::{Resources, attributes, scope, text};
use crate::agent::{
    config::Temporality,
    metrics::{Distribution, Kind, Name, Sample, Value, native, seconds},
};

/// Buckets of a histogram at most, as OpenTelemetry's SDKs have it; past it two become one.
const MAX_BUCKETS: usize = 160;

/// What must be known of sums between two pushes.
#[derive(Debug)]
pub(in crate::agent) struct Streams {
    temporality: Temporality,
    /// When the reading before was, or the agent began, ns after 1970: what is new then counts from there.
    before_unix_ns: u64,
    /// Exemplars up to here have been pushed.
    told_unix_ns: u64,
    sums: BTreeMap<(Name, Vec<String>), Stream>,
}

/// A sum.
#[derive(Debug)]
struct Stream {
    start_unix_ns: u64,
    last: Value,
    /// As it was when it was pushed last, and when that was; `None`: it never was.
    pushed: Option<(Value, u64)>,
}

impl Streams {
    pub(in crate::agent) const fn new(temporality: Temporality, now_unix_ns: u64) -> Self {
        Self {
            temporality,
            before_unix_ns: now_unix_ns,
            told_unix_ns: 0,
            sums: BTreeMap::new(),
        }
    }

    /// A reading as a request, and the number of its data points.
    pub(in crate::agent) fn request(
        &mut self,
        resources: &Resources,
        samples: &[Sample],
        at_unix_ns: u64,
    ) -> (ExportMetricsServiceRequest, u64) {
        self.take(samples, at_unix_ns);
        let mut count = 0;
        let mut services: BTreeMap<Option<&str>, BTreeMap<Name, Metric>> = BTreeMap::new();
        for sample in samples {
            let Some(name) = sample.of.otel_name() else {
                continue;
            };
            let metrics = services.entry(sample.service()).or_default();
            let metric = metrics.entry(sample.of).or_insert_with(|| Metric {
                name,
                description: sample.of.family().help.to_owned(),
                unit: sample.of.otel_unit().to_owned(),
                data: Some(self.data(sample.of)),
                ..Metric::default()
            });
            self.add(metric, sample, at_unix_ns);
            count += 1;
        }
        let of_resources = services
            .into_iter()
            .map(|(service, metrics)| ResourceMetrics {
                resource: Some(resources.of(service)),
                scope_metrics: vec![ScopeMetrics {
                    scope: Some(scope()),
                    metrics: metrics.into_values().collect(),
                    ..ScopeMetrics::default()
                }],
                ..ResourceMetrics::default()
            });
        let request = ExportMetricsServiceRequest {
            resource_metrics: of_resources.collect(),
        };
        (request, count)
    }

    /// The last request was taken, or is given up: what comes next counts from there.
    pub(in crate::agent) fn is_pushed(&mut self) {
        self.told_unix_ns = self.before_unix_ns;
        if self.temporality == Temporality::Cumulative {
            return;
        }
        for stream in self.sums.values_mut() {
            stream.pushed = Some((stream.last.clone(), self.before_unix_ns));
        }
    }

    /// Takes a reading over.
    fn take(&mut self, samples: &[Sample], at_unix_ns: u64) {
        let before_unix_ns = mem::replace(&mut self.before_unix_ns, at_unix_ns);
        let mut before = mem::take(&mut self.sums);
        for sample in samples {
            if !matches!(
                sample.of.family().kind,
                Kind::Counter | Kind::UpDown | Kind::Histogram(_)
            ) {
                continue;
            }
            let key = (sample.of, sample.labels.clone());
            let last = sample.value.clone();
            let known = before.remove(&key);
            // A service that was gone begins anew.
            let goes_on = |known: &Stream| {
                sample.of.family().kind == Kind::UpDown || grown(&last, &known.last).is_some()
            };
            let stream = match known.filter(goes_on) {
                Some(known) => Stream { last, ..known },
                None => Stream {
                    start_unix_ns: before_unix_ns,
                    last,
                    pushed: None,
                },
            };
            self.sums.insert(key, stream);
        }
    }

    fn data(&self, of: Name) -> Data {
        let cumulative = AggregationTemporality::Cumulative as i32;
        let temporality = match self.temporality {
            Temporality::Cumulative => cumulative,
            Temporality::Delta => AggregationTemporality::Delta as i32,
        };
        match of.family().kind {
            Kind::Counter => Data::Sum(Sum {
                data_points: Vec::new(),
                aggregation_temporality: temporality,
                is_monotonic: true,
            }),
            // Of these a difference says little: they are whole in either case.
            Kind::UpDown => Data::Sum(Sum {
                data_points: Vec::new(),
                aggregation_temporality: cumulative,
                is_monotonic: false,
            }),
            Kind::Gauge | Kind::Info => Data::Gauge(Gauge::default()),
            Kind::Histogram(_) => Data::ExponentialHistogram(ExponentialHistogram {
                data_points: Vec::new(),
                aggregation_temporality: temporality,
            }),
        }
    }

    fn add(&self, metric: &mut Metric, sample: &Sample, at_unix_ns: u64) {
        let attributes: Vec<KeyValue> = attributes(sample)
            .map(|(name, value)| text(name, value))
            .collect();
        let stream = self.sums.get(&(sample.of, sample.labels.clone()));
        let start_unix_ns = stream.map_or(0, |stream| stream.start_unix_ns);
        let pushed = stream.and_then(|stream| stream.pushed.as_ref());
        let (value, start_unix_ns) = match pushed {
            Some((pushed, pushed_unix_ns)) if sample.of.family().kind != Kind::UpDown => {
                let grown = grown(&sample.value, pushed);
                (
                    grown.unwrap_or_else(|| sample.value.clone()),
                    *pushed_unix_ns,
                )
            }
            _ => (sample.value.clone(), start_unix_ns),
        };
        // Each is told once: the latest of a series stays with it.
        let fresh = sample.exemplar.iter();
        let fresh = fresh.filter(|of| of.at_unix_ns > self.told_unix_ns);
        let exemplars = fresh.map(|of| Exemplar {
            time_unix_nano: of.at_unix_ns,
            span_id: of.ids.span_id.map(|id| id.to_vec()).unwrap_or_default(),
            trace_id: of.ids.trace_id.to_vec(),
            value: Some(exemplar::Value::AsDouble(seconds(of.duration_ns))),
            ..Exemplar::default()
        });
        let exemplars = exemplars.collect();
        match (&mut metric.data, value, sample.of.family().kind) {
            (
                Some(Data::Sum(Sum { data_points, .. }) | Data::Gauge(Gauge { data_points })),
                Value::Number(number),
                _,
            ) => {
                data_points.push(NumberDataPoint {
                    attributes,
                    start_time_unix_nano: start_unix_ns,
                    time_unix_nano: at_unix_ns,
                    value: Some(number_data_point::Value::AsDouble(number)),
                    exemplars,
                    ..NumberDataPoint::default()
                });
            }
            (
                Some(Data::ExponentialHistogram(of)),
                Value::Histogram(distribution),
                Kind::Histogram(buckets),
            ) => {
                of.data_points.push(ExponentialHistogramDataPoint {
                    attributes,
                    start_time_unix_nano: start_unix_ns,
                    time_unix_nano: at_unix_ns,
                    exemplars,
                    ..histogram(&distribution, buckets.sub)
                });
            }
            // It would be no sample of its family, see `Sample::is_sound`.
            _ => {}
        }
    }
}

/// By how much a sum has grown; `None`: it has not, it began anew.
fn grown(now: &Value, before: &Value) -> Option<Value> {
    match (now, before) {
        (Value::Number(now), Value::Number(before)) => {
            (now >= before).then(|| Value::Number(now - before))
        }
        (Value::Histogram(now), Value::Histogram(before)) => {
            let mut counts: BTreeMap<u64, u64> = now.buckets.iter().copied().collect();
            for (le, count) in &before.buckets {
                let left = counts.get_mut(le)?;
                *left = left.checked_sub(*count)?;
            }
            counts.retain(|_, count| *count > 0);
            Some(Value::Histogram(Distribution {
                sum_ns: now.sum_ns.checked_sub(before.sum_ns)?,
                buckets: counts.into_iter().collect(),
            }))
        }
        _ => None,
    }
}

/// `sub`: measured buckets of a power of two.
fn histogram(of: &Distribution, sub: u64) -> ExponentialHistogramDataPoint {
    let (zero_count, buckets) = native::counts(of, sub);
    let mut scale = native::SCHEMA;
    // A bucket of Prometheus has the number of its upper bound, one of OpenTelemetry that of its lower one.
    let first = buckets.first().map_or(0, |(number, _)| number - 1);
    let last = buckets.last().map_or(0, |(number, _)| number - 1);
    let (mut low, mut high) = (first, last);
    while (high - low) as usize >= MAX_BUCKETS {
        (low, high) = (low >> 1, high >> 1);
        scale -= 1;
    }
    let coarser = native::SCHEMA - scale;
    let mut bucket_counts = Vec::new();
    for (number, count) in buckets {
        let place = (((number - 1) >> coarser) - low) as usize;
        bucket_counts.resize(bucket_counts.len().max(place + 1), 0);
        bucket_counts[place] += count;
    }
    ExponentialHistogramDataPoint {
        count: of.count(),
        sum: Some(of.sum_s()),
        scale,
        zero_count,
        zero_threshold: native::ZERO_S,
        positive: Some(Buckets {
            offset: low,
            bucket_counts,
        }),
        ..ExponentialHistogramDataPoint::default()
    }
}

#[cfg(test)]
mod tests;
