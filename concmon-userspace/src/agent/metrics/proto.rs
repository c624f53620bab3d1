//! The protobuf format of Prometheus, which alone has native histograms: `io.prometheus.client.MetricFamily`,
//! each with its length before it.

use prost::Message;

use super::{
    Distribution, Exemplar, Family, Kind, Sample, Value, by_family, families::Buckets, native,
};

#[derive(Clone, PartialEq, Message)]
struct MetricFamily {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    help: Option<String>,
    /// 0: a counter, 1: a gauge, 4: a histogram.
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    metric: Vec<Metric>,
    #[prost(string, optional, tag = "5")]
    unit: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(message, repeated, tag = "1")]
    label: Vec<Label>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Number>,
    #[prost(message, optional, tag = "3")]
    counter: Option<Counter>,
    #[prost(message, optional, tag = "7")]
    histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    value: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Number {
    #[prost(double, optional, tag = "1")]
    value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct Counter {
    #[prost(double, optional, tag = "1")]
    value: Option<f64>,
    #[prost(message, optional, tag = "2")]
    exemplar: Option<Shown>,
}

/// `Exemplar`.
#[derive(Clone, PartialEq, Message)]
struct Shown {
    #[prost(message, repeated, tag = "1")]
    label: Vec<Label>,
    #[prost(double, optional, tag = "2")]
    value: Option<f64>,
    #[prost(message, optional, tag = "3")]
    timestamp: Option<Timestamp>,
}

/// After 1970.
#[derive(Clone, PartialEq, Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    sample_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    sample_sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    bucket: Vec<Bucket>,
    #[prost(sint32, optional, tag = "5")]
    schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    zero_count: Option<u64>,
    #[prost(message, repeated, tag = "12")]
    positive_span: Vec<Span>,
    #[prost(sint64, repeated, packed = "false", tag = "13")]
    positive_delta: Vec<i64>,
    /// Of its native buckets, which have none of their own.
    #[prost(message, repeated, tag = "16")]
    exemplars: Vec<Shown>,
}

#[derive(Clone, PartialEq, Message)]
struct Bucket {
    #[prost(uint64, optional, tag = "1")]
    cumulative_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    upper_bound: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(sint32, optional, tag = "1")]
    offset: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    length: Option<u32>,
}

/// Writes all families.
pub(in crate::agent) fn write(samples: &[Sample]) -> Vec<u8> {
    let mut out = Vec::new();
    for (family, samples) in by_family(samples) {
        let message = MetricFamily {
            name: Some(format!("{}{}", family.name, family.suffix())),
            help: Some(family.help.to_owned()),
            kind: Some(match family.kind {
                Kind::Counter => 0,
                Kind::UpDown | Kind::Gauge | Kind::Info => 1,
                Kind::Histogram(_) => 4,
            }),
            metric: samples.iter().map(|of| metric(family, of)).collect(),
            unit: family.unit().map(str::to_owned),
        };
        out.extend(message.encode_length_delimited_to_vec());
    }
    out
}

fn metric(family: &Family, sample: &Sample) -> Metric {
    let labels = family.labels.iter().zip(&sample.labels);
    let label = labels.filter(|(_, value)| !value.is_empty());
    let mut metric = Metric {
        label: label
            .map(|(name, value)| Label {
                name: Some((*name).to_owned()),
                value: Some(value.clone()),
            })
            .collect(),
        ..Metric::default()
    };
    match (&sample.value, family.kind) {
        (Value::Number(number), Kind::Counter) => {
            metric.counter = Some(Counter {
                value: Some(*number),
                exemplar: sample.exemplar.as_ref().map(shown),
            });
        }
        (Value::Number(number), _) => metric.gauge = Some(self::number(*number)),
        (Value::Histogram(of), Kind::Histogram(buckets)) => {
            let exemplars = sample.exemplar.iter().map(shown);
            metric.histogram = Some(Histogram {
                exemplars: exemplars.collect(),
                ..histogram(of, buckets)
            });
        }
        // It would be no sample of this family, see `Sample::is_sound`.
        (Value::Histogram(_), _) => {}
    }
    metric
}

fn number(value: f64) -> Number {
    Number { value: Some(value) }
}

fn histogram(of: &Distribution, buckets: Buckets) -> Histogram {
    let native = native::of(of, buckets.sub);
    let classic = buckets.bounds_ns.iter().filter(|_| buckets.both);
    let spans = native.spans.into_iter();
    Histogram {
        sample_count: Some(of.count()),
        sample_sum: Some(of.sum_s()),
        bucket: classic
            .map(|bound| Bucket {
                cumulative_count: Some(of.up_to(*bound)),
                upper_bound: Some(super::seconds(*bound)),
            })
            .collect(),
        schema: Some(native::SCHEMA),
        zero_threshold: Some(native::ZERO_S),
        zero_count: Some(native.zero),
        positive_span: spans
            .map(|(offset, length)| Span {
                offset: Some(offset),
                length: Some(length),
            })
            .collect(),
        positive_delta: native.deltas,
        exemplars: Vec::new(),
    }
}

fn shown(of: &Exemplar) -> Shown {
    const SECOND_NS: u64 = 1_000_000_000;
    let labels = of.labels().map(|(name, value)| Label {
        name: Some(name.to_owned()),
        value: Some(value),
    });
    Shown {
        label: labels.collect(),
        value: Some(of.value_s()),
        timestamp: Some(Timestamp {
            seconds: (of.at_unix_ns / SECOND_NS) as i64,
            nanos: (of.at_unix_ns % SECOND_NS) as i32,
        }),
    }
}
