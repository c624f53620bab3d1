//! Processes and loops that come and go in great numbers: all are told, and nothing is kept of those that
//! have gone.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::{case, goal, quiet};
use concmon_tests::interpreter::Interpreter;
use concmon_tests::laws;
use concmon_tests::report::{Exited, Report};
use concmon_tests::spawn::Group;
use concmon_tests::watch::{Outcome, PATIENCE, Watch};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::watch_python;

/// Where the kernel has the id that it gave out last; whoever writes it chooses the next one.
const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";
/// The kernel side sends what it has within this time, and a little more.
const UNSENT_NS: u128 = 600_000_000;
/// Faults of records about switches, which come in any great churn and cost detail alone.
const HARMLESS: [&str; 3] = ["switch-unseen", "wakeup-unseen", "ordered-late"];
/// How long one turn of the select loop should take at most.
const LONGEST_PASS_NS: u64 = 20_000_000;

pub(crate) fn trials() -> Vec<Trial> {
    let exact = &["--exact", "tasks", "--exact", "futures"][..];
    type Body = fn(&str, &[&str]) -> Result<()>;
    let rows: [(&str, &str, &[&str], Body); 8] = [
        ("forks", "3.11", &[], forks),
        ("execs", "3.13", exact, execs),
        ("zombies", "3.13", &[], zombies),
        ("ids", "3.13", &[], ids),
        ("service", "3.11", &[], service),
        ("service_exact", "3.13", exact, service),
        ("loops_one_by_one", "3.13", &[], loops_one_by_one),
        ("loops_at_once", "3.13", &[], loops_at_once),
    ];
    let room = quiet(
        "turnover::room_follows_the_living",
        &watch_python("3.13"),
        room_follows_the_living,
    );
    rows.into_iter()
        .map(|(name, version, options, body)| {
            let needs = watch_python(version);
            let body = move || body(version, options);
            let name = format!("turnover::nothing_is_kept_of_what_has_gone::{name}");
            // Ids of processes are everybody's, and each loop has to be looked at in time.
            match name.contains("ids") || name.contains("loops") {
                true => case(name, &needs, body),
                false => quiet(name, &needs, body),
            }
        })
        .chain([room])
        .collect()
}

/// More threads than there is room for at the beginning, which end together: each has an account, and what was
/// taken for them is given back.
fn room_follows_the_living() -> Result<()> {
    const THREADS: u64 = 6_000;
    // Room is given back every five seconds, what has been without use since the time before.
    const GIVEN_BACK: Duration = Duration::from_secs(18);
    let mut turnover = Turnover::start("3.13", "1s", &["--budget-memory", "1GB", "--rate", "0"])?;
    turnover.ask(&json!({ "do": "threads", "count": THREADS }))?;
    let window = turnover.settle()?;
    let threads = &window.process(turnover.pid())?.threads;
    let rows = threads.len() as u64;
    ensure!(rows == THREADS + 1, "{rows} threads have a row");
    for thread in threads {
        laws::closed(&thread.ledger).with_context(|| format!("thread {}", thread.tid))?;
    }
    turnover.ask(&json!({ "do": "release" }))?;
    let pid = turnover.pid();
    // Threads take their time to end.
    let released = Instant::now();
    while turnover.settle()?.process(pid)?.threads_count > Some(10) {
        ensure!(released.elapsed() < 2 * PATIENCE, "threads do not end");
    }
    let gone = Instant::now();
    while gone.elapsed() < GIVEN_BACK {
        turnover.watch.next(PATIENCE)?;
    }
    let outcome = turnover.watch.interrupt()?;
    let target = outcome.summary()?.process(pid)?;
    let all = target.threads.len() as u64 + target.ended.threads;
    ensure!(all == THREADS + 1, "{all} threads are told of");
    const LINE: &str = "room at the end: for ";
    let line = outcome
        .stderr
        .lines()
        .find_map(|line| line.split_once(LINE));
    let (_, line) = line.context("nothing is said of the room")?;
    let numbers: Vec<u64> = line
        .split(' ')
        .filter_map(|word| word.parse().ok())
        .collect();
    // At most so much is given back at one time: of the many small chunks of histograms, a part.
    let is_less = |numbers: &[u64]| numbers[0] < THREADS && numbers[1] < THREADS / 6 * 7;
    ensure!(
        numbers.len() == 2 && is_less(&numbers),
        "there is room for {line}"
    );
    Ok(())
}

fn forks(version: &str, options: &[&str]) -> Result<()> {
    let mut turnover = Turnover::start(version, "1s", options)?;
    turnover.processes(&json!({ "do": "forks", "count": 1_000, "over_s": 5 }))?;
    turnover.end(|exited| exited.code == Some(0))
}

fn execs(version: &str, options: &[&str]) -> Result<()> {
    let mut turnover = Turnover::start(version, "1s", options)?;
    turnover.processes(&json!({ "do": "execs", "count": 1_000 }))?;
    turnover.end(|exited| exited.code == Some(0))
}

fn zombies(version: &str, options: &[&str]) -> Result<()> {
    const COUNT: u64 = 1_000;
    let mut turnover = Turnover::start(version, "1s", options)?;
    turnover.processes(&json!({ "do": "zombies", "count": COUNT }))?;
    for expected in [COUNT, 0] {
        let zombies = turnover.settle()?.process(turnover.pid())?.zombies_count;
        ensure!(
            zombies == Some(expected),
            "{zombies:?} zombies, there are {expected}"
        );
        if expected > 0 {
            turnover.ask(&json!({ "do": "reap" }))?;
        }
    }
    turnover.end(|exited| exited.code == Some(0))
}

/// One id belongs to many: within a PID namespace, outside of it, and last to one that nobody watches.
fn ids(version: &str, options: &[&str]) -> Result<()> {
    let mut turnover = Turnover::start(version, "1s", options)?;
    let inner = turnover.processes(&json!({ "do": "namespaces", "count": 300 }))?;
    ensure!(reused(&inner)? >= 200, "ids were not used again: {inner}");
    // One id has so many holders at most of which the report knows.
    let outer = turnover.processes(&json!({ "do": "ids", "count": 60 }))?;
    ensure!(reused(&outer)? >= 20, "ids were not used again: {outer}");
    let _stranger = stranger(pids(&outer)?[0])?;
    turnover.end(|exited| exited.code == Some(0))
}

fn pids(account: &Value) -> Result<Vec<u32>> {
    Ok(serde_json::from_value(account["pids"].clone())?)
}

/// How many processes had the id of the first.
fn reused(account: &Value) -> Result<usize> {
    let pids = pids(account)?;
    Ok(pids.iter().filter(|pid| **pid == pids[0]).count())
}

/// A process of this id that is none of the workload's.
fn stranger(pid: u32) -> Result<Group> {
    for _ in 0..50 {
        std::fs::write(LAST_PID, (pid - 1).to_string())?;
        let mut command = Command::new("sleep");
        let child = Group::start(command.arg("60").stdin(Stdio::null()))?;
        if child.id() == pid {
            return Ok(child);
        }
    }
    anyhow::bail!("the id {pid} is somebody else's")
}

fn service(version: &str, options: &[&str]) -> Result<()> {
    let mut turnover = Turnover::start(version, "1s", options)?;
    // Each takes longer with probes.
    let count = if turnover.exact { 50 } else { 100 };
    turnover.processes(&json!({ "do": "service", "count": count }))?;
    turnover.end(|exited| exited.signal == Some(libc::SIGKILL as u8))
}

fn loops_one_by_one(version: &str, options: &[&str]) -> Result<()> {
    loops(version, options, 1)
}

fn loops_at_once(version: &str, options: &[&str]) -> Result<()> {
    loops(version, options, 70)
}

/// Loops that have ended keep a row up to a number; the others are counted.
fn loops(version: &str, options: &[&str], at_once: u64) -> Result<()> {
    const COUNT: usize = 70;
    // Looks find loops, one in a window.
    let mut turnover = Turnover::start(version, "100ms", options)?;
    let pid = turnover.pid();
    let account = turnover.ask(&json!({ "do": "loops", "count": COUNT, "at_once": at_once }))?;
    let tids: Vec<u32> = serde_json::from_value(account["tids"].clone())?;
    let outcome = turnover.finish()?;
    let mut told = BTreeMap::new();
    for report in &outcome.snapshots() {
        for one in &report.process(pid)?.loops {
            *told.entry(one.tid).or_insert(0) += 1;
        }
    }
    let missing: Vec<&u32> = tids.iter().filter(|tid| !told.contains_key(tid)).collect();
    ensure!(
        tids.len() == COUNT && missing.is_empty(),
        "{} loops were in no report: {missing:?}",
        missing.len()
    );
    let target = outcome.summary()?.process(pid)?;
    let left_out = target.limits.iter().find(|limit| limit.field == "loops");
    let left_out: usize = match left_out {
        None => 0,
        Some(limit) => {
            let count = limit.reason.split(' ').next().unwrap_or_default();
            count.parse().with_context(|| limit.reason.clone())?
        }
    };
    ensure!(
        target.loops.len() + left_out == COUNT,
        "the summary has {} loops and leaves out {left_out}, there were {COUNT}",
        target.loops.len()
    );
    Ok(())
}

/// A watched workload, and what it said that it started.
struct Turnover {
    workload: Workload,
    watch: Watch,
    /// Tasks and failures are counted exactly.
    exact: bool,
    processes: u64,
}

impl Turnover {
    fn start(version: &str, interval: &str, options: &[&str]) -> Result<Self> {
        let workload = Workload::start(&Interpreter::find(version)?, "turnover.py", &[])?;
        let pid = workload.pid().to_string();
        let args = ["-p", &pid, "-i", interval, "--json", "-v"];
        let mut watch = Watch::start(&[&args, options].concat())?;
        watch.next(PATIENCE)?;
        Ok(Self {
            workload,
            watch,
            exact: options.contains(&"--exact"),
            processes: 0,
        })
    }

    fn pid(&self) -> u32 {
        self.workload.pid()
    }

    fn ask(&mut self, command: &Value) -> Result<Value> {
        let kind = command["do"].as_str().context("a command does something")?;
        self.workload.ask(command, kind)
    }

    /// Has the workload start processes.
    fn processes(&mut self, command: &Value) -> Result<Value> {
        let account = self.ask(command)?;
        self.processes += account["processes"].as_u64().context("no count")?;
        Ok(account)
    }

    /// The first window that begins when all that has happened by now is known.
    fn settle(&mut self) -> Result<Report> {
        let now_ns = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let known_ns = now_ns + UNSENT_NS;
        loop {
            let window = self.watch.next(PATIENCE)?;
            if u128::from(window.window.start_unix_ns) >= known_ns {
                return Ok(window);
            }
        }
    }

    /// Ends the watch while the workload lives: of processes, only it is kept.
    fn finish(mut self) -> Result<Outcome> {
        self.settle()?;
        let outcome = self.watch.interrupt()?;
        kept(&outcome.stderr, self.exact)?;
        let warning = outcome
            .stderr
            .lines()
            .find(|line| line.contains("WARN") && line.contains("process "));
        ensure!(warning.is_none(), "of what has gone it warns: {warning:?}");
        let monitor = &outcome.summary()?.monitor;
        let faults: Vec<_> = monitor
            .faults
            .iter()
            .filter(|(name, _)| !HARMLESS.contains(&name.as_str()))
            .collect();
        ensure!(
            faults.is_empty() && monitor.events_lost == 0,
            "{} records were lost, faults: {faults:?}",
            monitor.events_lost
        );
        let longest_ns = monitor.passes.context("no passes")?.longest_ns;
        goal(
            "no turn of the select loop takes longer than 20 ms",
            longest_ns <= LONGEST_PASS_NS,
            &format!("{} ms", longest_ns / 1_000_000),
        );
        drop(self.workload);
        Ok(outcome)
    }

    /// The same, and the summary has every process, each with its end, which is as it is to be.
    fn end(self, is_right: fn(&Exited) -> bool) -> Result<()> {
        let (pid, expected) = (self.pid(), self.processes);
        let outcome = self.finish()?;
        let summary = outcome.summary()?;
        let rows = summary.processes.len() as u64 - 1;
        let in_rows = summary.processes.iter().map(|p| p.ended.processes);
        let in_groups = summary.groups.iter().map(|group| group.ended.processes);
        let folded: u64 = in_rows.chain(in_groups).sum();
        ensure!(
            rows + folded == expected,
            "{rows} process rows and {folded} folded, there were {expected}"
        );
        ensure!(summary.process(pid)?.exited.is_none(), "{pid} lives");
        for child in summary.processes.iter().filter(|p| p.pid != pid) {
            ensure!(
                child.exited.as_ref().is_some_and(is_right),
                "process {} {:?} ended by {:?}",
                child.pid,
                child.cmdline,
                child.exited
            );
        }
        Ok(())
    }
}

/// Of each kind, what belongs to the workload itself is kept, which runs no loop when the watch ends.
fn kept(stderr: &str, exact: bool) -> Result<()> {
    const LINE: &str = "kept at the end: ";
    let line = stderr.lines().find_map(|line| line.split_once(LINE));
    let (_, line) = line.with_context(|| format!("nothing is said of what is kept: {stderr}"))?;
    let kinds: Vec<(&str, u64)> = line
        .split(", ")
        .map(|kind| {
            let (what, count) = kind.rsplit_once(' ').context(LINE)?;
            Ok((what, count.parse()?))
        })
        .collect::<Result<_>>()?;
    let expected = [
        ("targets", 1),
        ("interpreters", 1),
        ("loop threads", 0),
        ("sampled GILs", 1),
        ("ended with counts", 0),
        ("kernel side's processes", 1),
        ("its unwind configurations", 1),
        ("probed processes", u64::from(exact)),
        ("exact counts", 0),
    ];
    ensure!(
        kinds == expected,
        "kept is {kinds:?}, expected {expected:?}"
    );
    Ok(())
}
