//! `cargo xtask bench look`: what looking at an interpreter's tasks takes, and what it costs the
//! program that is looked at.
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::pythons::{self, Python};
use crate::workspace;

/// So many tasks as its argument says, each three coroutines deep; for every line that it is given,
/// one with the steps of its loop so far and the CPU time that they took.
const SOURCE: &str = "\
import asyncio, os, sys, threading, time
count, busy = int(sys.argv[1]), sys.argv[2] == 'busy'
steps = 0
async def leaf():
    await asyncio.sleep(36000)
async def middle():
    await leaf()
async def work():
    await middle()
async def main():
    global steps
    kept = [asyncio.ensure_future(work()) for _ in range(count)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    print(os.getpid(), flush=True)
    while busy:
        steps += 1
        await asyncio.sleep(0)
    await asyncio.sleep(36000)
def answer():
    for line in sys.stdin:
        print(steps, time.process_time(), flush=True)
    os._exit(0)
threading.Thread(target=answer, daemon=True).start()
asyncio.run(main())
";
const COUNTS: [usize; 2] = [1_000, 100_000];
/// What is read: its name, and the frames of a chain.
const WHAT: [(&str, usize); 2] = [("names", 0), ("awaits", 64)];
/// Tasks of the program whose throughput is measured.
const WATCHED_TASKS: usize = 1_000;

/// What looking at tasks takes, and costs the program
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only interpreters whose version begins with one of these; default 3.11, 3.13 and 3.14
    #[arg(long, value_name = "VERSION")]
    python: Vec<String>,
    /// How often each case is measured in each of two looking processes
    #[arg(long, default_value_t = 6)]
    looks: usize,
    /// Pairs of stretches, without looks and with one each second, that throughput is measured in
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Seconds of one such stretch
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    ensure!(args.looks > 1, "--looks must be at least 2");
    workspace::run(workspace::cargo().args([
        "build",
        "--release",
        "--package=concmon-userspace",
        "--example=bench_look",
    ]))?;
    let reader = workspace::target_dir()?.join("release/examples/bench_look");
    let wanted: Vec<&str> = if args.python.is_empty() {
        vec!["3.11.", "3.13.", "3.14."]
    } else {
        args.python.iter().map(String::as_str).collect()
    };
    let mut found = Vec::new();
    for python in pythons::all()? {
        let version = python.version().map_or(String::new(), |v| v.text.clone());
        if wanted.iter().any(|wanted| version.starts_with(wanted)) {
            found.push((version, python));
        }
    }
    ensure!(!found.is_empty(), "there is no such Python here");
    let load = std::fs::read_to_string("/proc/loadavg").context("reading the load average")?;
    println!("load average {}", load.trim());
    println!(
        "\n{:24} {:>7} {:8} {:>9} {:>9} {:>9} {:>9} {:>8} {:>11}",
        "best of each", "tasks", "read", "cold ms", "CPU ms", "warm ms", "CPU ms", "MB", "syscalls"
    );
    for (version, python) in &found {
        for count in COUNTS {
            let program = Program::start(python, count, "idle")?;
            for (what, chain) in WHAT {
                let case = Case::measure(&reader, program.pid, count, chain, args.looks)?;
                println!("{version:24} {count:>7} {what:8} {case}");
            }
        }
    }
    println!(
        "\n{:24} steps of the loop per CPU second, {WATCHED_TASKS} tasks, a look each second",
        ""
    );
    for (version, python) in &found {
        throughput(args, version, python, &reader)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The best of several looks.
struct Case {
    cold: [f64; 2],
    warm: [f64; 2],
    megabytes: f64,
    calls: [u64; 2],
}

impl Case {
    fn measure(reader: &Path, pid: u32, count: usize, chain: usize, looks: usize) -> Result<Self> {
        let mut case = Self {
            cold: [f64::INFINITY; 2],
            warm: [f64::INFINITY; 2],
            megabytes: 0.0,
            calls: [0; 2],
        };
        for _ in 0..2 {
            let out = workspace::output(&mut looking(reader, pid, chain, looks, 0))?;
            for (index, line) in out.lines().enumerate() {
                let look: Value = serde_json::from_str(line).context("reading what a look took")?;
                // One task more is the program's own.
                ensure!(
                    look["tasks"] == count + 1 && look["reads_failed"] == 0,
                    "not all was read: {line}"
                );
                let best = if index == 0 {
                    &mut case.cold
                } else {
                    &mut case.warm
                };
                for (best, field) in best.iter_mut().zip(["wall_ms", "cpu_ms"]) {
                    *best = best.min(look[field].as_f64().context("no time")?);
                }
                case.calls[usize::from(index > 0)] = look["calls"].as_u64().context("no count")?;
                case.megabytes = look["bytes"].as_f64().context("no bytes")? / 1e6;
            }
        }
        Ok(case)
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>8.1} {:>5}/{:>5}",
            self.cold[0],
            self.cold[1],
            self.warm[0],
            self.warm[1],
            self.megabytes,
            self.calls[0],
            self.calls[1]
        )
    }
}

fn looking(reader: &Path, pid: u32, chain: usize, looks: usize, pause_ms: u64) -> Command {
    let mut command = Command::new(reader);
    let numbers = [
        u64::from(pid),
        1 << 20,
        chain as u64,
        looks as u64,
        pause_ms,
    ];
    command.args(numbers.map(|number| number.to_string()));
    command
}

/// Prints how fast a program's loop goes, with looks at it and without, in turn.
fn throughput(args: &Args, version: &str, python: &Python, reader: &Path) -> Result<()> {
    let mut program = Program::start(python, WATCHED_TASKS, "busy")?;
    let stretch = Duration::from_secs(args.seconds);
    program.rate(stretch)?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..args.pairs {
        without.push(program.rate(stretch)?);
        let watcher = looking(reader, program.pid, 64, usize::MAX, 1000)
            .stdout(Stdio::null())
            .spawn()
            .context("starting the looks")?;
        let watcher = Killed(watcher);
        with.push(program.rate(stretch)?);
        drop(watcher);
    }
    // Half of the stretches without looks against the other half: what noise alone makes.
    let (even, odd): (Vec<_>, Vec<_>) = without.iter().enumerate().partition(|(i, _)| i % 2 == 0);
    let values = |half: Vec<(usize, &f64)>| half.into_iter().map(|(_, rate)| *rate).collect();
    let (even, odd): (Vec<f64>, Vec<f64>) = (values(even), values(odd));
    let noise = if odd.is_empty() {
        "unknown".to_owned()
    } else {
        format!("{:+.2} %", change(&even, &odd))
    };
    println!(
        "{version:24} {:.0} without, {:.0} with: {:+.2} % (noise alone: {noise})",
        median(&without),
        median(&with),
        change(&without, &with)
    );
    Ok(())
}

/// From one median to the other, percent.
fn change(from: &[f64], to: &[f64]) -> f64 {
    (median(to) / median(from) - 1.0) * 100.0
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}

/// Ended when dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Both fail only where the process has been waited for already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A Python program with tasks.
struct Program {
    _child: Killed,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    pid: u32,
}

impl Program {
    fn start(python: &Python, count: usize, what: &str) -> Result<Self> {
        let mut child = python
            .command()
            .args(["-c", SOURCE, &count.to_string(), what])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting Python")?;
        let stdin = child.stdin.take().context("Python has no input")?;
        let stdout = BufReader::new(child.stdout.take().context("Python has no output")?);
        let mut program = Self {
            _child: Killed(child),
            stdin,
            stdout,
            pid: 0,
        };
        program.pid = program.line()?.parse().context("Python said no id")?;
        // Until it sleeps.
        std::thread::sleep(Duration::from_millis(200));
        Ok(program)
    }

    /// Steps per CPU second during a stretch.
    fn rate(&mut self, stretch: Duration) -> Result<f64> {
        let before = self.counts()?;
        std::thread::sleep(stretch);
        let after = self.counts()?;
        let seconds = after.1 - before.1;
        ensure!(seconds > 0.0, "Python did not run");
        Ok((after.0 - before.0) / seconds)
    }

    fn counts(&mut self) -> Result<(f64, f64)> {
        writeln!(self.stdin, "?").context("asking Python")?;
        let line = self.line()?;
        match line.split_once(' ') {
            Some((steps, seconds)) => Ok((steps.parse()?, seconds.parse()?)),
            None => bail!("Python said `{line}`"),
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout
            .read_line(&mut line)
            .context("reading from Python")?;
        Ok(line.trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_tells_how_far_it_is() {
        let python = pythons::all()
            .expect("folders can be read")
            .into_iter()
            .find(|python| python.version().is_some_and(|version| version.minor >= 8));
        let Some(python) = python else {
            eprintln!("skipped: no Python here");
            return;
        };
        let mut program = Program::start(&python, 3, "busy").expect("started");
        let rate = program.rate(Duration::from_millis(300)).expect("a rate");
        assert!(rate > 10.0, "{rate} steps per CPU second");
    }
}
