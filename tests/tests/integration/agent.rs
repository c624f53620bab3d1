//! The agent: what it serves against what the services say themselves, its formats as others read them, and that
//! neither of its processes can do more than it must.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use concmon_tests::agent::{Agent, sum};
use concmon_tests::certificates::Certificates;
use concmon_tests::harness::{Skip, case, quiet};
use concmon_tests::interpreter::Interpreter;
use concmon_tests::needs::{Need, UNPRIVILEGED};
use concmon_tests::packages;
use concmon_tests::protobuf::Message;
use concmon_tests::spawn::Group;
use concmon_tests::watch::binary;
use concmon_tests::workload::{Programs, Workload};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::permissions::as_user_with;
use crate::{WATCH, watch_python};

/// The service is off by so much of what it says, and by what its first process takes outside of what it counts, s.
const MAX_ERROR: f64 = 0.01;
const MAX_OWN_S: f64 = 0.02;

pub(crate) fn trials() -> Vec<Trial> {
    let python = watch_python("3.13");
    let [root, ebpf] = WATCH;
    let tls = [root, ebpf, Need::Openssl];
    vec![
        case("agent::counters_never_fall", &python, counters_never_fall),
        quiet("agent::formats", &python, formats),
        quiet("agent::who_may_ask", &WATCH, who_may_ask),
        quiet("agent::metrics_over_tls", &tls, metrics_over_tls),
        quiet("agent::clients_are_bounded", &WATCH, clients_are_bounded),
        quiet("agent::both_are_confined", &WATCH, both_are_confined),
        quiet("agent::systemd_is_told", &WATCH, systemd_is_told),
        quiet("agent::configuration", &[root], configuration),
        quiet(
            "agent::missing_rights",
            &[root, ebpf, Need::User, Need::Setpriv, Need::Python("3.13")],
            missing_rights,
        ),
        quiet(
            "agent::listed_rights",
            &[root, ebpf, Need::User, Need::Setpriv, Need::Python("3.13")],
            listed_rights,
        ),
        quiet("agent::what_a_service_says_of_itself", &python, identity),
    ]
}

/// Nobody is watched but one program; without a budget, for this is a build without optimisation.
pub(crate) fn config(program: &str) -> String {
    format!(
        "interval = \"300ms\"\nbudget_cpu = \"100%\"\n\
         [[allow]]\ncommand = '''{program}'''\n\
         [[service]]\nservice = \"shop\"\ncommand = '''{program}'''\n"
    )
}

/// What grants the capabilities that it needs.
pub(crate) const GRANT: &str =
    "AmbientCapabilities=CAP_BPF CAP_PERFMON CAP_SYS_PTRACE CAP_DAC_READ_SEARCH";
const NOBODY: &str = "no program has this name";

/// Series that only grow, by their text.
pub(crate) fn counters(metrics: &str) -> BTreeMap<&str, f64> {
    let lines = metrics.lines().filter(|line| !line.starts_with('#'));
    let is_counter = |series: &str| {
        let name = series.split('{').next().unwrap_or_default();
        ["_total", "_count", "_sum", "_bucket"]
            .iter()
            .any(|end| name.ends_with(end))
    };
    lines
        .filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            is_counter(series).then_some((series, value.parse().ok()?))
        })
        .collect()
}

/// Workers come and go: no counter falls, and all of them come to what the service says itself.
fn counters_never_fall() -> Result<()> {
    let python = Interpreter::find("3.13")?;
    let mut service = Workload::start(&python, "services.py", &[])?;
    let agent = Agent::start(&config(service.program()), &[])?;
    let shop = "concmon_processes{service_name=\"shop\"";
    let is_there = |metrics: &str| sum(metrics, shop) == Some(1.0);
    agent.metrics_with("the service", is_there)?;
    service.ask(&json!({ "do": "mark" }), "done")?;
    let on_cpu = |metrics: &str| -> f64 {
        let of_shop = metrics.lines().filter(|line| {
            line.starts_with("concmon_thread_time_seconds_total{service_name=\"shop\"")
                && line.contains("concmon_state=\"on_cpu\"")
        });
        of_shop.filter_map(|line| sum(line, "")).sum()
    };
    let first = agent.metrics()?;
    let mut before = first.clone();
    let mut said = Value::Null;
    for round in 0..6 {
        let command = json!({ "do": "restart", "count": 4, "work_s": 0.01 });
        said = service.ask(&command, "done")?;
        let metrics = agent.metrics()?;
        let now = counters(&metrics);
        for (series, value) in counters(&before) {
            let later = now.get(series).with_context(|| format!("{series} went"))?;
            ensure!(
                *later >= value,
                "{series}: {value}, then {later} in round {round}"
            );
        }
        before = metrics;
    }
    let children = said["children"].as_f64().context("no children")?;
    ensure!(children == 192.0, "{said}");
    let starts = "concmon_process_starts_total{service_name=\"shop\"}";
    let exits = "concmon_process_exits_total{service_name=\"shop\"";
    let metrics = agent.metrics_with("all that began and ended", |metrics| {
        sum(metrics, starts) == Some(children) && sum(metrics, exits) == Some(children)
    })?;
    let cpu_s = said["cpu_ns"].as_f64().context("no cpu_ns")? / 1e9;
    let told_s = on_cpu(&metrics) - on_cpu(&first);
    ensure!(
        (told_s - cpu_s).abs() <= cpu_s * MAX_ERROR + MAX_OWN_S,
        "{told_s} s on a CPU, it says {cpu_s} s"
    );
    for label in ["concmon_role=\"main\"} 1", "concmon_role=\"worker\"} 0"] {
        let line = format!("{shop},{label}");
        ensure!(
            metrics.lines().any(|known| known == line),
            "no {line}: {metrics}"
        );
    }
    let others = metrics.lines().any(|line| {
        line.starts_with("concmon_processes{") && !line.contains("service_name=\"shop\"")
    });
    ensure!(!others, "somebody is watched who is not allowed: {metrics}");
    Ok(())
}

/// What Python's own client library makes of a text, family by family.
const PARSE: &str = r#"
import json, sys
from prometheus_client.parser import text_string_to_metric_families as plain
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
parse = {"plain": plain, "open": open_metrics}[sys.argv[1]]
families = list(parse(sys.stdin.read()))
print(json.dumps([[f.name, f.type, bool(f.documentation), len(f.samples)] for f in families]))
"#;

fn parsed(
    python: &Interpreter,
    kind: &str,
    text: &str,
) -> Result<Vec<(String, String, bool, u64)>> {
    let folder = packages::folder(python, "3.13", &["prometheus_client"])?;
    let mut command = python.command();
    command.args(["-c", PARSE, kind]).env("PYTHONPATH", folder);
    let output = fed(&mut command, text)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Runs a command that reads a text.
fn fed(command: &mut Command, text: &str) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    let text = text.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output()?;
    let _ = writer.join();
    Ok(output)
}

/// All three formats tell the same, as others read them.
fn formats() -> Result<()> {
    let python = Interpreter::find("3.13")?;
    let program = Workload::start(&python, "moments.py", &[])?;
    let agent = Agent::start(&config(program.program()), &[])?;
    agent.metrics_with("lag", |metrics| {
        sum(
            metrics,
            "concmon_loop_lag_seconds_count{service_name=\"shop\"",
        )
        .is_some()
    })?;
    let plain = agent.get("/metrics", &[])?;
    ensure!(
        plain
            .head
            .contains("content-type: text/plain; version=0.0.4"),
        "{}",
        plain.head
    );
    let accept = "Accept: application/openmetrics-text; version=1.0.0, text/plain;q=0.5";
    let open = agent.get("/metrics", &[accept])?;
    ensure!(
        open.head
            .contains("content-type: application/openmetrics-text"),
        "{}",
        open.head
    );
    let plain_families = parsed(&python, "plain", plain.text()?)?;
    let open_families = parsed(&python, "open", open.text()?)?;
    ensure!(
        plain_families.len() == open_families.len(),
        "{plain_families:?}\n{open_families:?}"
    );
    ensure!(
        open_families.iter().all(|(_, _, has_help, _)| *has_help),
        "{open_families:?}"
    );
    let has = |name: &str, kind: &str| {
        open_families
            .iter()
            .any(|family| family.0 == name && family.1 == kind)
    };
    for (name, kind) in [
        ("concmon_group", "info"),
        ("concmon_thread_time_seconds", "counter"),
        ("concmon_loop_lag_seconds", "histogram"),
        ("http_server_request_duration_seconds", "histogram"),
        ("process_cpu_seconds", "counter"),
    ] {
        ensure!(has(name, kind), "no {kind} {name}: {open_families:?}");
    }
    let accept = "Accept: application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
                  encoding=delimited";
    let proto = agent.get("/metrics", &[accept, "Accept-Encoding: identity"])?;
    let mut with_samples = 0;
    let mut rest = &proto.body[..];
    let mut families = 0;
    while !rest.is_empty() {
        let (family, after) = delimited(rest)?;
        rest = after;
        families += 1;
        let family = Message::parse(family)?;
        let name = family.text(1)?;
        ensure!(!family.text(2)?.is_empty(), "{name} has no help");
        for metric in family.messages(4)? {
            with_samples += 1;
            let Some(histogram) = metric.message(7)? else {
                continue;
            };
            ensure!(
                histogram.number(5) == Some(6),
                "{name} has schema {:?}",
                histogram.number(5)
            );
            let spans: u64 = histogram
                .messages(12)?
                .iter()
                .map(|span| span.number(2).unwrap_or(0))
                .sum();
            let deltas = histogram.numbers(13)?;
            ensure!(
                deltas.len() as u64 == spans,
                "{name}: {spans} buckets, {deltas:?}"
            );
            let (mut count, mut all) = (0i64, 0i64);
            for delta in deltas {
                count += (delta >> 1) as i64 ^ -((delta & 1) as i64);
                all += count;
            }
            let zero = histogram.number(7).unwrap_or(0) as i64;
            ensure!(
                histogram.number(1) == u64::try_from(all + zero).ok(),
                "{name}: {:?} is not {all} and {zero}",
                histogram.number(1)
            );
        }
    }
    ensure!(
        families == open_families.len() && with_samples > 30,
        "{families}, {with_samples}"
    );
    let gzip = agent.get("/metrics", &["Accept-Encoding: gzip"])?;
    ensure!(gzip.body.starts_with(&[0x1f, 0x8b]), "{}", gzip.head);
    ensure!(
        gzip.body.len() < plain.body.len() / 3,
        "{}",
        gzip.body.len()
    );
    let mut promtool = Command::new("promtool");
    let checked = match fed(promtool.args(["check", "metrics"]), plain.text()?) {
        Ok(output) => output,
        Err(_) => return Err(Skip("promtool is not there; all else is right".to_owned()).into()),
    };
    let said = [checked.stdout, checked.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(
        checked.status.success() && said.trim().is_empty(),
        "promtool: {said}"
    );
    Ok(())
}

fn delimited(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let (mut length, mut at) = (0usize, 0);
    loop {
        let byte = *bytes.get(at).context("it is cut")?;
        length |= usize::from(byte & 0x7f) << (7 * at);
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    bytes[at..].split_at_checked(length).context("it is cut")
}

/// Who trusts the root reads the metrics, and nobody does without TLS; a reload takes another certificate.
fn metrics_over_tls() -> Result<()> {
    let certificates = Certificates::make()?;
    let served = certificates.path("served.pem");
    std::fs::copy(certificates.path("by-trusted.pem"), &served)?;
    let config = format!(
        "{}[exporter]\ncertificate_file = '{served}'\nkey_file = '{}'\n",
        config(NOBODY),
        certificates.path("own.key"),
    );
    let mut agent = Agent::start(&config, &[])?;
    ensure!(agent.said().contains("at https://127."), "{}", agent.said());
    agent.wait_for_line("ready")?;
    let address = agent.address();
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let answer = |root: &str| certificates.converse(address, root, request);
    let read = answer("trusted.pem")?.context("nothing is answered")?;
    ensure!(
        read.starts_with("HTTP/1.1 200 ") && read.contains("\nconcmon_build_info{"),
        "{read}"
    );
    ensure!(answer("other.pem")?.is_none());
    ensure!(
        agent.get("/metrics", &[]).is_err(),
        "it is answered without TLS"
    );
    std::fs::copy(certificates.path("by-other.pem"), &served)?;
    agent.reload(&config, "the configuration was read again")?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while answer("other.pem")?.is_none() {
        ensure!(Instant::now() < deadline, "it stays: {}", agent.said());
    }
    ensure!(answer("trusted.pem")?.is_none());
    std::fs::write(&served, "nothing\n")?;
    agent.reload(&config, "there is no certificate in PEM format")?;
    ensure!(answer("other.pem")?.is_some());
    Ok(())
}

/// Only who has the token, for pages that are there, by methods that read; a reload takes another token.
fn who_may_ask() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let token = folder.path().join("token");
    std::fs::write(&token, "first\n")?;
    let config = format!(
        "{}[exporter]\ntoken_file = '''{}'''\n",
        config(NOBODY),
        token.display()
    );
    let mut agent = Agent::start(&config, &[])?;
    let status = |agent: &Agent, token: &str| -> Result<u16> {
        let field = format!("Authorization: Bearer {token}");
        Ok(agent.get("/metrics", &[&field])?.status)
    };
    ensure!(agent.get("/metrics", &[])?.status == 401);
    ensure!(status(&agent, "second")? == 401 && status(&agent, "first")? == 200);
    std::fs::write(&token, "second\n")?;
    agent.wait_for_line("ready")?;
    agent.reload(&config, "the configuration was read again")?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while status(&agent, "second")? != 200 {
        ensure!(
            Instant::now() < deadline,
            "the token stays: {}",
            agent.said()
        );
    }
    ensure!(status(&agent, "first")? == 401);
    agent.reload("lisen = 1", "`lisen`")?;
    ensure!(status(&agent, "second")? == 200);
    for (request, wanted) in [
        ("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        ("HEAD /healthz HTTP/1.0\r\n\r\n", 200),
        (
            "POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
            405,
        ),
        ("DELETE /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("GET /debug/targets HTTP/1.1\r\nHost: a\r\n\r\n", 401),
        ("nonsense\r\n\r\n", 400),
    ] {
        let answer = agent.send(request.as_bytes())?;
        ensure!(answer.status == wanted, "{request:?}: {answer:?}");
    }
    let long = format!("X-Long: {}", "a".repeat(40_000));
    ensure!(agent.get("/healthz", &[&long])?.status == 431);
    is_ready(&agent, Duration::from_secs(20))
}

/// Waits until what it has to show is fresh.
fn is_ready(agent: &Agent, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    while agent.get("/readyz", &[])?.status != 200 {
        ensure!(
            Instant::now() < deadline,
            "it does not get ready: {}",
            agent.said()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Those who say nothing, or half of something, keep nobody out for long.
fn clients_are_bounded() -> Result<()> {
    let config = format!("{}[exporter]\nmax_clients = 3\n", config(NOBODY));
    let mut agent = Agent::start(&config, &[])?;
    agent.wait_for_line("ready")?;
    let mut held = Vec::new();
    for at in 0..3 {
        let mut stream = TcpStream::connect(agent.address())?;
        if at > 0 {
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHos")?;
        }
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        held.push(stream);
    }
    // They are taken in their order, and this one after them.
    let mut one_more = TcpStream::connect(agent.address())?;
    one_more.set_read_timeout(Some(Duration::from_secs(4)))?;
    let read = one_more.read(&mut [0; 16]);
    ensure!(!matches!(read, Ok(1..)), "one more was answered");
    let is_time_out = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
    ensure!(!read.as_ref().is_err_and(is_time_out), "one more is kept");
    for stream in &mut held {
        let mut rest = Vec::new();
        let read = stream.read_to_end(&mut rest);
        ensure!(
            !read.as_ref().is_err_and(is_time_out),
            "one who says nothing is kept"
        );
    }
    let refused = "concmon_agent_connections_refused_total";
    let sent = "concmon_agent_windows_total{concmon_outcome=\"sent\"}";
    agent.metrics_with("a count of who was refused, and more windows", |metrics| {
        sum(metrics, refused).is_some_and(|count| count >= 1.0)
            && sum(metrics, sent).is_some_and(|count| count > 3.0)
    })?;
    Ok(())
}

pub(crate) fn status(pid: u32, field: &str) -> Result<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    Ok(line
        .with_context(|| format!("no {field}"))?
        .trim()
        .to_owned())
}

/// The exporter is another user without capabilities; the collector keeps those that it needs; both end with 0.
fn both_are_confined() -> Result<()> {
    // Whoever starts it may leave it more than it needs.
    let left = std::fs::File::open("/proc/self/status")?;
    // SAFETY: it is open.
    ensure!(unsafe { libc::fcntl(left.as_raw_fd(), libc::F_SETFD, 0) } == 0);
    let mut agent = Agent::start(&config(NOBODY), &[])?;
    agent.wait_for_line("ready")?;
    let collector = agent.pid();
    let children = format!("/proc/{collector}/task/{collector}/children");
    let children = std::fs::read_to_string(children)?;
    let mut pids = children
        .split(' ')
        .filter_map(|pid| pid.parse::<u32>().ok());
    let is_exporter = |pid: &u32| status(*pid, "Name:").is_ok_and(|name| name == "concmon-export");
    let exporter = pids.find(is_exporter).context("no exporter")?;
    let wanted = format!("{UNPRIVILEGED}\t{UNPRIVILEGED}\t{UNPRIVILEGED}\t{UNPRIVILEGED}");
    ensure!(
        status(exporter, "Uid:")? == wanted,
        "{}",
        status(exporter, "Uid:")?
    );
    ensure!(status(exporter, "Groups:")?.is_empty());
    for set in ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"] {
        let bits = u64::from_str_radix(&status(exporter, set)?, 16)?;
        ensure!(bits == 0, "{set} {bits:x}");
    }
    for pid in [collector, exporter] {
        ensure!(
            status(pid, "Seccomp:")? == "2",
            "process {pid} has no filter"
        );
        ensure!(status(pid, "NoNewPrivs:")? == "1");
    }
    let bits = u64::from_str_radix(&status(collector, "CapEff:")?, 16)?;
    // CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_KILL, CAP_SETUID.
    for bit in [12, 21, 5, 7] {
        ensure!(bits & (1 << bit) == 0, "the collector keeps {bits:x}");
    }
    for entry in std::fs::read_dir(format!("/proc/{exporter}/fd"))? {
        let path = entry?.path();
        let is = std::fs::read_link(&path)?.to_string_lossy().into_owned();
        let number = path.file_name().and_then(|name| name.to_str());
        match number {
            Some("0" | "1") => ensure!(is == "/dev/null", "{is}"),
            Some("2") => {}
            // What it listens at, and what it waits with.
            _ => ensure!(
                is.starts_with("socket:") || is.starts_with("anon_inode:[event"),
                "it has {is}"
            ),
        }
    }
    agent.signal(libc::SIGTERM);
    ensure!(agent.end()? == 0);
    // Nobody but init waits for it now.
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::fs::exists(format!("/proc/{exporter}"))? {
        ensure!(Instant::now() < deadline, "the exporter stays");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Ready once there is something to read, alive as often as it is wanted, and when it reads its configuration and ends.
fn systemd_is_told() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    let path = path.to_string_lossy();
    let environment = [("NOTIFY_SOCKET", &*path), ("WATCHDOG_USEC", "300000")];
    let config = config(NOBODY);
    let mut agent = Agent::start(&config, &environment)?;
    let hears = |what: &str| -> Result<usize> {
        for others in 0..1_000 {
            let mut room = [0; 256];
            let length = socket
                .recv(&mut room)
                .with_context(|| format!("no {what}"))?;
            if std::str::from_utf8(&room[..length])?
                .lines()
                .any(|line| line == what)
            {
                return Ok(others);
            }
        }
        anyhow::bail!("no {what} among much else")
    };
    hears("READY=1")?;
    is_ready(&agent, Duration::from_secs(2))?;
    let begin = Instant::now();
    for _ in 0..5 {
        ensure!(hears("WATCHDOG=1")? == 0, "something else is said");
    }
    ensure!(
        begin.elapsed() >= Duration::from_millis(500),
        "{:?}",
        begin.elapsed()
    );
    agent.reload(&config, "the configuration was read again")?;
    hears("RELOADING=1")?;
    hears("READY=1")?;
    agent.signal(libc::SIGTERM);
    hears("STOPPING=1")?;
    ensure!(agent.end()? == 0);
    Ok(())
}

fn run(arguments: &[&str]) -> Result<Output> {
    Ok(Command::new(binary()?)
        .arg("agent")
        .args(arguments)
        .env_remove("CONCMON_CONFIG")
        .stdin(Stdio::null())
        .output()?)
}

/// Mistakes are told before anything begins.
fn configuration() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("agent.toml");
    let path = file.to_string_lossy().into_owned();
    let check = |text: &str| -> Result<Output> {
        std::fs::write(&file, text)?;
        run(&["--check-config", "--config", &path])
    };
    let right = check(&config("app"))?;
    ensure!(right.status.code() == Some(0), "{right:?}");
    for (text, says) in [
        (
            "listen = \"127.0.0.1:9788\"\nintervall = \"1s\"",
            ":2: unknown field `intervall`",
        ),
        ("[[allow]]\n\ncommand = \"[\"", ":3: command: "),
        (
            "[exporter]\nuser = \"nobody-there\"",
            ":2: user: there is no user",
        ),
    ] {
        let wrong = check(text)?;
        let said = String::from_utf8_lossy(&wrong.stderr);
        ensure!(wrong.status.code() == Some(2), "{wrong:?}");
        ensure!(said.contains(&format!("{path}{says}")), "{said}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let refused = run(&["--listen", &address])?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(
        refused.status.code() == Some(1) && said.contains(&address),
        "{refused:?}"
    );
    Ok(())
}

/// Who may not watch is told what is missing, and nothing stays behind; who may watch, but not read others, goes on.
fn missing_rights() -> Result<()> {
    let programs = Programs::copy(&Interpreter::for_everyone()?)?;
    let path = programs.tool()?;
    let output = as_user_with(&path, &[])
        .args(["agent", "--listen", "127.0.0.1:0"])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(4), "{output:?}");
    ensure!(said.contains("CAP_BPF") && said.contains(GRANT), "{said}");
    let python = Interpreter::find("3.13")?;
    let _roots = Workload::start(&python, "moments.py", &[])?;
    let command = as_user_with(&path, &["bpf", "perfmon"]);
    let mut agent = Agent::of(command, "interval = \"300ms\"\n", &[])?;
    let said = agent.wait_for_line("processes are not watched")?;
    ensure!(said.contains("CAP_SYS_PTRACE"), "{said}");
    agent.wait_for_line(GRANT)?;
    let denied = "concmon_agent_targets{concmon_status=\"denied\"}";
    agent.metrics_with("a count of them", |metrics| {
        sum(metrics, denied).is_some_and(|count| count >= 1.0)
    })?;
    agent.signal(libc::SIGINT);
    ensure!(agent.end()? == 0);
    Ok(())
}

/// Another user with the listed capabilities, and no others, watches root's programs as a whole.
fn listed_rights() -> Result<()> {
    let programs = Programs::copy(&Interpreter::for_everyone()?)?;
    let path = programs.tool()?;
    let python = Interpreter::find("3.13")?;
    let roots = Workload::start(&python, "moments.py", &[])?;
    let rights = ["bpf", "perfmon", "sys_ptrace", "dac_read_search"];
    let agent = Agent::of(as_user_with(&path, &rights), &config(roots.program()), &[])?;
    agent.metrics_with("the loop of the program", |metrics| {
        let lag = "concmon_loop_lag_seconds_count{service_name=\"shop\"";
        sum(metrics, lag).is_some_and(|count| count > 0.0)
    })?;
    ensure!(!agent.said().contains(GRANT), "{}", agent.said());
    let uid = status(agent.pid(), "Uid:")?;
    ensure!(uid.starts_with(&UNPRIVILEGED.to_string()), "{uid}");
    agent.signal(libc::SIGTERM);
    ensure!(agent.end()? == 0);
    Ok(())
}

/// Publishes OpenTelemetry's process context, as OTEP 4719 has it: a header of version 2 in a mapping that is called
/// `OTEL_CTX`, and the resource's attributes in protobuf. Its environment says something else.
const PUBLISHES: &str = r#"
import ctypes, mmap, os, struct, time
def field(number, data): return bytes([number << 3 | 2, len(data)]) + data
def attribute(key, text): return field(1, field(1, key) + field(2, field(1, text)))
context = field(1, attribute(b"service.name", b"published") + attribute(b"service.version", b"7"))
payload = ctypes.create_string_buffer(context, len(context))
file = os.memfd_create("OTEL_CTX")
os.ftruncate(file, 4096)
header = mmap.mmap(file, 4096)
os.close(file)
header[8:32] = struct.pack("=IIQQ", 2, len(context), time.time_ns(), ctypes.addressof(payload))
header[0:8] = b"OTEL_CTX"
print("ready", flush=True)
time.sleep(3600)
"#;

/// Version and environment that are published go before those in the environment variables, of which nothing else is
/// told but the names of the service.
fn identity() -> Result<()> {
    let python = Interpreter::find("3.13")?;
    let start = |program: &str| -> Result<Group> {
        let mut command = python.command();
        command
            .args(["-c", program])
            .env("DD_SERVICE", "by-datadog")
            .env("DD_ENV", "staging")
            .env("DD_API_KEY", "s3cret")
            .env(
                "OTEL_RESOURCE_ATTRIBUTES",
                "service.name=by-otel,token=s3cret",
            )
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if program != PUBLISHES {
            command.env_remove("OTEL_RESOURCE_ATTRIBUTES");
        }
        let mut child = Group::start(&mut command)?;
        let stdout = child.stdout.as_mut().context("no stdout")?;
        stdout.read_exact(&mut [0; 6])?;
        Ok(child)
    };
    let _published = start(PUBLISHES)?;
    let _plain = start("import time\nprint('ready', flush=True)\ntime.sleep(3600)")?;
    let config =
        "interval = \"300ms\"\nbudget_cpu = \"100%\"\n[[allow]]\ncommand = 'sleep\\(3600\\)'\n";
    let agent = Agent::start(config, &[])?;
    let info = |name: &str| format!("concmon_group_info{{service_name=\"{name}\"");
    let metrics = agent.metrics_with("both services", |metrics| {
        ["by-otel", "by-datadog"]
            .iter()
            .all(|name| sum(metrics, &info(name)) == Some(1.0))
    })?;
    for (name, label) in [
        ("by-otel", "service_version=\"7\""),
        ("by-otel", "deployment_environment_name=\"staging\""),
        ("by-otel", "concmon_source=\"otel\""),
        ("by-datadog", "concmon_source=\"datadog\""),
        ("by-datadog", "process_runtime_name=\"cpython\""),
    ] {
        let mut lines = metrics.lines();
        let line = lines.find(|line| line.starts_with(&info(name)));
        let line = line.context("no information")?;
        ensure!(line.contains(label), "no {label} in {line}");
    }
    ensure!(!metrics.contains("s3cret"), "{metrics}");
    ensure!(!metrics.contains("published"), "{metrics}");
    Ok(())
}
