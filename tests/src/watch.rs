//! Runs the tool, reads its reports as they come, and checks the laws on every one of them.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::laws;
use crate::report::{Hang, Report, Stall};
use crate::schema;
use crate::spawn::{Group, code};

/// How long the tool may take beyond what it was asked to watch.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The tool's binary: `CONCMON_BIN`, else beside the test executable, in the other profile too.
///
/// # Errors
/// When there is none; the message says how to make one.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CONCMON_BIN") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "CONCMON_BIN={} is no file", path.display());
        return Ok(path);
    }
    // target/PROFILE/deps/integration-HASH
    let executable = std::env::current_exe()?;
    let profile = executable
        .parent()
        .and_then(|deps| deps.parent())
        .context("the test executable lies in no target folder")?;
    let target = profile.parent().context("no target folder")?;
    [
        profile.to_owned(),
        target.join("debug"),
        target.join("release"),
    ]
    .into_iter()
    .map(|folder| folder.join("concmon-bpf"))
    .find(|path| path.is_file())
    .with_context(|| {
        format!(
            "no concmon-bpf in {}: run `cargo build -p concmon-userspace` or set CONCMON_BIN",
            target.display()
        )
    })
}

/// A running `concmon-bpf`.
#[derive(Debug)]
pub struct Watch {
    child: Group,
    lines: Receiver<String>,
    stderr: JoinHandle<String>,
    reports: Vec<Report>,
    /// Lines of stdout that are not the tool's: what a started program printed.
    other: Vec<String>,
    stalls: Vec<Stall>,
    hangs: Vec<Hang>,
}

/// What the tool left behind when it ended.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code, 128 + signal when killed.
    pub code: i32,
    pub reports: Vec<Report>,
    pub other: Vec<String>,
    /// Lines about stalls, in their order.
    pub stalls: Vec<Stall>,
    /// And about hangs.
    pub hangs: Vec<Hang>,
    pub stderr: String,
}

impl Watch {
    /// Starts the tool with these arguments. Unless they say so, it has no budget: the tests run a build
    /// without optimisation, and want to see everything.
    ///
    /// # Errors
    /// When there is no binary or it cannot be started.
    pub fn start(args: &[&str]) -> Result<Self> {
        let mut command = Command::new(binary()?);
        if args.first().is_some_and(|first| first.starts_with('-'))
            && args.contains(&"--json")
            && !args.contains(&"--budget-cpu")
        {
            command.args(["--budget-cpu", "100%"]);
        }
        Self::with(command.args(args))
    }

    /// Starts the tool by a command of one's own.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn with(command: &mut Command) -> Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = Group::start(command)?;
        let stdout = child.stdout.take().context("no stdout")?;
        let mut stderr = child.stderr.take().context("no stderr")?;
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(|line| line.ok()) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let stderr = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stderr.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Ok(Self {
            child,
            lines,
            stderr,
            reports: Vec::new(),
            other: Vec::new(),
            stalls: Vec::new(),
            hangs: Vec::new(),
        })
    }

    /// Watches one process with `--json`, windows of `interval`, until a signal or `duration`.
    ///
    /// # Errors
    /// As [`Watch::start`].
    pub fn pid(pid: u32, interval: &str, duration: Option<&str>) -> Result<Self> {
        let pid = pid.to_string();
        let mut args = vec!["--pid", &pid, "-i", interval, "--json"];
        if let Some(duration) = duration {
            args.extend(["-d", duration]);
        }
        Self::start(&args)
    }

    /// The tool's own process id.
    pub fn tool(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: i32) {
        self.child.signal(signal);
    }

    /// Whether the tool has not ended yet.
    ///
    /// # Errors
    /// When its state cannot be asked for.
    pub fn running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits for the next report.
    ///
    /// # Errors
    /// When none comes in time (with what the tool said on stderr), or it breaks a law.
    pub fn next(&mut self, limit: Duration) -> Result<Report> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                self.child.signal(libc::SIGKILL);
                let status = self.child.wait()?;
                let said = self.take_stderr();
                bail!("no report in {limit:?} (tool: {status}, stderr: {said:?})");
            };
            if self.take(line)? {
                return Ok(self.reports[self.reports.len() - 1].clone());
            }
        }
    }

    fn take_stderr(&mut self) -> String {
        std::mem::replace(&mut self.stderr, std::thread::spawn(String::new))
            .join()
            .unwrap_or_default()
    }

    /// Takes a line in; true when it was a report.
    fn take(&mut self, line: String) -> Result<bool> {
        let value: Value = serde_json::from_str(&line).unwrap_or(Value::Null);
        if value.get("schema").is_none() {
            self.other.push(line);
            return Ok(false);
        }
        schema::validate(&value).with_context(|| format!("{line:.300}"))?;
        if value["type"] == "stall" {
            let stall = serde_json::from_value(value)
                .with_context(|| format!("a stall that breaks the contract: {line:.300}"))?;
            self.stalls.push(stall);
            return Ok(false);
        }
        if value["type"] == "hang" {
            let hang = serde_json::from_value(value)
                .with_context(|| format!("a hang that breaks the contract: {line:.300}"))?;
            self.hangs.push(hang);
            return Ok(false);
        }
        let report: Report = serde_json::from_value(value)
            .with_context(|| format!("a report that breaks the contract: {line:.300}"))?;
        laws::hold(&report)?;
        self.reports.push(report);
        Ok(true)
    }

    /// Waits for the tool's end.
    ///
    /// # Errors
    /// When it does not end in time, or a report breaks a law.
    pub fn finish(mut self, limit: Duration) -> Result<Outcome> {
        let status = match self.child.wait_for(limit) {
            Ok(status) => status,
            Err(error) => {
                self.child.signal(libc::SIGKILL);
                let said = self.take_stderr();
                return Err(error.context(format!("stderr: {said:?}")));
            }
        };
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.take(line)?;
        }
        let stderr = self.take_stderr();
        Ok(Outcome {
            code: code(status),
            reports: std::mem::take(&mut self.reports),
            other: std::mem::take(&mut self.other),
            stalls: std::mem::take(&mut self.stalls),
            hangs: std::mem::take(&mut self.hangs),
            stderr,
        })
    }

    /// Ends the watch by SIGINT and returns what it left, which must be a summary and code 0.
    ///
    /// # Errors
    /// When the tool does not end so.
    pub fn interrupt(self) -> Result<Outcome> {
        self.signal(libc::SIGINT);
        self.finish(PATIENCE)?.ok()
    }
}

impl Outcome {
    /// Demands exit code 0, a summary, and nothing but reports on stdout.
    ///
    /// # Errors
    /// When one of these is not so.
    pub fn ok(self) -> Result<Self> {
        ensure!(
            self.code == 0,
            "exit code {}, stderr: {}",
            self.code,
            self.stderr
        );
        ensure!(
            self.other.is_empty(),
            "not a report, on stdout: {:?}",
            self.other
        );
        self.summary()?;
        Ok(self)
    }

    /// The last report, which must be the only summary.
    ///
    /// # Errors
    /// When it is not.
    pub fn summary(&self) -> Result<&Report> {
        let summaries = self.reports.iter().filter(|r| r.kind == "summary").count();
        ensure!(
            summaries == 1,
            "{summaries} summaries (exit code {}, stderr: {})",
            self.code,
            self.stderr
        );
        let last = self.reports.last().context("no report")?;
        ensure!(last.kind == "summary", "the summary is not the last report");
        Ok(last)
    }

    /// All reports but the summary.
    pub fn snapshots(&self) -> Vec<Report> {
        let mut snapshots = self.reports.clone();
        snapshots.retain(|report| report.kind == "snapshot");
        snapshots
    }
}
