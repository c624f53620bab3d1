//! Routes of frameworks, against what their handlers count themselves.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use concmon_tests::agent::{Agent, sum};
use concmon_tests::harness::case;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::packages;
use concmon_tests::report::Report;
use concmon_tests::watch::{PATIENCE, Watch};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::watch_python;

pub(crate) fn trials() -> Vec<Trial> {
    let servers: [(&str, &[&str], &str); 3] = [
        ("asyncio", &["fastapi", "uvicorn"], "3.9"),
        ("uvloop", &["fastapi", "uvicorn", "uvloop"], "3.11"),
        ("asyncio", &["fastapi", "uvicorn"], "3.13"),
    ];
    let trials = servers.map(|(kind, needed, version)| {
        case(
            format!("routes::of_fastapi::{kind}::py{version}"),
            &watch_python(version),
            move || of_fastapi(kind, needed, version),
        )
    });
    let mut trials = Vec::from(trials);
    trials.push(case(
        "routes::agent_counts_what_the_service_counts",
        &watch_python("3.13"),
        agent,
    ));
    trials
}

/// Metrics of a service against its own counts, by route; no path is in them.
fn agent() -> Result<()> {
    let python = Interpreter::find("3.13")?;
    let packages = packages::folder(&python, "3.13", &["fastapi", "uvicorn"])?;
    let mut server = Workload::start_with(&python, Some(&packages), "routes.py", &["asyncio"])?;
    let port: u16 = server.said("port")?;
    let program = server.program();
    let agent = Agent::start(
        &format!(
            "interval = \"300ms\"\nbudget_cpu = \"100%\"\n\
             [[allow]]\ncommand = '''{program}'''\n\
             [[service]]\nservice = \"shop\"\ncommand = '''{program}'''\n"
        ),
        &[],
    )?;
    agent.metrics_with("the service", |metrics| {
        sum(metrics, "concmon_processes{service_name=\"shop\"") == Some(1.0)
    })?;
    // Which routes there are is known with the first look.
    let deadline = Instant::now() + PATIENCE;
    while !agent.metrics()?.contains("http_route=\"/items/latest\"") {
        ensure!(Instant::now() < deadline, "no route: {}", agent.said());
        ask(port, "GET", "/items/latest")?;
        std::thread::sleep(Duration::from_millis(100));
    }
    let latest = "GET /items/latest 200";
    let before = server.ask(&json!({}), "served")?["counts"].clone();
    let warm = before[latest].as_u64().context("its account")?;
    let all = |metrics: &str| sum(metrics, "http_server_request_duration_seconds_count{");
    let first = agent.metrics_with("all so far", |metrics| all(metrics) == Some(warm as f64))?;
    for _ in 0..20 {
        for (method, path) in FIRST {
            ask(port, method, path)?;
        }
    }
    let asked = (20 * FIRST.len()) as u64;
    let wanted = (warm + asked) as f64;
    let metrics = agent.metrics_with("all", |metrics| all(metrics) == Some(wanted))?;
    let served = server.ask(&json!({}), "served")?;
    let counts = served["counts"].as_object().context("its account")?;
    let mut without = asked as f64;
    for (key, count) in counts {
        let mut count = count.as_u64().context("a count")?;
        if key == latest {
            count -= warm;
        }
        let grown = of_route(&metrics, key) - of_route(&first, key);
        ensure!(grown == count as f64, "{key}: {grown}, it has {count}");
        without -= grown;
    }
    ensure!(counts.len() == 5, "not all was served: {counts:?}");
    ensure!(
        without > 0.0 && of_route(&metrics, "GET  404") == without,
        "{without} are of no route: {metrics}"
    );
    let queue = sum(&metrics, "concmon_request_queue_duration_seconds_count{");
    ensure!(queue == Some(wanted), "queue: {queue:?} of {wanted}");
    let active = sum(&metrics, "http_server_active_requests{");
    ensure!(active == Some(0.0), "under way: {active:?}");
    // One is a route as well.
    for (_, path) in FIRST.iter().filter(|(_, path)| *path != "/items/latest") {
        ensure!(!metrics.contains(path), "{path} is in the metrics");
    }
    Ok(())
}

/// How many requests the metrics have, of a method, a route (empty: of none), and a status.
fn of_route(metrics: &str, key: &str) -> f64 {
    let parts: Vec<&str> = key.split(' ').collect();
    let has = |line: &str, label: &str, value: &str| match value {
        "" => !line.contains(&format!("{label}=")),
        value => line.contains(&format!("{label}=\"{value}\"")),
    };
    let counts = metrics
        .lines()
        .filter(|line| line.starts_with("http_server_request_duration_seconds_count{"))
        .filter(|line| {
            has(line, "http_request_method", parts[0])
                && has(line, "http_route", parts[1])
                && has(line, "http_response_status_code", parts[2])
        });
    counts.filter_map(|line| sum(line, "")).sum()
}

/// Paths of one route look different, those of different routes alike; some are of none.
const FIRST: &[(&str, &str)] = &[
    ("GET", "/items/latest"),
    ("GET", "/items/17"),
    ("GET", "/items/seventeen"),
    ("PUT", "/items/17"),
    ("GET", "/api/users/joe/posts/4"),
    (
        "GET",
        "/api/users/9d3f81a2-1b7c-4e7f-8a57-6d1b8c0e2f11/posts/5",
    ),
    ("GET", "/sub/more/deep/a/b/c"),
    ("GET", "/sub/more/nothing"),
    ("GET", "/late/bird"),
];

fn of_fastapi(kind: &str, needed: &[&str], version: &str) -> Result<()> {
    let python = Interpreter::find(version)?;
    let packages = packages::folder(&python, version, needed)?;
    let mut server = Workload::start_with(&python, Some(&packages), "routes.py", &[kind])?;
    let port: u16 = server.said("port")?;
    let pid = server.pid().to_string();
    let mut watch = Watch::start(&["--pid", &pid, "--json", "-i", "1s", "--http"])?;
    watch.next(PATIENCE)?;
    for _ in 0..3 {
        for (method, path) in FIRST {
            ask(port, method, path)?;
        }
    }
    // A route comes while it is watched; a look or two later it is known.
    server.ask(&json!({"add": true}), "served")?;
    std::thread::sleep(Duration::from_millis(2_500));
    ask(port, "GET", "/late/owl")?;
    let served = server.ask(&json!({}), "served")?;
    std::thread::sleep(Duration::from_millis(700));
    let outcome = watch.interrupt()?;
    let summary = outcome.summary()?;
    let counts = served["counts"].as_object().context("its account")?;
    let wanted: BTreeMap<String, u64> = counts
        .iter()
        .filter_map(|(name, count)| Some((name.clone(), count.as_u64()?)))
        .collect();
    ensure!(wanted.len() == 6, "not all was served: {wanted:?}");
    let (found, without) = routes(summary)?;
    ensure!(found == wanted, "{found:?}, and it has {wanted:?}");
    // What is of no route of the application is not given one.
    ensure!(without.iter().all(|status| *status == 404), "{without:?}");
    ensure!(without.len() == 2, "{without:?}");
    Ok(())
}

/// Requests with a route that were served, by method, route and status; and the statuses of rows without one.
fn routes(report: &Report) -> Result<(BTreeMap<String, u64>, Vec<u64>)> {
    let (mut found, mut without) = (BTreeMap::new(), Vec::new());
    for row in rows(report) {
        let text = |field: &str| row[field].as_str();
        let number = |field: &str| row[field].as_u64();
        let status = number("status").context("a status")?;
        let Some(route) = text("route") else {
            without.push(status);
            let is_said = row["limits"]
                .as_array()
                .is_some_and(|limits| limits.iter().any(|limit: &Value| limit["field"] == "route"));
            ensure!(is_said, "why there is no route is not said");
            continue;
        };
        let method = text("method").context("a method")?;
        let count = number("count").context("a count")?;
        *found
            .entry(format!("{method} {route} {status}"))
            .or_insert(0) += count;
    }
    Ok((found, without))
}

/// The kinds of requests of all processes.
pub(crate) fn rows(report: &Report) -> impl Iterator<Item = &Value> {
    let http = report.processes.iter().filter_map(|one| one.http.as_ref());
    http.filter_map(|http| http["requests"].as_array())
        .flatten()
}

pub(crate) fn ask(port: u16, method: &str, path: &str) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer.starts_with(b"HTTP/1."), "no answer to {path}");
    Ok(())
}
