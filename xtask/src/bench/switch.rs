//! `cargo xtask bench switch`: the cost of one context switch, of a target and of everybody else,
//! beside no tracer and beside other tracers.
//!
//! Two processes on one CPU pass a byte back and forth. Rounds interleave the cases, so that a
//! drift of the machine meets all of them.
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::Tools;
use super::tracer::Tracer;
use crate::workspace;

const SOURCE: &str = include_str!("pingpong.c");
/// Says that it is up, waits for a line, and runs its arguments: the workload as a child.
const PARENT: &str = "\
import subprocess, sys
print('ready', flush=True)
if sys.stdin.readline():
    sys.exit(subprocess.run(sys.argv[1:]).returncode)
";
/// Older bpftrace knows no raw tracepoints, so this is a classic one.
const EMPTY: &str = "tracepoint:sched:sched_switch { }";
/// What bpftrace's own tool runqlat does, without its include of a kernel header that newer
/// kernels broke; 0 is TASK_RUNNING.
const RUNQLAT: &str = "
    tracepoint:sched:sched_wakeup, tracepoint:sched:sched_wakeup_new { @woken[args->pid] = nsecs; }
    tracepoint:sched:sched_switch {
        if (args->prev_state == 0) { @woken[args->prev_pid] = nsecs; }
        $since = @woken[args->next_pid];
        if ($since) { @usecs = hist((nsecs - $since) / 1000); }
        delete(@woken[args->next_pid]);
    }
    END { clear(@woken); }";
/// One-minute load average above which numbers are not worth much.
const QUIET_LOAD: f64 = 0.3;

/// Cost per context switch, in ns
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How often each case is measured
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Context switches of one measurement
    #[arg(long, default_value_t = 400_000)]
    switches: u64,
    /// CPU to run on; default the last one
    #[arg(long)]
    cpu: Option<usize>,
    #[command(flatten)]
    tools: Tools,
    /// Only cases whose name contains this (and the one without a tracer)
    #[arg(long)]
    only: Option<String>,
}

#[derive(Clone, Copy)]
enum Case {
    NoTracer,
    EmptyProgram,
    ConcmonOther,
    ConcmonTarget,
    Runqlat,
    PerfSched,
}

impl Case {
    const ALL: [Self; 6] = [
        Self::NoTracer,
        Self::EmptyProgram,
        Self::ConcmonOther,
        Self::ConcmonTarget,
        Self::Runqlat,
        Self::PerfSched,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::NoTracer => "no tracer",
            Self::EmptyProgram => "bpftrace, empty program",
            Self::ConcmonOther => "concmon, not a target",
            Self::ConcmonTarget => "concmon, a target",
            Self::Runqlat => "bpftrace runqlat",
            Self::PerfSched => "perf sched record -a",
        }
    }

    /// The program that must be installed for it.
    fn needs(self) -> Option<&'static str> {
        match self {
            Self::NoTracer | Self::ConcmonOther | Self::ConcmonTarget => None,
            Self::EmptyProgram | Self::Runqlat => Some("bpftrace"),
            Self::PerfSched => Some("perf"),
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    ensure!(args.rounds > 0, "--rounds must be at least 1");
    let binary = args.tools.binary_as_root()?;
    let dir = tempfile::tempdir().context("creating a temporary folder")?;
    let bench = Bench {
        pingpong: compile(dir.path())?,
        binary,
        dir: dir.path(),
        args,
        cpu: match args.cpu {
            Some(cpu) => cpu,
            None => std::thread::available_parallelism()?.get() - 1,
        },
    };
    println!("load average {}", load()?.0);
    warn_if_busy()?;

    let mut rows: Vec<Row> = Case::ALL
        .into_iter()
        .filter(|case| match &args.only {
            Some(only) => matches!(case, Case::NoTracer) || case.name().contains(only.as_str()),
            None => true,
        })
        .map(|case| Row {
            case,
            samples: Vec::new(),
            missing: case
                .needs()
                .filter(|program| workspace::in_path(program).is_none())
                .map(|program| format!("{program} is not installed")),
        })
        .collect();
    for round in 1..=args.rounds {
        eprintln!("round {round} of {}", args.rounds);
        for row in rows.iter_mut().filter(|row| row.missing.is_none()) {
            match bench.measure(row.case) {
                Ok(ns) => row.samples.push(ns),
                Err(error) => row.missing = Some(format!("{error:#}")),
            }
        }
    }
    print_table(&rows);
    // An absent peer is no failure; concmon or the baseline is.
    let failed = rows
        .iter()
        .any(|row| row.missing.is_some() && row.case.needs().is_none());
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

struct Bench<'a> {
    pingpong: PathBuf,
    binary: PathBuf,
    dir: &'a Path,
    args: &'a Args,
    cpu: usize,
}

impl Bench<'_> {
    /// One measurement: ns per switch.
    fn measure(&self, case: Case) -> Result<Sample> {
        match case {
            Case::NoTracer => self.pingpong(),
            Case::EmptyProgram => self.beside(&mut bpftrace(EMPTY), true),
            Case::Runqlat => self.beside(&mut bpftrace(RUNQLAT), true),
            Case::PerfSched => {
                let mut perf = Command::new("perf");
                perf.args(["sched", "record", "-a", "-o"])
                    .arg(self.dir.join("perf.data"));
                self.beside(&mut perf, false)
            }
            Case::ConcmonOther => {
                let parent = Parent::start(self)?;
                let ns = self.beside(&mut self.concmon(&parent), true)?;
                parent.abandon()?;
                Ok(ns)
            }
            Case::ConcmonTarget => {
                let parent = Parent::start(self)?;
                let tracer = Tracer::start(&mut self.concmon(&parent), true)?;
                let ns = parent.finish()?;
                tracer.stop()?;
                Ok(ns)
            }
        }
    }

    /// concmon watching `parent`; its first words are the first snapshot, so it is attached then.
    fn concmon(&self, parent: &Parent) -> Command {
        let mut concmon = Command::new(&self.binary);
        concmon
            .args(["--json", "--pid"])
            .arg(parent.child.id().to_string());
        concmon
    }

    fn beside(&self, tracer: &mut Command, speaks: bool) -> Result<Sample> {
        let tracer = Tracer::start(tracer, speaks)?;
        let ns = self.pingpong()?;
        tracer.stop()?;
        Ok(ns)
    }

    fn pingpong(&self) -> Result<Sample> {
        let mut pingpong = Command::new(&self.pingpong);
        parse(&workspace::output(pingpong.args(self.pingpong_args()))?)
    }

    fn pingpong_args(&self) -> [String; 2] {
        [self.cpu.to_string(), self.args.switches.to_string()]
    }
}

/// A Python process that starts the workload when told to; ended when dropped.
struct Parent {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Parent {
    fn start(bench: &Bench<'_>) -> Result<Self> {
        let python = &bench.args.tools.python;
        let mut child = Command::new(python)
            .args(["-c", PARENT])
            .arg(&bench.pingpong)
            .args(bench.pingpong_args())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", python.display()))?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().context("Python has no output")?);
        let mut parent = Self {
            child,
            stdin,
            stdout,
        };
        let line = parent.line()?;
        ensure!(line == "ready", "Python said `{line}`");
        Ok(parent)
    }

    /// Runs the workload; ns per switch.
    fn finish(mut self) -> Result<Sample> {
        let mut stdin = self.stdin.take().context("Python has no input")?;
        writeln!(stdin, "go").context("telling Python to start")?;
        let ns = parse(&self.line()?)?;
        let status = self.child.wait().context("waiting for Python")?;
        ensure!(status.success(), "the workload ended with {status}");
        Ok(ns)
    }

    /// Lets it end without running the workload.
    fn abandon(mut self) -> Result<()> {
        drop(self.stdin.take());
        let status = self.child.wait().context("waiting for Python")?;
        ensure!(status.success(), "Python ended with {status}");
        Ok(())
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout
            .read_line(&mut line)
            .context("reading from Python")?;
        Ok(line.trim().to_owned())
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        // Both fail only where the process has been waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn bpftrace(program: &str) -> Command {
    let mut command = Command::new("bpftrace");
    command.args(["-e", program]);
    command
}

fn compile(dir: &Path) -> Result<PathBuf> {
    let source = dir.join("pingpong.c");
    let program = dir.join("pingpong");
    fs::write(&source, SOURCE)?;
    workspace::output(
        Command::new("cc")
            .args(["-O2", "-Wall", "-o"])
            .arg(&program)
            .arg(&source),
    )
    .context("compiling the workload")?;
    Ok(program)
}

fn parse(text: &str) -> Result<Sample> {
    let numbers: Result<Vec<f64>, _> = text.split_whitespace().map(str::parse).collect();
    let good = |ns: &f64| ns.is_finite() && *ns > 0.0;
    match numbers.as_deref() {
        Ok([mean, parts @ ..]) if !parts.is_empty() && good(mean) && parts.iter().all(good) => {
            Ok(Sample {
                mean: *mean,
                parts: parts.to_vec(),
            })
        }
        _ => bail!("the workload said `{}`", text.trim()),
    }
}

fn load() -> Result<(String, f64)> {
    let text = fs::read_to_string("/proc/loadavg").context("reading the load average")?;
    let one_minute = text.split(' ').next().unwrap_or_default().parse()?;
    Ok((text.trim().to_owned(), one_minute))
}

pub(super) fn warn_if_busy() -> Result<()> {
    let (_, one_minute) = load()?;
    if one_minute > QUIET_LOAD {
        eprintln!(
            "warning: the load average is {one_minute}; whatever else runs is in these numbers. \
             Wait until the machine is quiet."
        );
    }
    Ok(())
}

/// ns per switch: of all of a run, and of each part of it.
struct Sample {
    mean: f64,
    parts: Vec<f64>,
}

struct Row {
    case: Case,
    /// One for each round.
    samples: Vec<Sample>,
    /// Why there is no number.
    missing: Option<String>,
}

impl Row {
    /// Of its rounds, ns per switch, sorted.
    fn means(&self) -> Vec<f64> {
        sorted(self.samples.iter().map(|sample| sample.mean))
    }

    /// What the tenth of the parts of all rounds that was fastest took at most, ns per switch: whatever else the machine
    /// does, its host included, touches these least.
    fn fast(&self) -> f64 {
        let parts = sorted(
            self.samples
                .iter()
                .flat_map(|sample| sample.parts.iter().copied()),
        );
        parts[parts.len() / 10]
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn print_table(rows: &[Row]) {
    let baseline = rows
        .iter()
        .find(|row| matches!(row.case, Case::NoTracer) && row.missing.is_none())
        .map(|none| (median(&none.means()), none.fast()));
    println!(
        "\n{:26} {:>8} {:>17} {:>7} {:>6} {:>14} {:>7}",
        "ns per switch", "median", "min .. max", "added", "ratio", "fastest tenth", "added"
    );
    for row in rows {
        if let Some(reason) = &row.missing {
            println!("{:26} not measured: {reason}", row.case.name());
            continue;
        }
        let means = row.means();
        let (mean, fast) = (median(&means), row.fast());
        let spread = format!("{:.0} .. {:.0}", means[0], means[means.len() - 1]);
        let (added, ratio, fast_added) = match baseline {
            Some((none, fast_none)) => (
                format!("{:+.0}", mean - none),
                format!("{:.2}", mean / none),
                format!("{:+.0}", fast - fast_none),
            ),
            None => ("-".to_owned(), "-".to_owned(), "-".to_owned()),
        };
        println!(
            "{:26} {mean:>8.0} {spread:>17} {added:>7} {ratio:>6} {fast:>14.0} {fast_added:>7}",
            row.case.name()
        );
    }
}

/// The middle of a sorted, non-empty list.
pub(super) fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_and_even() {
        assert_eq!(median(&[1.0, 2.0, 9.0]).to_bits(), 2.0f64.to_bits());
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]).to_bits(), 3.0f64.to_bits());
    }

    #[test]
    fn workload_compiles_and_measures() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let program = compile(dir.path()).expect("compiling");
        let out = workspace::output(Command::new(program).args(["-1", "2000"])).expect("running");
        let Sample { mean, parts } = parse(&out).expect("numbers");
        assert!((10.0..1e8).contains(&mean), "{mean} ns per switch");
        let of_parts = parts.iter().sum::<f64>() / parts.len() as f64;
        assert!(
            (0.9..1.1).contains(&(of_parts / mean)),
            "{of_parts}, {mean}"
        );
    }
}
