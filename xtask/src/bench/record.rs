//! `cargo xtask bench record`: what recording adds to a target's context switch over watching it, and how
//! long captures become, beside those of `perf sched record`.
//!
//! Two threads on one CPU pass a byte to and fro. Each round watches them, records them, and watches them
//! again; the two watches of a round differ by noise only. Bytes are counted per context switch of the
//! target, as the kernel counts them; perf records everybody's, whoever it is that one wants to see.
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Tools;
use super::servers::{self, CONNECTIONS, Server};
use super::switch::{self, median};
use super::tracer::Tracer;
use crate::workspace;

const SOURCE: &str = include_str!("../../../tests/workloads/pingpong.c");
/// Runs its argument, which has its input and output.
const PARENT: &str = "import subprocess, sys; subprocess.run(sys.argv[1:])";
/// What recording may add to a switch, ns.
const GOAL_NS: f64 = 100.0;
/// The longest capture per switch: of the threads, and of a server.
const GOAL_BYTES: [f64; 2] = [8.0, 12.0];
/// With fewer switches per second, what is read of the interpreter outweighs them, and says nothing
/// about switches.
const FEW_SWITCHES: f64 = 1_000.0;

/// What recording costs, in time and in bytes
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How often each case is measured
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// How long one measurement takes, seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    #[command(flatten)]
    tools: Tools,
}

/// Runs the command; fails when recording costs more than it may.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    ensure!(args.rounds > 0, "--rounds must be at least 1");
    let folder = tempfile::tempdir().context("creating a temporary folder")?;
    let bench = Bench {
        binary: args.tools.binary_as_root()?,
        folder: folder.path(),
        args,
    };
    switch::warn_if_busy()?;

    let mut players = Players::start(&bench)?;
    let mut reached = bench.cost(&mut players)?;
    println!(
        "\n{:20} {:>10} {:>10} {:>10} {:>10} {:>6} {:>8}",
        "bytes per switch", "switches/s", "bytes", "concmon", "perf sched", "goal", "missing"
    );
    let pid = players.child.id();
    let play = || players.play(args.seconds);
    reached &= bench.bytes("threads, ping-pong", GOAL_BYTES[0], pid, play)?;
    // A loop that never idles does not switch either: with one connection it waits for each message.
    for (kind, connections) in [("asyncio", 1), ("threads", 1), ("threads", CONNECTIONS)] {
        let server = Server::start(&args.tools.python, kind)?;
        let load = || bench.load(&server, connections);
        let name = format!("{kind}, {connections} at a time");
        reached &= bench.bytes(&name, GOAL_BYTES[1], server.child.id(), load)?;
    }
    Ok(ExitCode::from(u8::from(!reached)))
}

struct Bench<'a> {
    binary: PathBuf,
    folder: &'a Path,
    args: &'a Args,
}

impl Bench<'_> {
    /// Prints what recording adds to a switch; whether that is within the goal.
    fn cost(&self, players: &mut Players) -> Result<bool> {
        let pid = players.child.id();
        let (mut live, mut recorded) = (Vec::new(), Vec::new());
        let (mut added, mut noise) = (Vec::new(), Vec::new());
        for round in 1..=self.args.rounds {
            eprintln!("round {round} of {}", self.args.rounds);
            let mut ns = |command: &mut Command, speaks| -> Result<f64> {
                let tracer = Tracer::start(command, speaks)?;
                let switches = players.play(self.args.seconds)?;
                tracer.stop()?;
                Ok(self.args.seconds * 1e9 / switches as f64)
            };
            let before = ns(&mut self.watch(pid), true)?;
            let record = ns(&mut self.record(pid), false)?;
            let after = ns(&mut self.watch(pid), true)?;
            live.extend([before, after]);
            recorded.push(record);
            added.push(record - f64::midpoint(before, after));
            noise.push(after - before);
        }
        println!(
            "{:20} {:>8} {:>19}",
            "ns per switch", "median", "min .. max"
        );
        let row = |name: &str, values: &mut Vec<f64>| {
            values.sort_by(f64::total_cmp);
            let spread = format!("{:.0} .. {:.0}", values[0], values[values.len() - 1]);
            println!("{name:20} {:>8.0} {spread:>19}", median(values));
        };
        row("watched", &mut live);
        row("recorded", &mut recorded);
        row("added by recording", &mut added);
        row("noise of watching", &mut noise);
        println!("goal: {GOAL_NS} ns added, median of rounds");
        Ok(median(&added) <= GOAL_NS)
    }

    /// Prints how long captures of a load become; whether that is within the goal.
    fn bytes(
        &self,
        name: &str,
        goal: f64,
        pid: u32,
        mut load: impl FnMut() -> Result<u64>,
    ) -> Result<bool> {
        let tracer = Tracer::start(&mut self.record(pid), false)?;
        let switches = load()? as f64;
        tracer.stop()?;
        let bytes = fs::metadata(self.capture())?.len() as f64;
        let missing = self.missing(switches as u64)?;
        let perf = match self.perf(&mut load) {
            Ok(bytes) => format!("{bytes:.1}"),
            Err(error) => {
                eprintln!("perf sched: {error:#}");
                "-".to_owned()
            }
        };
        let few = switches / self.args.seconds < FEW_SWITCHES;
        let shown = if few {
            "-".to_owned()
        } else {
            goal.to_string()
        };
        println!(
            "{name:20} {:>10.0} {bytes:>10} {:>10.2} {perf:>10} {shown:>6} {missing:>8}",
            switches / self.args.seconds,
            bytes / switches
        );
        Ok((few || bytes / switches <= goal) && missing == 0)
    }

    /// Bytes per switch of `perf sched record`.
    fn perf(&self, load: &mut impl FnMut() -> Result<u64>) -> Result<f64> {
        let file = self.folder.join("perf.data");
        let mut perf = Command::new("perf");
        perf.args(["sched", "record", "-a", "-o"]).arg(&file);
        let tracer = Tracer::start(&mut perf, false)?;
        let switches = load()?;
        tracer.stop()?;
        Ok(fs::metadata(&file)?.len() as f64 / switches as f64)
    }

    /// Switches that the capture has no record of, at least.
    fn missing(&self, switches: u64) -> Result<u64> {
        let mut report = Command::new(&self.binary);
        report.args(["report", "--json", "-i"]).arg(self.capture());
        let found: Value = serde_json::from_str(workspace::output(&mut report)?.trim())?;
        let number = |key: &str| {
            found["monitor"][key]
                .as_u64()
                .with_context(|| format!("the report does not tell {key}"))
        };
        Ok(number("events_lost")?.max(switches.saturating_sub(number("events")?)))
    }

    fn capture(&self) -> PathBuf {
        self.folder.join("capture.concmon")
    }

    fn watch(&self, pid: u32) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(["--json", "--pid", &pid.to_string()]);
        command
    }

    fn record(&self, pid: u32) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(["record", "--pid", &pid.to_string(), "-o"])
            .arg(self.capture());
        command
    }

    /// Loads a server from another CPU; its switches.
    fn load(&self, server: &Server, connections: usize) -> Result<u64> {
        let before = switches(server.child.id())?;
        let (asked, duration) = (server.asked(), Duration::from_secs_f64(self.args.seconds));
        // A thread of its own, for what it starts would inherit the CPU.
        match thread::spawn(move || servers::load(asked, duration, connections)).join() {
            Ok(loaded) => loaded?,
            Err(_) => bail!("the load's thread panicked"),
        };
        Ok(switches(server.child.id())?.saturating_sub(before))
    }
}

/// Context switches of a process's threads so far.
fn switches(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(entry?.path().join("status")).unwrap_or_default();
        for line in text.lines() {
            if let Some((name, count)) = line.split_once(':')
                && name.ends_with("voluntary_ctxt_switches")
            {
                sum += count.trim().parse::<u64>().unwrap_or(0);
            }
        }
    }
    Ok(sum)
}

/// Python with two threads as its child, which play when told to; ended when dropped.
struct Players {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    /// What the threads counted so far.
    switches: u64,
}

impl Players {
    fn start(bench: &Bench<'_>) -> Result<Self> {
        let source = bench.folder.join("pingpong.c");
        let program = bench.folder.join("pingpong");
        fs::write(&source, SOURCE)?;
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-pthread", "-o"]).arg(&program);
        workspace::output(cc.arg(&source)).context("compiling the workload")?;
        let mut child = Command::new(&bench.args.tools.python)
            .args(["-c", PARENT])
            .arg(&program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting Python")?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().context("Python has no output")?);
        let mut players = Self {
            child,
            stdin,
            stdout,
            switches: 0,
        };
        players.line()?;
        Ok(players)
    }

    /// Plays; context switches of both threads meanwhile.
    fn play(&mut self, seconds: f64) -> Result<u64> {
        let stdin = self.stdin.as_mut().context("Python has no input")?;
        writeln!(stdin, "{}", (seconds * 1e3) as u64).context("telling the players to start")?;
        let told = self.line()?;
        let threads = told["threads"].as_array().context("no threads")?;
        let counts = ["voluntary", "involuntary"].map(|key| {
            let of_threads = threads.iter().filter_map(|thread| thread[key].as_u64());
            of_threads.sum::<u64>()
        });
        let before = std::mem::replace(&mut self.switches, counts.iter().sum());
        Ok(self.switches - before)
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("the players said `{line}`"))
    }
}

impl Drop for Players {
    fn drop(&mut self) {
        // Without input the threads end, then Python; it fails only where it has been waited for.
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}
