//! HTTP requests from outside: against the server's own account, and the view of whoever asks.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::{case, quiet};
use concmon_tests::interpreter::Interpreter;
use concmon_tests::packages;
use concmon_tests::report::{Process, Report};
use concmon_tests::watch::{Outcome, PATIENCE, Watch};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::watch_python;

/// A request that takes as long was delayed by a blocked loop, not by a busy machine.
const LONG_NS: u64 = 120_000_000;

/// Kinds of servers, with what they need and whether connections are kept.
const SERVERS: [(&str, &[&str], bool, &str); 6] = [
    ("h11", &["uvicorn"], true, "3.11"),
    ("httptools", &["uvicorn", "httptools"], true, "3.13"),
    ("aiohttp", &["aiohttp"], true, "3.12"),
    ("sync", &["gunicorn"], false, "3.9"),
    ("gthread", &["gunicorn"], true, "3.11"),
    ("threads", &[], true, "3.13"),
];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (kind, needed, keeps, version) in SERVERS {
        trials.push(case(
            format!("requests::counts_and_durations::{kind}::py{version}"),
            &watch_python(version),
            move || counts_and_durations(kind, needed, keeps, version),
        ));
    }
    for (kind, needed, keeps) in [
        ("httptools", &["uvicorn", "httptools"][..], true),
        ("h11", &["uvicorn"][..], false),
    ] {
        trials.push(case(
            format!("requests::lay_unread_behind_a_blocked_loop::{kind}::py3.11"),
            &watch_python("3.11"),
            move || lay_unread(kind, needed, keeps),
        ));
    }
    for (kind, needed, version) in [
        ("h11", &["fastapi", "uvicorn"][..], "3.9"),
        ("httptools", &["uvicorn", "httptools"][..], "3.13"),
        ("aiohttp", &["aiohttp"][..], "3.12"),
        ("threads", &[] as &[&str], "3.11"),
    ] {
        trials.push(quiet(
            format!("requests::who_serves::{kind}::py{version}"),
            &watch_python(version),
            move || who_serves(kind, needed, version),
        ));
    }
    trials.push(case(
        "requests::hostile_peers::py3.11",
        &watch_python("3.11"),
        hostile_peers,
    ));
    trials.push(case(
        "requests::a_body_under_way::py3.11",
        &watch_python("3.11"),
        body_under_way,
    ));
    trials.push(case(
        "requests::none_of_a_client::py3.11",
        &watch_python("3.11"),
        none_of_a_client,
    ));
    trials.push(case(
        "requests::read_by_somebody_else_before::py3.11",
        &watch_python("3.11"),
        read_by_somebody_else,
    ));
    trials
}

fn start(
    kind: &str,
    needed: &[&str],
    version: &str,
    args: &[&str],
) -> Result<(Workload, u16, Watch)> {
    let python = Interpreter::find(version)?;
    let packages = match needed {
        [] => None,
        _ => Some(packages::folder(&python, version, needed)?),
    };
    let args = [&[kind], args].concat();
    let server = Workload::start_with(&python, packages.as_deref(), "requests.py", &args)?;
    let port = server.said("port")?;
    // What it imports for its first request is not of the watch.
    ask(port, "/fast", true, 1)?;
    let pid = server.pid().to_string();
    let mut watch = Watch::start(&["--pid", &pid, "--json", "-i", "1s", "--http"])?;
    watch.next(PATIENCE)?;
    Ok((server, port, watch))
}

/// A connection that is in the midst of a body when the watch begins: what follows that is seen.
fn body_under_way() -> Result<()> {
    let python = Interpreter::find("3.11")?;
    let packages = packages::folder(&python, "3.11", &["uvicorn"])?;
    let server = Workload::start_with(&python, Some(packages.as_path()), "requests.py", &["h11"])?;
    let port: u16 = server.said("port")?;
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream);
    let head = b"POST /fast HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\nthe first ";
    reader.get_mut().write_all(head)?;
    ensure!(answer(&mut reader)? == 200, "the body is not waited for");
    let pid = server.pid().to_string();
    let mut watch = Watch::start(&["--pid", &pid, "--json", "-i", "1s", "--http"])?;
    watch.next(PATIENCE)?;
    for part in ["half, ", "rest"] {
        reader.get_mut().write_all(part.as_bytes())?;
        std::thread::sleep(Duration::from_millis(50));
    }
    for _ in 0..3 {
        let head = b"GET /missing HTTP/1.1\r\nHost: x\r\n\r\n";
        reader.get_mut().write_all(head)?;
        ensure!(answer(&mut reader)? == 404, "it goes on");
    }
    let outcome = finish(watch)?;
    let counts = counts(outcome.summary()?)?;
    let wanted = BTreeMap::from([(("/missing".to_owned(), 404), 3)]);
    ensure!(counts == wanted, "{counts:?}");
    Ok(())
}

/// What a watched process reads as a client is no request, whatever it looks like.
fn none_of_a_client() -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port().to_string();
    let mut client = Workload::start(&Interpreter::find("3.11")?, "asks.py", &[&port])?;
    let pid = client.pid().to_string();
    let mut watch = Watch::start(&["--pid", &pid, "--json", "-i", "1s", "--http"])?;
    watch.next(PATIENCE)?;
    std::thread::scope(|scope| -> Result<()> {
        let peer = scope.spawn(|| -> Result<u16> {
            let (mut peer, _) = listener.accept()?;
            peer.set_read_timeout(Some(Duration::from_secs(10)))?;
            peer.write_all(b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n")?;
            answer(&mut BufReader::new(peer))
        });
        client.ask(&json!({}), "answered")?;
        ensure!(peer.join().expect("no panic")? == 200, "its answer");
        Ok(())
    })?;
    let outcome = finish(watch)?;
    let counts = counts(outcome.summary()?)?;
    ensure!(counts.is_empty(), "{counts:?}");
    Ok(())
}

/// What a process that is not watched has read is not what the next request waited for.
fn read_by_somebody_else() -> Result<()> {
    let mut server = Workload::start(&Interpreter::find("3.11")?, "shares.py", &[])?;
    let port: u16 = server.said("port")?;
    let pid = server.pid().to_string();
    let only = [
        "--pid",
        &pid,
        "--no-subprocesses",
        "--json",
        "-i",
        "1s",
        "--http",
    ];
    let mut watch = Watch::start(&only)?;
    watch.next(PATIENCE)?;
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream);
    let ask = |path: &str, reader: &mut BufReader<TcpStream>| -> Result<()> {
        write!(reader.get_mut(), "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")?;
        ensure!(answer(reader)? == 200, "{path} is answered");
        Ok(())
    };
    server.tell(&json!({}))?;
    ask("/child", &mut reader)?;
    let pause = Duration::from_millis(800);
    std::thread::sleep(pause);
    ask("/parent", &mut reader)?;
    let outcome = finish(watch)?;
    let summary = outcome.summary()?;
    let counts = counts(summary)?;
    let wanted = BTreeMap::from([(("/parent".to_owned(), 200), 1)]);
    ensure!(counts == wanted, "{counts:?}");
    let unread = rows(summary)[0]["queue"]["max_ns"].as_u64();
    ensure!(
        unread.is_some_and(|ns| u128::from(ns) < pause.as_nanos() / 2),
        "it lay unread for {unread:?} ns"
    );
    Ok(())
}

/// An answer: its status, and how long it took from before the connection was made, or the request written, ns.
#[derive(Clone, Copy, Debug)]
struct Answer {
    path: &'static str,
    status: u16,
    took_ns: u64,
}

/// Asks for a path so many times.
fn ask(port: u16, path: &'static str, keeps: bool, count: usize) -> Result<Vec<Answer>> {
    let mut answers = Vec::new();
    let mut kept: Option<BufReader<TcpStream>> = None;
    for _ in 0..count {
        let begin = Instant::now();
        let mut reader = match kept.take().filter(|_| keeps) {
            Some(reader) => reader,
            None => {
                let stream = TcpStream::connect(("127.0.0.1", port))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(Duration::from_secs(10)))?;
                BufReader::new(stream)
            }
        };
        let begin = match keeps {
            true => Instant::now(),
            false => begin,
        };
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        reader.get_mut().write_all(head.as_bytes())?;
        let status = answer(&mut reader)?;
        answers.push(Answer {
            path,
            status,
            took_ns: begin.elapsed().as_nanos() as u64,
        });
        kept = Some(reader);
        std::thread::sleep(Duration::from_millis(3));
    }
    Ok(answers)
}

/// Reads an answer that has its length in its head; its status.
fn answer(reader: &mut BufReader<TcpStream>) -> Result<u16> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).context("no status")?.parse()?;
    let mut length = 0;
    loop {
        line.clear();
        ensure!(
            reader.read_line(&mut line)? > 0,
            "the head of an answer ends"
        );
        if line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse()?;
        }
    }
    reader.read_exact(&mut vec![0; length])?;
    Ok(status)
}

/// Several connections at once.
fn load(port: u16, paths: &[&'static str], keeps: bool, count: usize) -> Result<Vec<Answer>> {
    std::thread::scope(|scope| {
        let asked: Vec<_> = paths
            .iter()
            .map(|path| scope.spawn(move || ask(port, path, keeps, count)))
            .collect();
        let mut answers = Vec::new();
        for one in asked {
            answers.extend(one.join().expect("no panic")?);
        }
        Ok(answers)
    })
}

/// The rows of all processes.
fn rows(report: &Report) -> Vec<&Value> {
    let http = report.processes.iter().filter_map(http);
    http.filter_map(|http| http["requests"].as_array())
        .flatten()
        .collect()
}

fn http(process: &Process) -> Option<&Value> {
    process.http.as_ref()
}

/// How many, by learned path and status.
fn counts(report: &Report) -> Result<BTreeMap<(String, u64), u64>> {
    let mut counts = BTreeMap::new();
    for row in rows(report) {
        let path = row["learned_path"].as_str().context("a path")?.to_owned();
        let status = row["status"].as_u64().context("a status")?;
        *counts.entry((path, status)).or_default() += row["count"].as_u64().context("a count")?;
    }
    Ok(counts)
}

fn finish(watch: Watch) -> Result<Outcome> {
    // What a CPU holds back is taken later.
    std::thread::sleep(Duration::from_millis(500));
    watch.interrupt()
}

fn counts_and_durations(kind: &str, needed: &[&str], keeps: bool, version: &str) -> Result<()> {
    let (mut server, port, watch) = start(kind, needed, version, &[])?;
    let before = server.ask(&json!({}), "served")?;
    let paths = ["/slow", "/slow", "/fast", "/missing"];
    let answers = load(port, &paths, keeps, 60)?;
    std::thread::sleep(Duration::from_millis(200));
    let after = server.ask(&json!({}), "served")?;
    let outcome = finish(watch)?;
    let summary = outcome.summary()?;
    let mut wanted = BTreeMap::new();
    for answer in &answers {
        let key = (answer.path.to_owned(), u64::from(answer.status));
        *wanted.entry(key).or_insert(0u64) += 1;
    }
    ensure!(
        counts(summary)? == wanted,
        "{:?}, and {wanted:?} were answered",
        counts(summary)?
    );
    let grown = |of: &dyn Fn(&Value) -> Option<u64>| -> Result<u64> {
        Ok(of(&after).context("a count")? - of(&before).context("a count")?)
    };
    for (name, status, path) in [
        ("/fast 200", 200, "/fast"),
        ("/slow 200", 200, "/slow"),
        ("/other 404", 404, "/missing"),
    ] {
        let count = grown(&|served| served["counts"][name].as_u64())?;
        ensure!(
            wanted[&(path.to_owned(), status)] == count,
            "{name}: {count}"
        );
    }
    // The server's own count, where it has one.
    let own = grown(&|served| served["own"].as_u64())?;
    ensure!(own == 0 || own == answers.len() as u64, "it counts {own}");
    let median = median(&after["slow_ns"], &before["slow_ns"])?;
    let mut seen = Vec::new();
    for row in rows(summary) {
        if row["learned_path"] == "/slow" {
            seen.push(row["duration"]["p50_ns"].as_u64().context("a median")?);
        }
    }
    for p50 in seen {
        let room = median / 20 + 200_000;
        ensure!(
            p50.abs_diff(median) <= room,
            "half took {p50} ns, the handler {median}"
        );
    }
    // Each snapshot has its own part.
    let mut sum = 0;
    for snapshot in outcome.snapshots() {
        sum += counts(&snapshot)?.values().sum::<u64>();
    }
    ensure!(sum == answers.len() as u64, "snapshots sum to {sum}");
    Ok(())
}

/// Of what a list has grown by.
fn median(after: &Value, before: &Value) -> Result<u64> {
    let numbers = |list: &Value| -> Result<Vec<u64>> {
        let list = list.as_array().context("a list")?;
        list.iter()
            .map(|number| number.as_u64().context("a number"))
            .collect()
    };
    let mut new = numbers(after)?.split_off(numbers(before)?.len());
    new.sort_unstable();
    new.get(new.len() / 2).copied().context("no durations")
}

/// Requests that are held: the task or the thread that serves each is the one that says so itself.
fn who_serves(kind: &str, needed: &[&str], version: &str) -> Result<()> {
    const HELD: [&str; 3] = ["/held/one", "/held/two", "/held/three"];
    let (mut server, port, mut watch) = start(kind, needed, version, &[])?;
    let mut streams = Vec::new();
    for path in HELD {
        let mut reader = BufReader::new(TcpStream::connect(("127.0.0.1", port))?);
        // The connection has served another one before.
        for path in ["/fast", path] {
            write!(reader.get_mut(), "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")?;
            if path == "/fast" {
                ensure!(answer(&mut reader)? == 200, "{path} is answered");
            }
        }
        streams.push(reader);
    }
    let deadline = Instant::now() + PATIENCE;
    let active: BTreeMap<String, Value> = loop {
        let snapshot = watch.next(PATIENCE)?;
        let active = snapshot.processes.iter().filter_map(http);
        let active = active
            .filter_map(|http| http["active"].as_array())
            .flatten();
        let active: BTreeMap<_, _> = active
            .filter_map(|one| Some((one["learned_path"].as_str()?.to_owned(), one.clone())))
            .collect();
        let is_there = |path: &&str| active.get(*path).is_some_and(|one| !one["where"].is_null());
        if HELD.iter().all(is_there) {
            break active;
        }
        ensure!(
            Instant::now() < deadline,
            "who serves is not known: {active:?}"
        );
    };
    let served = server.ask(&json!({}), "served")?;
    for path in HELD {
        let (one, tid) = (&active[path], &served["held_by"][path]);
        ensure!(
            one["tid"] == *tid,
            "{path}: thread {}, not {tid}",
            one["tid"]
        );
        let task = &served["held_tasks"][path];
        ensure!(
            one["task"]["name"] == *task,
            "{path}: {}, not {task}",
            one["task"]
        );
        let function = if task.is_null() { "hold" } else { "hold_task" };
        ensure!(one["where"]["function"] == function, "{}", one["where"]);
        let waits_for = if task.is_null() {
            Value::Null
        } else {
            "sleep".into()
        };
        ensure!(one["waits_for"] == waits_for, "{}", one["waits_for"]);
    }
    Ok(())
}

/// A loop that is blocked from time to time: what requests lay unread is what whoever asks waits longer for.
fn lay_unread(kind: &str, needed: &[&str], keeps: bool) -> Result<()> {
    let args = ["--every", "0.8", "--length", "0.2"];
    let (_server, port, watch) = start(kind, needed, "3.11", &args)?;
    let answers = load(port, &["/fast"; 4], keeps, 500)?;
    let outcome = finish(watch)?;
    let summary = outcome.summary()?;
    let rows = rows(summary);
    let sum = |field: &str| {
        let each = rows.iter().map(|row| row[field]["sum_ns"].as_u64());
        each.flatten().sum::<u64>()
    };
    let unread: u64 = rows
        .iter()
        .filter_map(|row| row["queue"]["count"].as_u64())
        .sum();
    ensure!(unread == answers.len() as u64, "{unread} were seen to come");
    let delayed: Vec<u64> = answers
        .iter()
        .map(|answer| answer.took_ns)
        .filter(|ns| *ns > LONG_NS)
        .collect();
    ensure!(delayed.len() >= 8, "only {} were delayed", delayed.len());
    // What delays a request either keeps it unread, or keeps its handler from running once it has been read.
    let long = |field: &str| -> u64 {
        rows.iter()
            .filter_map(|row| row[field]["buckets"].as_array())
            .flatten()
            .filter(|bucket| bucket[0].as_u64() > Some(LONG_NS))
            .filter_map(|bucket| bucket[1].as_u64())
            .sum()
    };
    let (unread, unanswered) = (long("queue"), long("duration"));
    ensure!(
        (unread + unanswered).abs_diff(delayed.len() as u64) <= 2 + delayed.len() as u64 / 10,
        "{unread} lay unread for long, {unanswered} were answered late, {} were delayed",
        delayed.len()
    );
    ensure!(unread >= 8, "only {unread} lay unread for long");
    let all: u64 = answers.iter().map(|answer| answer.took_ns).sum();
    let waited: u64 = delayed.iter().sum();
    let (queue, duration) = (sum("queue"), sum("duration"));
    ensure!(
        queue + duration <= all,
        "{queue} + {duration} ns of {all} that they took"
    );
    ensure!(
        queue + duration >= waited / 100 * 95,
        "{queue} + {duration} ns, and those that were delayed took {waited}"
    );
    let longest = |values: &mut dyn Iterator<Item = u64>| values.max().unwrap_or(0);
    let seen = longest(
        &mut rows
            .iter()
            .filter_map(|row| row["queue"]["max_ns"].as_u64()),
    );
    let told = longest(&mut delayed.iter().copied());
    let seen = seen.max(longest(
        &mut rows
            .iter()
            .filter_map(|row| row["duration"]["max_ns"].as_u64()),
    ));
    ensure!(
        seen <= told && seen >= told / 100 * 95 - 2_000_000,
        "the longest was delayed by {seen} ns, and took {told}"
    );
    named_by_stalls(summary, delayed.len() as u64, waited)
}

/// The stalls name as many requests, and for as long, as whoever asked says were delayed.
fn named_by_stalls(summary: &Report, count: u64, waited_ns: u64) -> Result<()> {
    let loops = summary.processes.iter().flat_map(|process| &process.loops);
    let timing = loops.filter_map(|one| one.timing.as_ref());
    let each: Vec<_> = timing.filter_map(|timing| timing.delayed).collect();
    let requests: u64 = each.iter().map(|delayed| delayed.requests).sum();
    let delay_ns: u64 = each.iter().map(|delayed| delayed.delay_ns).sum();
    ensure!(
        requests.abs_diff(count) <= 2 + count / 10,
        "stalls name {requests} requests, {count} were delayed"
    );
    ensure!(
        delay_ns <= waited_ns / 100 * 105 && delay_ns >= waited_ns / 100 * 80,
        "stalls name {delay_ns} ns of requests, which were delayed by {waited_ns}"
    );
    Ok(())
}

/// Peers that send anything but requests: none is made up, and those of others are seen all the same.
fn hostile_peers() -> Result<()> {
    let (_server, port, watch) = start("threads", &[], "3.11", &[])?;
    let connect = || TcpStream::connect(("127.0.0.1", port));
    for bytes in [
        &b"\x00\x01\x02\x03garbage"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GETTING / nowhere\r\n\r\n",
    ] {
        let mut peer = connect()?;
        peer.set_read_timeout(Some(Duration::from_millis(300)))?;
        peer.write_all(bytes)?;
        let _ = peer.read(&mut [0; 512]);
    }
    // A flood of headers, and one byte after the other.
    let mut flood = connect()?;
    flood.write_all(b"GET /flood HTTP/1.1\r\n")?;
    for number in 0..2_000 {
        if write!(flood, "x-{number}: {number}\r\n").is_err() {
            break;
        }
    }
    let mut slow = connect()?;
    for byte in b"GET /slowly HTTP/1.1\r\nHost: x\r\n\r\n" {
        slow.write_all(&[*byte])?;
        std::thread::sleep(Duration::from_millis(2));
    }
    ensure!(answer(&mut BufReader::new(slow))? == 404, "slow bytes");
    // Two requests at once, and a body that looks like one.
    let mut both = connect()?;
    both.write_all(
        b"GET /fast HTTP/1.1\r\n\r\nGET /missing HTTP/1.1\r\nContent-Length: 24\r\n\r\nGET /no HTTP/1.1\r\n\r\n\r\n\r\n",
    )?;
    let mut both = BufReader::new(both);
    ensure!(
        (answer(&mut both)?, answer(&mut both)?) == (200, 404),
        "pipelined"
    );
    drop(both);
    for _ in 0..3_000 {
        drop(connect()?);
    }
    let answers = load(port, &["/fast"; 2], false, 50)?;
    let outcome = finish(watch)?;
    let summary = outcome.summary()?;
    let counts = counts(summary)?;
    let count = |path: &str, status| counts.get(&(path.to_owned(), status)).copied();
    ensure!(
        count("/fast", 200) == Some(answers.len() as u64 + 1),
        "{counts:?}"
    );
    ensure!(count("/slowly", 404) == Some(1), "{counts:?}");
    ensure!(count("/missing", 404) == Some(1), "{counts:?}");
    let is_known =
        |path: &&String| ["/fast", "/slowly", "/missing", "/flood"].contains(&path.as_str());
    let others: Vec<_> = counts
        .keys()
        .map(|(path, _)| path)
        .filter(|path| !is_known(path))
        .collect();
    ensure!(others.is_empty(), "made up: {others:?}");
    let unparsed: u64 = summary
        .processes
        .iter()
        .filter_map(http)
        .filter_map(|http| http["unparsed"].as_object())
        .flat_map(|reasons| reasons.values().filter_map(Value::as_u64))
        .sum();
    ensure!(unparsed >= 4, "{unparsed} connections were not understood");
    Ok(())
}
