//! Events as log records; and stalls of requests whose trace is kept as spans in it.

use std::{collections::BTreeMap, fmt::Write as _, rc::Rc};

use opentelemetry_proto::tonic::{
    collector::{logs::v1::ExportLogsServiceRequest, trace::v1::ExportTraceServiceRequest},
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
    trace::v1::{ResourceSpans, ScopeSpans, Span, span::SpanKind},
};

use super::{Resources, pair, scope, text};
use crate::agent::events::{Event, Held, SpanIds, Step, What};

/// What a span of a stall is called.
const SPAN_NAME: &str = "event loop blocked";
/// Of the flags of a span and of a log record (W3C Trace Context): the trace is kept.
const SAMPLED: u32 = 1;

/// Events as log records.
pub(in crate::agent) fn logs(
    resources: &Resources,
    events: &[Rc<Event>],
    now_unix_ns: u64,
) -> ExportLogsServiceRequest {
    let of_services = by_service(events, |event| Some(log(event, now_unix_ns)));
    let resource_logs = of_services
        .into_iter()
        .map(|(service, log_records)| ResourceLogs {
            resource: Some(resources.of(Some(service))),
            scope_logs: vec![ScopeLogs {
                scope: Some(scope()),
                log_records,
                ..ScopeLogs::default()
            }],
            ..ResourceLogs::default()
        });
    ExportLogsServiceRequest {
        resource_logs: resource_logs.collect(),
    }
}

/// Stalls as spans; `id` gives a new one for each.
pub(in crate::agent) fn spans(
    resources: &Resources,
    events: &[Rc<Event>],
    mut id: impl FnMut() -> [u8; 8],
) -> ExportTraceServiceRequest {
    let of_services = by_service(events, |event| span(event, &mut id));
    let resource_spans = of_services
        .into_iter()
        .map(|(service, spans)| ResourceSpans {
            resource: Some(resources.of(Some(service))),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope()),
                spans,
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        });
    ExportTraceServiceRequest {
        resource_spans: resource_spans.collect(),
    }
}

/// Whether an event is one of a request whose trace is kept.
pub(in crate::agent) fn is_span(event: &Event) -> bool {
    match &event.what {
        What::Stall(step) => parent(step).is_some(),
        What::Hang(_) | What::Finding(_) => false,
    }
}

fn by_service<T>(
    events: &[Rc<Event>],
    mut told: impl FnMut(&Event) -> Option<T>,
) -> BTreeMap<&str, Vec<T>> {
    let mut services: BTreeMap<&str, Vec<T>> = BTreeMap::new();
    for event in events {
        if let Some(told) = told(event) {
            services.entry(&event.service).or_default().push(told);
        }
    }
    services
}

/// The request's span, where the trace is kept.
fn parent(step: &Step) -> Option<(SpanIds, [u8; 8])> {
    let ids = step.trace.filter(|ids| ids.sampled)?;
    Some((ids, ids.span_id?))
}

fn span(event: &Event, id: &mut impl FnMut() -> [u8; 8]) -> Option<Span> {
    let What::Stall(step) = &event.what else {
        return None;
    };
    let (ids, parent) = parent(step)?;
    Some(Span {
        trace_id: ids.trace_id.to_vec(),
        span_id: id().to_vec(),
        parent_span_id: parent.to_vec(),
        flags: SAMPLED,
        name: SPAN_NAME.to_owned(),
        kind: SpanKind::Internal as i32,
        start_time_unix_nano: event.at_unix_ns,
        end_time_unix_nano: event.at_unix_ns.saturating_add(event.duration_ns),
        attributes: of_step(event, step),
        ..Span::default()
    })
}

fn log(event: &Event, now_unix_ns: u64) -> LogRecord {
    let record = LogRecord {
        time_unix_nano: event.at_unix_ns,
        observed_time_unix_nano: now_unix_ns,
        ..LogRecord::default()
    };
    match &event.what {
        What::Stall(step) => {
            let body = format!("an event loop was blocked for {}", seconds(event));
            let record = severe(record, SeverityNumber::Warn);
            of_loop(record, "concmon.loop.stall", body, event, step)
        }
        What::Hang(step) => {
            let body = format!(
                "an event loop has been blocked for {}, and still is",
                seconds(event)
            );
            let record = severe(record, SeverityNumber::Error);
            of_loop(record, "concmon.loop.hang", body, event, step)
        }
        What::Finding(held) => {
            let severity = match &*held.severity {
                "critical" if held.raised => SeverityNumber::Error,
                "warning" if held.raised => SeverityNumber::Warn,
                _ => SeverityNumber::Info,
            };
            LogRecord {
                event_name: "concmon.finding".to_owned(),
                body: Some(value(held.summary.clone())),
                attributes: of_finding(event, held),
                ..severe(record, severity)
            }
        }
    }
}

fn severe(record: LogRecord, severity: SeverityNumber) -> LogRecord {
    let name = match severity {
        SeverityNumber::Info => "INFO",
        SeverityNumber::Warn => "WARN",
        _ => "ERROR",
    };
    LogRecord {
        severity_number: severity as i32,
        severity_text: name.to_owned(),
        ..record
    }
}

fn of_loop(
    record: LogRecord,
    name: &str,
    mut body: String,
    event: &Event,
    step: &Step,
) -> LogRecord {
    if let Some(place) = step.stack.first() {
        put(&mut body, format_args!(" in {}", place.function));
    }
    if let Some(delayed) = step.delayed {
        let (count, sum) = (delayed.requests, delayed.delay_ns as f64 / 1e9);
        let ending = if count == 1 { "" } else { "s" };
        put(
            &mut body,
            format_args!("; it delayed {count} request{ending}, {sum:.3} s in sum"),
        );
    }
    let span = step.trace.and_then(|ids| ids.span_id);
    LogRecord {
        event_name: name.to_owned(),
        body: Some(value(body)),
        attributes: of_step(event, step),
        trace_id: step
            .trace
            .map_or_else(Vec::new, |ids| ids.trace_id.to_vec()),
        span_id: span.map_or_else(Vec::new, |id| id.to_vec()),
        flags: step.trace.map_or(0, |ids| u32::from(ids.sampled) * SAMPLED),
        ..record
    }
}

fn of_step(event: &Event, step: &Step) -> Vec<KeyValue> {
    let mut attributes = of_all(event);
    attributes.push(text("concmon.cause", &*step.cause));
    attributes.push(text("concmon.kind", &*step.kind));
    if let Some(task) = &step.task {
        attributes.push(text("task.name", &**task));
    }
    if let Some(coroutine) = &step.coroutine {
        attributes.push(text("concmon.coroutine", &**coroutine));
    }
    if let Some(place) = step.stack.first() {
        attributes.push(text("code.function.name", &*place.function));
        attributes.push(text("code.file.path", &*place.file));
        let line = Value::IntValue(place.line.into());
        attributes.push(pair("code.line.number", line));
        let mut stack = String::new();
        for place in &step.stack {
            let (file, line, function) = (&place.file, place.line, &place.function);
            put(
                &mut stack,
                format_args!("File \"{file}\", line {line}, in {function}\n"),
            );
        }
        attributes.push(text("code.stacktrace", stack));
    }
    if let Some(delayed) = step.delayed {
        let seconds = |ns: u64| Value::DoubleValue(ns as f64 / 1e9);
        let count = Value::IntValue(delayed.requests.try_into().unwrap_or(i64::MAX));
        attributes.extend([
            pair("concmon.delayed.requests", count),
            pair("concmon.delayed.time", seconds(delayed.delay_ns)),
            pair("concmon.delayed.unread.time", seconds(delayed.unread_ns)),
        ]);
    }
    let values = step.context.iter();
    attributes.extend(values.map(|(name, is)| text(format!("concmon.context.{name}"), &**is)));
    attributes
}

fn of_finding(event: &Event, held: &Held) -> Vec<KeyValue> {
    let mut attributes = of_all(event);
    attributes.push(text("concmon.rule", &*held.rule));
    let state = if held.raised { "raised" } else { "ended" };
    attributes.push(text("concmon.state", state));
    attributes
}

fn of_all(event: &Event) -> Vec<KeyValue> {
    vec![
        pair("process.pid", Value::IntValue(event.pid.into())),
        pair(
            "concmon.duration",
            Value::DoubleValue(event.duration_ns as f64 / 1e9),
        ),
    ]
}

fn value(text: String) -> AnyValue {
    AnyValue {
        value: Some(Value::StringValue(text)),
    }
}

fn seconds(event: &Event) -> String {
    format!("{:.3} s", event.duration_ns as f64 / 1e9)
}

fn put(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = out.write_fmt(arguments);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{agent::events::Place, schema::Delayed};

    fn stall(trace: Option<SpanIds>) -> Rc<Event> {
        let place = |function: &str, line| Place {
            function: function.to_owned(),
            file: "/srv/app.py".to_owned(),
            line,
        };
        Rc::new(Event {
            service: "shop".to_owned(),
            pid: 7,
            at_unix_ns: 1_000,
            duration_ns: 500_000_000,
            what: What::Stall(Step {
                cause: "sleep".to_owned(),
                kind: "asyncio".to_owned(),
                task: Some("Task-1".to_owned()),
                coroutine: None,
                stack: vec![place("pay", 12), place("handle", 40)],
                trace,
                context: [("tenant".to_owned(), "acme".to_owned())].into(),
                delayed: Some(Delayed {
                    requests: 14,
                    delay_ns: 3_100_000_000,
                    unread_ns: 2_000_000_000,
                }),
            }),
        })
    }

    fn ids(sampled: bool, span_id: Option<[u8; 8]>) -> Option<SpanIds> {
        Some(SpanIds {
            trace_id: [7; 16],
            span_id,
            sampled,
        })
    }

    fn held(raised: bool, severity: &str) -> Rc<Event> {
        Rc::new(Event {
            service: "shop".to_owned(),
            pid: 7,
            at_unix_ns: 5,
            duration_ns: 9,
            what: What::Finding(Held {
                rule: "gil-contention".to_owned(),
                severity: severity.to_owned(),
                summary: "threads wait".to_owned(),
                raised,
            }),
        })
    }

    fn of<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Value> {
        let found = attributes.iter().find(|pair| pair.key == key)?;
        found.value.as_ref()?.value.as_ref()
    }

    fn string(text: &str) -> Option<Value> {
        Some(Value::StringValue(text.to_owned()))
    }

    #[test]
    fn only_stalls_of_kept_traces_are_spans() {
        let resources = Resources::new(&BTreeMap::new());
        let kept = stall(ids(true, Some([9; 8])));
        let others = [
            stall(None),
            stall(ids(false, Some([9; 8]))),
            stall(ids(true, None)),
            held(true, "warning"),
        ];
        assert!(others.iter().all(|event| !is_span(event)));
        assert!(is_span(&kept));
        let mut events = others.to_vec();
        events.push(kept);
        let request = spans(&resources, &events, || [3; 8]);
        let [of_service] = &request.resource_spans[..] else {
            panic!("{request:?}");
        };
        let [span] = &of_service.scope_spans[0].spans[..] else {
            panic!("{request:?}");
        };
        assert_eq!(
            (
                &span.trace_id[..],
                &span.parent_span_id[..],
                &span.span_id[..]
            ),
            (&[7; 16][..], &[9; 8][..], &[3; 8][..])
        );
        assert_eq!(
            (span.start_time_unix_nano, span.end_time_unix_nano),
            (1_000, 500_001_000)
        );
        assert_eq!(
            of(&span.attributes, "concmon.cause").cloned(),
            string("sleep")
        );
        assert_eq!(
            of(&span.attributes, "code.function.name").cloned(),
            string("pay")
        );
        assert_eq!(
            of(&span.attributes, "concmon.delayed.requests"),
            Some(&Value::IntValue(14))
        );
        assert_eq!(
            of(&span.attributes, "concmon.delayed.time"),
            Some(&Value::DoubleValue(3.1))
        );
    }

    #[test]
    fn every_event_is_a_log_record() {
        let events = [
            stall(ids(false, Some([9; 8]))),
            stall(None),
            held(true, "critical"),
            held(false, "critical"),
        ];
        let request = logs(&Resources::new(&BTreeMap::new()), &events, 77);
        let records = &request.resource_logs[0].scope_logs[0].log_records;
        let told: Vec<_> = records
            .iter()
            .map(|record| {
                let name = &*record.event_name;
                (
                    name,
                    &*record.severity_text,
                    record.trace_id.len(),
                    record.flags,
                )
            })
            .collect();
        let expected = [
            ("concmon.loop.stall", "WARN", 16, 0),
            ("concmon.loop.stall", "WARN", 0, 0),
            ("concmon.finding", "ERROR", 0, 0),
            ("concmon.finding", "INFO", 0, 0),
        ];
        assert_eq!(told, expected);
        let said =
            "an event loop was blocked for 0.500 s in pay; it delayed 14 requests, 3.100 s in sum";
        assert_eq!(records[0].body, Some(value(said.to_owned())));
        let attributes = &records[0].attributes;
        assert_eq!(
            of(attributes, "concmon.context.tenant").cloned(),
            string("acme")
        );
        assert_eq!(
            of(attributes, "code.line.number"),
            Some(&Value::IntValue(12))
        );
        assert_eq!(
            of(&records[3].attributes, "concmon.state").cloned(),
            string("ended")
        );
    }
}
