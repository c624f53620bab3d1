//! Flight recorders of the agent: what happened to services that nobody watched, within bounds.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use concmon_tests::agent::Agent;
use concmon_tests::harness::quiet;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::memory_group::MemoryGroup;
use concmon_tests::proc;
use concmon_tests::watch::binary;
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::agent::config;
use crate::debug::{place, start};
use crate::watch_python;

/// Bytes that all recordings in the folder may take.
const FOLDER: u64 = 1_000_000;
/// What two hundred processes that come and go may take, beside recorders that are full.
const MAX_GROWTH_KB: u64 = 32 << 10;
/// Two recordings of the same time differ by so much: each has its own hooks, and windows of its own.
const MAX_OFF: f64 = 0.02;

pub(crate) fn trials() -> Vec<Trial> {
    let python = watch_python("3.13");
    vec![quiet("recorders::killed_workers", &python, killed_workers)]
}

/// What is in a folder: names and bytes.
fn files(folder: &Path) -> Result<Vec<(String, u64)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        files.push((name, entry.metadata()?.len()));
    }
    Ok(files)
}

pub(crate) fn tool(args: &[&str], file: &Path) -> Result<String> {
    let output = Command::new(binary()?).args(args).arg(file).output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{args:?}: {stderr}");
    Ok(String::from_utf8(output.stdout)?)
}

/// The lines that a report of a recording has: its windows, the summary last.
fn report(file: &Path) -> Result<Vec<Value>> {
    let lines = tool(&["report", "--json", "--per", "100ms", "-i"], file)?;
    lines
        .lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}

/// The process of a line that has this id.
fn process_of(line: &Value, pid: u64) -> Result<&Value> {
    let mut processes = line["processes"].as_array().context("none")?.iter();
    let process = processes.find(|process| process["pid"] == pid);
    process.with_context(|| format!("no {pid} in {line}"))
}

/// It has run: a worker is on a CPU for a third of the time, less where others want it.
fn has_run(process: &Value) -> bool {
    let sum = |field: &str| -> u64 {
        let threads = process["threads"].as_array().into_iter().flatten();
        threads.filter_map(|thread| thread[field].as_u64()).sum()
    };
    sum("on_cpu_ns") > sum("wall_ns") / 100
}

fn record(args: &[&str], file: &Path) -> Result<Output> {
    let mut command = Command::new(binary()?);
    command.arg("record").args(args).arg("-o").arg(file);
    Ok(command.output()?)
}

/// What a recording says of the threads and loops of a process in each of its windows.
struct Course(Vec<(f64, f64, BTreeMap<String, f64>)>);

impl Course {
    fn of(file: &Path, pid: u64) -> Result<Self> {
        let mut windows = Vec::new();
        for line in report(file)? {
            let Ok(process) = process_of(&line, pid) else {
                continue;
            };
            if line["type"] != "snapshot" {
                continue;
            }
            let mut grown = BTreeMap::new();
            let mut add = |tid: &Value, what: &str, value: &Value| -> Result<()> {
                let value = value
                    .as_f64()
                    .with_context(|| format!("no {what}: {line}"))?;
                grown.insert(format!("{what} of {tid}"), value);
                Ok(())
            };
            for thread in process["threads"].as_array().into_iter().flatten() {
                let tid = &thread["tid"];
                add(tid, "on_cpu_ns", &thread["on_cpu_ns"])?;
                add(tid, "wall_ns", &thread["wall_ns"])?;
                add(tid, "switches", &thread["switches"]["voluntary"])?;
            }
            for one in process["loops"].as_array().into_iter().flatten() {
                add(&one["tid"], "idle_ns", &one["idle_ns"])?;
                add(&one["tid"], "busy_ns", &one["busy_ns"])?;
            }
            let ns = |field: &str| line["window"][field].as_f64().context("no window");
            let from_ns = ns("start_unix_ns")?;
            windows.push((from_ns, from_ns + ns("duration_ns")?, grown));
        }
        Ok(Self(windows))
    }

    /// How much each has grown from one instant to another; windows that are cut count by their part.
    fn grown(&self, from_ns: f64, to_ns: f64) -> BTreeMap<&str, f64> {
        let mut sums = BTreeMap::new();
        for (begin_ns, end_ns, grown) in &self.0 {
            let common_ns = end_ns.min(to_ns) - begin_ns.max(from_ns);
            let part = (common_ns / (end_ns - begin_ns)).max(0.0);
            for (what, value) in grown {
                *sums.entry(what.as_str()).or_default() += value * part;
            }
        }
        sums
    }
}

/// What the agent hands out is what a recorder beside it has written, as far as both have seen it.
fn are_the_same(of_agent: &Path, beside: &Path, pid: u64) -> Result<()> {
    let [of_agent, beside] = [Course::of(of_agent, pid)?, Course::of(beside, pid)?];
    // A recording that joins meets loops in its first window.
    let ends = |course: &Course| Some((course.0.first()?.1, course.0.last()?.1));
    let (first, last) = ends(&of_agent).context("the agent has no window")?;
    let (from_ns, to_ns) = ends(&beside).context("it has no window beside the agent")?;
    let (from_ns, to_ns) = (from_ns.max(first), to_ns.min(last));
    ensure!(to_ns - from_ns > 1e9, "{} ns are in both", to_ns - from_ns);
    let (got, want) = (of_agent.grown(from_ns, to_ns), beside.grown(from_ns, to_ns));
    ensure!(got.keys().eq(want.keys()), "{got:?}, not {want:?}");
    for (what, want) in want {
        let got = got[what];
        // A switch, and what a thread does from one tick to the next, is in one or the other.
        let least = if what.starts_with("switches") {
            200.0
        } else {
            (to_ns - from_ns) / 2.0
        };
        ensure!(
            (got - want).abs() <= want.max(least) * MAX_OFF,
            "{what}: {got}, not {want} in {} ns",
            to_ns - from_ns
        );
    }
    Ok(())
}

/// There is a recording of how the service lost its worker, and a report of it tells of its last seconds and its end.
fn is_told(folder: &Path, service: &str, reason: &str, worker: u64) -> Result<()> {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let name = loop {
        let there = files(folder)?;
        let is = |name: &String| {
            name.starts_with(service) && name.ends_with(".concmon") && !name.contains(".part.")
        };
        if let Some((name, _)) = there.iter().find(|(name, _)| is(name)) {
            break name.clone();
        }
        ensure!(
            std::time::Instant::now() < deadline,
            "none of {service}: {there:?}"
        );
        std::thread::sleep(Duration::from_millis(100));
    };
    ensure!(name.ends_with(&format!("-{reason}.concmon")), "{name}");
    let file = folder.join(&name);
    let lines = report(&file)?;
    let process = process_of(lines.last().context("no summary")?, worker)?;
    ensure!(
        process["exited"]["signal"] == 9 && has_run(process),
        "{name}: {process}"
    );
    let text = tool(&["report", "-i"], &file)?;
    ensure!(text.contains(reason), "{text}");
    Ok(())
}

/// Two hundred kills in a few seconds: the folder and the agent stay as large as they may be.
fn within_bounds(service: &mut Workload, agent: &Agent, folder: &Path) -> Result<()> {
    let before_kb = proc::status(agent.pid(), "VmHWM")?;
    service.ask(&json!({ "do": "kill", "count": 200 }), "done")?;
    // A file is there as soon as one is begun.
    std::thread::sleep(Duration::from_secs(1));
    let grown_kb = proc::status(agent.pid(), "VmHWM")?.saturating_sub(before_kb);
    ensure!(
        grown_kb < MAX_GROWTH_KB,
        "the agent has grown by {grown_kb} kB"
    );
    let dumps = files(folder)?;
    let bytes: u64 = dumps.iter().map(|(_, bytes)| bytes).sum();
    ensure!(dumps.len() <= 2 && bytes <= FOLDER, "{dumps:?}");
    Ok(())
}

/// The last stretch of a service can be had at any time, and is written when a worker is killed; however often that
/// happens, it stays within bounds.
fn killed_workers() -> Result<()> {
    let python = Interpreter::find("3.13")?;
    let group = MemoryGroup::create("recorders");
    let mut service = Workload::start(&python, "killed.py", &[])?;
    let mut small = Workload::start(&python, "killed.py", &[])?;
    let worker = service.said::<u64>("worker")?;
    let (_folder, socket) = place()?;
    let written = tempfile::tempdir()?;
    let flight = format!(
        "[flight]\nspan = \"10s\"\nmemory = \"4MB\"\nfolder = \"{}\"\nfolder_size = \"{FOLDER}\"\n[[allow]]",
        written.path().display()
    );
    let other = small.program();
    let config = config(service.program()).replacen("[[allow]]", &flight, 1)
        + &format!(
            "[[allow]]\ncommand = '''{other}'''\n[[service]]\nservice = \"bakery\"\ncommand = '''{other}'''\n"
        );
    if let Some(group) = &group {
        group.take(small.pid())?;
        group.take(small.said("worker")?)?;
    } else {
        eprintln!("no memory cgroup can be made here: that kill is not tried");
    }
    let agent = start(&config, &socket)?;
    let recorded = tempfile::tempdir()?;
    let file = recorded.path().join("F");
    let socket = socket.to_str().context("no text")?;
    let from_agent = |name: &str| -> Result<Output> {
        let args = [
            "--from-agent",
            "--service",
            name,
            "--last",
            "5s",
            "--socket",
        ];
        record(&[&args[..], &[socket]].concat(), &file)
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !["shop", "bakery"]
        .iter()
        .all(|name| from_agent(name).is_ok_and(|said| said.status.success()))
    {
        ensure!(std::time::Instant::now() < deadline, "{}", agent.said());
        std::thread::sleep(Duration::from_millis(200));
    }
    let beside = recorded.path().join("G");
    let pid = worker.to_string();
    let said = record(&["-q", "-p", &pid, "-d", "3s", "-i", "250ms"], &beside)?;
    ensure!(said.status.success(), "{said:?}");
    ensure!(from_agent("shop")?.status.success());
    are_the_same(&file, &beside, worker)?;
    let lines = report(&file)?;
    let process = process_of(lines.last().context("no summary")?, worker)?;
    ensure!(has_run(process) && process["exited"].is_null(), "{process}");
    ensure!(
        process["cmdline"].as_array().is_some_and(Vec::is_empty),
        "{process}"
    );
    let stacks = tool(&["export", "-f", "collapsed", "-i"], &file)?;
    ensure!(stacks.contains("handle_order (killed.py:"), "{stacks}");
    let unknown = from_agent("other")?;
    ensure!(unknown.status.code() == Some(1) && files(recorded.path())?.len() == 2);
    let mut kills = vec![("shop", "signal-9", worker)];
    service.ask(&json!({ "do": "kill", "count": 1 }), "done")?;
    if group.is_some() {
        small.ask(&json!({ "do": "fill" }), "done")?;
        kills.push(("bakery", "oom-kill", small.said("worker")?));
    }
    for (name, reason, pid) in kills {
        is_told(written.path(), name, reason, pid).with_context(|| agent.said())?;
    }
    within_bounds(&mut service, &agent, written.path())?;
    ensure!(from_agent("shop")?.status.success(), "it goes on");
    Ok(())
}
