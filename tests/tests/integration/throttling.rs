//! CPU quotas of cgroups: what they take, by the kernel's own account, and that nobody else is blamed for it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::{Skip, case};
use concmon_tests::interpreter::Interpreter;
use concmon_tests::spawn::Group;
use concmon_tests::watch::binary;
use libtest_mimic::Trial;
use serde_json::Value;

use crate::watch_python;

/// Of a CPU, in each tenth of a second.
const QUOTA_US: u64 = 30_000;
const PERIOD_US: u64 = 100_000;
/// The kernel's account is read a little before and after the watch.
const LEAST: f64 = 0.6;

pub(crate) fn trials() -> Vec<Trial> {
    vec![case(
        "throttling::is_told_apart_from_neighbours",
        &watch_python("3.13"),
        is_told_apart,
    )]
}

/// A cgroup with a quota, which goes with this.
struct Limited {
    folder: PathBuf,
    is_first: bool,
}

impl Limited {
    /// Of version 1 where its controller is there, else of version 2.
    fn new() -> Result<Self> {
        let first = Path::new("/sys/fs/cgroup/cpu");
        let is_first = first.join("cpu.cfs_quota_us").exists();
        let root = if is_first {
            first
        } else {
            Path::new("/sys/fs/cgroup")
        };
        let folder = root.join(format!("concmon-test-{}", std::process::id()));
        std::fs::create_dir(&folder)
            .map_err(|error| Skip(format!("no cgroup can be made: {error}")))?;
        let limited = Self { folder, is_first };
        let set = match is_first {
            true => limited
                .write("cpu.cfs_period_us", PERIOD_US)
                .and_then(|()| limited.write("cpu.cfs_quota_us", QUOTA_US)),
            false => limited.write("cpu.max", format!("{QUOTA_US} {PERIOD_US}")),
        };
        set.map_err(|error| Skip(format!("no CPU quota can be set: {error:#}")))?;
        Ok(limited)
    }

    fn write(&self, file: &str, value: impl ToString) -> Result<()> {
        std::fs::write(self.folder.join(file), value.to_string()).with_context(|| file.to_owned())
    }

    /// What the quota has taken, s.
    fn throttled_s(&self) -> Result<f64> {
        let text = std::fs::read_to_string(self.folder.join("cpu.stat"))?;
        let (name, unit) = match self.is_first {
            true => ("throttled_time ", 1e-9),
            false => ("throttled_usec ", 1e-6),
        };
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        Ok(line.context("no throttled time")?.parse::<f64>()? * unit)
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        // Its last process may take a moment to go.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.folder).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Computes all the time, where it is allowed to on the first CPU.
fn busy() -> Result<Group> {
    let program =
        "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nwhile True: pass";
    let mut command = Interpreter::find("3.13")?.command();
    Group::start(command.args(["-c", program]).stdin(Stdio::null()))
}

/// The summary of a process after ten seconds.
fn watched(pid: u32) -> Result<Value> {
    let pid = pid.to_string();
    let output = Command::new(binary()?)
        .args(["--json", "-d", "10s", "--budget-cpu", "100%", "-p", &pid])
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let last = text.lines().last().context("no output")?;
    let mut summary: Value = serde_json::from_str(last)?;
    Ok(summary["processes"][0].take())
}

fn finding<'a>(process: &'a Value, rule: &str) -> Option<&'a Value> {
    let mut findings = process["findings"].as_array()?.iter();
    findings.find(|finding| finding["rule"] == rule)
}

fn is_told_apart() -> Result<()> {
    let limited = Limited::new()?;
    let one = busy()?;
    limited.write("cgroup.procs", one.id())?;
    let before = limited.throttled_s()?;
    let process = watched(one.id())?;
    let took = limited.throttled_s()? - before;
    let told = process["throttled_ns"]
        .as_f64()
        .context("no throttled_ns")?
        / 1e9;
    ensure!(
        (took * LEAST..=took).contains(&told),
        "{told} s are told, the kernel says {took} s"
    );
    let throttled = finding(&process, "cpu-throttled").context("no cpu-throttled")?;
    ensure!(throttled["evidence"]["cpus"] == 0.3, "{throttled}");
    ensure!(finding(&process, "cpu-starved").is_none(), "{process}");
    drop(one);
    // The same without a quota, with neighbours instead.
    let (one, _two, _three) = (busy()?, busy()?, busy()?);
    let process = watched(one.id())?;
    ensure!(finding(&process, "cpu-starved").is_some(), "{process}");
    ensure!(finding(&process, "cpu-throttled").is_none(), "{process}");
    ensure!(process.get("throttled_ns").is_none(), "{process}");
    Ok(())
}
