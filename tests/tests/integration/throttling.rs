//! CPU quotas of cgroups: what they take, by the kernel's own account, and that nobody else is blamed for it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
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
    let case = |name, body: fn() -> Result<()>| case(name, &watch_python("3.13"), body);
    vec![
        case("throttling::is_told_apart_from_neighbours", is_told_apart),
        case(
            "throttling::is_told_beside_a_pod_from_another",
            is_told_of_another_pod,
        ),
    ]
}

/// A cgroup, which goes with this.
pub(crate) struct Limited {
    folder: PathBuf,
    is_first: bool,
}

impl Limited {
    /// Of version 1 where its controller is there, else of version 2.
    fn free(name: &str) -> Result<Self> {
        let first = Path::new("/sys/fs/cgroup/cpu");
        let is_first = first.join("cpu.cfs_quota_us").exists();
        let root = if is_first {
            first
        } else {
            Path::new("/sys/fs/cgroup")
        };
        let folder = root.join(format!("concmon-test-{}-{name}", std::process::id()));
        std::fs::create_dir(&folder)
            .map_err(|error| Skip(format!("no cgroup can be made: {error}")))?;
        Ok(Self { folder, is_first })
    }

    /// With a quota, so much of each tenth of a second.
    pub(crate) fn new(name: &str, quota_us: u64) -> Result<Self> {
        let limited = Self::free(name)?;
        let set = match limited.is_first {
            true => limited
                .write("cpu.cfs_period_us", PERIOD_US)
                .and_then(|()| limited.write("cpu.cfs_quota_us", quota_us)),
            false => limited.write("cpu.max", format!("{quota_us} {PERIOD_US}")),
        };
        set.map_err(|error| Skip(format!("no CPU quota can be set: {error:#}")))?;
        Ok(limited)
    }

    pub(crate) fn write(&self, file: &str, value: impl ToString) -> Result<()> {
        std::fs::write(self.folder.join(file), value.to_string()).with_context(|| file.to_owned())
    }

    /// Runs a program in it, in namespaces of its own, which show no other cgroup.
    fn pod(&self, program: &std::ffi::OsStr) -> Command {
        let (kind, options, at) = match self.is_first {
            true => ("cgroup", "cpu", "/sys/fs/cgroup/cpu"),
            false => ("cgroup2", "rw", "/sys/fs/cgroup"),
        };
        let mount =
            format!("umount -l {at} && mount -t {kind} -o {options} none {at} && exec \"$@\"");
        let enter = "echo $$ > \"$0/cgroup.procs\" && exec unshare --cgroup --mount sh -c \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", enter]).arg(&self.folder);
        command.args([&mount, "sh"]).arg(program);
        command
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
const BUSY: &str =
    "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nwhile True: pass";

fn busy() -> Result<Group> {
    let mut command = Interpreter::find("3.13")?.command();
    Group::start(command.args(["-c", BUSY]).stdin(Stdio::null()))
}

/// The summary of a process after a while, by this command of concmon.
fn watched(mut monitor: Command, pid: u32, duration: &str) -> Result<Value> {
    let pid = pid.to_string();
    let output = monitor
        .args(["--json", "-d", duration, "--budget-cpu", "100%", "-p", &pid])
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
    let limited = Limited::new("one", QUOTA_US)?;
    let one = busy()?;
    limited.write("cgroup.procs", one.id())?;
    let monitor = || Ok::<_, anyhow::Error>(Command::new(binary()?));
    let process = is_told(&limited, monitor()?, one.id(), "10s")?;
    ensure!(finding(&process, "cpu-starved").is_none(), "{process}");
    drop(one);
    // The same without a quota, with neighbours instead.
    let (one, _two, _three) = (busy()?, busy()?, busy()?);
    let process = watched(monitor()?, one.id(), "10s")?;
    ensure!(finding(&process, "cpu-starved").is_some(), "{process}");
    ensure!(finding(&process, "cpu-throttled").is_none(), "{process}");
    ensure!(process.get("throttled_ns").is_none(), "{process}");
    Ok(())
}

/// As from a pod of its own on the same host: neither sees the cgroup of the other.
fn is_told_of_another_pod() -> Result<()> {
    let (limited, free) = (Limited::new("pod", QUOTA_US)?, Limited::free("agent")?);
    let interpreter = Interpreter::find("3.13")?.command();
    let mut pod = limited.pod(interpreter.get_program());
    let mut one = Group::start(pod.args(["-c", BUSY]).stdin(Stdio::null()))?;
    let name = format!("/proc/{}/comm", one.id());
    while !std::fs::read_to_string(&name)?.starts_with("python") {
        if let Some(status) = one.try_wait()? {
            bail!(Skip(format!("no pod can be made: {status}")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let monitor = free.pod(binary()?.as_os_str());
    let process = is_told(&limited, monitor, one.id(), "5s")?;
    let throttled = finding(&process, "cpu-throttled").context("no cpu-throttled")?;
    let cgroup = throttled["evidence"]["cgroup"].as_str();
    ensure!(
        cgroup.is_some_and(|path| path.starts_with("/../")),
        "{throttled}"
    );
    Ok(())
}

/// That the quota's own account is told, and as a finding; what was told.
fn is_told(limited: &Limited, monitor: Command, pid: u32, duration: &str) -> Result<Value> {
    let before = limited.throttled_s()?;
    let process = watched(monitor, pid, duration)?;
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
    Ok(process)
}
