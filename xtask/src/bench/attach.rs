//! `cargo xtask bench attach`: how long it takes from starting concmon to watching many Python
//! processes, and how much memory that needs.
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use super::{Tools, child::Owned, switch};

/// Says that it is up once it has so many threads more, which all wait, and ends with its input.
const TARGET: &str = "\
import asyncio, os, sys, threading
for _ in range(int(sys.argv[1])):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
print('ready', flush=True)
sys.stdin.read()
os._exit(0)
";
/// What attaching to 50 processes may take.
const GOAL: Duration = Duration::from_secs(1);
const GOAL_BYTES: u64 = 60_000_000;

/// Time and memory to attach to many processes at once
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many processes
    #[arg(long, default_value_t = 50)]
    processes: usize,
    /// How many threads each has beside its main one, in the second case
    #[arg(long, default_value_t = 100)]
    threads: usize,
    /// How often each case is measured
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    #[command(flatten)]
    tools: Tools,
}

/// Runs the command; fails when a goal of the first case is missed.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    ensure!(args.rounds > 0, "--rounds must be at least 1");
    let binary = args.tools.binary_as_root()?;
    switch::warn_if_busy()?;
    println!(
        "{:34} {:>9} {:>17} {:>9} {:>9}",
        "attaching", "median", "min .. max", "peak", "at first"
    );
    let alone = measure(args, &binary, 0)?;
    alone.print(&format!("{} processes", args.processes));
    let many = measure(args, &binary, args.threads)?;
    many.print(&format!(
        "{} processes, {} threads each",
        args.processes, args.threads
    ));
    println!(
        "\ngoal for 50 processes: {} ms, {} MB",
        GOAL.as_millis(),
        GOAL_BYTES / 1_000_000
    );
    let reached = alone.median() <= GOAL && alone.peak_bytes <= GOAL_BYTES;
    Ok(ExitCode::from(u8::from(!reached)))
}

struct Row {
    /// From the start of the program to the beginning of the watch, sorted.
    times: Vec<Duration>,
    /// The most resident memory up to the first snapshot, and what it was then.
    peak_bytes: u64,
    first_bytes: u64,
}

impl Row {
    fn median(&self) -> Duration {
        self.times[self.times.len() / 2]
    }

    fn print(&self, what: &str) {
        println!(
            "{what:34} {:>6} ms {:>6} .. {:>4} ms {:>6.1} MB {:>6.1} MB",
            self.median().as_millis(),
            self.times[0].as_millis(),
            self.times[self.times.len() - 1].as_millis(),
            self.peak_bytes as f64 / 1e6,
            self.first_bytes as f64 / 1e6,
        );
    }
}

fn measure(args: &Args, binary: &Path, threads: usize) -> Result<Row> {
    let targets = (0..args.processes)
        .map(|_| {
            let arguments = ["-c", TARGET, &threads.to_string()];
            Owned::start_ready(Command::new(&args.tools.python).args(arguments))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut row = Row {
        times: Vec::new(),
        peak_bytes: 0,
        first_bytes: 0,
    };
    for _ in 0..args.rounds {
        attach(binary, &targets, &mut row)?;
    }
    row.times.sort();
    Ok(row)
}

/// One measurement.
fn attach(binary: &Path, targets: &[Owned], row: &mut Row) -> Result<()> {
    let mut concmon = Command::new(binary);
    concmon.args(["--json", "--interval", "100ms"]);
    for target in targets {
        concmon.args(["--pid", &target.0.id().to_string()]);
    }
    let begin = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let child = concmon
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", binary.display()))?;
    // Ended when dropped.
    let mut child = Owned(child);
    let stdout = child.0.stdout.take().context("concmon has no output")?;
    let mut line = String::new();
    BufReader::new(stdout)
        .read_line(&mut line)
        .context("reading from concmon")?;
    let [peak, now] = child.memory_bytes(["VmHWM:", "VmRSS:"])?;
    let first: serde_json::Value = serde_json::from_str(&line).with_context(|| {
        format!(
            "concmon said `{}`",
            line.chars().take(200).collect::<String>()
        )
    })?;
    let watched = first["processes"].as_array().map_or(0, Vec::len);
    ensure!(
        watched == targets.len(),
        "{watched} of {} processes are watched",
        targets.len()
    );
    let since = first["window"]["start_unix_ns"]
        .as_u64()
        .context("the snapshot has no start")?;
    row.times
        .push(Duration::from_nanos(since).saturating_sub(begin));
    row.peak_bytes = row.peak_bytes.max(peak);
    row.first_bytes = row.first_bytes.max(now);
    Ok(())
}
