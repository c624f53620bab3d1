//! `cargo xtask bench targets`: what watching many Python processes takes of the tool itself.
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{child::Owned, release_build, switch};
use crate::workspace;

/// A loop and threads that wait. With `busy`, the loop works for a millisecond fifty times a second, and
/// each thread wakes up ten times a second; without, nobody runs at all.
const TARGET: &str = "\
import asyncio, sys, threading, time
threads, busy = int(sys.argv[1]), sys.argv[2] == 'busy'
def wait():
    while busy:
        time.sleep(0.1)
    threading.Event().wait()
async def main():
    for _ in range(threads - 1):
        threading.Thread(target=wait, daemon=True).start()
    print('ready', flush=True)
    while busy:
        await asyncio.sleep(0.02)
        end = time.perf_counter() + 0.001
        while time.perf_counter() < end:
            pass
    await asyncio.sleep(36000)
asyncio.run(main())
";

/// What watching many processes takes
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many processes, case by case; a tenth of them is busy
    #[arg(long, value_delimiter = ',', default_value = "10,100,300")]
    processes: Vec<usize>,
    /// How many threads each has
    #[arg(long, default_value_t = 8)]
    threads: usize,
    /// Seconds of one measurement, after as many to settle in
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// The Python that the processes run
    #[arg(long, default_value = "python3", value_name = "FILE")]
    python: PathBuf,
    /// concmon-bpf to measure, several to compare; without it a release build is made
    #[arg(long, value_name = "FILE")]
    binary: Vec<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    ensure!(
        workspace::is_root(),
        "watching needs root: run this through sudo, with the environment kept (`sudo -E`)"
    );
    ensure!(args.seconds > 0, "--seconds must be at least 1");
    let binaries = match args.binary.as_slice() {
        [] => vec![release_build()?],
        given => given.to_vec(),
    };
    switch::warn_if_busy()?;
    println!(
        "{:>9} {:>8} {:>10} {:>10} {:>9} {:>12} {:>9}  of",
        "processes", "threads", "CPU used", "in system", "resident", "longest pass", "wall p99"
    );
    for &count in &args.processes {
        let targets = (0..count)
            .map(|index| {
                let kind = if index % 10 == 0 { "busy" } else { "idle" };
                let arguments = ["-c", TARGET, &args.threads.to_string(), kind];
                Owned::start_ready(Command::new(&args.python).args(arguments))
            })
            .collect::<Result<Vec<_>>>()?;
        for binary in &binaries {
            let used = measure(binary, &targets, args.seconds)?;
            println!(
                "{count:>9} {:>8} {:>8.1} % {:>8.1} % {:>6.1} MB {:>12} {:>9}  {}",
                count * args.threads,
                used.share * 100.0,
                used.system_share * 100.0,
                used.resident_bytes as f64 / 1e6,
                milliseconds(used.longest_pass_ns),
                milliseconds(used.wall_p99_ns),
                binary.display()
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Shares are of one CPU.
struct Used {
    share: f64,
    system_share: f64,
    resident_bytes: u64,
    /// The longest turn of its select loop from the start on, waits for a CPU left out, and what 99 % of them
    /// did not exceed, such waits included; `None`: it does not tell.
    longest_pass_ns: Option<u64>,
    wall_p99_ns: Option<u64>,
}

fn milliseconds(ns: Option<u64>) -> String {
    ns.map_or_else(|| "-".to_owned(), |ns| format!("{:.1} ms", ns as f64 / 1e6))
}

fn measure(binary: &Path, targets: &[Owned], seconds: u64) -> Result<Used> {
    let mut concmon = Command::new(binary);
    // With a budget that nothing is left out for: what is measured is the whole work.
    concmon.args(["--json", "--budget-cpu", "100%", "--budget-memory", "1GB"]);
    for target in targets {
        concmon.args(["--pid", &target.0.id().to_string()]);
    }
    let mut output = tempfile::tempfile()?;
    let concmon = concmon
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .spawn();
    let mut concmon = Owned(concmon.with_context(|| format!("starting {}", binary.display()))?);
    sleep(Duration::from_secs(seconds));
    let before = times(concmon.0.id())?;
    sleep(Duration::from_secs(seconds));
    let after = times(concmon.0.id())?;
    let [resident_bytes] = concmon.memory_bytes(["VmRSS:"])?;
    let share = |ticks: u64| ticks as f64 / ticks_per_second() / seconds as f64;
    let (user, system) = (after.0 - before.0, after.1 - before.1);
    concmon.interrupt()?;
    output.rewind()?;
    let passes = passes(output)?;
    Ok(Used {
        share: share(user + system),
        system_share: share(system),
        resident_bytes,
        longest_pass_ns: passes["longest_ns"].as_u64(),
        wall_p99_ns: passes["wall_p99_ns"].as_u64(),
    })
}

/// What the summary, the last line, says of the turns of the select loop.
fn passes(output: File) -> Result<serde_json::Value> {
    let last = BufReader::new(output).lines().last();
    let mut summary: serde_json::Value = serde_json::from_str(&last.context("no output")??)?;
    Ok(summary["monitor"]["passes"].take())
}

/// CPU time in user and in system mode, ticks (fields 14 and 15 of `/proc/PID/stat`, proc(5)).
pub(super) fn times(pid: u32) -> Result<(u64, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("concmon has ended")?;
    let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' '));
    let mut fields = fields.context("its stat has no name")?.skip(11);
    let mut next = || -> Result<u64> { Ok(fields.next().context("its stat is short")?.parse()?) };
    Ok((next()?, next()?))
}

pub(super) fn ticks_per_second() -> f64 {
    // SAFETY: sysconf has no preconditions.
    unsafe { libc::sysconf(libc::_SC_CLK_TCK) as f64 }
}
