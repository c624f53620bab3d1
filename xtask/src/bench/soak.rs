//! `cargo xtask bench soak`: what a long watch of processes and threads that come and go takes, minute by minute.
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Tools, child::Owned, targets};

/// Each second: five processes with four threads and a loop that live for half of one, a program that is run anew, and
/// fifty threads that live for a fifth of one.
const CHURN: &str = "\
import asyncio, os, subprocess, sys, threading, time
def child():
    for _ in range(4):
        threading.Thread(target=time.sleep, args=(0.4,)).start()
    asyncio.run(asyncio.sleep(0.5))
print('ready', flush=True)
turn = 0
while True:
    begin = time.monotonic()
    for _ in range(10):
        threading.Thread(target=time.sleep, args=(0.2,)).start()
    if os.fork() == 0:
        child()
        os._exit(0)
    if turn % 5 == 0:
        subprocess.Popen([sys.executable, '-c', 'import asyncio; asyncio.run(asyncio.sleep(0.3))'])
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
    turn += 1
    time.sleep(max(0, begin + 0.2 - time.monotonic()))
";

/// Between two readings.
const PAUSE: Duration = Duration::from_secs(5);

/// What a long watch of processes and threads that come and go takes
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long it watches
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// Minutes at the beginning that do not count for the slope
    #[arg(long, default_value_t = 5)]
    settle: u64,
    #[command(flatten)]
    tools: Tools,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    ensure!(
        args.minutes > args.settle,
        "--minutes must be more than --settle"
    );
    let binary = args.tools.binary_as_root()?;
    let churn = Owned::start_ready(Command::new(&args.tools.python).args(["-c", CHURN]))?;
    let mut concmon = Command::new(&binary);
    concmon.args(["--json", "--pid", &churn.0.id().to_string()]);
    let concmon = concmon.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let mut concmon = Owned(concmon.with_context(|| format!("starting {}", binary.display()))?);
    println!(
        "{:>6} {:>11} {:>6} {:>6} {:>10}",
        "minute", "resident", "fds", "maps", "CPU used"
    );
    let begin = Instant::now();
    let mut readings = vec![Reading::of(&concmon, begin)?];
    let mut told = 0;
    while told < args.minutes {
        sleep(PAUSE);
        ensure!(
            concmon.0.try_wait()?.is_none(),
            "concmon has ended by itself"
        );
        readings.push(Reading::of(&concmon, begin)?);
        let minute = begin.elapsed().as_secs() / 60;
        if minute > told {
            tell(told, &readings);
            told = minute;
        }
    }
    concmon.interrupt()?;
    let from = args.settle as f64 * 60.0;
    let settled: Vec<&Reading> = readings.iter().filter(|one| one.seconds >= from).collect();
    let last = settled.last().context("there are readings")?;
    let first = settled.first().context("there are readings")?;
    println!(
        "slope after minute {}, per hour: resident {:+.2} MB, fds {:+.1}, maps {:+.1}; CPU {:.1} %",
        args.settle,
        slope(&settled, |one| one.resident_bytes / 1e6) * 3600.0,
        slope(&settled, |one| one.fds) * 3600.0,
        slope(&settled, |one| one.maps) * 3600.0,
        (last.cpu_seconds - first.cpu_seconds) / (last.seconds - first.seconds) * 100.0,
    );
    Ok(ExitCode::SUCCESS)
}

/// What the tool takes at an instant.
struct Reading {
    /// Since the beginning.
    seconds: f64,
    resident_bytes: f64,
    fds: f64,
    maps: f64,
    cpu_seconds: f64,
}

impl Reading {
    fn of(concmon: &Owned, begin: Instant) -> Result<Self> {
        let pid = concmon.0.id();
        let [resident] = concmon.memory_bytes(["VmRSS:"])?;
        let folder = format!("/proc/{pid}");
        let fds = fs::read_dir(Path::new(&folder).join("fd"))?.count();
        let maps = fs::read_to_string(Path::new(&folder).join("maps"))?;
        let (user, system) = targets::times(pid)?;
        Ok(Self {
            seconds: begin.elapsed().as_secs_f64(),
            resident_bytes: resident as f64,
            fds: fds as f64,
            maps: maps.lines().count() as f64,
            cpu_seconds: (user + system) as f64 / targets::ticks_per_second(),
        })
    }
}

/// The row of a minute that is over: its last reading, and what CPU time it took.
fn tell(minute: u64, readings: &[Reading]) {
    let from = minute as f64 * 60.0;
    let of_minute = || readings.iter().filter(|one| one.seconds >= from);
    if let (Some(first), Some(last)) = (of_minute().next(), of_minute().next_back()) {
        let share = (last.cpu_seconds - first.cpu_seconds) / (last.seconds - first.seconds);
        println!(
            "{:>6} {:>8.1} MB {:>6} {:>6} {:>8.1} %",
            minute + 1,
            last.resident_bytes / 1e6,
            last.fds,
            last.maps,
            share * 100.0
        );
    }
}

/// By how much a value grows in a second: the line that fits best (least squares).
fn slope(readings: &[&Reading], value: impl Fn(&Reading) -> f64) -> f64 {
    let count = readings.len() as f64;
    let mean =
        |of: &dyn Fn(&Reading) -> f64| readings.iter().map(|one| of(one)).sum::<f64>() / count;
    let (mid, level) = (mean(&|one| one.seconds), mean(&|one| value(one)));
    let (mut grown, mut spread) = (0.0, 0.0);
    for one in readings {
        grown += (one.seconds - mid) * (value(one) - level);
        spread += (one.seconds - mid).powi(2);
    }
    if spread > 0.0 { grown / spread } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_of_a_line_is_its_own() {
        let readings: Vec<Reading> = (0..10)
            .map(|second| Reading {
                seconds: f64::from(second),
                resident_bytes: 3.0 * f64::from(second) + 7.0,
                fds: 12.0,
                maps: f64::from(second % 2),
                cpu_seconds: 0.0,
            })
            .collect();
        let readings: Vec<&Reading> = readings.iter().collect();
        assert!((slope(&readings, |one| one.resident_bytes) - 3.0).abs() < 1e-9);
        assert!(slope(&readings, |one| one.fds).abs() < 1e-9);
        assert!(slope(&readings[..1], |one| one.maps).abs() < 1e-9);
    }
}
