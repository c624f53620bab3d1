//! What the agent tells its owner: whom it watches, profiles as others read them, against the metrics of the same time.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use concmon_tests::agent::{Agent, Answer, ask, sum};
use concmon_tests::exported;
use concmon_tests::harness::quiet;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::needs::{Need, UNPRIVILEGED};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;
use serde_json::Value;

use crate::agent::config;
use crate::{WATCH, watch_python};

/// Sums of profiles are off by so much of the metrics of the same time.
const MAX_ERROR: f64 = 0.02;

pub(crate) fn trials() -> Vec<Trial> {
    let [root, ebpf] = WATCH;
    let python = watch_python("3.13");
    let user = [root, ebpf, Need::User];
    let with_curl = [root, ebpf, Need::Python("3.13"), Need::Tool("curl")];
    vec![
        quiet("debug::targets", &python, targets),
        quiet(
            "debug::only_its_owner_may_ask",
            &user,
            only_its_owner_may_ask,
        ),
        quiet("debug::clients_are_bounded", &WATCH, clients_are_bounded),
        quiet("debug::profiles", &with_curl, profiles),
        quiet("debug::profiles_by_token", &python, profiles_by_token),
    ]
}

/// A folder that anybody can enter, and a place for a socket in it.
pub(crate) fn place() -> Result<(tempfile::TempDir, PathBuf)> {
    let folder = tempfile::tempdir()?;
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755))?;
    let socket = folder.path().join("agent.sock");
    Ok((folder, socket))
}

pub(crate) fn start(config: &str, socket: &Path) -> Result<Agent> {
    let socket = socket.to_str().context("no text")?;
    Agent::start(config, &[("CONCMON_SOCKET", socket)])
}

fn told(answer: &Answer) -> Result<Value> {
    ensure!(answer.status == 200, "{answer:?}");
    Ok(serde_json::from_slice(&answer.body)?)
}

/// The service that runs is watched, one that a rule leaves out is denied, and what is no Python is not told of.
fn targets() -> Result<()> {
    let python = Interpreter::find("3.13")?;
    let service = Workload::start(&python, "hogs.py", &[])?;
    let other = Workload::start(&python, "locks.py", &["pool", "1"])?;
    let (_folder, socket) = place()?;
    let agent = start(&config(service.program()), &socket)?;
    let shop = "concmon_processes{service_name=\"shop\"";
    agent.metrics_with("the service", |metrics| sum(metrics, shop) == Some(1.0))?;
    // Who has come is found by a sweep.
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let said = loop {
        let said = told(&ask(&socket, "/debug/targets")?)?;
        let mut targets = said["targets"].as_array().into_iter().flatten();
        if targets.any(|target| target["pid"] == other.pid() && target["status"] == "denied") {
            break said;
        }
        ensure!(
            std::time::Instant::now() < deadline,
            "nobody is denied: {said}"
        );
        std::thread::sleep(Duration::from_millis(200));
    };
    let of = |pid: u32| -> Option<&Value> {
        let mut targets = said["targets"].as_array()?.iter();
        targets.find(|target| target["pid"] == pid)
    };
    let watched = of(service.pid()).context("it is not told of")?;
    ensure!(
        watched["status"] == "attached"
            && watched["service"] == "shop"
            && watched["python"]
                .as_str()
                .is_some_and(|version| version.starts_with("3.13")),
        "{watched}"
    );
    let denied = of(other.pid()).context("who is denied is not told of")?;
    ensure!(
        denied["status"] == "denied" && denied["service"].is_null(),
        "{denied}"
    );
    ensure!(
        of(std::process::id()).is_none(),
        "this is no Python: {said}"
    );
    for (path, status) in [
        ("/debug/other", 404),
        ("/metrics", 404),
        ("/debug/targets?x=1", 400),
    ] {
        let answer = ask(&socket, path)?;
        ensure!(answer.status == status, "{path}: {answer:?}");
    }
    // On TCP there is none of it without a token.
    ensure!(agent.get("/debug/targets", &[])?.status == 404);
    agent.signal(libc::SIGTERM);
    ensure!(agent.end()? == 0);
    ensure!(!socket.exists(), "the socket is left behind");
    Ok(())
}

/// Another user gets nowhere, by the file's mode, and where that is changed, by who they are.
fn only_its_owner_may_ask() -> Result<()> {
    let (_folder, socket) = place()?;
    let mut agent = start(&config("no program has this name"), &socket)?;
    agent.wait_for_line("ready")?;
    ensure!(std::fs::metadata(&socket)?.permissions().mode() & 0o777 == 0o600);
    let program = "import socket, sys\n\
         s = socket.socket(socket.AF_UNIX)\n\
         s.connect(sys.argv[1])\n\
         s.sendall(b'GET /debug/targets HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n')\n\
         print(len(s.recv(100)))\n";
    let python = Interpreter::for_everyone()?;
    let other = || {
        let mut command = python.command();
        command.args(["-c", program]).arg(&socket);
        command.uid(UNPRIVILEGED).gid(UNPRIVILEGED).output()
    };
    let said = other()?;
    let stderr = String::from_utf8_lossy(&said.stderr).into_owned();
    ensure!(
        !said.status.success() && stderr.contains("PermissionError"),
        "{stderr}"
    );
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o666))?;
    let said = other()?;
    let (stdout, stderr) = (
        said.stdout,
        String::from_utf8_lossy(&said.stderr).into_owned(),
    );
    ensure!(
        stdout == b"0\n" || stderr.contains("ConnectionReset") || stderr.contains("BrokenPipe"),
        "another user was told something: {stderr}"
    );
    told(&ask(&socket, "/debug/targets")?)?;
    Ok(())
}

/// Half-open clients, long heads and wrong methods keep nobody else from asking.
fn clients_are_bounded() -> Result<()> {
    let (_folder, socket) = place()?;
    let mut agent = start(&config("no program has this name"), &socket)?;
    agent.wait_for_line("ready")?;
    let mut long = UnixStream::connect(&socket)?;
    long.set_read_timeout(Some(Duration::from_secs(20)))?;
    // It may be refused before all of it is written.
    let _ = long.write_all(&[b'x'; 64 << 10]);
    let mut answer = Vec::new();
    let _ = long.read_to_end(&mut answer);
    ensure!(!answer.starts_with(b"HTTP/1.1 200"));
    let descriptors =
        || -> Result<usize> { Ok(std::fs::read_dir(format!("/proc/{}/fd", agent.pid()))?.count()) };
    let before = descriptors()?;
    let mut idle = Vec::new();
    for _ in 0..64 {
        let mut client = UnixStream::connect(&socket)?;
        let _ = client.write_all(b"GET /debug/targets HTTP/1.1\r\n");
        idle.push(client);
    }
    std::thread::sleep(Duration::from_millis(200));
    let now = descriptors()?;
    ensure!(now <= before + 17, "{now} descriptors, {before} before");
    // The head of a request must come within 5 s; whoever is too many is turned away.
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !ask(&socket, "/debug/targets").is_ok_and(|answer| answer.status == 200) {
        ensure!(
            std::time::Instant::now() < deadline,
            "nobody is answered any more"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// By the states of the threads of a service, s.
fn by_state(metrics: &str) -> impl Fn(&str) -> f64 + '_ {
    |state| {
        let label = format!("concmon_state=\"{state}\"");
        let of_shop = metrics.lines().filter(|line| {
            line.starts_with("concmon_thread_time_seconds_total{service_name=\"shop\"")
                && line.contains(&label)
        });
        of_shop.filter_map(|line| sum(line, "")).sum()
    }
}

/// A profile as readers have it that are not ours: the sum of all, s, and that of each line with what stands below it.
pub(crate) struct Profile {
    all_s: f64,
    pub(crate) lines: Vec<(String, f64)>,
}

impl Profile {
    pub(crate) fn read(file: &Path, by: &str) -> Result<Self> {
        let read = exported::published_pprof(file)?;
        let unit = (by.replace('-', "_"), "nanoseconds".to_owned());
        ensure!(read.types == [unit], "{by}: {:?}", read.types);
        let all_ns: u64 = read.samples.iter().map(|(_, ns)| ns).sum();
        match exported::go_pprof(file)? {
            Some(ns) => ensure!(ns == all_ns, "{by}: {ns} ns for Go, not {all_ns}"),
            None => eprintln!("no Go is here: its pprof is not tried"),
        }
        let samples = read.samples.into_iter();
        Ok(Self {
            all_s: all_ns as f64 / 1e9,
            lines: samples.map(|(path, ns)| (path, ns as f64 / 1e9)).collect(),
        })
    }

    /// Of all time under the innermost frame `what`, and of that what is also under a line of `function`.
    pub(crate) fn under(&self, function: &str, file: &str, what: &str) -> (f64, f64) {
        let of_what = self.lines.iter().filter(|(path, _)| path.ends_with(what));
        let all = of_what.clone().map(|(_, s)| s).sum();
        let line = format!("{function} {file}:");
        let under = of_what.filter(|(path, _)| path.contains(&line));
        (all, under.map(|(_, s)| s).sum())
    }
}

/// Has curl ask for a profile, and gives the file.
pub(crate) fn scraped(
    socket: &Path,
    service: &str,
    by: &str,
    seconds: u32,
) -> Result<tempfile::NamedTempFile> {
    let file = tempfile::NamedTempFile::new()?;
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--fail", "--unix-socket"]).arg(socket);
    curl.arg("-o").arg(file.path());
    let query = format!("service={service}&seconds={seconds}&type={by}");
    let output = curl
        .arg(format!("http://agent/debug/pprof/profile?{query}"))
        .output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{curl:?}: {stderr}");
    Ok(file)
}

/// Each type sums up to what the metrics say of the same window, and blame names the lines that made others wait.
fn profiles() -> Result<()> {
    let python = Interpreter::find("3.13")?;
    let service = Workload::start(&python, "hogs.py", &[])?;
    let (_folder, socket) = place()?;
    // No window ends by itself while a profile is made, or right after it.
    let slow = config(service.program()).replace("300ms", "8s");
    let agent = start(&slow, &socket)?;
    let shop = "concmon_processes{service_name=\"shop\"";
    agent.metrics_with("the service", |metrics| sum(metrics, shop) == Some(1.0))?;
    let states = [
        "on_cpu", "runnable", "gil", "lock", "poll", "sleep", "io", "child", "disk", "stopped",
        "other", "unknown",
    ];
    for (by, seconds) in [
        ("wall", 1),
        ("on-cpu", 1),
        ("gil", 1),
        ("lock", 1),
        // So long that a look is made meanwhile, though no window ends.
        ("blame", 5),
    ] {
        let socket = socket.clone();
        let windows = |metrics: &str| sum(metrics, "concmon_agent_windows_total");
        let ended = windows(&agent.metrics()?);
        let asked = std::thread::spawn(move || scraped(&socket, "shop", by, seconds));
        // It begins with a window of its own.
        let before = agent.metrics_with("a window", |metrics| windows(metrics) > ended)?;
        let file = asked.join().ok().context("no thread")??;
        let after = agent.metrics()?;
        let (before, after) = (by_state(&before), by_state(&after));
        let grown = |state: &str| after(state) - before(state);
        let read = Profile::read(file.path(), by)?;
        let (least, most) = match by {
            "wall" => {
                let all = states.map(grown).iter().sum();
                (all, all)
            }
            "on-cpu" => (grown("on_cpu"), grown("on_cpu")),
            // Waits for a lock are charged from the first look at it on.
            "blame" => (grown("gil"), grown("gil") + grown("lock")),
            state => (grown(state), grown(state)),
        };
        ensure!(
            least > 0.0
                && read.all_s >= least * (1.0 - MAX_ERROR)
                && read.all_s <= most * (1.0 + MAX_ERROR),
            "{by}: {} s, the metrics have {least} to {most} s",
            read.all_s
        );
        if by == "blame" {
            for (function, what) in [("gil_hog", "[had the GIL]"), ("lock_hog", "[had a lock]")] {
                let (all, its) = read.under(function, "hogs.py", what);
                ensure!(
                    all > 0.0 && its >= all * 0.8,
                    "{its} of {all} s {what} are {function}: {:?}",
                    read.lines
                );
            }
        }
    }
    // There is room for four at a time.
    let asked: Vec<_> = (0..5)
        .map(|_| {
            let socket = socket.clone();
            let path = "/debug/pprof/profile?service=shop&seconds=1&type=on-cpu";
            std::thread::spawn(move || ask(&socket, path))
        })
        .collect();
    let mut statuses = Vec::new();
    for asked in asked {
        statuses.push(asked.join().ok().context("no thread")??.status);
    }
    statuses.sort_unstable();
    ensure!(statuses == [200, 200, 200, 200, 503], "{statuses:?}");
    for (query, status) in [
        ("service=nobody", 404),
        ("service=shop&seconds=0", 400),
        ("service=shop&type=heap", 400),
        ("seconds=1", 400),
    ] {
        let answer = ask(&socket, &format!("/debug/pprof/profile?{query}"))?;
        ensure!(answer.status == status, "{query}: {answer:?}");
    }
    Ok(())
}

/// On TCP, the same is for who shows the token.
fn profiles_by_token() -> Result<()> {
    let python = Interpreter::find("3.13")?;
    let service = Workload::start(&python, "hogs.py", &[])?;
    let token = tempfile::NamedTempFile::new()?;
    std::fs::write(token.path(), "s3cret\n")?;
    let exporter = format!(
        "[exporter]\ntoken_file = \"{}\"\n[[allow]]",
        token.path().display()
    );
    let with_token = config(service.program()).replacen("[[allow]]", &exporter, 1);
    let agent = Agent::start(&with_token, &[])?;
    let show = "Authorization: Bearer s3cret";
    let path = "/debug/pprof/profile?service=shop&seconds=1&type=on-cpu";
    for field in [&[][..], &["Authorization: Bearer other"]] {
        ensure!(agent.get(path, field)?.status == 401);
        ensure!(agent.get("/debug/targets", field)?.status == 401);
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let answer = loop {
        let answer = agent.get(path, &[show])?;
        if answer.status != 404 {
            break answer;
        }
        ensure!(std::time::Instant::now() < deadline, "{answer:?}");
        std::thread::sleep(Duration::from_millis(100));
    };
    ensure!(answer.status == 200, "{answer:?}");
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), &answer.body)?;
    let profile = Profile::read(file.path(), "on-cpu")?;
    ensure!(profile.all_s > 0.05, "{} s on a CPU", profile.all_s);
    let said = told(&agent.get("/debug/targets", &[show])?)?;
    let pid = service.pid();
    let mut targets = said["targets"].as_array().context("no targets")?.iter();
    ensure!(targets.any(|target| target["pid"] == pid), "{said}");
    Ok(())
}
