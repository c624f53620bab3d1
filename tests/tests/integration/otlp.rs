//! The push by OTLP/HTTP, as a receiver reads it that has OpenTelemetry's own classes: metrics against what is
//! scraped, stalls against what a program says that has OpenTelemetry's own SDK; and receivers that misbehave.

use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use concmon_tests::agent::{Agent, sum};
use concmon_tests::certificates::Certificates;
use concmon_tests::harness::{case, quiet};
use concmon_tests::interpreter::Interpreter;
use concmon_tests::needs::{Need, UNPRIVILEGED};
use concmon_tests::watch::{PATIENCE, Watch};
use concmon_tests::workload::Workload;
use concmon_tests::{packages, proc};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::agent::status;
use crate::watch_python;

/// Of the receiver, and of the programs of the agent's trials.
const VERSION: &str = "3.12";
/// Longer than any threshold.
const BLOCK_S: f64 = 0.5;
/// Of the temporality of a sum (`AggregationTemporality`).
const DELTA: u64 = 1;
const CUMULATIVE: u64 = 2;

pub(crate) fn trials() -> Vec<Trial> {
    let python = watch_python(VERSION);
    let mut trials = vec![
        quiet(
            "otlp::metrics_equal_the_scrape",
            &python,
            metrics_equal_the_scrape,
        ),
        quiet("otlp::deltas_add_up", &python, deltas_add_up),
        quiet(
            "otlp::stalls_are_spans_of_their_requests",
            &python,
            stalls_are_spans,
        ),
        quiet(
            "otlp::the_dialer_is_confined",
            &python,
            the_dialer_is_confined,
        ),
        quiet(
            "otlp::secrets_go_to_who_is_trusted",
            &[&python[..], &[Need::Openssl]].concat(),
            secrets_go_to_who_is_trusted,
        ),
        case(
            "otlp::receivers_that_misbehave",
            &python,
            receivers_that_misbehave,
        ),
    ];
    for version in ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13"] {
        trials.push(quiet(
            format!("otlp::the_current_span_is_read::py{version}"),
            &watch_python(version),
            move || the_current_span_is_read(version),
        ));
    }
    trials
}

/// A receiver, and what it was sent.
struct Receiver {
    program: Workload,
    scheme: &'static str,
    port: u16,
}

impl Receiver {
    fn start() -> Result<Self> {
        Self::of("http", &[])
    }

    fn of(scheme: &'static str, arguments: &[&str]) -> Result<Self> {
        let python = Interpreter::find(VERSION)?;
        let packages = packages::folder(&python, VERSION, &["opentelemetry-proto"])?;
        let program = Workload::start_with(&python, Some(&packages), "receiver.py", arguments)?;
        let port = program.said("port")?;
        Ok(Self {
            program,
            scheme,
            port,
        })
    }

    fn behave(&mut self, how: &str) -> Result<()> {
        let command = json!({ "do": "behave", "as": how });
        self.program.ask(&command, "done").map(drop)
    }

    /// What it was sent since this was asked last.
    fn take(&mut self) -> Result<Vec<Value>> {
        let came = self.program.ask(&json!({ "do": "take" }), "came")?;
        Ok(came["requests"].as_array().context("no requests")?.clone())
    }

    /// Collects what it is sent until that is enough.
    fn take_until(
        &mut self,
        agent: &Agent,
        what: &str,
        is: impl Fn(&[Value]) -> bool,
    ) -> Result<Vec<Value>> {
        let deadline = Instant::now() + PATIENCE;
        let mut all = Vec::new();
        loop {
            all.extend(self.take()?);
            if is(&all) {
                return Ok(all);
            }
            ensure!(
                Instant::now() < deadline,
                "no {what}: {}\n{}",
                json!(all),
                agent.said()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The agent watches one program alone, and pushes here.
    fn agent(&self, program: &Workload, more: &str, environment: &[(&str, &str)]) -> Result<Agent> {
        let config = format!(
            "interval = \"300ms\"\nbudget_cpu = \"100%\"\n\
             [otlp]\nendpoint = \"{}://localhost:{}\"\ninterval = \"700ms\"\n{more}\n\
             [[allow]]\ncommand = '''{}'''\n\
             [[service]]\nservice = \"shop\"\ncommand = '''{}'''\n",
            self.scheme,
            self.port,
            program.program(),
            program.program(),
        );
        Agent::start(&config, environment)
    }
}

/// The items of the requests of a signal, in the order of their coming.
fn items<'a>(requests: &'a [Value], signal: &str) -> Vec<&'a Value> {
    let path = format!("/v1/{signal}");
    let of = requests.iter().filter(|request| request["path"] == *path);
    of.filter_map(|request| request["items"].as_array())
        .flatten()
        .collect()
}

/// The metrics of a service with this name.
fn named<'a>(requests: &'a [Value], service: &str, name: &str) -> Vec<&'a Value> {
    let metrics = items(requests, "metrics").into_iter();
    metrics
        .filter(|metric| metric["resource"]["service.name"] == service && metric["name"] == name)
        .collect()
}

fn points(metric: &Value) -> &[Value] {
    metric["points"].as_array().map_or(&[], Vec::as_slice)
}

fn number(value: &Value) -> Result<f64> {
    value
        .as_f64()
        .with_context(|| format!("{value} is no number"))
}

fn nanoseconds(value: &Value) -> Result<u64> {
    value
        .as_u64()
        .with_context(|| format!("{value} is no instant"))
}

/// What is pushed is what is scraped: names, units, kinds, values.
fn metrics_equal_the_scrape() -> Result<()> {
    let python = Interpreter::find(VERSION)?;
    let mut receiver = Receiver::start()?;
    let program = Workload::start(&python, "moments.py", &[])?;
    let environment = [
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20b"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=test",
        ),
    ];
    let before_ns = now_ns();
    let agent = receiver.agent(&program, "", &environment)?;
    let has = |name: &str, count: usize| {
        let name = name.to_owned();
        move |all: &[Value]| named(all, "shop", &name).len() >= count
    };
    receiver.take_until(&agent, "lag", has("concmon.loop.lag", 3))?;
    let earlier = agent.metrics()?;
    let all = receiver.take_until(&agent, "more", has("concmon.loop.lag", 3))?;
    let later = agent.metrics()?;
    let headers = &all[0]["headers"];
    ensure!(
        headers["x-key"] == "a b"
            && headers["content-encoding"] == "gzip"
            && headers["content-type"] == "application/x-protobuf",
        "{headers}"
    );
    for (name, unit, kind, monotonic) in [
        ("concmon.cpu.time", "s", "sum", json!(true)),
        ("concmon.thread.time", "s", "sum", json!(true)),
        ("concmon.memory.usage", "By", "sum", json!(false)),
        ("concmon.context_switches", "", "sum", json!(true)),
        ("concmon.loop.hung", "{loop}", "gauge", Value::Null),
        (
            "concmon.loop.lag",
            "s",
            "exponential_histogram",
            Value::Null,
        ),
        (
            "concmon.gil.wait.duration",
            "s",
            "exponential_histogram",
            Value::Null,
        ),
    ] {
        let metric = *named(&all, "shop", name)
            .last()
            .with_context(|| format!("no {name}"))?;
        ensure!(
            metric["unit"] == unit && metric["kind"] == kind && metric["monotonic"] == monotonic,
            "{metric}"
        );
        ensure!(
            metric["temporality"]
                .as_u64()
                .is_none_or(|of| of == CUMULATIVE),
            "{metric}"
        );
        for point in points(metric).iter().filter(|_| kind != "gauge") {
            let (start, at) = (nanoseconds(&point["start"])?, nanoseconds(&point["at"])?);
            ensure!(
                before_ns <= start && start < at && at <= now_ns(),
                "{point}"
            );
        }
    }
    // The last push lies between the two scrapes, and counters only grow.
    for (name, attribute, series) in [
        (
            "concmon.context_switches",
            "voluntary",
            "concmon_context_switches_total",
        ),
        ("concmon.thread.starts", "", "concmon_thread_starts_total"),
        ("concmon.cpu.time", "user", "concmon_cpu_time_seconds_total"),
    ] {
        let metric = *named(&all, "shop", name)
            .last()
            .with_context(|| format!("no {name}"))?;
        let is_it = |point: &&Value| {
            let attributes = point["attributes"].as_object();
            attributes.is_some_and(|all| all.values().all(|value| value == attribute))
        };
        let point = points(metric)
            .iter()
            .find(is_it)
            .with_context(|| format!("{metric}"))?;
        let pushed = number(&point["value"])?;
        let scraped = |text: &str| -> Option<f64> {
            let lines = text.lines().filter(|line| line.contains(attribute));
            sum(
                &lines.collect::<Vec<_>>().join("\n"),
                &format!("{series}{{service_name=\"shop\""),
            )
        };
        let (low, high) = (scraped(&earlier), scraped(&later));
        let (low, high) = (low.context("not scraped")?, high.context("not scraped")?);
        ensure!(
            low <= pushed && pushed <= high,
            "{name}: {low} {pushed} {high}"
        );
    }
    let lag = *named(&all, "shop", "concmon.loop.lag")
        .last()
        .context("no lag")?;
    let point = &points(lag)[0];
    let counts = point["counts"].as_array().context("no counts")?;
    let counted: u64 = counts.iter().filter_map(Value::as_u64).sum();
    let zero = point["zero"].as_u64().context("no zero")?;
    ensure!(Some(counted + zero) == point["count"].as_u64(), "{point}");
    let resource = &lag["resource"];
    ensure!(
        resource["deployment.environment.name"] == "test"
            && resource["host.name"].is_string()
            && resource["concmon.source"] == "rule",
        "{resource}"
    );
    let own = named(&all, "concmon-agent", "concmon.agent.targets");
    ensure!(!own.is_empty(), "the agent tells nothing of itself");
    let sent =
        "concmon_agent_otlp_items_total{concmon_signal=\"metrics\",concmon_outcome=\"sent\"}";
    ensure!(
        sum(&later, sent).is_some_and(|count| count > 100.0),
        "{later}"
    );
    Ok(())
}

fn now_ns() -> u64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed();
    since.map_or(0, |since| since.as_nanos() as u64)
}

/// Deltas come to what is scraped, also where the receiver was down in between, or refused them; each begins where the last one ended.
fn deltas_add_up() -> Result<()> {
    let python = Interpreter::find(VERSION)?;
    let mut receiver = Receiver::start()?;
    let program = Workload::start(&python, "moments.py", &[])?;
    let preference = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
    let agent = receiver.agent(&program, "", &[(preference, "delta")])?;
    const NAME: &str = "concmon.context_switches";
    let mut all = receiver.take_until(&agent, "switches", |all| {
        named(all, "shop", NAME).len() >= 2
    })?;
    let failed =
        "concmon_agent_otlp_requests_total{concmon_signal=\"metrics\",concmon_outcome=\"failed\"}";
    for (how, failures) in [("down", 2.0), ("500", 4.0)] {
        receiver.behave(how)?;
        agent.metrics_with("a failure", |metrics| {
            sum(metrics, failed).is_some_and(|count| count >= failures)
        })?;
    }
    receiver.behave("ok")?;
    let earlier = agent.metrics()?;
    all.extend(receiver.take_until(&agent, "switches", |all| {
        named(all, "shop", NAME).len() >= 3
    })?);
    let later = agent.metrics()?;
    let (mut total, mut end) = (0.0, None);
    for metric in named(&all, "shop", NAME) {
        ensure!(metric["temporality"] == DELTA, "{metric}");
        let is_it = |point: &&Value| point["attributes"]["concmon.type"] == "voluntary";
        let point = points(metric)
            .iter()
            .find(is_it)
            .context("no voluntary ones")?;
        let (start, at) = (nanoseconds(&point["start"])?, nanoseconds(&point["at"])?);
        ensure!(end.is_none_or(|end| end == start), "a gap before {point}");
        end = Some(at);
        total += number(&point["value"])?;
    }
    let series = "concmon_context_switches_total{service_name=\"shop\",concmon_type=\"voluntary\"}";
    let (low, high) = (sum(&earlier, series), sum(&later, series));
    let (low, high) = (low.context("not scraped")?, high.context("not scraped")?);
    ensure!(low <= total && total <= high, "{low} {total} {high}");
    Ok(())
}

/// A watch tells the span that was current, as the program's own API does.
fn the_current_span_is_read(version: &str) -> Result<()> {
    let python = Interpreter::find(version)?;
    let packages = packages::folder(&python, version, &["opentelemetry-sdk"])?;
    let mut program = Workload::start_with(&python, Some(&packages), "traced.py", &["plain"])?;
    let pid = program.pid();
    let mut watch = Watch::pid(pid, "500ms", None)?;
    watch.next(PATIENCE)?;
    let mut said = Vec::new();
    for kept in [json!(true), json!(false), Value::Null] {
        let command = json!({ "block_s": BLOCK_S, "kept": kept });
        said.push(program.ask(&command, "blocked")?);
    }
    std::thread::sleep(Duration::from_secs(1));
    let outcome = watch.interrupt()?;
    for one in &said {
        let begin_ns = nanoseconds(&one["begin_unix_ns"])?;
        let end_ns = nanoseconds(&one["end_unix_ns"])?;
        let stall = outcome.stalls.iter().find(|stall| {
            stall.at_unix_ns < end_ns && stall.at_unix_ns + stall.duration_ns > begin_ns
        });
        let stall = stall.with_context(|| format!("no stall for {one}"))?;
        let trace = stall.trace.clone().unwrap_or_default();
        ensure!(
            trace == one["ids"],
            "{trace} is told, it was in {}",
            one["ids"]
        );
    }
    Ok(())
}

/// A FastAPI service with OpenTelemetry's own instrumentation: a stall of a request whose trace is kept is a span in
/// that trace, below the request's own; of others it is a log record.
fn stalls_are_spans() -> Result<()> {
    let python = Interpreter::find(VERSION)?;
    let needed = [
        "fastapi",
        "uvicorn",
        "opentelemetry-sdk",
        "opentelemetry-instrumentation-fastapi",
    ];
    let packages = packages::folder(&python, VERSION, &needed)?;
    let mut receiver = Receiver::start()?;
    let mut service = Workload::start_with(&python, Some(&packages), "traced.py", &["web"])?;
    let mut agent = receiver.agent(&service, "", &[])?;
    let lag = "concmon_loop_lag_seconds_count{service_name=\"shop\"";
    agent.metrics_with("the loop", |metrics| sum(metrics, lag).is_some())?;
    let mut kept = Vec::new();
    let mut said = Vec::new();
    for asked in [json!(true), json!(false), Value::Null] {
        let command = json!({ "block_s": BLOCK_S, "kept": asked });
        let answer = service.ask(&command, "blocked")?;
        // What happens while nobody takes it is told later.
        receiver.behave("down")?;
        if answer["ids"]["sampled"] == true {
            kept.push(answer.clone());
        }
        said.push(answer);
    }
    ensure!(kept.len() == 2, "{}", json!(said));
    agent.wait_for_line("the push of logs to")?;
    receiver.behave("ok")?;
    let of_stalls = |all: &[Value]| -> Vec<Value> {
        let logs = items(all, "logs").into_iter();
        logs.filter(|log| log["name"] == "concmon.loop.stall")
            .cloned()
            .collect()
    };
    let all = receiver.take_until(&agent, "stalls", |all| {
        items(all, "traces").len() >= kept.len() && of_stalls(all).len() >= said.len()
    })?;
    let spans = items(&all, "traces");
    ensure!(spans.len() == kept.len(), "{}", json!(spans));
    for (one, span) in kept.iter().zip(&spans) {
        let ids = &one["ids"];
        ensure!(
            span["trace_id"] == ids["trace_id"] && span["parent"] == ids["span_id"],
            "{span} is of {ids}"
        );
        ensure!(span["span_id"] != ids["span_id"], "{span}");
        ensure!(span["resource"]["service.name"] == "shop", "{span}");
        let (from, to) = (nanoseconds(&span["start"])?, nanoseconds(&span["end"])?);
        let begin = nanoseconds(&one["begin_unix_ns"])?;
        let end = nanoseconds(&one["end_unix_ns"])?;
        let common = to.min(end).saturating_sub(from.max(begin));
        ensure!(
            common * 10 >= (end - begin) * 9 && common * 10 >= (to - from) * 9,
            "{span} is not when {one} was"
        );
        let attributes = &span["attributes"];
        ensure!(
            attributes["concmon.cause"] == "sleep"
                && attributes["code.function.name"] == "block"
                && attributes["code.file.path"] == service.program(),
            "{attributes}"
        );
    }
    exemplars_lead_to(&agent, &kept[kept.len() - 1]["ids"])?;
    for one in &said {
        let ids = &one["ids"];
        let logs = of_stalls(&all);
        let log = logs.iter().find(|log| log["span_id"] == ids["span_id"]);
        let log = log.with_context(|| format!("no record of {one} in {}", json!(logs)))?;
        ensure!(
            log["trace_id"] == ids["trace_id"]
                && log["flags"] == u64::from(ids["sampled"] == true)
                && log["severity"] == "WARN"
                && log["attributes"]["process.pid"] == service.pid(),
            "{log}"
        );
    }
    let findings = |all: &[Value]| {
        let logs = items(all, "logs").into_iter();
        let mut states = logs
            .filter(|log| log["attributes"]["concmon.rule"] == "loop-blocked")
            .map(|log| log["attributes"]["concmon.state"].clone());
        states.any(|state| state == "raised") && states.any(|state| state == "ended")
    };
    if !findings(&all) {
        let so_far = all;
        receiver.take_until(&agent, "findings that begin and end", |more| {
            findings(&[&so_far[..], more].concat())
        })?;
    }
    Ok(())
}

/// Whatever a receiver does, the watch goes on, `/metrics` is served, and what could not be sent is counted; afterwards
/// all is as before.
fn receivers_that_misbehave() -> Result<()> {
    let python = Interpreter::find(VERSION)?;
    let mut receiver = Receiver::start()?;
    let program = Workload::start(&python, "moments.py", &[])?;
    let agent = receiver.agent(&program, "timeout = \"500ms\"\n", &[])?;
    let is_there = |all: &[Value]| !named(all, "shop", "concmon.cpu.time").is_empty();
    receiver.take_until(&agent, "metrics", is_there)?;
    let exporter = child(agent.pid(), "concmon-export")?;
    let before = proc::status(exporter, "VmRSS")?;
    let windows = "concmon_agent_windows_total{concmon_outcome=\"sent\"}";
    let failures = |metrics: &str| {
        let requests = "concmon_agent_otlp_requests_total{concmon_signal=\"metrics\"";
        let lines = metrics.lines().filter(|line| !line.contains("\"ok\""));
        sum(&lines.collect::<Vec<_>>().join("\n"), requests).unwrap_or(0.0)
    };
    for how in ["down", "slow", "close", "500", "503"] {
        let metrics = agent.metrics()?;
        let (told, failed) = (sum(&metrics, windows), failures(&metrics));
        receiver.behave(how)?;
        agent.metrics_with(
            &format!("failures of a receiver that is {how}"),
            |metrics| {
                let goes_on = sum(metrics, windows) > told.map(|told| told + 3.0);
                goes_on && failures(metrics) >= failed + 2.0
            },
        )?;
        receiver.behave("ok")?;
        receiver.take()?;
        receiver
            .take_until(&agent, "metrics", is_there)
            .with_context(|| format!("after it was {how}"))?;
    }
    let grown = proc::status(exporter, "VmRSS")?.saturating_sub(before);
    ensure!(grown < 10_000, "it has grown by {grown} kB");
    let dropped = "concmon_agent_windows_total{concmon_outcome=\"dropped\"}";
    let metrics = agent.metrics()?;
    ensure!(sum(&metrics, dropped) == Some(0.0), "{metrics}");
    ensure!(agent.said().contains("is taken again"), "{}", agent.said());
    Ok(())
}

/// Whoever scrapes finds the trace of the latest stall in the counter of stalls, and in the bucket that has it.
fn exemplars_lead_to(agent: &Agent, ids: &Value) -> Result<()> {
    let accept = "Accept: application/openmetrics-text; version=1.0.0";
    let answer = agent.get("/metrics", &[accept])?;
    let text = answer.text()?;
    let behind = format!(
        " # {{trace_id={},span_id={}}} ",
        ids["trace_id"], ids["span_id"]
    );
    let shown = |series: &str| -> Result<(String, f64)> {
        let line = text
            .lines()
            .find(|line| line.starts_with(series) && line.contains(&behind))
            .with_context(|| format!("no {series} with{behind}in {text}"))?;
        let (series, exemplar) = line.split_once(&behind).context("an exemplar")?;
        let took = exemplar.split(' ').next().context("a value")?;
        Ok((series.to_owned(), took.parse()?))
    };
    let (_, took) = shown("concmon_loop_stalls_total{service_name=\"shop\"")?;
    let (bucket, _) = shown("concmon_loop_step_duration_seconds_bucket{service_name=\"shop\"")?;
    let bound = bucket
        .split("le=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    let bound: f64 = bound.context("a bound")?.parse()?;
    ensure!(took >= BLOCK_S * 0.9 && took <= bound, "{took} in {bucket}");
    Ok(())
}

/// Over TLS, headers go to who shows a certificate of a root that is trusted, and to nobody else.
fn secrets_go_to_who_is_trusted() -> Result<()> {
    let certificates = Certificates::make()?;
    let path = |name: &str| certificates.path(name);
    let mut receiver = Receiver::of("https", &[&path("by-trusted.pem"), &path("own.key")])?;
    let program = Workload::start(&Interpreter::find(VERSION)?, "moments.py", &[])?;
    let agent_with = |root: &str| {
        let root = path(root);
        let environment = [
            ("SSL_CERT_FILE", &*root),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=secret"),
        ];
        receiver.agent(&program, "", &environment)
    };
    let mut wary = agent_with("other.pem")?;
    let trusting = agent_with("trusted.pem")?;
    let line = wary.wait_for_line("the push of metrics to https://localhost:")?;
    ensure!(
        line.contains("is not taken: ") && line.contains("certificate"),
        "{line}"
    );
    wary.metrics_with("failures", |metrics| {
        let sent = "concmon_agent_otlp_requests_total{concmon_signal=\"metrics\"";
        sum(metrics, sent).is_some_and(|count| count >= 2.0)
    })?;
    let taken =
        "concmon_agent_otlp_requests_total{concmon_signal=\"metrics\",concmon_outcome=\"ok\"}";
    ensure!(
        sum(&wary.metrics()?, taken).unwrap_or(0.0) == 0.0,
        "it is trusted"
    );
    let all = receiver.take_until(&trusting, "metrics", |all| {
        !named(all, "shop", "concmon.cpu.time").is_empty()
    })?;
    ensure!(all[0]["headers"]["x-key"] == "secret", "{}", all[0]);
    Ok(())
}

/// What connects is another user without capabilities, with a filter, and with one socket; without it the agent ends.
fn the_dialer_is_confined() -> Result<()> {
    let mut receiver = Receiver::start()?;
    let program = Workload::start(&Interpreter::find(VERSION)?, "moments.py", &[])?;
    let secret = "f00dface5ecre7";
    let headers = format!("x-key={secret}");
    let environment = [("OTEL_EXPORTER_OTLP_HEADERS", &*headers)];
    let agent = receiver.agent(&program, "", &environment)?;
    let is_there = |all: &[Value]| !named(all, "shop", "concmon.cpu.time").is_empty();
    receiver.take_until(&agent, "metrics", is_there)?;
    let dialer = child(child(agent.pid(), "concmon-export")?, "concmon-dial")?;
    let wanted = format!("{UNPRIVILEGED}\t{UNPRIVILEGED}\t{UNPRIVILEGED}\t{UNPRIVILEGED}");
    ensure!(status(dialer, "Uid:")? == wanted && status(dialer, "Groups:")?.is_empty());
    for set in ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"] {
        let bits = u64::from_str_radix(&status(dialer, set)?, 16)?;
        ensure!(bits == 0, "{set} {bits:x}");
    }
    ensure!(status(dialer, "Seccomp:")? == "2" && status(dialer, "NoNewPrivs:")? == "1");
    let mut sockets = 0;
    for entry in std::fs::read_dir(format!("/proc/{dialer}/fd"))? {
        let is = std::fs::read_link(entry?.path())?;
        sockets += usize::from(is.to_string_lossy().starts_with("socket:"));
    }
    ensure!(sockets == 1, "the dialer has {sockets} sockets");
    let exporter = child(agent.pid(), "concmon-export")?;
    ensure!(has_in_memory(exporter, secret)?, "it sends it");
    ensure!(
        !has_in_memory(dialer, secret)?,
        "the dialer knows the headers"
    );
    // SAFETY: it is a process of this test's.
    ensure!(unsafe { libc::kill(dialer as i32, libc::SIGKILL) } == 0);
    ensure!(agent.end()? == 1, "it goes on without");
    Ok(())
}

/// Whether a text is in what a process may write to.
fn has_in_memory(pid: u32, text: &str) -> Result<bool> {
    let memory = std::fs::File::open(format!("/proc/{pid}/mem"))?;
    for line in std::fs::read_to_string(format!("/proc/{pid}/maps"))?.lines() {
        let mut fields = line.split_whitespace();
        let (range, rights) = (fields.next(), fields.next());
        let range = range.and_then(|range| range.split_once('-'));
        let (from, to) = range.context("no range")?;
        if rights.is_none_or(|rights| !rights.starts_with("rw")) {
            continue;
        }
        let from = u64::from_str_radix(from, 16)?;
        let length = u64::from_str_radix(to, 16)? - from;
        let mut bytes = vec![0; usize::try_from(length)?];
        // What cannot be read holds nothing.
        let _ = memory.read_exact_at(&mut bytes, from);
        if bytes.windows(text.len()).any(|at| at == text.as_bytes()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The child of a process that has this name.
fn child(of: u32, name: &str) -> Result<u32> {
    let children = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children"))?;
    let mut pids = children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok());
    let found = pids.find(|pid| status(*pid, "Name:").is_ok_and(|known| known == name));
    found.with_context(|| format!("no {name} in {children}"))
}
