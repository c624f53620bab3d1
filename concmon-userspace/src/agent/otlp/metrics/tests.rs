//! What receivers are told of sums and histograms, by the rules of OpenTelemetry's data model.

use super::*;

fn sample(of: Name, labels: &[&str], value: Value) -> Sample {
    Sample {
        of,
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        value,
        exemplar: None,
    }
}

fn starts(service: &str, count: f64) -> Sample {
    sample(Name::ProcessStarts, &[service], Value::Number(count))
}

fn waits(buckets: &[(u64, u64)], sum_ns: u64) -> Sample {
    let buckets = buckets.to_vec();
    let value = Value::Histogram(Distribution { sum_ns, buckets });
    sample(Name::GilWait, &["shop"], value)
}

fn resources() -> Resources {
    Resources::new(&BTreeMap::new())
}

/// One point of a number: service, name, start, value.
type Point = (String, String, u64, f64);

fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    use opentelemetry_proto::tonic::common::v1::any_value::Value::StringValue;
    let found = attributes.iter().find(|pair| pair.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

fn points(request: &ExportMetricsServiceRequest) -> Vec<Point> {
    let mut points = Vec::new();
    for of in &request.resource_metrics {
        let attributes = &of.resource.as_ref().expect("a resource").attributes;
        let service = attribute(attributes, "service.name").expect("a name");
        for metric in &of.scope_metrics[0].metrics {
            let numbers = match metric.data.as_ref().expect("data") {
                Data::Sum(sum) => &sum.data_points,
                Data::Gauge(gauge) => &gauge.data_points,
                _ => continue,
            };
            for point in numbers {
                let Some(number_data_point::Value::AsDouble(value)) = point.value else {
                    panic!("no number in {metric:?}");
                };
                let start = point.start_time_unix_nano;
                points.push((service.clone(), metric.name.clone(), start, value));
            }
        }
    }
    points
}

fn histograms(request: &ExportMetricsServiceRequest) -> Vec<ExponentialHistogramDataPoint> {
    let metrics = request
        .resource_metrics
        .iter()
        .flat_map(|of| &of.scope_metrics[0].metrics);
    let points = metrics.filter_map(|metric| match &metric.data {
        Some(Data::ExponentialHistogram(of)) => Some(of.data_points.clone()),
        _ => None,
    });
    points.flatten().collect()
}

#[test]
fn cumulative_sums_count_from_where_they_began() {
    let mut streams = Streams::new(Temporality::Cumulative, 100);
    let resources = resources();
    let mut push = |samples: &[Sample], at| {
        let (request, count) = streams.request(&resources, samples, at);
        streams.is_pushed();
        assert_eq!(count as usize, samples.len());
        let points = points(&request).into_iter();
        points
            .map(|(service, _, start, value)| (service, start, value))
            .collect::<Vec<_>>()
    };
    let of = |service: &str, start, value| (service.to_owned(), start, value);
    assert_eq!(push(&[starts("a", 5.0)], 200), [of("a", 100, 5.0)]);
    let both = push(&[starts("a", 7.0), starts("b", 1.0)], 300);
    assert_eq!(both, [of("a", 100, 7.0), of("b", 200, 1.0)]);
    // One was forgotten, and came again; the other was gone for a reading.
    assert_eq!(push(&[starts("a", 2.0)], 400), [of("a", 300, 2.0)]);
    let both = push(&[starts("a", 3.0), starts("b", 4.0)], 500);
    assert_eq!(both, [of("a", 300, 3.0), of("b", 400, 4.0)]);
}

#[test]
fn deltas_add_up_to_the_sum_whatever_is_not_taken() {
    let mut streams = Streams::new(Temporality::Delta, 100);
    let resources = resources();
    let mut told = Vec::new();
    for (at, count, taken) in [
        (200, 5.0, true),
        (300, 7.0, false),
        (400, 7.5, true),
        (500, 7.5, true),
        (600, 1.0, true),
    ] {
        let samples = [
            starts("a", count),
            sample(Name::Memory, &["a"], Value::Number(count)),
            waits(&[(1_024, count as u64)], count as u64),
        ];
        let (request, _) = streams.request(&resources, &samples, at);
        let of = points(&request);
        let grown = of.iter().find(|point| point.1 == "concmon.process.starts");
        let (_, _, start, value) = grown.expect("a sum").clone();
        told.push((start, value, histograms(&request)[0].count));
        let whole = of.iter().find(|point| point.1 == "concmon.memory.usage");
        assert_eq!(whole.expect("memory").3, count, "it is whole each time");
        if taken {
            streams.is_pushed();
        }
    }
    let expected = [
        (100, 5.0, 5),
        (200, 2.0, 2),
        (200, 2.5, 2),
        (400, 0.0, 0),
        // It began anew.
        (500, 1.0, 1),
    ];
    assert_eq!(told, expected);
}

#[test]
fn kinds_temporality_and_units_are_those_of_the_table() {
    let mut streams = Streams::new(Temporality::Delta, 0);
    let samples = [
        sample(Name::CpuTime, &["shop", "user"], Value::Number(1.5)),
        sample(Name::Memory, &["shop"], Value::Number(2.0)),
        sample(
            Name::FindingActive,
            &["shop", "gil-contention"],
            Value::Number(0.0),
        ),
        waits(&[(1_024, 3)], 3_000),
        sample(
            Name::GroupInfo,
            &["shop", "unit", "", "shop.service"],
            Value::Number(1.0),
        ),
        sample(Name::AgentGroups, &[], Value::Number(1.0)),
    ];
    let mut resources = Resources::new(&BTreeMap::from([
        ("service.name".to_owned(), "agents".to_owned()),
        ("host.name".to_owned(), "box".to_owned()),
        ("systemd.unit".to_owned(), "mine".to_owned()),
        ("k8s.cluster.name".to_owned(), "prod".to_owned()),
        ("k8s.pod.name".to_owned(), "agent-1".to_owned()),
        ("service.namespace".to_owned(), "ops".to_owned()),
        ("process.pid".to_owned(), "1".to_owned()),
    ]));
    resources.learn(&samples);
    let (request, count) = streams.request(&resources, &samples, 9);
    assert_eq!(count, 5, "an info is what the resource tells");
    let [agent, shop] = &request.resource_metrics[..] else {
        panic!("two resources, not {request:?}");
    };
    let of = |resource: &ResourceMetrics, key: &str| {
        attribute(
            &resource.resource.as_ref().expect("a resource").attributes,
            key,
        )
    };
    assert_eq!(of(agent, "service.name").as_deref(), Some("agents"));
    assert_eq!(
        of(agent, "service.version").as_deref(),
        Some(env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(of(shop, "service.name").as_deref(), Some("shop"));
    assert_eq!(of(shop, "host.name").as_deref(), Some("box"));
    assert_eq!(of(shop, "service.instance.id").as_deref(), Some("box"));
    // What is configured goes before what is found out, but is no service's that says whose process it is.
    assert_eq!(of(shop, "systemd.unit").as_deref(), Some("mine"));
    assert_eq!(of(shop, "k8s.cluster.name").as_deref(), Some("prod"));
    for (key, value) in [
        ("k8s.pod.name", "agent-1"),
        ("service.namespace", "ops"),
        ("process.pid", "1"),
    ] {
        assert_eq!(of(shop, key), None, "{key}");
        assert_eq!(of(agent, key).as_deref(), Some(value));
    }
    assert_eq!(of(shop, "container.id"), None, "an empty label is none");
    let metrics = &shop.scope_metrics[0].metrics;
    let named = |name: &str| {
        let found = metrics.iter().find(|metric| metric.name == name);
        found.unwrap_or_else(|| panic!("no {name} in {metrics:?}"))
    };
    let (delta, cumulative) = (
        AggregationTemporality::Delta as i32,
        AggregationTemporality::Cumulative as i32,
    );
    let cpu = named("concmon.cpu.time");
    assert_eq!(cpu.unit, "s");
    let Some(Data::Sum(sum)) = &cpu.data else {
        panic!("{cpu:?}");
    };
    assert_eq!(
        (sum.is_monotonic, sum.aggregation_temporality),
        (true, delta)
    );
    let mode = attribute(&sum.data_points[0].attributes, "concmon.mode");
    assert_eq!(mode.as_deref(), Some("user"));
    assert_eq!(
        attribute(&sum.data_points[0].attributes, "service.name"),
        None
    );
    let memory = named("concmon.memory.usage");
    assert_eq!(memory.unit, "By");
    let Some(Data::Sum(sum)) = &memory.data else {
        panic!("{memory:?}");
    };
    assert_eq!(
        (sum.is_monotonic, sum.aggregation_temporality),
        (false, cumulative)
    );
    assert!(matches!(
        named("concmon.finding.active").data,
        Some(Data::Gauge(_))
    ));
    let Some(Data::ExponentialHistogram(waits)) = &named("concmon.gil.wait.duration").data else {
        panic!("{metrics:?}");
    };
    assert_eq!(waits.aggregation_temporality, delta);
}

/// By the definition of the data model: bucket `i` holds what is above `base^i` and at most `base^(i+1)`, where
/// `base` is 2 to the power of 2 to the power of `-scale`.
#[test]
fn exponential_buckets_hold_what_was_measured() {
    let spans: [&[(u64, u64)]; 3] = [
        &[(1, 2), (1_024, 5), (1_280, 3)],
        &[(1 << 30, 7)],
        // More powers of two than so many buckets reach.
        &[(2, 1), (1 << 20, 10), (1 << 40, 4), (1 << 50, 1)],
    ];
    for buckets in spans {
        let total: u64 = buckets.iter().map(|(_, count)| count).sum();
        let mut streams = Streams::new(Temporality::Cumulative, 0);
        let samples = [waits(buckets, 77)];
        let (request, _) = streams.request(&resources(), &samples, 1);
        let point = histograms(&request).pop().expect("a histogram");
        assert_eq!((point.count, point.sum), (total, Some(77e-9)));
        let positive = point.positive.expect("buckets");
        assert!(positive.bucket_counts.len() <= MAX_BUCKETS);
        let base = (2f64).powf((2f64).powi(-point.scale));
        let in_buckets: u64 = positive.bucket_counts.iter().sum();
        assert_eq!(in_buckets + point.zero_count, total, "{buckets:?}");
        for (index, count) in (positive.offset..).zip(&positive.bucket_counts) {
            let (lower, upper) = (base.powi(index) * 1e9, base.powi(index + 1) * 1e9);
            // A measured bucket begins a quarter of a power of two below its end.
            let inside = buckets.iter().filter(|(le, _)| {
                let (from, to) = (*le as f64 * 0.7, *le as f64);
                from < upper && to > lower
            });
            let most: u64 = inside.map(|(_, count)| count).sum();
            assert!(
                *count <= most,
                "{count} in {lower} to {upper} of {buckets:?}"
            );
        }
    }
}

#[test]
fn names_are_those_that_prometheus_translates() {
    for (of, name, unit) in [
        (Name::CpuThrottled, "concmon.cpu.throttled.time", "s"),
        (Name::OpenFds, "concmon.open_fds", ""),
        (Name::Switches, "concmon.context_switches", ""),
        (Name::OffCpu, "concmon.thread.off_cpu.duration", "s"),
        (
            Name::GcCollected,
            "cpython.gc.collected_objects",
            "{object}",
        ),
        (Name::LoopLag, "concmon.loop.lag", "s"),
        (Name::HttpDuration, "http.server.request.duration", "s"),
        (Name::HttpActive, "http.server.active_requests", "{request}"),
        (Name::EventsLost, "concmon.agent.events.lost", ""),
        (Name::OwnCpu, "process.cpu.time", "s"),
    ] {
        assert_eq!(
            (of.otel_name().as_deref(), of.otel_unit()),
            (Some(name), unit)
        );
    }
    assert_eq!(Name::GroupInfo.otel_name(), None);
    let labels = [
        "http_response_status_code",
        "cpython_gc_generation",
        "k8s_pod_name",
    ];
    let attributes = labels.map(crate::agent::metrics::families::dotted);
    assert_eq!(
        attributes,
        [
            "http.response.status_code",
            "cpython.gc.generation",
            "k8s.pod.name"
        ]
    );
}
