//! `cargo xtask bench on-cpu`: each thread's time on a CPU beside the kernel's own account of it and what `perf sched`
//! says, run after run, on a machine that has too much to do.
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{ChildStdout, Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Tools;
use super::child::Owned;
use super::perf_sched::{Judged, Recording};

const SOURCE: &str = include_str!("on_cpu.py");
const KINDS: [&str; 3] = ["pipes", "gil", "loop"];
const HOG: &str = "print('ready', flush=True)\nwhile True: pass";
/// Until whoever was last to run is blocked, and the reader has been told.
const SETTLE: Duration = Duration::from_millis(150);
/// Off by no more than this part of the thread's time, or by this much.
const PART: u64 = 200;
const LEAST_NS: u64 = 50_000;

/// Whether each thread's time on a CPU is the kernel's, beside load
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many runs; each is another mix of threads than the one before
    #[arg(long, default_value_t = 60)]
    runs: usize,
    /// Seconds that the threads of one run work
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Programs that keep a CPU busy meanwhile
    #[arg(long, default_value_t = 2)]
    hogs: usize,
    #[command(flatten)]
    tools: Tools,
}

/// Runs the command; fails when a thread's time was off in any run.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let binary = args.tools.binary_as_root()?;
    let script = tempfile::Builder::new().suffix(".py").tempfile()?;
    fs::write(script.path(), SOURCE)?;
    let hogs = (0..args.hogs)
        .map(|_| Owned::start_ready(Command::new(&args.tools.python).args(["-c", HOG])));
    let _hogs = hogs.collect::<Result<Vec<_>>>()?;
    let no_perf = Recording::refusal();
    let (mut worst, mut missed, mut threads) = ([0.0_f64; 2], 0, 0);
    let (mut by_perf, mut holes) = (0, 0);
    for number in 0..args.runs {
        let kind = KINDS[number % KINDS.len()];
        let run = Run::of(
            &binary,
            &args.tools.python,
            script.path(),
            kind,
            args.seconds,
            no_perf.is_none(),
        )
        .with_context(|| format!("run {number}, {kind}"))?;
        for thread in &run.threads {
            threads += 1;
            for (worst, (of_ns, miss_ns)) in worst.iter_mut().zip(thread.misses()) {
                // Of little time the clock's own grain is a large part.
                if of_ns > PART * LEAST_NS {
                    *worst = worst.max(miss_ns as f64 / of_ns as f64);
                }
            }
            holes += usize::from(thread.has_holes());
            if thread.is_off() {
                missed += 1;
                println!("run {number}, {kind}: {thread}");
            }
        }
        by_perf += usize::from(run.threads.iter().any(|thread| thread.perf.is_some()));
    }
    println!(
        "{} runs, {threads} accounts: {missed} off by more than {:.1} % and {} us; at most {:.4} % beside schedstat",
        args.runs,
        100.0 / PART as f64,
        LEAST_NS / 1000,
        100.0 * worst[0]
    );
    match no_perf {
        Some(reason) => println!("skipped: perf sched ({reason})"),
        None => println!(
            "{by_perf} runs beside perf sched, which lost events in the others: at most {:.4} % outside of what its trace \
             tells; of {holes} accounts that is between two bounds, for events are missing",
            100.0 * worst[1]
        ),
    }
    Ok(if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// One thread of one run.
struct Thread {
    name: String,
    /// Growth of what `/proc/PID/task/TID/schedstat` has, ns.
    kernel_ns: u64,
    /// What the trace of `perf sched` has, where it lost no events.
    perf: Option<Judged>,
    told_ns: u64,
    /// The row as it was told.
    row: Value,
}

impl Thread {
    /// What others say, and by how much it is not that, ns.
    fn misses(&self) -> [(u64, u64); 2] {
        let perf = self.perf.unwrap_or(Judged {
            least_ns: 0,
            most_ns: u64::MAX,
        });
        [
            (self.kernel_ns, self.told_ns.abs_diff(self.kernel_ns)),
            (perf.least_ns, perf.miss(self.told_ns)),
        ]
    }

    /// Off beside any of them.
    fn is_off(&self) -> bool {
        let mut misses = self.misses().into_iter();
        misses.any(|(of_ns, miss_ns)| miss_ns > tolerance(of_ns))
    }

    /// What perf's trace tells is less exact than that.
    fn has_holes(&self) -> bool {
        self.perf
            .is_some_and(|perf| perf.most_ns - perf.least_ns > tolerance(perf.least_ns))
    }
}

fn tolerance(of_ns: u64) -> u64 {
    (of_ns / PART).max(LEAST_NS)
}

impl std::fmt::Display for Thread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            name,
            kernel_ns,
            perf,
            told_ns,
            row,
        } = self;
        write!(
            f,
            "{name}: told {told_ns} ns, the kernel says {kernel_ns} ns, {perf:?}; its row: {row}"
        )
    }
}

struct Run {
    threads: Vec<Thread>,
}

impl Run {
    fn of(
        binary: &Path,
        python: &Path,
        script: &Path,
        kind: &str,
        seconds: f64,
        with_perf: bool,
    ) -> Result<Self> {
        let mut command = Command::new(python);
        command.arg(script).args([kind, &seconds.to_string()]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut program = Owned(child.context("starting Python")?);
        let pid = program.0.id();
        let mut stdin = program.0.stdin.take().context("Python has no input")?;
        let mut said = lines(program.0.stdout.take())?;
        let tids: Value = serde_json::from_str(&next(&mut said)?).context("reading thread ids")?;
        let mut names = BTreeMap::new();
        for (tid, name) in tids["tids"].as_object().context("no thread ids")? {
            names.insert(
                tid.parse::<u32>()?,
                name.as_str().context("no name")?.to_owned(),
            );
        }
        sleep(SETTLE);
        let before = schedstats(pid)?;

        let mut command = Command::new(binary);
        command.args(["--json", "-i", "500ms", "--pid", &pid.to_string()]);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut watch = Owned(child.context("starting the monitor")?);
        let mut reports = lines(watch.0.stdout.take())?;
        // It watches once it reports.
        next(&mut reports)?;
        // It ends when nobody reads it.
        let rest = std::thread::spawn(move || reports.map_while(Result::ok).last());
        let perf = with_perf.then(Recording::start).transpose()?;
        writeln!(stdin, "go")?;
        ensure!(
            next(&mut said)? == "done",
            "the program did not do its work"
        );
        sleep(SETTLE);
        let after = schedstats(pid)?;
        let perf = perf.map(Recording::finish).transpose()?.flatten();
        watch.interrupt()?;
        let last = rest
            .join()
            .ok()
            .flatten()
            .context("the monitor told nothing")?;

        let summary: Value = serde_json::from_str(&last).context("reading the summary")?;
        ensure!(
            summary["type"] == "summary",
            "the monitor ended without a summary"
        );
        let process = summary["processes"]
            .as_array()
            .and_then(|all| all.iter().find(|one| one["pid"] == pid));
        let rows = process
            .and_then(|process| process["threads"].as_array())
            .context("no rows of threads")?;
        let mut threads = Vec::new();
        for row in rows {
            let tid = row["tid"]
                .as_u64()
                .and_then(|tid| u32::try_from(tid).ok())
                .context("no id")?;
            // Threads of a pool begin while the watch runs.
            let Some(after) = after.get(&tid) else {
                continue;
            };
            let name = names.get(&tid).map_or("another", String::as_str);
            threads.push(Thread {
                name: name.to_owned(),
                kernel_ns: after - before.get(&tid).copied().unwrap_or(0),
                perf: perf
                    .as_ref()
                    .map(|times| times.get(&tid).copied().unwrap_or_default()),
                told_ns: row["on_cpu_ns"].as_u64().context("no time on a CPU")?,
                row: row.clone(),
            });
        }
        ensure!(
            threads.len() > names.len(),
            "{} of {} threads have a row",
            threads.len(),
            names.len() + 1
        );
        Ok(Self { threads })
    }
}

type Lines = std::io::Lines<BufReader<ChildStdout>>;

fn lines(output: Option<ChildStdout>) -> Result<Lines> {
    Ok(BufReader::new(output.context("it has no output")?).lines())
}

fn next(lines: &mut Lines) -> Result<String> {
    Ok(lines.next().context("it said nothing more")??)
}

/// How long each thread has been on a CPU, ns.
fn schedstats(pid: u32) -> Result<BTreeMap<u32, u64>> {
    let mut times = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let entry = entry?;
        let text = fs::read_to_string(entry.path().join("schedstat"))?;
        let time = text
            .split_whitespace()
            .next()
            .context("an empty schedstat")?;
        times.insert(entry.file_name().to_string_lossy().parse()?, time.parse()?);
    }
    Ok(times)
}
